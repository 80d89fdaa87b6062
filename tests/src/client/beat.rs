//! A UDP flow at a fixed rate; each datagram is answered or lost.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    net::UdpSocket,
    sync::oneshot,
    task::JoinHandle,
    time::{self, MissedTickBehavior, timeout},
};

use crate::net::Namespace;

/// Interval between datagrams.
const PACE: Duration = Duration::from_millis(10);
/// Client ports of these flows: below those of exchanges, above those of long UDP flows.
const PORTS: std::ops::Range<usize> = 900..1024;
/// How long to wait for the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A flow in progress.
#[derive(Debug)]
pub struct Heartbeat {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<HeartbeatResult>>,
    answered: Arc<AtomicUsize>,
}

/// Result of a flow.
#[derive(Debug)]
pub struct HeartbeatResult {
    /// Number of datagrams sent.
    pub sent: usize,
    /// Indexes of datagrams without an answer.
    pub lost: Vec<usize>,
}

impl Heartbeat {
    pub(super) fn start(namespace: &Namespace, source: IpAddr, target: SocketAddr) -> Self {
        let (stop, stopped) = oneshot::channel();
        let answered = Arc::<AtomicUsize>::default();
        Self { stop, task: namespace.spawn(beat(source, target, stopped, answered.clone())), answered }
    }

    /// Number of datagrams answered so far.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Stops sending, and waits for the last answers.
    ///
    /// # Errors
    /// The socket fails.
    pub fn stop(self, namespace: &Namespace) -> Result<HeartbeatResult> {
        let Self { stop, task, .. } = self;
        let _ = stop.send(());
        namespace.block_on(task).context("the task ended")?
    }
}

impl HeartbeatResult {
    /// Longest time in which all datagrams were lost.
    pub fn longest_gap(&self) -> Duration {
        let (mut longest, mut run, mut last) = (0, 0, None);
        for &lost in &self.lost {
            run = if last.is_some_and(|last| last + 1 == lost) { run + 1 } else { 1 };
            (longest, last) = (longest.max(run), Some(lost));
        }
        PACE * longest
    }
}

async fn beat(
    source: IpAddr,
    target: SocketAddr,
    mut stopped: oneshot::Receiver<()>,
    count: Arc<AtomicUsize>,
) -> Result<HeartbeatResult> {
    static FLOWS: AtomicUsize = AtomicUsize::new(0);
    let port = PORTS.start + FLOWS.fetch_add(1, Ordering::Relaxed) % PORTS.len();
    let socket = UdpSocket::bind((source, u16::try_from(port)?)).await?;
    socket.connect(target).await?;
    let (mut sent, mut answered) = (0, BTreeSet::new());
    let mut pace = time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = pace.tick() => {
                // An ICMP error about the previous datagram must not end the flow.
                let _ = socket.send(sent.to_string().as_bytes()).await;
                sent += 1;
            }
            number = answer(&socket) => {
                answered.insert(number);
                count.store(answered.len(), Ordering::Relaxed);
            }
        }
    }
    let _ = timeout(LAST_ANSWERS, async {
        while answered.len() < sent {
            answered.insert(answer(&socket).await);
        }
    })
    .await;
    Ok(HeartbeatResult { sent, lost: (0..sent).filter(|number| !answered.contains(number)).collect() })
}

/// Index of the next datagram that is answered.
async fn answer(socket: &UdpSocket) -> usize {
    let mut buffer = [0; 256];
    loop {
        if let Ok(length) = socket.recv(&mut buffer).await
            && let Ok(text) = str::from_utf8(&buffer[..length])
            && let Some((_, number)) = text.split_once(' ')
            && let Ok(number) = number.parse()
        {
            return number;
        }
    }
}
