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
const SHORT_FLOWS: usize = 4;
/// Long flows, per listener.
const LONG_FLOWS: usize = 12;
/// Pause of a worker between two flows.
const PAUSE: Duration = Duration::from_millis(30);
/// Pause between two messages of a long flow.
const BEAT: Duration = Duration::from_millis(100);
/// Every second connection closes after this many lines, alternating between the two numbers, and is replaced.
const LIFETIMES: [u64; 2] = [100, 10];
/// How long to wait for the answer to a datagram. A late answer on a machine that stalls does not count as lost.
const ANSWER: Duration = Duration::from_secs(3);
/// Time within which the answer normally arrives: later failures of servers do not excuse its loss.
const PROMPT: Duration = Duration::from_secs(1);
/// First client port of long UDP flows; below all other ports in use.
const FIRST_PORT: u16 = 512;

/// A listener as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenerView {
    /// Its service. Short flows use HTTP and UDP echo, long ones lines and UDP echo.
    pub service: Service,
    /// VIP and port.
    pub target: SocketAddr,
    /// Whether answers bypass SLB.
    pub direct: bool,
    /// Its settings, as far as flows notice them.
    pub terms: ListenerTerms,
}

/// Settings that differ between listeners of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenerTerms {
    /// Name of its server pool; listeners may share one.
    pub pool: &'static str,
    /// `drain_timeout`; `None` if connections of a server without new flows go on forever.
    pub drain: Option<Duration>,
    /// Whether it has session persistence.
    pub persists: bool,
}

impl ListenerTerms {
    /// The settings of the plan's listeners: the pool of the service, no drain, no persistence.
    pub fn of(service: Service) -> Self {
        Self { pool: service.name(), drain: None, persists: false }
    }
}

/// A time span.
#[derive(Debug, Clone, Copy)]
pub struct Interval {
    /// Its start.
    pub from: Instant,
    /// Its end.
    pub to: Instant,
}

impl Interval {
    /// The part in which the answer to a packet sent at the start should arrive.
    #[must_use]
    pub fn prompt(self) -> Self {
        Self { to: self.to.min(self.from + PROMPT), ..self }
    }
}

/// A report about a flow.
#[derive(Debug)]
pub struct FlowReport {
    /// The listener.
    pub view: ListenerView,
    /// The client address, for short flows of one address that follow one another.
    pub source: Option<IpAddr>,
    /// The time since the flow began, or since its last answer.
    pub during: Interval,
    /// The event.
    pub what: FlowEvent,
}

/// An event of a flow.
#[derive(Debug)]
pub enum FlowEvent {
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
pub struct SteadyFlows {
    report: mpsc::Receiver<FlowReport>,
    // Aborts the tasks when dropped.
    _tasks: JoinSet<()>,
}

impl SteadyFlows {
    pub(super) fn start(namespace: &Arc<Namespace>, views: Vec<(ListenerView, Arc<[IpAddr]>)>) -> Self {
        let (send_report, report) = mpsc::channel();
        let tasks = namespace.block_on(async move {
            let mut tasks = JoinSet::new();
            for (view, sources) in views {
                let flow = |n: usize| ClientFlow {
                    view,
                    sources: sources.clone(),
                    n,
                    send_report: send_report.clone(),
                };
                if matches!(view.service, Service::Http | Service::Echo) {
                    (0..SHORT_FLOWS).for_each(|n| drop(tasks.spawn(begin(flow(n)))));
                }
                if view.service == Service::Lines {
                    (0..LONG_FLOWS).for_each(|n| drop(tasks.spawn(keep_connections(flow(n)))));
                }
                if view.service == Service::Echo {
                    (0..LONG_FLOWS).for_each(|n| drop(tasks.spawn(keep_datagrams(flow(n)))));
                }
            }
            tasks
        });
        Self { report, _tasks: tasks }
    }

    /// Reports since the last call.
    pub fn report(&self) -> impl Iterator<Item = FlowReport> {
        self.report.try_iter()
    }
}

/// Parameters of a worker.
struct ClientFlow {
    view: ListenerView,
    sources: Arc<[IpAddr]>,
    /// Number of the worker at its listener.
    n: usize,
    send_report: mpsc::Sender<FlowReport>,
}

impl ClientFlow {
    /// Reports an event that took from `from` until now.
    fn send_report(&self, from: Instant, what: FlowEvent) {
        self.send_report_of(Interval { from, to: Instant::now() }, what);
    }

    fn send_report_of(&self, during: Interval, what: FlowEvent) {
        // Each of these workers has a client address of its own.
        let begins = self.view.service == Service::Http && SHORT_FLOWS <= self.sources.len();
        let source = begins.then(|| self.source());
        // The receiver may have been dropped.
        let _ = self.send_report.send(FlowReport { view: self.view, source, during, what });
    }

    fn source(&self) -> IpAddr {
        self.sources[self.n % self.sources.len()]
    }

    /// Number of lines after which the connection closes; `None` for no limit.
    fn lifetime(&self) -> Option<u64> {
        (self.n % 2 == 1).then(|| LIFETIMES[self.n / 2 % 2])
    }
}

/// Begins short flows one after the other.
async fn begin(flow: ClientFlow) {
    for ticket in 0.. {
        let from = Instant::now();
        let outcome = match flow.view.service {
            Service::Echo => {
                let attempt = exchange::udp(&flow.sources, flow.view.target, ticket);
                time::timeout(PATIENCE, attempt).await.context("no end").flatten()
            }
            _ => http(flow.source(), flow.view.target).await,
        };
        flow.send_report(
            from,
            match outcome {
                Ok(exchange::Answer { server, retries }) => FlowEvent::Began { server, retries },
                Err(error) => FlowEvent::Failed { error: format!("{error:#}") },
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
async fn keep_connections(flow: ClientFlow) {
    loop {
        let mut good = Instant::now();
        let opened = async {
            let mut stream = BufStream::new(exchange::connect(flow.source(), flow.view.target).await?);
            let server = long::beat(&mut stream, 0).await?;
            anyhow::Ok((stream, server))
        };
        match time::timeout(PATIENCE, opened).await.context("no end").flatten() {
            Ok((mut stream, server)) => {
                flow.send_report(good, FlowEvent::Began { server: server.clone(), retries: 0 });
                good = Instant::now();
                if let Err(what) = talk(&mut stream, &server, flow.lifetime(), &mut good).await {
                    flow.send_report(good, what);
                }
            }
            Err(error) => flow.send_report(good, FlowEvent::Failed { error: format!("{error:#}") }),
        }
        time::sleep(PAUSE).await;
    }
}

/// Exchanges lines with a server, `lifetime` of them or without limit; `good` is set to the time of the last answer.
async fn talk(
    stream: &mut BufStream<TcpStream>,
    server: &str,
    lifetime: Option<u64>,
    good: &mut Instant,
) -> Result<(), FlowEvent> {
    let broke = |error| FlowEvent::Broke { server: server.to_owned(), error };
    for number in 1.. {
        if lifetime.is_some_and(|lifetime| number >= lifetime) {
            break;
        }
        time::sleep(BEAT).await;
        match time::timeout(PATIENCE, long::beat(stream, number)).await {
            Ok(Ok(answered)) if answered == server => *good = Instant::now(),
            Ok(Ok(to)) => return Err(FlowEvent::Moved { from: server.to_owned(), to }),
            Ok(Err(error)) => return Err(broke(format!("{error:#}"))),
            Err(_) => return Err(broke(format!("no answer within {PATIENCE:?}"))),
        }
    }
    Ok(())
}

/// Keeps one UDP flow, whatever happens to it.
async fn keep_datagrams(flow: ClientFlow) {
    let port = FIRST_PORT + u16::try_from(flow.n).expect("few workers");
    let mut good = Instant::now();
    let mut server: Option<String> = None;
    let socket = async {
        let socket = UdpSocket::bind((flow.source(), port)).await?;
        socket.connect(flow.view.target).await?;
        anyhow::Ok(socket)
    };
    let socket = match socket.await {
        Ok(socket) => socket,
        Err(error) => {
            return flow.send_report(good, FlowEvent::Failed { error: format!("{error:#}, port {port}") });
        }
    };
    for number in 0.. {
        let sent = Instant::now();
        match time::timeout(ANSWER, exchange::datagram(&socket, &format!("{number}"))).await {
            Ok(Ok(answered)) => {
                match &server {
                    Some(server) if *server == answered => {}
                    Some(server) => {
                        flow.send_report(
                            good,
                            FlowEvent::Moved { from: server.clone(), to: answered.clone() },
                        );
                    }
                    None => flow.send_report(sent, FlowEvent::Began { server: answered.clone(), retries: 0 }),
                }
                server = Some(answered);
                good = Instant::now();
            }
            other => {
                let error =
                    other.map_or_else(|_| format!("no answer within {ANSWER:?}"), |e| format!("{e:?}"));
                // Only the time since this datagram was sent counts.
                let what = match &server {
                    Some(server) => FlowEvent::Broke { server: server.clone(), error },
                    None => FlowEvent::Failed { error },
                };
                let during = Interval { from: sent, to: Instant::now() };
                flow.send_report_of(during.prompt(), what);
            }
        }
        time::sleep(BEAT).await;
    }
}
