//! Counters and histograms of the daemon's own work. Its metrics read them; nothing waits for them.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use slb_config::model::CheckKind;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A counter at 0.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds to it.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets of every histogram, in seconds.
pub const BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Durations, counted in buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Durations up to each bound and above the one before.
    buckets: [Counter; BOUNDS.len()],
    /// Durations above the last bound.
    above: Counter,
    nanoseconds: Counter,
}

/// The values of a histogram at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HistogramReading {
    /// Number of durations up to each of [`BOUNDS`].
    pub up_to: [u64; BOUNDS.len()],
    /// Number of all durations.
    pub count: u64,
    /// Sum of all durations in seconds.
    pub sum: f64,
}

impl Histogram {
    /// A histogram without durations.
    pub const fn new() -> Self {
        Self {
            buckets: [const { Counter::new() }; BOUNDS.len()],
            above: Counter::new(),
            nanoseconds: Counter::new(),
        }
    }

    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound);
        bucket.map_or(&self.above, |bucket| &self.buckets[bucket]).add(1);
        self.nanoseconds.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Its values. The count is that of the buckets, also while another thread counts a duration.
    pub fn read(&self) -> HistogramReading {
        let mut count = 0;
        let up_to = std::array::from_fn(|bucket| {
            count += self.buckets[bucket].get();
            count
        });
        let sum = Duration::from_nanos(self.nanoseconds.get()).as_secs_f64();
        HistogramReading { up_to, count: count + self.above.get(), sum }
    }
}

/// Counters by labels. Callers have a bounded number of labels.
#[derive(Debug)]
pub struct CountersBy<L>(Mutex<BTreeMap<L, u64>>);

impl<L: Ord + Clone> CountersBy<L> {
    /// No counter yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Adds one to the counter with these labels.
    pub fn count(&self, labels: L) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(labels).or_default() += 1;
    }

    /// All counters.
    pub fn read(&self) -> BTreeMap<L, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<L: Ord + Clone> Default for CountersBy<L> {
    fn default() -> Self {
        Self::new()
    }
}

/// Commands that change the configuration or the flow table, as the log names them.
const COMMANDS: [&str; 7] = ["reload", "apply", "edit", "confirm", "server", "flows flush", "rollback"];

/// Results of a command.
#[derive(Debug, Default)]
pub struct CommandInstruments {
    /// Commands that were done.
    pub done: Counter,
    /// Commands that were refused or failed.
    pub refused: Counter,
}

impl CommandInstruments {
    const fn new() -> Self {
        Self { done: Counter::new(), refused: Counter::new() }
    }
}

/// What a probe of a health check has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    /// The server has passed.
    Passed,
    /// The server has failed.
    Failed,
    /// This host could not probe.
    NotProbed,
}

/// Health checks of one kind.
#[derive(Debug, Default)]
pub struct CheckInstruments {
    /// Durations of probes.
    pub durations: Histogram,
    /// Probes that a server has passed.
    pub passed: Counter,
    /// Probes that a server has failed.
    pub failed: Counter,
    /// Probes that this host could not make.
    pub not_probed: Counter,
    /// Servers that became healthy.
    pub to_healthy: Counter,
    /// Servers that became unhealthy.
    pub to_unhealthy: Counter,
}

impl CheckInstruments {
    const fn new() -> Self {
        Self {
            durations: Histogram::new(),
            passed: Counter::new(),
            failed: Counter::new(),
            not_probed: Counter::new(),
            to_healthy: Counter::new(),
            to_unhealthy: Counter::new(),
        }
    }

    /// Counts a probe.
    pub fn probed(&self, result: ProbeResult, duration: Duration) {
        let counter = match result {
            ProbeResult::Passed => &self.passed,
            ProbeResult::Failed => &self.failed,
            ProbeResult::NotProbed => &self.not_probed,
        };
        counter.add(1);
        self.durations.observe(duration);
    }
}

/// All instruments of the daemon.
#[derive(Debug)]
pub struct Instruments {
    /// Health checks, in the order of [`CheckKind::NAMES`].
    checks: [CheckInstruments; CheckKind::NAMES.len()],
    /// Commands, in the order of [`COMMANDS`].
    commands: [CommandInstruments; COMMANDS.len()],
    /// Whether the last reload was refused or failed.
    last_reload_failed: AtomicBool,
    /// How much later than planned the event loop has run.
    pub event_loop_delay: Histogram,
    /// Changes of the data plane in which server tables were built.
    pub table_builds: Histogram,
    /// Changes of the data plane that failed.
    pub failed_applies: Counter,
    /// GC passes of the flow table.
    pub gc_passes: Histogram,
    /// CPU time of GC passes in nanoseconds.
    pub gc_cpu_nanoseconds: Counter,
    /// GC passes that failed.
    pub failed_gc_passes: Counter,
    /// Requests to the API by route and HTTP status.
    pub requests: CountersBy<(String, u16)>,
    /// When the active configuration became active, in seconds since 1970; 0 before.
    pub configured_at: AtomicU64,
}

/// The instruments of this process.
pub static INSTRUMENTS: Instruments = Instruments {
    checks: [const { CheckInstruments::new() }; CheckKind::NAMES.len()],
    commands: [const { CommandInstruments::new() }; COMMANDS.len()],
    last_reload_failed: AtomicBool::new(false),
    event_loop_delay: Histogram::new(),
    table_builds: Histogram::new(),
    failed_applies: Counter::new(),
    gc_passes: Histogram::new(),
    gc_cpu_nanoseconds: Counter::new(),
    failed_gc_passes: Counter::new(),
    requests: CountersBy::new(),
    configured_at: AtomicU64::new(0),
};

impl Instruments {
    /// Those of a kind of health check.
    pub fn check(&self, kind: &CheckKind) -> &CheckInstruments {
        &self.checks[kind.position()]
    }

    /// All kinds of health checks, by name.
    pub fn checks(&self) -> impl Iterator<Item = (&'static str, &CheckInstruments)> {
        CheckKind::NAMES.into_iter().zip(&self.checks)
    }

    /// Counts a command.
    pub fn command(&self, name: &str, is_done: bool) {
        if let Some(position) = COMMANDS.iter().position(|known| *known == name) {
            let CommandInstruments { done, refused } = &self.commands[position];
            if is_done { done } else { refused }.add(1);
        }
        // A configuration that was applied stands in for the file, whose reload may have failed before.
        if name == "reload" || name == "apply" && is_done {
            self.last_reload_failed.store(!is_done, Relaxed);
        }
    }

    /// All commands, by name.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, &CommandInstruments)> {
        COMMANDS.into_iter().zip(&self.commands)
    }

    /// Whether the last reload or apply became active; true without one.
    pub fn is_last_reload_successful(&self) -> bool {
        !self.last_reload_failed.load(Relaxed)
    }

    /// A configuration has become active.
    pub fn configured(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.configured_at.store(now.as_secs(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_counts_each_duration_once_in_cumulative_buckets() {
        let histogram = Histogram::new();
        for milliseconds in [0, 1, 1, 3, 700, 60_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let HistogramReading { up_to, count, sum } = histogram.read();
        assert_eq!(up_to, [1, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5, 5]);
        assert_eq!(count, 6);
        assert!((sum - 60.705).abs() < 1e-9, "{sum}");
    }
}
