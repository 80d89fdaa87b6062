//! The client: loads that last a given time and check every answer.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::server::{MESSAGE, PERIOD, ask, period, turned};

/// How long after its end a load may go on before it counts as stuck.
const GRACE: Duration = Duration::from_secs(3);
/// How long to wait after an error, so that nothing is flooded.
const PAUSE: Duration = Duration::from_millis(5);
/// Connections that are being opened at a time in [`Workload::Connections`].
const OPENING: u64 = 16;

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// One connection: a request, its answer, the next request.
    Requests1,
    /// The same on 64 connections at a time.
    Requests64,
    /// 16 at a time: a connection is opened, makes one exchange, and is reset.
    Connections,
    /// One connection: the server sends as much as it can.
    Bulk,
}

/// What came of a load.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// Requests, connections or bytes.
    pub(super) done: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

/// From where to where.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) sources: Arc<[IpAddr]>,
    pub(super) target: SocketAddr,
}

impl Workload {
    pub(super) const ALL: [Self; 4] = [Self::Requests1, Self::Requests64, Self::Connections, Self::Bulk];

    /// How it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests1 => "requests/s, 1 connection",
            Self::Requests64 => "requests/s, 64 connections",
            Self::Connections => "new connections/s",
            Self::Bulk => "bulk, MB/s",
        }
    }

    /// One in the table's unit.
    pub(super) fn unit(self) -> f64 {
        if self == Self::Bulk { 1e6 } else { 1.0 }
    }

    /// Applies the load; returns what came of it, per second.
    pub(super) async fn apply(self, path: Path, length: Duration) -> (f64, Outcome) {
        let (count, bulk) = match self {
            Self::Requests1 => (1, false),
            Self::Requests64 => (64, false),
            Self::Connections => (OPENING, false),
            Self::Bulk => (1, true),
        };
        let start = Instant::now();
        let end = start + length;
        let mut tasks = JoinSet::new();
        for n in 0..count {
            let path = path.clone();
            tasks.spawn(async move {
                let mut outcome = Outcome::default();
                let work = async {
                    if self == Self::Connections {
                        connections(&path, n, count, end, &mut outcome).await;
                    } else {
                        stay(&path, n, bulk, end, &mut outcome).await;
                    }
                };
                if timeout(length + GRACE, work).await.is_err() {
                    outcome.error(&"stuck");
                }
                outcome
            });
        }
        let mut sum = Outcome::default();
        while let Some(outcome) = tasks.join_next().await {
            let outcome = outcome.unwrap_or_else(|error| {
                let mut panicked = Outcome::default();
                panicked.error(&error);
                panicked
            });
            sum.done += outcome.done;
            sum.errors += outcome.errors;
            sum.first_error = sum.first_error.or(outcome.first_error);
        }
        (sum.done as f64 / start.elapsed().as_secs_f64(), sum)
    }
}

impl Outcome {
    fn error(&mut self, error: &impl ToString) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    async fn note<T>(&mut self, attempt: impl Future<Output = Result<T>>) -> Option<T> {
        match attempt.await {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(&format!("{error:#}"));
                tokio::time::sleep(PAUSE).await;
                None
            }
        }
    }
}

/// Asks the server who is on the other end of the connection.
pub(super) async fn peer(path: &Path) -> Result<IpAddr> {
    let mut stream = connect(path, 0).await?;
    let mut message = [0; MESSAGE];
    message[0] = ask::PEER;
    stream.write_all(&message).await?;
    stream.read_exact(&mut message).await?;
    reset(&stream)?;
    Ok([message[0], message[1], message[2], message[3]].into())
}

/// Opens connection after connection until `end`.
async fn connections(path: &Path, first: u64, step: u64, end: Instant, outcome: &mut Outcome) {
    let mut n = first;
    while Instant::now() < end {
        let attempt = async {
            let mut stream = connect(path, n).await?;
            exchange(&mut stream, n).await?;
            reset(&stream)
        };
        if outcome.note(attempt).await.is_some() {
            outcome.done += 1;
        }
        n += step;
    }
}

/// Uses one connection until `end`, and another one if it breaks.
async fn stay(path: &Path, n: u64, bulk: bool, end: Instant, outcome: &mut Outcome) {
    while Instant::now() < end {
        let mut done = 0;
        let attempt = async {
            let mut stream = connect(path, n).await?;
            if bulk {
                receive(&mut stream, end, &mut done).await?;
            } else {
                while Instant::now() < end {
                    exchange(&mut stream, n << 32 | done).await?;
                    done += 1;
                }
            }
            reset(&stream)
        };
        outcome.note(attempt).await;
        outcome.done += done;
    }
}

async fn connect(path: &Path, n: u64) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let source = path.sources[n as usize % path.sources.len()];
    socket.bind((source, 0).into()).context("no port is left")?;
    let stream = socket.connect(path.target).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Ends the connection so that its port can be used again at once.
fn reset(stream: &TcpStream) -> Result<()> {
    Ok(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))?)
}

/// A request and its answer; `number` makes it different from others.
async fn exchange(stream: &mut TcpStream, number: u64) -> Result<()> {
    let mut message = [ask::TURNED; MESSAGE];
    message[8..16].copy_from_slice(&number.to_le_bytes());
    stream.write_all(&message).await.context("cannot send")?;
    let mut answer = [0; MESSAGE];
    stream.read_exact(&mut answer).await.context("no answer")?;
    ensure!(answer == turned(message), "a wrong answer");
    Ok(())
}

/// Receives the stream until `end`; counts the bytes.
async fn receive(stream: &mut TcpStream, end: Instant, done: &mut u64) -> Result<()> {
    stream.write_all(&[ask::STREAM; MESSAGE]).await?;
    let expected = period().repeat(2);
    let mut buffer = vec![0; PERIOD];
    while Instant::now() < end {
        let length = stream.read(&mut buffer).await?;
        let at = (*done % PERIOD as u64) as usize;
        if length == 0 || buffer[..length] != expected[at..at + length] {
            bail!("the stream ends or is not what was sent, after {done} bytes");
        }
        *done += length as u64;
    }
    Ok(())
}
