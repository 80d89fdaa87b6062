//! Probes a server by opening a TCP connection and resetting it.
//!
//! The reset (`SO_LINGER` of zero) frees the connection on both ends at once: the server sees no half-closed
//! connection, and no port of this host stays in TIME-WAIT (RFC 9293, section 3.6).

use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream};

use super::{
    ProbeError,
    path::{Lease, ProbeRoute, Transport},
};

/// A connection that is reset when dropped, and its path.
#[derive(Debug)]
pub(super) struct Connection {
    // Dropped first: the RST needs the path.
    pub(super) stream: TcpStream,
    /// The server's endpoint.
    pub(super) remote: SocketAddr,
    _lease: Option<Lease>,
}

/// Opens a connection and resets it.
pub(super) async fn probe(route: &ProbeRoute<'_>) -> Result<(), ProbeError> {
    connect(route).await.map(drop)
}

pub(super) async fn connect(route: &ProbeRoute<'_>) -> Result<Connection, ProbeError> {
    let opened = route.open(Transport::Tcp).await?;
    opened.socket.set_linger(Some(std::time::Duration::ZERO))?;
    let socket = TcpSocket::from_std_stream(opened.socket.into());
    let remote = opened.remote;
    Ok(Connection { stream: socket.connect(remote).await?, remote, _lease: opened.lease })
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
        time::Duration,
    };

    use socket2::{Domain, Socket, Type};
    use tokio::{
        io::{AsyncReadExt, unix::AsyncFd},
        net::TcpListener,
    };

    use super::*;
    use crate::health::{ProbePaths, probe::probe, testing::target};
    use slb_config::model::CheckKind;

    const GENEROUS: Duration = Duration::from_secs(30);

    async fn probed(address: SocketAddr, timeout: Duration) -> Result<(), ProbeError> {
        probe(&target(address, CheckKind::Tcp, timeout), &ProbePaths::default()).await
    }

    /// A socket that holds a port of the loopback address and does not listen on it.
    fn bound() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn tcp_probe_succeeds_and_closes_with_a_rst() {
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
            let (probed, read) = tokio::join!(probed(address, GENEROUS), accepted);
            probed.unwrap();
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn closed_port_is_refused() {
        let (_port_holder, address) = bound();
        let error = probed(address, GENEROUS).await.unwrap_err();
        assert!(matches!(error, ProbeError::Refused), "{error:?}");
        assert!(error.blames_server());
        assert_eq!(error.to_string(), "connection refused");
    }

    #[tokio::test]
    async fn unanswered_tcp_probe_times_out() {
        let (socket, address) = bound();
        // With a backlog of zero one connection fills the queue, and the kernel drops every further SYN.
        socket.listen(0).unwrap();
        let _first = TcpStream::connect(address).await.unwrap();
        socket.set_nonblocking(true).unwrap();
        // SAFETY: a `Socket` owns its descriptor and returns the same one for as long as it lives.
        let queue = unsafe { AsyncFd::register(socket) }.unwrap();
        let _queued = queue.readable().await.unwrap();

        let timeout = Duration::from_millis(200);
        let error = probed(address, timeout).await.unwrap_err();
        assert!(matches!(error, ProbeError::TimedOut(t) if t == timeout), "{error:?}");
        assert_eq!(error.to_string(), "no answer within 200ms");
    }
}
