//! The servers of a backend: HTTP, lines, bulk transfers and UDP echo. Each names the backend in its answers.
//!
//! They listen on every address of the namespace, with one socket for both families. [`Servers::kill`] resembles a
//! crash of the processes: connections are reset, and new ones refused.

mod behaviour;
mod bulk;
mod http;
mod lines;
mod udp;

use std::{
    future::Future,
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
};

use crate::net::Namespace;

pub use behaviour::Behaviour;
pub(crate) use bulk::{Chunks, Digest};

/// A service of every backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// HTTP/1.1: answers with the server's name.
    Http,
    /// TCP lines: answers each with the server's name and the line.
    Lines,
    /// TCP: answers an upload with its hash, or a download with pseudo-random bytes.
    Bulk,
    /// UDP: answers each datagram with the server's name and the datagram.
    Echo,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Http, Self::Lines, Self::Bulk, Self::Echo];

    /// Name of its listener and server group.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Lines => "lines",
            Self::Bulk => "bulk",
            Self::Echo => "echo",
        }
    }

    /// `tcp` or `udp`.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Http | Self::Lines | Self::Bulk => "tcp",
            Self::Echo => "udp",
        }
    }

    /// Port of its listener at the VIPs.
    pub fn vip_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Lines => 7,
            Self::Bulk => 9,
            Self::Echo => 53,
        }
    }

    /// Port of the servers; always another than the VIP's.
    pub const fn backend_port(self) -> u16 {
        match self {
            Self::Http => 8080,
            Self::Lines => 7007,
            Self::Bulk => 9009,
            Self::Echo => 5353,
        }
    }
}

/// Length of the accept queue.
const BACKLOG: i32 = 4096;

/// Receive buffer for datagrams, in bytes.
const UDP_BUFFER: usize = 4 << 20;

/// Running servers. Dropping them kills them.
#[derive(Debug)]
pub struct Servers {
    namespace: Arc<Namespace>,
    killed: watch::Sender<bool>,
    /// Settings of how they answer.
    pub behaviour: Arc<Behaviour>,
    resets: Arc<AtomicUsize>,
}

impl Servers {
    /// Starts all services under `name`.
    ///
    /// # Errors
    /// A port is in use.
    pub fn start(namespace: &Arc<Namespace>, name: &str) -> Result<Self> {
        let (killed, kill) = watch::channel(false);
        let resets = Arc::new(AtomicUsize::new(0));
        let counted = resets.clone();
        let name: Arc<str> = name.into();
        let behaviour = Arc::new(Behaviour::default());
        let (http_behaviour, echo_behaviour) = (behaviour.clone(), behaviour.clone());
        namespace.block_on(async move {
            let tcp = |service: Service| -> Result<TcpListener> {
                let socket = bind(Type::STREAM, Protocol::TCP, service.backend_port())?;
                socket.listen(BACKLOG)?;
                Ok(TcpListener::from_std(socket.into())?)
            };
            let (http, lines, bulk) = (tcp(Service::Http)?, tcp(Service::Lines)?, tcp(Service::Bulk)?);
            let echo = bind(Type::DGRAM, Protocol::UDP, Service::Echo.backend_port())?;
            echo.set_recv_buffer_size(UDP_BUFFER)?;
            udp::prepare(&echo)?;
            let echo = UdpSocket::from_std(echo.into())?;
            tokio::spawn(accept(http, kill.clone(), name.clone(), move |stream, name| {
                http::serve(stream, name, http_behaviour.clone())
            }));
            let lines_of = move |stream, name| lines_counted(stream, name, counted.clone());
            tokio::spawn(accept(lines, kill.clone(), name.clone(), lines_of));
            tokio::spawn(accept(bulk, kill.clone(), name.clone(), bulk::serve));
            tokio::spawn(udp::serve(echo, kill, name, echo_behaviour));
            anyhow::Ok(())
        })?;
        Ok(Self { namespace: namespace.clone(), killed, behaviour, resets })
    }

    /// Serves HTTP at an additional port, under another name.
    ///
    /// # Errors
    /// The port is in use.
    pub fn serve_also(&self, name: &str, port: u16) -> Result<()> {
        let behaviour = self.behaviour.clone();
        self.listen_also(name, port, move |stream, name| http::serve(stream, name, behaviour.clone()))
    }

    /// Serves lines at an additional port.
    ///
    /// # Errors
    /// The port is in use.
    pub fn serve_lines_also(&self, name: &str, port: u16) -> Result<()> {
        let counted = self.resets.clone();
        self.listen_also(name, port, move |stream, name| lines_counted(stream, name, counted.clone()))
    }

    /// Echoes datagrams at an additional port.
    ///
    /// # Errors
    /// The port is in use.
    pub fn echo_also(&self, name: &str, port: u16) -> Result<()> {
        let (name, kill): (Arc<str>, _) = (name.into(), self.killed.subscribe());
        let behaviour = self.behaviour.clone();
        self.namespace.block_on(async move {
            let echo = bind(Type::DGRAM, Protocol::UDP, port)?;
            udp::prepare(&echo)?;
            tokio::spawn(udp::serve(UdpSocket::from_std(echo.into())?, kill, name, behaviour));
            Ok(())
        })
    }

    fn listen_also<F, S>(&self, name: &str, port: u16, serve: S) -> Result<()>
    where
        S: Fn(TcpStream, Arc<str>) -> F + Clone + Send + 'static,
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (name, kill): (Arc<str>, _) = (name.into(), self.killed.subscribe());
        self.namespace.block_on(async move {
            let socket = bind(Type::STREAM, Protocol::TCP, port)?;
            socket.listen(BACKLOG)?;
            let listener = TcpListener::from_std(socket.into())?;
            tokio::spawn(accept(listener, kill, name, serve));
            Ok(())
        })
    }

    /// Number of long-lived connections that ended with a RST.
    pub fn resets(&self) -> usize {
        self.resets.load(Ordering::Relaxed)
    }

    /// Closes all listening sockets and resets all connections before it returns.
    pub fn kill(self) {
        let Self { namespace, killed, .. } = self;
        namespace.block_on(async move {
            killed.send_replace(true);
            // Every task holds a receiver until its sockets are closed.
            killed.closed().await;
        });
    }
}

fn bind(kind: Type, protocol: Protocol, port: u16) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV6, kind.nonblocking(), Some(protocol))?;
    socket.set_only_v6(false)?;
    // Connections of servers that were killed may still be in TIME_WAIT on this port.
    socket.set_reuse_address(kind == Type::STREAM)?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    socket.bind(&address.into()).with_context(|| format!("a server on {address}"))?;
    Ok(socket)
}

/// Serves each connection by its own task until the servers are killed.
async fn accept<F, S>(listener: TcpListener, mut kill: watch::Receiver<bool>, name: Arc<str>, serve: S)
where
    S: Fn(TcpStream, Arc<str>) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = kill.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(one(stream, kill.clone(), name.clone(), serve.clone()))),
            // A health check may have reset the connection before accept; or descriptors may be exhausted.
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn lines_counted(stream: TcpStream, name: Arc<str>, resets: Arc<AtomicUsize>) -> io::Result<()> {
    let served = lines::serve(stream, name).await;
    if served.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
        resets.fetch_add(1, Ordering::Relaxed);
    }
    served
}

async fn one<F, S>(stream: TcpStream, mut kill: watch::Receiver<bool>, name: Arc<str>, serve: S)
where
    S: Fn(TcpStream, Arc<str>) -> F,
    F: Future<Output = io::Result<()>>,
{
    // A duplicate descriptor can set the connection to reset while it is served.
    let Ok(handle) = SockRef::from(&stream).try_clone() else { return };
    tokio::select! {
        // The client judges how its connection ends.
        _ = serve(stream, name) => {}
        _ = kill.changed() => drop(handle.set_linger(Some(Duration::ZERO))),
    }
}
