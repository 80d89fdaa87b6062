//! Why a probe did not succeed.

use std::{io, time::Duration};

use nix::errno::Errno;

use crate::neigh::Unresolved;

/// Why a probe did not succeed. The text is what operators read beside an unhealthy server.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The server answered with a reset.
    #[error("connection refused")]
    Refused,
    /// The server reset the connection after it was open.
    #[error("connection reset")]
    Reset,
    /// The server closed the connection and had not answered.
    #[error("connection closed without an answer")]
    Closed,
    /// Nothing came back in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The kernel gave up before the time was over.
    #[error("no answer")]
    NoAnswer,
    /// There is no way to the server's host.
    #[error("host unreachable")]
    HostUnreachable,
    /// There is no route to the server's network.
    #[error("network unreachable")]
    NetworkUnreachable,
    /// The server has no next hop that answers.
    #[error("cannot be reached: {0}")]
    Unreachable(Unresolved),
    /// The server's host says that nothing takes datagrams on this port.
    #[error("port unreachable")]
    PortUnreachable,
    /// Another status than the expected ones.
    #[error("status {status}, expected {expected}")]
    Status {
        /// The status.
        status: u16,
        /// What would have been good.
        expected: String,
    },
    /// What came is no answer of HTTP/1.
    #[error("not an answer of HTTP/1: {0}")]
    NotHttp(httparse::Error),
    /// The head of the answer does not end.
    #[error("the head of the answer is longer than {} KiB, or a line of it longer than {} KiB", total >> 10, line >> 10)]
    HeadTooLong {
        /// Most bytes of a line.
        line: usize,
        /// Most bytes of all lines.
        total: usize,
    },
    /// TLS could not be agreed on, or the certificate is not good.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server demands a certificate, and this client has none.
    #[error(
        "TLS: the server demands a client certificate, which checks do not have; kind \"tls\" does without"
    )]
    ClientCertificate,
    /// A datagram came back that does not hold what is expected.
    #[error("the answer is not the expected one: {0}")]
    Answer(String),
    /// The probe failed in another way.
    #[error("{0}")]
    Failed(io::Error),
    /// The probe failed on the way the traffic goes, and the server's own address has been tried too.
    #[error("{error} {comparison}")]
    Compared {
        /// What happened on the way the traffic goes.
        error: Box<Self>,
        /// Which way that is, and what happened on the other.
        comparison: String,
    },
    /// This host could not send: it was short of descriptors, memory or ports, its firewall forbids it, or its interface is down. It
    /// says nothing about the server.
    #[error("not probed: {}", local_cause(.0))]
    Local(io::Error),
    /// This host has no way to probe the server. It says nothing about the server.
    #[error("not probed: {0}")]
    NoWay(String),
}

impl ProbeError {
    /// Whether the error is a statement about the server, and not about this host.
    pub fn blames_server(&self) -> bool {
        !matches!(self, Self::Local(_) | Self::NoWay(_))
    }
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => Self::Refused,
            Some(Errno::ECONNRESET | Errno::EPIPE) => Self::Reset,
            Some(Errno::ETIMEDOUT) => Self::NoAnswer,
            Some(Errno::EHOSTUNREACH) => Self::HostUnreachable,
            Some(Errno::ENETUNREACH) => Self::NetworkUnreachable,
            Some(
                Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOMEM
                | Errno::ENOBUFS
                | Errno::ENETDOWN
                | Errno::ENODEV
                | Errno::ENXIO
                | Errno::EADDRNOTAVAIL
                | Errno::EADDRINUSE
                | Errno::EPERM
                | Errno::EACCES,
            ) => Self::Local(error),
            _ => Self::Failed(error),
        }
    }
}

/// What an error of this host means, and where to look.
fn local_cause(error: &io::Error) -> String {
    let cause = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => {
            "a firewall rule or a prohibit route of this host drops the packets of the check (`nft list ruleset`, `ip route`)"
        }
        Some(Errno::ENOBUFS) => {
            "a queue of this host drops the packets of the check (`tc -s qdisc`, `nft list ruleset`)"
        }
        Some(Errno::EMFILE | Errno::ENFILE) => "this host is out of file descriptors (`LimitNOFILE`)",
        Some(Errno::EADDRNOTAVAIL | Errno::EADDRINUSE) => {
            "this host has no free port or address to probe from (`sysctl net.ipv4.ip_local_port_range`)"
        }
        Some(Errno::ENETDOWN | Errno::ENODEV | Errno::ENXIO) => {
            "the interface towards the server is down or gone"
        }
        _ => return error.to_string(),
    };
    format!("{cause}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        let classify = |errno: Errno| ProbeError::from(io::Error::from(errno));
        assert!(matches!(classify(Errno::EHOSTUNREACH), ProbeError::HostUnreachable));
        assert!(matches!(classify(Errno::ENETUNREACH), ProbeError::NetworkUnreachable));
        assert!(matches!(classify(Errno::ETIMEDOUT), ProbeError::NoAnswer));
        assert!(matches!(classify(Errno::ECONNRESET), ProbeError::Reset));
        assert!(classify(Errno::EPROTO).blames_server());
        for errno in [Errno::EMFILE, Errno::ENOBUFS, Errno::ENETDOWN, Errno::EPERM, Errno::EADDRNOTAVAIL] {
            assert!(!classify(errno).blames_server(), "{errno}");
        }
        assert!(!ProbeError::NoWay(String::new()).blames_server());
        let said = classify(Errno::EPERM).to_string();
        assert!(
            said.starts_with("not probed: a firewall rule") && said.contains("nft list ruleset"),
            "{said}"
        );
    }
}
