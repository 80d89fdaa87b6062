//! Health checks: what is sent, and which answers pass.

use std::{fmt, time::Duration};

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HealthCheck {
    /// What is sent and expected.
    pub kind: CheckKind,
    /// Port to probe, if not the server's own.
    pub port: Option<u16>,
    /// Time between the starts of two probes. 1 s to 50 s.
    pub interval: Duration,
    /// Time limit for an answer. 1 s to 300 s.
    pub timeout: Duration,
    /// Consecutive successes after which a server is healthy. 1 to 10.
    pub healthy_threshold: u8,
    /// Consecutive failures after which a server is unhealthy. 1 to 10.
    pub unhealthy_threshold: u8,
    /// Passive checks, if configured. Only for TCP in the modes `nat` and `full-nat`.
    pub passive: Option<PassiveCheck>,
}

/// The [window](HealthCheck::window) of a check with default settings.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(6);

impl HealthCheck {
    /// Detection window: time in which failures of a dead server make it unhealthy.
    pub fn window(&self) -> Duration {
        self.interval * self.unhealthy_threshold.into()
    }

    /// Whether a server that does not answer fails the check.
    pub fn is_failed_by_silence(&self) -> bool {
        !matches!(&self.kind, CheckKind::Udp(UdpCheck { expect: None, .. }))
    }
}

/// When failed connections of clients eject a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PassiveCheck {
    /// Minimum number of failed connections while none succeeds. 2 to 1,000.
    pub failures: u32,
    /// Time window in which they are opened. 5 s to 60 s.
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
    /// Names of all kinds in the configuration.
    pub const NAMES: [&'static str; 6] = ["tcp", "http", "https", "tls", "udp", "icmp"];

    /// The kind's name in the configuration.
    pub fn name(&self) -> &'static str {
        Self::NAMES[self.position()]
    }

    /// Position of the kind's name in [`Self::NAMES`].
    pub fn position(&self) -> usize {
        match self {
            Self::Tcp => 0,
            Self::Http(HttpCheck { tls: None, .. }) => 1,
            Self::Http(HttpCheck { tls: Some(_), .. }) => 2,
            Self::Tls(_) => 3,
            Self::Udp(_) => 4,
            Self::Icmp => 5,
        }
    }
}

/// An HTTP request and the accepted status codes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpCheck {
    /// Method.
    pub method: HttpMethod,
    /// Request target. 1 to 1,024 visible ASCII characters, the first of them `/`.
    pub path: String,
    /// `Host` header and TLS server name; `None` for the probed address. ASCII.
    pub host: Option<String>,
    /// Accepted status codes. Not empty.
    pub expect: Vec<ExpectedStatus>,
    /// TLS settings; `None` for plain HTTP.
    pub tls: Option<CertificateCheck>,
}

/// A TLS handshake, after which the connection is reset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsCheck {
    /// TLS server name, perhaps with a port; `None` for no name. ASCII.
    pub host: Option<String>,
    /// How the server's certificate is verified.
    pub verify: CertificateCheck,
}

/// HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HttpMethod {
    /// Requests the head of the answer only.
    Head,
    /// Requests the body too, which is not read.
    Get,
}

impl HttpMethod {
    /// The method's name in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "HEAD",
            Self::Get => "GET",
        }
    }
}

/// How the server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertificateCheck {
    /// Not at all: the check shows whether the server answers, not who it is.
    Any,
    /// By this machine's root certificates, including its name.
    Verified,
}

/// A status code, or a class of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExpectedStatus {
    /// All codes with this first digit. 2 to 5.
    Class(u8),
    /// One code. 200 to 599.
    Code(u16),
}

impl ExpectedStatus {
    /// Whether `code` is included.
    pub fn matches(self, code: u16) -> bool {
        match self {
            Self::Class(class) => code / 100 == u16::from(class),
            Self::Code(one) => code == one,
        }
    }
}

impl fmt::Display for ExpectedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(class) => write!(f, "{class}xx"),
            Self::Code(code) => write!(f, "{code}"),
        }
    }
}

/// A request datagram and the expected answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UdpCheck {
    /// Payload of the request; empty by default.
    pub request: Vec<u8>,
    /// Text or bytes that the first answer must contain; `None` accepts any answer, and silence.
    pub expect: Option<Vec<u8>>,
}
