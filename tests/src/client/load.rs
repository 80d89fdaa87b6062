//! Many short exchanges, several at a time.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{task::JoinSet, time};

use super::{PATIENCE, exchange, millis};
use crate::{net::Namespace, server::Service};

/// Pause of a worker after a failure, so that refused connections do not become a flood.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);

/// Results of several exchanges.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Number of successful exchanges by server.
    pub tally: BTreeMap<String, u64>,
    /// Failed exchanges.
    pub failures: Vec<ExchangeFailure>,
    /// Number of retransmitted datagrams.
    pub retries: u64,
}

/// An exchange that failed.
#[derive(Debug, Clone)]
pub struct ExchangeFailure {
    /// When the exchange began.
    pub started: Instant,
    /// When the exchange failed.
    pub failed: Instant,
    /// The client address, and the error.
    pub error: String,
}

impl fmt::Display for ExchangeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {} ms", self.error, millis(self.started, self.failed))
    }
}

impl Batch {
    /// Number of successful exchanges.
    pub fn successes(&self) -> u64 {
        self.tally.values().sum()
    }

    /// Number of successful exchanges with one server.
    pub fn of(&self, server: &str) -> u64 {
        self.tally.get(server).copied().unwrap_or(0)
    }

    /// Failures of exchanges that began at `time` or later.
    pub fn failures_since(&self, time: Instant) -> impl Iterator<Item = &ExchangeFailure> {
        self.failures.iter().filter(move |failure| failure.started >= time)
    }

    /// Fails if any exchange failed.
    ///
    /// # Errors
    /// The number of failures, and the first one.
    pub fn expect_no_failure(&self) -> Result<()> {
        self.expect_none(self.failures.iter())
    }

    /// Fails if any exchange that began at `time` or later failed.
    ///
    /// # Errors
    /// The number of failures, and the first one.
    pub fn expect_no_failure_since(&self, time: Instant) -> Result<()> {
        self.expect_none(self.failures_since(time))
    }

    fn expect_none<'a>(&self, mut failures: impl Iterator<Item = &'a ExchangeFailure>) -> Result<()> {
        let Some(first) = failures.next() else { return Ok(()) };
        let (failed, succeeded) = (failures.count() + 1, self.successes());
        Err(anyhow::anyhow!("{first}"))
            .context(format!("{failed} exchanges failed, {succeeded} succeeded; the first"))
    }
}

/// Exchanges in the background. Dropping it stops them.
#[derive(Debug)]
pub struct Load {
    namespace: Arc<Namespace>,
    shared: Arc<Shared>,
    // `None` once they have been joined.
    workers: Option<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    sources: Arc<[IpAddr]>,
    service: Service,
    target: SocketAddr,
    /// Exchanges begun, and their maximum.
    next: AtomicU64,
    limit: AtomicU64,
    batch: Mutex<Batch>,
}

impl Load {
    pub(super) fn start(
        namespace: &Arc<Namespace>,
        sources: Arc<[IpAddr]>,
        service: Service,
        target: SocketAddr,
        count: u64,
        concurrency: usize,
    ) -> Self {
        assert!(matches!(service, Service::Http | Service::Echo), "{service:?} has no short exchange");
        let shared = Arc::new(Shared {
            sources,
            service,
            target,
            next: AtomicU64::new(0),
            limit: AtomicU64::new(count),
            batch: Mutex::default(),
        });
        let for_workers = shared.clone();
        let workers = namespace.block_on(async move {
            let mut workers = JoinSet::new();
            for _ in 0..concurrency {
                workers.spawn(work(for_workers.clone()));
            }
            workers
        });
        Self { namespace: namespace.clone(), shared, workers: Some(workers) }
    }

    /// The results so far.
    pub fn so_far(&self) -> Batch {
        self.shared.batch().clone()
    }

    /// Number of exchanges completed so far, successful or not.
    pub fn done(&self) -> u64 {
        let batch = self.shared.batch();
        batch.successes() + batch.failures.len() as u64
    }

    /// Waits for all exchanges.
    pub fn finish(mut self) -> Batch {
        if let Some(mut workers) = self.workers.take() {
            self.namespace.block_on(async move {
                while let Some(ended) = workers.join_next().await {
                    // If a worker has panicked, its exchanges are lost, so this must fail.
                    ended.expect("a worker ends by itself");
                }
            });
        }
        self.so_far()
    }

    /// Stops beginning new exchanges.
    pub fn stop_new(&self) {
        self.shared.limit.store(0, Ordering::Relaxed);
    }
}

impl Shared {
    fn batch(&self) -> MutexGuard<'_, Batch> {
        self.batch.lock().expect("no holder of the batch panics")
    }
}

async fn work(shared: Arc<Shared>) {
    loop {
        let ticket = shared.next.fetch_add(1, Ordering::Relaxed);
        if ticket >= shared.limit.load(Ordering::Relaxed) {
            return;
        }
        let source = shared.sources[usize::try_from(ticket).unwrap_or(0) % shared.sources.len()];
        let started = Instant::now();
        let attempt = async {
            match shared.service {
                Service::Echo => exchange::udp(&shared.sources, shared.target, ticket).await,
                _ => exchange::http(source, shared.target).await,
            }
        };
        let outcome = time::timeout(PATIENCE, attempt).await;
        let error = match outcome {
            Ok(Ok(answer)) => {
                let mut batch = shared.batch();
                *batch.tally.entry(answer.server).or_default() += 1;
                batch.retries += u64::from(answer.retries);
                continue;
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no end".to_owned(),
        };
        shared.batch().failures.push(ExchangeFailure { started, failed: Instant::now(), error });
        time::sleep(PAUSE_AFTER_FAILURE).await;
    }
}
