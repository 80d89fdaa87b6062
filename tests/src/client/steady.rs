//! Short flows that begin all the time, and long flows. Each event of a flow is reported, so that a model of the
//! servers can check it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{io::BufStream, net::TcpStream, net::UdpSocket, task::JoinSet, time};

use super::{PATIENCE, exchange, long};
use crate::{net::Namespace, server::Service};

/// Workers with short flows, per listener.
const BEGINNERS: usize = 4;
/// Long flows, per listener.
const KEPT: usize = 12;
/// Pause of a worker between two flows.
const PAUSE: Duration = Duration::from_millis(30);
/// Pause between two messages of a long flow.
const BEAT: Duration = Duration::from_millis(100);
/// Every second connection closes after this many lines, alternating between the two numbers, and is replaced.
const LIVES: [u64; 2] = [100, 10];
/// How long to wait for the answer to a datagram. A late answer on a machine that stalls does not count as lost.
const ANSWER: Duration = Duration::from_secs(3);
/// Time within which the answer normally arrives: later failures of servers do not excuse its loss.
const PROMPT: Duration = Duration::from_secs(1);
/// First client port of long UDP flows; below all other ports in use.
const FIRST_PORT: u16 = 512;

/// A listener as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Door {
    /// Its service. Short flows use HTTP and UDP echo, long ones lines and UDP echo.
    pub service: Service,
    /// VIP and port.
    pub target: SocketAddr,
    /// Whether answers bypass SLB.
    pub direct: bool,
    /// Its settings, as far as flows notice them.
    pub terms: EjectionPolicy,
}

/// Settings that differ between listeners of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EjectionPolicy {
    /// Name of its server pool; listeners may share one.
    pub pool: &'static str,
    /// `connection_drain`; `None` if connections of a server without new flows go on forever.
    pub drain: Option<Duration>,
    /// Whether it has session persistence.
    pub persists: bool,
}

impl EjectionPolicy {
    /// The settings of the plan's listeners: the pool of the service, no drain, no persistence.
    pub fn of(service: Service) -> Self {
        Self { pool: service.name(), drain: None, persists: false }
    }
}

/// A time span.
#[derive(Debug, Clone, Copy)]
pub struct During {
    /// Its start.
    pub from: Instant,
    /// Its end.
    pub to: Instant,
}

impl During {
    /// The part in which the answer to a packet sent at the start should arrive.
    #[must_use]
    pub fn prompt(self) -> Self {
        Self { to: self.to.min(self.from + PROMPT), ..self }
    }
}

/// A report about a flow.
#[derive(Debug)]
pub struct Told {
    /// The listener.
    pub door: Door,
    /// The client address, for short flows of one address that follow one another.
    pub source: Option<IpAddr>,
    /// The time since the flow began, or since its last answer.
    pub during: During,
    /// The event.
    pub what: What,
}

/// An event of a flow.
#[derive(Debug)]
pub enum What {
    /// A server has answered the new flow.
    Began {
        /// The server.
        server: String,
        /// Number of retransmitted datagrams.
        retries: u32,
    },
    /// The new flow got no complete answer.
    Failed {
        /// The error.
        error: String,
    },
    /// The flow's server no longer answers.
    Broke {
        /// The server.
        server: String,
        /// The error.
        error: String,
    },
    /// Another server answers.
    Moved {
        /// The server so far.
        from: String,
        /// The other server.
        to: String,
    },
}

/// Flows in the background. Dropping it ends them.
#[derive(Debug)]
pub struct Steady {
    told: mpsc::Receiver<Told>,
    // Aborts the tasks when dropped.
    _tasks: JoinSet<()>,
}

impl Steady {
    pub(super) fn start(namespace: &Arc<Namespace>, doors: Vec<(Door, Arc<[IpAddr]>)>) -> Self {
        let (tell, told) = mpsc::channel();
        let tasks = namespace.block_on(async move {
            let mut tasks = JoinSet::new();
            for (door, sources) in doors {
                let flow = |n: usize| Flow { door, sources: sources.clone(), n, tell: tell.clone() };
                if matches!(door.service, Service::Http | Service::Echo) {
                    (0..BEGINNERS).for_each(|n| drop(tasks.spawn(begin(flow(n)))));
                }
                if door.service == Service::Lines {
                    (0..KEPT).for_each(|n| drop(tasks.spawn(keep_connections(flow(n)))));
                }
                if door.service == Service::Echo {
                    (0..KEPT).for_each(|n| drop(tasks.spawn(keep_datagrams(flow(n)))));
                }
            }
            tasks
        });
        Self { told, _tasks: tasks }
    }

    /// Reports since the last call.
    pub fn told(&self) -> impl Iterator<Item = Told> {
        self.told.try_iter()
    }
}

/// Parameters of a worker.
struct Flow {
    door: Door,
    sources: Arc<[IpAddr]>,
    /// Number of the worker at its listener.
    n: usize,
    tell: mpsc::Sender<Told>,
}

impl Flow {
    /// Reports an event that took from `from` until now.
    fn tell(&self, from: Instant, what: What) {
        self.tell_of(During { from, to: Instant::now() }, what);
    }

    fn tell_of(&self, during: During, what: What) {
        // Each of these workers has a client address of its own.
        let begins = self.door.service == Service::Http && BEGINNERS <= self.sources.len();
        let source = begins.then(|| self.source());
        // The receiver may have been dropped.
        let _ = self.tell.send(Told { door: self.door, source, during, what });
    }

    fn source(&self) -> IpAddr {
        self.sources[self.n % self.sources.len()]
    }

    /// Number of lines after which the connection closes; `None` for no limit.
    fn life(&self) -> Option<u64> {
        (self.n % 2 == 1).then(|| LIVES[self.n / 2 % 2])
    }
}

/// Begins short flows one after the other.
async fn begin(flow: Flow) {
    for ticket in 0.. {
        let from = Instant::now();
        let outcome = match flow.door.service {
            Service::Echo => {
                let attempt = exchange::udp(&flow.sources, flow.door.target, ticket);
                time::timeout(PATIENCE, attempt).await.context("no end").flatten()
            }
            _ => http(flow.source(), flow.door.target).await,
        };
        flow.tell(
            from,
            match outcome {
                Ok(exchange::Answer { server, retries }) => What::Began { server, retries },
                Err(error) => What::Failed { error: format!("{error:#}") },
            },
        );
        time::sleep(PAUSE).await;
    }
}

/// Opens a connection and asks for the server's name.
async fn http(source: IpAddr, target: SocketAddr) -> Result<exchange::Answer> {
    let connect = time::timeout(PATIENCE, exchange::connect(source, target)).await;
    let stream = connect.with_context(|| format!("no connection from {source}"))??;
    let local = stream.local_addr()?;
    let answer = time::timeout(PATIENCE, exchange::http_over(stream)).await;
    answer.with_context(|| format!("no answer at {local}")).flatten()
}

/// Keeps a connection open, and replaces it when it ends.
async fn keep_connections(flow: Flow) {
    loop {
        let mut good = Instant::now();
        let opened = async {
            let mut stream = BufStream::new(exchange::connect(flow.source(), flow.door.target).await?);
            let server = long::beat(&mut stream, 0).await?;
            anyhow::Ok((stream, server))
        };
        match time::timeout(PATIENCE, opened).await.context("no end").flatten() {
            Ok((mut stream, server)) => {
                flow.tell(good, What::Began { server: server.clone(), retries: 0 });
                good = Instant::now();
                if let Err(what) = talk(&mut stream, &server, flow.life(), &mut good).await {
                    flow.tell(good, what);
                }
            }
            Err(error) => flow.tell(good, What::Failed { error: format!("{error:#}") }),
        }
        time::sleep(PAUSE).await;
    }
}

/// Exchanges lines with a server, `life` of them or without limit; `good` is set to the time of the last answer.
async fn talk(
    stream: &mut BufStream<TcpStream>,
    server: &str,
    life: Option<u64>,
    good: &mut Instant,
) -> Result<(), What> {
    let broke = |error| What::Broke { server: server.to_owned(), error };
    for number in 1.. {
        if life.is_some_and(|life| number >= life) {
            break;
        }
        time::sleep(BEAT).await;
        match time::timeout(PATIENCE, long::beat(stream, number)).await {
            Ok(Ok(answered)) if answered == server => *good = Instant::now(),
            Ok(Ok(to)) => return Err(What::Moved { from: server.to_owned(), to }),
            Ok(Err(error)) => return Err(broke(format!("{error:#}"))),
            Err(_) => return Err(broke(format!("no answer within {PATIENCE:?}"))),
        }
    }
    Ok(())
}

/// Keeps one UDP flow, whatever happens to it.
async fn keep_datagrams(flow: Flow) {
    let port = FIRST_PORT + u16::try_from(flow.n).expect("few workers");
    let mut good = Instant::now();
    let mut server: Option<String> = None;
    let socket = async {
        let socket = UdpSocket::bind((flow.source(), port)).await?;
        socket.connect(flow.door.target).await?;
        anyhow::Ok(socket)
    };
    let socket = match socket.await {
        Ok(socket) => socket,
        Err(error) => return flow.tell(good, What::Failed { error: format!("{error:#}, port {port}") }),
    };
    for number in 0.. {
        let sent = Instant::now();
        match time::timeout(ANSWER, exchange::datagram(&socket, &format!("{number}"))).await {
            Ok(Ok(answered)) => {
                match &server {
                    Some(server) if *server == answered => {}
                    Some(server) => {
                        flow.tell(good, What::Moved { from: server.clone(), to: answered.clone() });
                    }
                    None => flow.tell(sent, What::Began { server: answered.clone(), retries: 0 }),
                }
                server = Some(answered);
                good = Instant::now();
            }
            other => {
                let error =
                    other.map_or_else(|_| format!("no answer within {ANSWER:?}"), |e| format!("{e:?}"));
                // Only the time since this datagram was sent counts.
                let what = match &server {
                    Some(server) => What::Broke { server: server.clone(), error },
                    None => What::Failed { error },
                };
                let during = During { from: sent, to: Instant::now() };
                flow.tell_of(during.prompt(), what);
            }
        }
        time::sleep(BEAT).await;
    }
}
