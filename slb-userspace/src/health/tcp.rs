//! Probes a server by opening a TCP connection and resetting it.
//!
//! The reset (`SO_LINGER` of zero) frees the connection on both ends at once: the server sees no half-closed
//! connection, and no port of this host stays in TIME-WAIT (RFC 9293, section 3.6).

use std::{io, net::SocketAddr, time::Duration};

use nix::errno::Errno;
use tokio::{net::TcpSocket, time};

/// Why a probe did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The server answered with a reset.
    #[error("connection refused")]
    Refused,
    /// Nothing came back in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// There is no way to the server's host.
    #[error("host unreachable")]
    HostUnreachable,
    /// There is no route to the server's network.
    #[error("network unreachable")]
    NetworkUnreachable,
    /// The connection failed in another way.
    #[error("cannot connect: {0}")]
    Failed(io::Error),
    /// This host was short of descriptors, memory or ports. It says nothing about the server.
    #[error("cannot probe: {0}")]
    Local(io::Error),
}

impl ProbeError {
    /// Whether the error is a statement about the server, and not about this host.
    pub fn blames_server(&self) -> bool {
        !matches!(self, Self::Local(_))
    }

    fn from_io(error: io::Error, timeout: Duration) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => Self::Refused,
            Some(Errno::ETIMEDOUT) => Self::TimedOut(timeout),
            Some(Errno::EHOSTUNREACH) => Self::HostUnreachable,
            Some(Errno::ENETUNREACH) => Self::NetworkUnreachable,
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::EADDRNOTAVAIL) => {
                Self::Local(error)
            }
            _ => Self::Failed(error),
        }
    }
}

/// Opens a connection to `address` within `timeout` and resets it.
///
/// # Errors
///
/// Says why there is no connection. [`ProbeError::Local`] is no statement about the server.
pub async fn probe(address: SocketAddr, timeout: Duration) -> Result<(), ProbeError> {
    let connection = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_zero_linger()?;
        socket.connect(address).await
    };
    match time::timeout(timeout, connection).await {
        Ok(Ok(_reset_when_dropped)) => Ok(()),
        Ok(Err(error)) => Err(ProbeError::from_io(error, timeout)),
        Err(_elapsed) => Err(ProbeError::TimedOut(timeout)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use socket2::{Domain, Socket, Type};
    use tokio::{
        io::{AsyncReadExt, unix::AsyncFd},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const GENEROUS: Duration = Duration::from_secs(30);

    /// A socket that holds a port of the loopback address and does not listen on it.
    fn bound() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn succeeds_and_resets() {
        for host in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let listener = match TcpListener::bind((host, 0)).await {
                Ok(listener) => listener,
                Err(error) if host.is_ipv6() => {
                    eprintln!("skipped for {host}: this host has no IPv6: {error}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let address = listener.local_addr().unwrap();
            let accepted = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read(&mut [0; 1]).await
            };
            let (probed, read) = tokio::join!(probe(address, GENEROUS), accepted);
            probed.unwrap();
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn closed_port_is_refused() {
        let (_port_holder, address) = bound();
        let error = probe(address, GENEROUS).await.unwrap_err();
        assert!(matches!(error, ProbeError::Refused), "{error:?}");
        assert!(error.blames_server());
        assert_eq!(error.to_string(), "connection refused");
    }

    #[tokio::test]
    async fn silence_times_out() {
        let (socket, address) = bound();
        // With a backlog of zero one connection fills the queue, and the kernel drops every further SYN.
        socket.listen(0).unwrap();
        let _first = TcpStream::connect(address).await.unwrap();
        socket.set_nonblocking(true).unwrap();
        // SAFETY: a `Socket` owns its descriptor and returns the same one for as long as it lives.
        let queue = unsafe { AsyncFd::register(socket) }.unwrap();
        let _queued = queue.readable().await.unwrap();

        let timeout = Duration::from_millis(200);
        let error = probe(address, timeout).await.unwrap_err();
        assert!(matches!(error, ProbeError::TimedOut(t) if t == timeout), "{error:?}");
        assert_eq!(error.to_string(), "no answer within 200ms");
    }

    #[test]
    fn errors_are_told_apart() {
        let classify = |errno: Errno| ProbeError::from_io(errno.into(), GENEROUS);
        assert!(matches!(classify(Errno::EHOSTUNREACH), ProbeError::HostUnreachable));
        assert!(matches!(classify(Errno::ENETUNREACH), ProbeError::NetworkUnreachable));
        assert!(matches!(classify(Errno::ETIMEDOUT), ProbeError::TimedOut(GENEROUS)));
        assert!(classify(Errno::EPROTO).blames_server());
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::EADDRNOTAVAIL] {
            assert!(!classify(errno).blames_server(), "{errno}");
        }
    }
}
