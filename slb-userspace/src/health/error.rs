//! Errors of probes.

use std::{io, time::Duration};

use nix::errno::Errno;

use crate::neigh::Unresolved;

/// Why a probe failed. Operators read the text beside an unhealthy server.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The server answered with a RST.
    #[error("connection refused")]
    Refused,
    /// The server reset the connection after it was open.
    #[error("connection reset")]
    Reset,
    /// The server closed the connection without an answer.
    #[error("connection closed without an answer")]
    Closed,
    /// No answer within the timeout.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The kernel gave up before the timeout.
    #[error("no answer")]
    NoAnswer,
    /// No path to the server's host.
    #[error("host unreachable")]
    HostUnreachable,
    /// No route to the server's network.
    #[error("network unreachable")]
    NetworkUnreachable,
    /// The server's next hop does not resolve.
    #[error("cannot be reached: {0}")]
    Unreachable(Unresolved),
    /// The server's host reports that no socket receives on this port.
    #[error("port unreachable")]
    PortUnreachable,
    /// An unexpected status code.
    #[error("status {status}, expected {expected}")]
    Status {
        /// The status code.
        status: u16,
        /// The expected status codes.
        expected: String,
    },
    /// The answer is not HTTP/1.
    #[error("not an answer of HTTP/1: {0}")]
    NotHttp(httparse::Error),
    /// The head of the answer is too long.
    #[error("the head of the answer is longer than {} KiB, or a line of it longer than {} KiB", total >> 10, line >> 10)]
    HeadTooLong {
        /// Limit for a line, in bytes.
        line: usize,
        /// Limit for all lines, in bytes.
        total: usize,
    },
    /// The TLS handshake failed, or the certificate is not accepted.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server demands a client certificate; checks have none.
    #[error(
        "TLS: the server demands a client certificate, which checks do not have; kind \"tls\" does without"
    )]
    ClientCertificate,
    /// The answer to a datagram does not contain the expected text.
    #[error("the answer is not the expected one: {0}")]
    Answer(String),
    /// Any other failure.
    #[error("{0}")]
    Failed(io::Error),
    /// The probe failed on the traffic's path, and the server's own address was probed for comparison.
    #[error("{error} {comparison}")]
    WithComparison {
        /// The failure on the traffic's path.
        error: Box<Self>,
        /// What that path is, and the result at the server's own address.
        comparison: String,
    },
    /// This host could not send: no descriptors, memory or ports, a firewall rule, or an interface that is down. It
    /// proves nothing about the server.
    #[error("not probed: {}", local_cause(.0))]
    Local(io::Error),
    /// This host has no path for the probe. It proves nothing about the server.
    #[error("not probed: {0}")]
    NoProbePath(String),
}

impl ProbeError {
    /// Whether the error is about the server, not about this host.
    pub fn blames_server(&self) -> bool {
        !matches!(self, Self::Local(_) | Self::NoProbePath(_))
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

/// Explains an error of this host, and where to look.
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
    fn probe_errors_are_classified_by_errno() {
        let classify = |errno: Errno| ProbeError::from(io::Error::from(errno));
        assert!(matches!(classify(Errno::EHOSTUNREACH), ProbeError::HostUnreachable));
        assert!(matches!(classify(Errno::ENETUNREACH), ProbeError::NetworkUnreachable));
        assert!(matches!(classify(Errno::ETIMEDOUT), ProbeError::NoAnswer));
        assert!(matches!(classify(Errno::ECONNRESET), ProbeError::Reset));
        assert!(classify(Errno::EPROTO).blames_server());
        for errno in [Errno::EMFILE, Errno::ENOBUFS, Errno::ENETDOWN, Errno::EPERM, Errno::EADDRNOTAVAIL] {
            assert!(!classify(errno).blames_server(), "{errno}");
        }
        assert!(!ProbeError::NoProbePath(String::new()).blames_server());
        let said = classify(Errno::EPERM).to_string();
        assert!(
            said.starts_with("not probed: a firewall rule") && said.contains("nft list ruleset"),
            "{said}"
        );
    }
}
