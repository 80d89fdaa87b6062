//! Connections that stay open and keep exchanging lines with their server.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
    task::JoinSet,
    time,
};

use super::{PATIENCE, exchange, millis};
use crate::{net::Namespace, wait::wait_for};

/// Pause between two lines of a connection.
const BEAT: Duration = Duration::from_millis(20);

/// Behaviour of an open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionKind {
    /// Exchanges one line after the other.
    Active,
    /// Sends nothing, and waits for data.
    Idle,
}

/// Open connections. Dropping it closes them.
#[derive(Debug)]
pub struct LongLived {
    connections: Vec<Arc<Connection>>,
    opened: Instant,
    // Aborts the tasks when dropped.
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Connection {
    server: String,
    local: SocketAddr,
    exchanges: AtomicU64,
    broken: Mutex<Option<BrokenConnection>>,
    is_to_close: AtomicBool,
    is_closed: AtomicBool,
}

/// How a connection broke.
#[derive(Debug, Clone)]
pub struct BrokenConnection {
    /// Its server.
    pub server: String,
    /// The client endpoint.
    pub local: SocketAddr,
    /// When it broke, in milliseconds since the connections were opened.
    pub at_ms: u128,
    /// The error.
    pub error: String,
}

impl fmt::Display for BrokenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} broke at {} ms: {}", self.local, self.server, self.at_ms, self.error)
    }
}

impl LongLived {
    pub(super) fn open(
        namespace: &Arc<Namespace>,
        sources: &Arc<[IpAddr]>,
        target: SocketAddr,
        count: usize,
        habit: ConnectionKind,
    ) -> Result<Self> {
        let opened = Instant::now();
        let sources = sources.clone();
        let (connections, tasks) = namespace.block_on(async move {
            let mut connections = Vec::new();
            let mut tasks = JoinSet::new();
            for source in sources.iter().cycle().take(count) {
                let first = async {
                    let mut stream = BufStream::new(exchange::connect(*source, target).await?);
                    let server = beat(&mut stream, 0).await?;
                    anyhow::Ok((stream, server))
                };
                let (stream, server) =
                    time::timeout(PATIENCE, first).await.context("no end").flatten().context("long-lived")?;
                let connection = Arc::new(Connection {
                    server,
                    local: stream.get_ref().local_addr()?,
                    exchanges: AtomicU64::new(1),
                    broken: Mutex::new(None),
                    is_to_close: AtomicBool::new(false),
                    is_closed: AtomicBool::new(false),
                });
                connections.push(connection.clone());
                tasks.spawn(run_connection(stream, connection, opened, habit));
            }
            anyhow::Ok((connections, tasks))
        })?;
        Ok(Self { connections, opened, _tasks: tasks })
    }

    /// Number of unbroken connections by server.
    pub fn alive(&self) -> BTreeMap<String, usize> {
        let mut alive = BTreeMap::new();
        for connection in self.connections.iter().filter(|connection| connection.broken().is_none()) {
            *alive.entry(connection.server.clone()).or_default() += 1;
        }
        alive
    }

    /// Number of unbroken connections with one server.
    pub fn alive_with(&self, server: &str) -> usize {
        self.alive().get(server).copied().unwrap_or(0)
    }

    /// The servers of each client address.
    pub fn servers_by_client(&self) -> BTreeMap<IpAddr, BTreeSet<String>> {
        let mut servers: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for connection in &self.connections {
            servers.entry(connection.local.ip()).or_default().insert(connection.server.clone());
        }
        servers
    }

    /// The client endpoints, in the order in which the connections were opened.
    pub fn locals(&self) -> impl Iterator<Item = SocketAddr> {
        self.connections.iter().map(|connection| connection.local)
    }

    /// Time since the first connection began to open.
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Closes the active connections with one server, at both ends; returns their number.
    ///
    /// # Errors
    /// A connection is broken or stalled.
    pub fn close_with(&mut self, server: &str) -> Result<usize> {
        let (closed, open) = self.connections.drain(..).partition(|connection| connection.server == server);
        self.connections = open;
        let closed: Vec<Arc<Connection>> = closed;
        closed.iter().for_each(|connection| connection.is_to_close.store(true, Ordering::Relaxed));
        wait_for("the end of every connection that is closed", 2 * PATIENCE, || {
            if let Some(broken) = closed.iter().find_map(|connection| connection.broken()) {
                bail!("{broken}");
            }
            Ok(closed.iter().all(|connection| connection.is_closed.load(Ordering::Relaxed)).then_some(()))
        })?;
        Ok(closed.len())
    }

    /// Broken connections, in the order in which they were opened.
    pub fn breaks(&self) -> Vec<BrokenConnection> {
        self.connections.iter().filter_map(|connection| connection.broken()).collect()
    }

    /// Fails if a connection broke whose server is not `except`.
    ///
    /// # Errors
    /// The number of broken connections, and the first one.
    pub fn expect_unbroken(&self, except: Option<&str>) -> Result<()> {
        let mut breaks = self.breaks();
        breaks.retain(|broken| Some(broken.server.as_str()) != except);
        match breaks.first() {
            Some(first) => {
                bail!("{} of {} long-lived connections broke; {first}", breaks.len(), self.connections.len())
            }
            None => Ok(()),
        }
    }

    /// Waits until every connection has exchanged another `lines` lines or is broken.
    ///
    /// # Errors
    /// A connection has stalled.
    pub fn progress(&self, lines: u64) -> Result<()> {
        let goals: Vec<_> =
            self.connections.iter().map(|connection| connection.exchanges() + lines).collect();
        wait_for("progress of every long-lived connection", 2 * PATIENCE, || {
            let mut pairs = self.connections.iter().zip(&goals);
            let reached = pairs
                .all(|(connection, goal)| connection.exchanges() >= *goal || connection.broken().is_some());
            Ok(reached.then_some(()))
        })
        .with_context(|| format!("{} ms after the opening", millis(self.opened, Instant::now())))
    }
}

impl Connection {
    fn exchanges(&self) -> u64 {
        self.exchanges.load(Ordering::Relaxed)
    }

    fn broken(&self) -> Option<BrokenConnection> {
        self.broken.lock().expect("no holder of the lock panics").clone()
    }
}

async fn run_connection(
    mut stream: BufStream<TcpStream>,
    connection: Arc<Connection>,
    opened: Instant,
    habit: ConnectionKind,
) {
    let error = loop {
        if habit == ConnectionKind::Idle {
            break match stream.read_line(&mut String::new()).await {
                Ok(length) => format!("{length} bytes came unasked"),
                Err(error) => error.to_string(),
            };
        }
        time::sleep(BEAT).await;
        if connection.is_to_close.load(Ordering::Relaxed) {
            match time::timeout(PATIENCE, close(&mut stream)).await {
                Ok(Ok(())) => return connection.is_closed.store(true, Ordering::Relaxed),
                Ok(Err(error)) => break format!("not closed: {error:#}"),
                Err(_) => break format!("not closed within {PATIENCE:?}"),
            }
        }
        match time::timeout(PATIENCE, beat(&mut stream, connection.exchanges())).await {
            Ok(Ok(server)) if server == connection.server => {
                connection.exchanges.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Ok(server)) => break format!("answered by {server}"),
            Ok(Err(error)) => break format!("{error:#}"),
            Err(_) => break format!("no answer within {PATIENCE:?}"),
        }
    };
    let at_ms = millis(opened, Instant::now());
    let broken =
        BrokenConnection { server: connection.server.clone(), local: connection.local, at_ms, error };
    *connection.broken.lock().expect("no holder of the lock panics") = Some(broken);
}

/// Closes a connection, and waits until the server has closed it.
async fn close(stream: &mut BufStream<TcpStream>) -> Result<()> {
    stream.shutdown().await?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    ensure!(rest.is_empty(), "{} bytes came unasked", rest.len());
    Ok(())
}

/// Exchanges one line; returns the name of the server.
pub(super) async fn beat(stream: &mut BufStream<TcpStream>, number: u64) -> Result<String> {
    stream.write_all(format!("{number}\n").as_bytes()).await?;
    stream.flush().await?;
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let (server, echoed) =
        line.trim_end().split_once(' ').with_context(|| format!("no server name in {line:?}"))?;
    ensure!(echoed == number.to_string(), "sent {number}, received {line:?}");
    Ok(server.to_owned())
}
