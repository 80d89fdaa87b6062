//! The servers that fail.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use crate::net::Namespace;

/// Protocol of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerKind {
    /// Accepts TCP connections.
    Tcp,
    /// Answers every HTTP request with status 200.
    Http,
    /// The same over TLS.
    Https,
    /// Echoes UDP datagrams.
    Udp,
    /// No server: the kernel answers pings.
    None,
}

impl ServerKind {
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Tcp => 9009,
            Self::Http => 8080,
            Self::Https => 8443,
            Self::Udp => 5353,
            Self::None => 0,
        }
    }
}

/// Servers of one kind, one per address.
#[derive(Debug)]
pub(super) struct TargetServer(JoinSet<()>);

impl TargetServer {
    /// Starts the servers. Their sockets are open when it returns.
    pub(super) async fn start(
        namespace: &Arc<Namespace>,
        kind: ServerKind,
        addresses: Vec<Ipv4Addr>,
    ) -> Result<Self> {
        let acceptor = if kind == ServerKind::Https { Some(acceptor()?) } else { None };
        let start = async move {
            let mut tasks = JoinSet::new();
            for address in addresses {
                let local = (address, kind.port());
                match kind {
                    ServerKind::None => {}
                    ServerKind::Udp => drop(tasks.spawn(echo(UdpSocket::bind(local).await?))),
                    ServerKind::Tcp | ServerKind::Http | ServerKind::Https => {
                        let listener = TcpListener::bind(local).await?;
                        tasks.spawn(accept(listener, kind, acceptor.clone()));
                    }
                }
            }
            Ok(Self(tasks))
        };
        namespace.spawn(start).await?
    }

    /// Ends the servers. Their sockets are closed when it returns.
    pub(super) async fn kill(&mut self, namespace: &Arc<Namespace>) -> Result<()> {
        let mut tasks = std::mem::take(&mut self.0);
        namespace.spawn(async move { tasks.shutdown().await }).await.context("the servers do not end")
    }
}

async fn echo(socket: UdpSocket) {
    let mut datagram = [0; 2_048];
    loop {
        if let Ok((length, client)) = socket.recv_from(&mut datagram).await {
            let _ = socket.send_to(&datagram[..length], client).await;
        }
    }
}

async fn accept(listener: TcpListener, kind: ServerKind, acceptor: Option<TlsAcceptor>) {
    // Dropped together with the listener, which closes the connections.
    let mut connections = JoinSet::new();
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            match (kind, acceptor) {
                (ServerKind::Http, _) => answer(&mut stream).await,
                (_, Some(acceptor)) => {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        answer(&mut stream).await;
                    }
                }
                _ => drop(stream.read(&mut [0; 1]).await),
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    if stream.read(&mut [0; 1_024]).await.is_ok()
        && stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_ok()
    {
        let _ = stream.flush().await;
        // The probe closes the connection.
        let _ = stream.read(&mut [0; 1]).await;
    }
}

fn acceptor() -> Result<TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed(["server.example".to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).ok().context("a key")?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
