//! State that must survive restarts, in a file: consecutive failures of servers that are still healthy, and how long
//! probes have waited without an answer. Without it, a daemon that restarts more often than a check's timeout loses
//! every probe of a hanging server.
//!
//! A lost probe proves nothing: its answer may have been on the way. Silence across restarts therefore counts once it
//! is twice the timeout. One restart cannot reach that for a server that answers in time: the lost probe and the next
//! one each wait for less than the timeout.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::Instant};

use super::Target;
use crate::state_file;

const FILE: &str = "failures.json";
/// Age from which a file is ignored. Results arrive at least every 350 s.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Most consecutive failures of a healthy server: `unhealthy_threshold` is at most 10.
const MAX_FAILURES: u8 = 9;
/// Minimum silence that is saved. Servers that answer sooner cause no writes.
const MIN_SILENCE: Duration = Duration::from_millis(500);
/// Minimum time for a probe to be answered, however long the silence before it.
const GRACE: Duration = Duration::from_millis(500);

/// Consecutive failures and silence of all targets that have any.
#[derive(Debug, Clone, Default)]
pub struct Failures {
    counts: Arc<Mutex<FailureCounts>>,
    /// Wakes the task that saves.
    urgent: Arc<Notify>,
}

#[derive(Debug, Default)]
struct FailureCounts {
    by_target: BTreeMap<String, FailureEntry>,
    /// Content of the file.
    written: BTreeMap<String, FailureRecord>,
    path: Option<PathBuf>,
    /// Number of counters made so far; ids of counters.
    counters: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct FailureEntry {
    record: FailureRecord,
    /// Start of the running probe.
    since: Option<Instant>,
    /// Id of the counter that may change it; 0 while it is an earlier run's.
    counter: u64,
}

/// The state of a target in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct FailureRecord {
    failures: u8,
    /// Total time that probes without a result have waited, over all runs.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    silence: Duration,
}

/// Content of the file.
#[derive(Debug, Serialize, Deserialize)]
struct FailureDocument {
    targets: BTreeMap<String, FailureRecord>,
}

impl Failures {
    /// Failures that an earlier run left in `directory`, which must be this daemon's alone. An unreadable file counts
    /// as none. Without a directory failures are counted and not saved.
    pub fn open(directory: Option<&Path>) -> Self {
        let Some(directory) = directory else { return Self::default() };
        let path = directory.join(FILE);
        let written = read(&path).unwrap_or_default();
        let earlier = |(key, record): (&String, &FailureRecord)| {
            (key.clone(), FailureEntry { record: *record, ..FailureEntry::default() })
        };
        let by_target = written.iter().map(earlier).collect();
        let counts = FailureCounts { by_target, written, path: Some(path), counters: 0 };
        Self { counts: Arc::new(Mutex::new(counts)), urgent: Arc::default() }
    }

    fn counts(&self) -> MutexGuard<'_, FailureCounts> {
        // Each change is one assignment, so the count is consistent even after a panic.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new counter for a target; earlier counters of it have no effect any more. It continues with the counted
    /// failures. It keeps silence only of an earlier run, because this run ends probes when their path changes.
    pub(super) fn counter(&self, target: &Target) -> FailureCounter {
        let key = key(target);
        let mut counts = self.counts();
        counts.counters += 1;
        let counter = counts.counters;
        let entry = counts.by_target.entry(key.clone()).or_default();
        if entry.counter != 0 {
            entry.record.silence = Duration::ZERO;
        }
        *entry = FailureEntry { record: entry.record, since: None, counter };
        drop(counts);
        FailureCounter { failures: self.clone(), key, timeout: target.check.timeout, counter }
    }

    /// Drops all other targets. Their counters have no effect any more.
    pub(super) fn retain_targets<'a>(&self, targets: impl Iterator<Item = &'a Target>) {
        let keys: BTreeSet<_> = targets.map(key).collect();
        self.counts().by_target.retain(|key, _| keys.contains(key));
    }

    /// Waits for a result that is not saved yet: the daemon may be killed before the next regular save.
    pub(super) async fn urgent(&self) {
        self.urgent.notified().await;
    }

    /// Writes the file if anything has changed, atomically by a rename.
    ///
    /// # Errors
    /// The file cannot be written. The next change tries again.
    pub fn save(&self, now: Instant) -> Result<()> {
        let (path, text) = {
            let mut counts = self.counts();
            let Some(path) = counts.path.clone() else { return Ok(()) };
            let targets = persistent(&counts.by_target, now);
            if targets == counts.written {
                return Ok(());
            }
            counts.written.clone_from(&targets);
            (path, serde_json::to_vec(&FailureDocument { targets })?)
        };
        state_file::replace(&path, &text)
    }
}

/// Counts the failures of one target.
#[derive(Debug)]
pub(super) struct FailureCounter {
    failures: Failures,
    key: String,
    timeout: Duration,
    counter: u64,
}

impl FailureCounter {
    /// Consecutive failures.
    pub(super) fn failures(&self) -> u8 {
        self.change(|entry| entry.record.failures).unwrap_or_default()
    }

    /// Records the start of a probe whose silence counts. Returns its timeout: the check's, or less after silence of
    /// earlier runs.
    pub(super) fn start(&self, now: Instant) -> Duration {
        let silence = self.change(|entry| {
            entry.since = Some(now);
            entry.record.silence
        });
        let left = (self.timeout * 2).saturating_sub(silence.unwrap_or_default());
        left.max(GRACE).min(self.timeout)
    }

    /// Records the consecutive failures after a result.
    pub(super) fn verdict(&self, failures: u8) {
        let record = FailureRecord { failures, silence: Duration::ZERO };
        self.change(|entry| *entry = FailureEntry { record, since: None, ..*entry });
        let written = self.failures.counts().written.get(&self.key).copied().unwrap_or_default();
        if written != record {
            self.failures.urgent.notify_one();
        }
    }

    /// Records that a probe has ended without a result about the server.
    pub(super) fn no_verdict(&self) {
        self.change(|entry| entry.since = None);
    }

    fn change<T>(&self, change: impl FnOnce(&mut FailureEntry) -> T) -> Option<T> {
        let mut counts = self.failures.counts();
        let entry = counts.by_target.get_mut(&self.key).filter(|entry| entry.counter == self.counter)?;
        Some(change(entry))
    }
}

/// The records worth a write: probes that have just started are left out.
fn persistent(by_target: &BTreeMap<String, FailureEntry>, now: Instant) -> BTreeMap<String, FailureRecord> {
    let records = by_target.iter().filter_map(|(key, FailureEntry { record, since, .. })| {
        let waited =
            since.map(|since| now.saturating_duration_since(since)).filter(|waited| *waited >= MIN_SILENCE);
        let record = FailureRecord { silence: record.silence + waited.unwrap_or_default(), ..*record };
        (record != FailureRecord::default()).then(|| (key.clone(), record))
    });
    records.collect()
}

/// All settings of a target: another check has another key, and later versions of this program find the same one.
fn key(target: &Target) -> String {
    target.describe()
}

fn read(path: &Path) -> Option<BTreeMap<String, FailureRecord>> {
    let (text, written) = state_file::read(path).ok()?;
    if written.elapsed().unwrap_or_default() > MAX_AGE {
        return None;
    }
    let mut targets = serde_json::from_slice::<FailureDocument>(&text).ok()?.targets;
    for FailureRecord { failures, silence } in targets.values_mut() {
        // The file may hold any value.
        (*failures, *silence) = ((*failures).min(MAX_FAILURES), (*silence).min(MAX_AGE));
    }
    Some(targets)
}

#[cfg(test)]
mod tests;
