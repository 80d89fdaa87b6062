//! What a health check sends, and what it takes for an answer.

use std::{fmt, time::Duration};

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HealthCheck {
    /// What is sent and expected.
    pub kind: CheckKind,
    /// Port to probe in place of the server's own.
    pub port: Option<u16>,
    /// From one probe's start to the next one's. 1 s to 50 s.
    pub interval: Duration,
    /// How long an answer may take. 1 s to 300 s.
    pub timeout: Duration,
    /// Successes in a row that make a server healthy. 1 to 10.
    pub healthy_threshold: u8,
    /// Failures in a row that make a server unhealthy. 1 to 10.
    pub unhealthy_threshold: u8,
    /// Whether what comes of clients' new connections counts, too. Only for TCP in mode `nat`.
    pub passive: Option<Passive>,
}

/// The [window](HealthCheck::window) of a check with default settings.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(6);

impl HealthCheck {
    /// Time for which failures go on that make a server unhealthy.
    pub fn window(&self) -> Duration {
        self.interval * self.unhealthy_threshold.into()
    }

    /// Whether a server that does not answer fails it.
    pub fn is_failed_by_silence(&self) -> bool {
        !matches!(&self.kind, CheckKind::Udp(UdpCheck { expect: None, .. }))
    }
}

/// When new connections of clients that fail make a server unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Passive {
    /// Least connections that fail while none succeeds. 2 to 1,000.
    pub failures: u32,
    /// Time in which they are opened. 5 s to 60 s.
    pub within: Duration,
}

/// What a health check sends and expects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckKind {
    /// A TCP connection that is opened and then reset.
    Tcp,
    /// An HTTP request.
    Http(HttpCheck),
    /// A TLS handshake.
    Tls(TlsCheck),
    /// A UDP datagram.
    Udp(UdpCheck),
    /// An ICMP echo request.
    Icmp,
}

impl CheckKind {
    /// The kind as it is configured.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(HttpCheck { tls: None, .. }) => "http",
            Self::Http(HttpCheck { tls: Some(_), .. }) => "https",
            Self::Tls(_) => "tls",
            Self::Udp(_) => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// An HTTP request and the statuses that are good answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpCheck {
    /// Method.
    pub method: Method,
    /// Request target. 1 to 1,024 visible ASCII characters, the first of them `/`.
    pub path: String,
    /// `Host`, and the name of the server in TLS; the address that is probed if `None`. ASCII.
    pub host: Option<String>,
    /// Good statuses. Not empty.
    pub expect: Vec<Status>,
    /// Whether and how TLS is spoken.
    pub tls: Option<Tls>,
}

/// A TLS handshake, after which the connection is reset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsCheck {
    /// The name of the server; none if `None`. ASCII, and a port may follow.
    pub host: Option<String>,
    /// What is asked of the server's certificate.
    pub verify: Tls,
}

/// Method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// The head of the answer only.
    Head,
    /// The body, too, which is not read.
    Get,
}

impl Method {
    /// The method as it stands in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "HEAD",
            Self::Get => "GET",
        }
    }
}

/// What is asked of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tls {
    /// Nothing: the check asks whether the server answers, not who it is.
    Any,
    /// That one of this machine's roots vouches for it, and for its name.
    Verified,
}

/// A status, or a class of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// All whose first digit this is. 2 to 5.
    Class(u8),
    /// One. 200 to 599.
    Code(u16),
}

impl Status {
    /// Whether `code` is meant.
    pub fn matches(self, code: u16) -> bool {
        match self {
            Self::Class(class) => code / 100 == u16::from(class),
            Self::Code(one) => code == one,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(class) => write!(f, "{class}xx"),
            Self::Code(code) => write!(f, "{code}"),
        }
    }
}

/// A datagram, and what its answer holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UdpCheck {
    /// What is sent; empty by default.
    pub request: Vec<u8>,
    /// What the first answer must contain. Without it silence is as good as any answer.
    pub expect: Option<Vec<u8>>,
}
