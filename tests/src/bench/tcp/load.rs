//! The benchmark's client: runs loads for a given time, and checks every answer.

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

use super::server::{MESSAGE, PERIOD, ask, period, reversed};

/// Time after its end after which a load counts as stuck.
const GRACE: Duration = Duration::from_secs(3);
/// Pause after an error, to avoid a flood of attempts.
const PAUSE: Duration = Duration::from_millis(5);
/// Concurrent connections in [`TcpWorkload::Connections`].
const OPENING: u64 = 16;

/// A load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TcpWorkload {
    /// One connection with one request at a time.
    Requests1,
    /// 64 connections with one request at a time each.
    Requests64,
    /// 16 workers that connect, make one exchange, and reset the connection.
    Connections,
    /// One connection on which the server sends as fast as it can.
    Bulk,
}

/// Result of a load.
#[derive(Debug, Clone, Default)]
pub(super) struct LoadOutcome {
    /// Requests, connections or bytes that succeeded.
    pub(super) done: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

/// Client addresses and target of the connections.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) sources: Arc<[IpAddr]>,
    pub(super) target: SocketAddr,
}

impl TcpWorkload {
    pub(super) const ALL: [Self; 4] = [Self::Requests1, Self::Requests64, Self::Connections, Self::Bulk];

    /// Name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests1 => "requests/s, 1 connection",
            Self::Requests64 => "requests/s, 64 connections",
            Self::Connections => "new connections/s",
            Self::Bulk => "bulk, MB/s",
        }
    }

    /// Number of requests, connections or bytes in one unit of the table.
    pub(super) fn unit(self) -> f64 {
        if self == Self::Bulk { 1e6 } else { 1.0 }
    }

    /// Runs the load for `length`. Returns the rate per second, and the result.
    pub(super) async fn apply(self, path: Path, length: Duration) -> (f64, LoadOutcome) {
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
                let mut outcome = LoadOutcome::default();
                let work = async {
                    if self == Self::Connections {
                        connections(&path, n, count, end, &mut outcome).await;
                    } else {
                        persistent_connection(&path, n, bulk, end, &mut outcome).await;
                    }
                };
                if timeout(length + GRACE, work).await.is_err() {
                    outcome.error(&"stuck");
                }
                outcome
            });
        }
        let mut sum = LoadOutcome::default();
        while let Some(outcome) = tasks.join_next().await {
            let outcome = outcome.unwrap_or_else(|error| {
                let mut panicked = LoadOutcome::default();
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

impl LoadOutcome {
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

/// Asks the server for its peer's address.
pub(super) async fn peer(path: &Path) -> Result<IpAddr> {
    let mut stream = connect(path, 0).await?;
    let mut message = [0; MESSAGE];
    message[0] = ask::PEER;
    stream.write_all(&message).await?;
    stream.read_exact(&mut message).await?;
    reset(&stream)?;
    Ok([message[0], message[1], message[2], message[3]].into())
}

/// Opens connections one after the other until `end`.
async fn connections(path: &Path, first: u64, step: u64, end: Instant, outcome: &mut LoadOutcome) {
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

/// Uses one connection until `end`, and opens another if it breaks.
async fn persistent_connection(path: &Path, n: u64, bulk: bool, end: Instant, outcome: &mut LoadOutcome) {
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

/// Sets the connection to reset when it is closed, so that its port is free at once.
fn reset(stream: &TcpStream) -> Result<()> {
    Ok(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))?)
}

/// One request and its answer; `number` makes the request unique.
async fn exchange(stream: &mut TcpStream, number: u64) -> Result<()> {
    let mut message = [ask::REVERSED; MESSAGE];
    message[8..16].copy_from_slice(&number.to_le_bytes());
    stream.write_all(&message).await.context("cannot send")?;
    let mut answer = [0; MESSAGE];
    stream.read_exact(&mut answer).await.context("no answer")?;
    ensure!(answer == reversed(message), "a wrong answer");
    Ok(())
}

/// Receives the stream until `end`, and counts the bytes.
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
