//! Probes every target at its interval and reports changes.
//!
//! Invariants:
//! - One task per target: equal targets of several groups are probed once.
//! - A target that stays configured is never disturbed: neither its state nor its schedule restarts.
//! - No event is lost: a task waits until its event is received, and ends when the receiver is gone.
//! - Servers that do not answer delay no other probes, however many they are, as long as there are descriptors for all.
//! - A probe that this host cannot make (no descriptors, no address) delays a decision and is reported. It never counts
//!   as a failure of the server.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Semaphore, mpsc},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{
    Failures, Health, ProbeError, ProbePaths, Target, compare::explain, failures::FailureCounter,
    probe::probe, state::HealthCheckState,
};
use crate::{
    descriptors,
    instruments::{INSTRUMENTS, ProbeResult},
    supervised,
};

/// File descriptors per probe on the traffic's path.
const DESCRIPTORS_PER_PROBE: u64 = 2;
/// File descriptors reserved for everything else: maps, the API, netlink.
const RESERVED_DESCRIPTORS: u64 = 2_048;
/// Minimum number of concurrent probes, however few descriptors there are.
const MIN_CONCURRENT_PROBES: u64 = 128;

/// Interval of checks whether failures must be saved.
const SAVE_INTERVAL: Duration = Duration::from_millis(500);
/// Time in which urgent results are gathered before they are saved together.
const SAVE_DELAY: Duration = Duration::from_millis(50);
/// Time between the first probes of two targets that are added together.
const FIRST_PROBE_SPACING: Duration = Duration::from_micros(100);

/// A report about a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetEvent {
    /// The target. It may have been removed since.
    pub target: Target,
    /// What has changed.
    pub news: TargetUpdate,
}

/// A change of a target's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetUpdate {
    /// It has become healthy, or is healthy after a start.
    Healthy,
    /// It has become unhealthy, or is unhealthy after a start. Holds why the last probe failed.
    Unhealthy(String),
    /// It is still unhealthy. Holds a more precise reason.
    MoreDetail(String),
    /// This host cannot probe it. Holds the reason; each reason is reported once. Its health is unchanged.
    NotProbed(String),
    /// It is probed again. Its health is unchanged.
    Probed,
}

impl TargetUpdate {
    /// The new health; `None` if it is unchanged.
    pub fn health(&self) -> Option<Health> {
        match self {
            Self::Healthy => Some(Health::Healthy),
            Self::Unhealthy(_) | Self::MoreDetail(_) => Some(Health::Unhealthy),
            Self::NotProbed(_) | Self::Probed => None,
        }
    }
}

/// The health checks of all targets. Dropping it stops them.
#[derive(Debug)]
pub struct Supervisor {
    events: mpsc::Sender<TargetEvent>,
    paths: Arc<ProbePaths>,
    permits: Arc<Semaphore>,
    /// Most concurrent probes.
    at_once: usize,
    tasks: BTreeMap<Target, AbortOnDrop>,
    failures: Failures,
    _saving: Option<AbortOnDrop>,
}

impl Supervisor {
    /// Creates a supervisor without targets that reports to `events` and probes over `paths`. Concurrent probes are
    /// limited by this process's file descriptors.
    pub fn new(events: mpsc::Sender<TargetEvent>, paths: ProbePaths) -> Self {
        Self::with_limit(events, paths, probes_at_once(descriptors::limit()))
    }

    fn with_limit(events: mpsc::Sender<TargetEvent>, paths: ProbePaths, at_once: usize) -> Self {
        let permits = Arc::new(Semaphore::new(at_once));
        let (tasks, failures) = (BTreeMap::new(), Failures::default());
        Self { events, paths: Arc::new(paths), permits, at_once, tasks, failures, _saving: None }
    }

    /// Continues with failures that an earlier run has counted, and saves them for the next run.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn with_failures(self, failures: Failures) -> Self {
        let saving = AbortOnDrop(tokio::spawn(save(failures.clone())));
        Self { failures, _saving: Some(saving), ..self }
    }

    /// Sets the targets. Each comes with its health from an earlier run, if known, which matters for new targets only.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn set_targets(&mut self, mut wanted: BTreeMap<Target, Option<Health>>) {
        self.tasks.retain(|target, _| wanted.contains_key(target));
        self.failures.retain_targets(wanted.keys());
        wanted.retain(|target, _| !self.tasks.contains_key(target));
        // `wanted` now holds the new targets. Their first probes are spread over time, and each is within its interval.
        let now = Instant::now();
        let new = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        for (position, (target, previous)) in (0..new).zip(wanted) {
            let spacing = FIRST_PROBE_SPACING.min(target.check.interval / new);
            let counter = self.failures.counter(&target);
            let prober = Prober {
                state: HealthCheckState::new(&target.check, previous).after(counter.failures()),
                counter,
                target: target.clone(),
                events: self.events.clone(),
                paths: Arc::clone(&self.paths),
                permits: Arc::clone(&self.permits),
                at_once: self.at_once,
                not_probed: None,
                due: now + spacing * position,
            };
            self.tasks.insert(target, AbortOnDrop(tokio::spawn(prober.run())));
        }
    }
}

/// Saves counted failures, off the event loop because a disk may hang.
async fn save(failures: Failures) {
    let mut is_reported = false;
    let mut due = interval(SAVE_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = failures.urgent() => sleep(SAVE_DELAY).await,
        }
        let failures = failures.clone();
        match spawn_blocking(move || failures.save(Instant::now())).await {
            Ok(Err(error)) if !is_reported => {
                is_reported = true;
                warn!(
                    error = format!("{error:#}"),
                    "failures of health checks are not stored for the next start"
                );
            }
            _ => {}
        }
    }
}

/// A task that is aborted when its handle is dropped.
#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Probes one target.
struct Prober {
    target: Target,
    state: HealthCheckState,
    events: mpsc::Sender<TargetEvent>,
    paths: Arc<ProbePaths>,
    permits: Arc<Semaphore>,
    at_once: usize,
    /// Why the last probe could not be made; `None` if it could.
    not_probed: Option<String>,
    /// When the next probe is due.
    due: Instant,
    counter: FailureCounter,
}

impl Prober {
    async fn run(self) {
        let prober = Arc::new(Mutex::new(self));
        let probe_loop = || {
            let prober = Arc::clone(&prober);
            async move { prober.lock().await.probe_loop().await }
        };
        supervised::run("health check", probe_loop).await;
    }

    async fn probe_loop(&mut self) {
        loop {
            let due = self.due;
            sleep_until(due).await;
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return };
            let start = Instant::now();
            self.warn_if_late(start - due);
            let outcome = self.probe_once().await;
            drop(permit);
            INSTRUMENTS.check(&self.target.check.kind).probed(result_of(&outcome), start.elapsed());
            if !self.take(outcome).await {
                return;
            }
            // Based on the due time: on a busy machine delays must not add up, or a dead server would be detected later
            // than promised. A probe that outlasts the interval is followed by the next one at once. Missed probes are
            // not made up for.
            self.due = (due + jittered(self.target.check.interval)).max(Instant::now());
        }
    }

    /// Probes once. The timeout is shorter where earlier runs have already waited for an answer.
    async fn probe_once(&self) -> Result<(), ProbeError> {
        let limit = self.target.check.timeout;
        let patience = if self.counts_silence() { self.counter.start(Instant::now()) } else { limit };
        let probing = probe(&self.target, &self.paths);
        if patience == limit {
            return probing.await;
        }
        timeout(patience, probing).await.unwrap_or(Err(ProbeError::TimedOut(limit)))
    }

    /// Counts silence of healthy servers only, and only for checks that silence fails.
    fn counts_silence(&self) -> bool {
        self.state.health() == Some(Health::Healthy) && self.target.check.is_failed_by_silence()
    }

    /// Processes a result and reports changes. Returns false if the receiver of events is gone.
    async fn take(&mut self, outcome: Result<(), ProbeError>) -> bool {
        let (result, error) = match outcome {
            Ok(()) => (Health::Healthy, None),
            Err(error) if error.blames_server() => (Health::Unhealthy, Some(error)),
            Err(error) => {
                let why = error.to_string();
                // It proves neither an answer nor silence.
                self.counter.no_verdict();
                if self.not_probed.as_ref() == Some(&why) {
                    return !self.events.is_closed();
                }
                self.not_probed = Some(why.clone());
                return self.report(TargetUpdate::NotProbed(why)).await;
            }
        };
        let is_probed_again = self.not_probed.take().is_some();
        debug!(address = %self.target.address, ?result, error = error.as_ref().map(tracing::field::display), "probed");
        let before = self.state.health();
        let observed = self.state.observe(result);
        self.count_transition(before, observed);
        self.counter.verdict(self.state.failures());
        match (observed, error) {
            (None, _) if is_probed_again => self.report(TargetUpdate::Probed).await,
            (None, _) => !self.events.is_closed(),
            (Some(_), None) => self.report(TargetUpdate::Healthy).await,
            (Some(_), Some(error)) => self.report_unhealthy(error).await,
        }
    }

    /// Counts a change of health. The first result of a target is none.
    fn count_transition(&self, before: Option<Health>, observed: Option<Health>) {
        let instruments = INSTRUMENTS.check(&self.target.check.kind);
        match (before, observed) {
            (Some(Health::Unhealthy), Some(Health::Healthy)) => instruments.to_healthy.add(1),
            (Some(Health::Healthy), Some(Health::Unhealthy)) => instruments.to_unhealthy.add(1),
            _ => {}
        }
    }

    async fn report_unhealthy(&self, error: ProbeError) -> bool {
        let why = error.to_string();
        if !self.report(TargetUpdate::Unhealthy(why.clone())).await {
            return false;
        }
        // An explanation may need another probe, which is not urgent.
        let Ok(_permit) = self.permits.acquire().await else { return false };
        let explained = explain(&self.target, error, &self.paths).await.to_string();
        explained == why || self.report(TargetUpdate::MoreDetail(explained)).await
    }

    /// Returns false if the receiver of events is gone.
    async fn report(&self, news: TargetUpdate) -> bool {
        self.events.send(TargetEvent { target: self.target.clone(), news }).await.is_ok()
    }

    /// Warns if this probe was late by more than its interval.
    fn warn_if_late(&self, late: Duration) {
        if late > self.target.check.interval {
            warn!(
                address = %self.target.address,
                late = ?late,
                at_once = self.at_once,
                "health check delayed: the limit of open files allows no more at once (LimitNOFILE), or the machine is busy"
            );
        }
    }
}

/// What an outcome says, for the metrics.
fn result_of(outcome: &Result<(), ProbeError>) -> ProbeResult {
    match outcome {
        Ok(()) => ProbeResult::Passed,
        Err(error) if error.blames_server() => ProbeResult::Failed,
        Err(_) => ProbeResult::NotProbed,
    }
}

/// Number of concurrent probes that the file descriptors allow.
fn probes_at_once(descriptors: u64) -> usize {
    let probes =
        (descriptors.saturating_sub(RESERVED_DESCRIPTORS) / DESCRIPTORS_PER_PROBE).max(MIN_CONCURRENT_PROBES);
    usize::try_from(probes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

/// Shortens an interval by up to 1/20. Targets drift apart and stay apart. No interval gets longer, so detection of a
/// dead server is not delayed.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - fastrand::f64() / 20.0)
}

#[cfg(test)]
mod tests;
