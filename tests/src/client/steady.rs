//! Flows that are begun all the time, and flows that are kept for as long as they last; each is told of as it goes, so that
//! whoever knows what becomes of the servers can judge it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{io::BufStream, net::TcpStream, net::UdpSocket, task::JoinSet, time};

use super::{PATIENCE, exchange, long};
use crate::{net::Namespace, server::Service};

/// Workers that begin flows, at each door.
const BEGINNERS: usize = 4;
/// Flows that are kept, at each door.
const KEPT: usize = 12;
/// Pause between two flows of a worker.
const PAUSE: Duration = Duration::from_millis(30);
/// Pause between two messages of a flow that is kept.
const BEAT: Duration = Duration::from_millis(100);
/// Half of the connections are closed after so many lines, one half of these and the other, and others opened.
const LIVES: [u64; 2] = [100, 10];
/// How long the answer to a datagram is waited for: one that is late for a stall of the machine is not taken for lost.
const ANSWER: Duration = Duration::from_secs(3);
/// Within which it would have come otherwise: what became of servers afterwards is no excuse.
const PROMPT: Duration = Duration::from_secs(1);
/// The first port of kept flows of UDP: below all that others use.
const FIRST_PORT: u16 = 512;

/// Where flows come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Door {
    /// What is served there: short flows of HTTP and UDP echo, kept ones of lines and UDP echo.
    pub service: Service,
    /// A VIP and its port.
    pub target: SocketAddr,
    /// Whether answers go past the load balancer.
    pub direct: bool,
    /// What is promised there.
    pub terms: Terms,
}

/// What differs between doors of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Terms {
    /// The servers behind it, by a name that doors share.
    pub pool: &'static str,
    /// How long a server that takes nothing new keeps its connections, where not for ever.
    pub drain: Option<Duration>,
    /// Whether new flows of a client address go where its last one went.
    pub persists: bool,
}

impl Terms {
    /// Those of servers that stand in the group of the service, where nothing more is said.
    pub fn of(service: Service) -> Self {
        Self { pool: service.name(), drain: None, persists: false }
    }
}

/// When something was going on.
#[derive(Debug, Clone, Copy)]
pub struct During {
    /// From when on.
    pub from: Instant,
    /// Until when.
    pub to: Instant,
}

impl During {
    /// As far as the answer to what was sent at its beginning may be expected.
    #[must_use]
    pub fn prompt(self) -> Self {
        Self { to: self.to.min(self.from + PROMPT), ..self }
    }
}

/// What a flow tells.
#[derive(Debug)]
pub struct Told {
    /// Where it came in.
    pub door: Door,
    /// The client's address, where the flow was begun by one that begins one after the other.
    pub source: Option<IpAddr>,
    /// When: from its beginning, or from when it was last well.
    pub during: During,
    /// What.
    pub what: What,
}

/// What has become of a flow.
#[derive(Debug)]
pub enum What {
    /// It has begun: a server has answered it, after so many datagrams had been sent again.
    Began {
        /// The server.
        server: String,
        /// Datagrams sent again.
        retries: u32,
    },
    /// It has not, or nobody has answered to the end.
    Failed {
        /// What happened.
        error: String,
    },
    /// The server that it was with does not answer.
    Broke {
        /// The server.
        server: String,
        /// What happened.
        error: String,
    },
    /// Another server answers.
    Moved {
        /// The server that it was with.
        from: String,
        /// The other one.
        to: String,
    },
}

/// Flows; dropping it ends them.
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

    /// What has been told since.
    pub fn told(&self) -> impl Iterator<Item = Told> {
        self.told.try_iter()
    }
}

/// What a worker needs to know.
struct Flow {
    door: Door,
    sources: Arc<[IpAddr]>,
    /// Which of the workers it is.
    n: usize,
    tell: mpsc::Sender<Told>,
}

impl Flow {
    /// Something has been going on since `from`.
    fn tell(&self, from: Instant, what: What) {
        self.tell_of(During { from, to: Instant::now() }, what);
    }

    fn tell_of(&self, during: During, what: What) {
        // No two of them share one.
        let begins = self.door.service == Service::Http && BEGINNERS <= self.sources.len();
        let source = begins.then(|| self.source());
        // Nobody may be listening any more.
        let _ = self.tell.send(Told { door: self.door, source, during, what });
    }

    fn source(&self) -> IpAddr {
        self.sources[self.n % self.sources.len()]
    }

    /// How many lines it exchanges, where not as many as it can.
    fn life(&self) -> Option<u64> {
        (self.n % 2 == 1).then(|| LIVES[self.n / 2 % 2])
    }
}

/// Begins one flow after the other.
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

/// Keeps a connection for as long as it lasts, and opens another one then.
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

/// Exchanges lines with a server, for ever or so many; `good` is when the last one was answered.
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

/// Keeps one flow of datagrams, whatever becomes of it.
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
                // From when it was sent: between two messages nobody was asked.
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
