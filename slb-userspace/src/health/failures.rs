//! What must not begin anew with each start, in a file: failures in a row that have not made a server unhealthy yet, and for how long
//! probes have waited for a server in vain. A daemon that is restarted faster than a check's timeout loses every probe of a server
//! that hangs.
//!
//! A lost probe proves nothing: its answer may have been under way. So silence over restarts counts once it is twice the timeout. One
//! restart cannot make that of a server that answers in time: the lost probe and the one after it both wait for less than the timeout.

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
/// Age from which a file says nothing about the servers of now. Results come at least every 350 s.
const OLD: Duration = Duration::from_secs(600);
/// Most failures in a row without a verdict: `unhealthy_threshold` is 10 at most.
const MOST_FAILURES: u8 = 9;
/// Silence from which it is written. Servers that answer sooner cause no writes.
const SILENT: Duration = Duration::from_millis(500);
/// Least time that a probe has to answer, however long the silence before it.
const GRACE: Duration = Duration::from_millis(500);

/// The failures in a row of all targets that have any, and the silence of those that do not answer.
#[derive(Debug, Clone, Default)]
pub struct Failures {
    counts: Arc<Mutex<Counts>>,
    /// Wakes who saves.
    urgent: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Counts {
    by_target: BTreeMap<String, Entry>,
    /// What the file holds.
    written: BTreeMap<String, Record>,
    path: Option<PathBuf>,
    /// Counters that there have been.
    counters: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    record: Record,
    /// Start of the probe that is under way.
    since: Option<Instant>,
    /// The counter that may change it; 0 as long as it is an earlier run's.
    counter: u64,
}

/// What the file says of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    failures: u8,
    /// Time for which probes without a verdict have waited while a daemon ran.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    silence: Duration,
}

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    targets: BTreeMap<String, Record>,
}

impl Failures {
    /// Those that an earlier run has left in a directory of this daemon alone; what cannot be read counts as none. Without a
    /// directory they are counted, and not kept.
    pub fn open(directory: Option<&Path>) -> Self {
        let Some(directory) = directory else { return Self::default() };
        let path = directory.join(FILE);
        let written = read(&path).unwrap_or_default();
        let earlier =
            |(key, record): (&String, &Record)| (key.clone(), Entry { record: *record, ..Entry::default() });
        let by_target = written.iter().map(earlier).collect();
        let counts = Counts { by_target, written, path: Some(path), counters: 0 };
        Self { counts: Arc::new(Mutex::new(counts)), urgent: Arc::default() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A count is changed by one assignment: it is whole whoever has panicked.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counter of a target from now on: earlier ones of this target change nothing any more. It goes on with the failures that
    /// have been counted, and with silence only of an earlier run: this run ends probes when they are to go another way.
    pub(super) fn counter(&self, target: &Target) -> Counter {
        let key = key(target);
        let mut counts = self.counts();
        counts.counters += 1;
        let counter = counts.counters;
        let entry = counts.by_target.entry(key.clone()).or_default();
        if entry.counter != 0 {
            entry.record.silence = Duration::ZERO;
        }
        *entry = Entry { record: entry.record, since: None, counter };
        drop(counts);
        Counter { failures: self.clone(), key, timeout: target.check.timeout, counter }
    }

    /// Drops those of all other targets, whose counters change nothing any more.
    pub(super) fn keep_only<'a>(&self, targets: impl Iterator<Item = &'a Target>) {
        let keys: BTreeSet<_> = targets.map(key).collect();
        self.counts().by_target.retain(|key, _| keys.contains(key));
    }

    /// Waits for a verdict that the next run does not know of: this one may be killed before the next regular save.
    pub(super) async fn urgent(&self) {
        self.urgent.notified().await;
    }

    /// Writes what has changed, by renaming.
    ///
    /// # Errors
    /// The file cannot be written. It is tried again with the next change.
    pub fn save(&self, now: Instant) -> Result<()> {
        let (path, text) = {
            let mut counts = self.counts();
            let Some(path) = counts.path.clone() else { return Ok(()) };
            let targets = lasting(&counts.by_target, now);
            if targets == counts.written {
                return Ok(());
            }
            counts.written.clone_from(&targets);
            (path, serde_json::to_vec(&Document { targets })?)
        };
        state_file::replace(&path, &text)
    }
}

/// Counts the failures of one target.
#[derive(Debug)]
pub(super) struct Counter {
    failures: Failures,
    key: String,
    timeout: Duration,
    counter: u64,
}

impl Counter {
    /// Failures in a row.
    pub(super) fn failures(&self) -> u8 {
        self.change(|entry| entry.record.failures).unwrap_or_default()
    }

    /// Notes that a probe starts whose silence counts. Returns the time that it has to answer: the check's timeout, or less after
    /// silence of earlier runs.
    pub(super) fn start(&self, now: Instant) -> Duration {
        let silence = self.change(|entry| {
            entry.since = Some(now);
            entry.record.silence
        });
        let left = (self.timeout * 2).saturating_sub(silence.unwrap_or_default());
        left.max(GRACE).min(self.timeout)
    }

    /// Notes the failures in a row after a verdict.
    pub(super) fn verdict(&self, failures: u8) {
        let record = Record { failures, silence: Duration::ZERO };
        self.change(|entry| *entry = Entry { record, since: None, ..*entry });
        let written = self.failures.counts().written.get(&self.key).copied().unwrap_or_default();
        if written != record {
            self.failures.urgent.notify_one();
        }
    }

    /// Notes that a probe has ended that says nothing of the server.
    pub(super) fn no_verdict(&self) {
        self.change(|entry| entry.since = None);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut counts = self.failures.counts();
        let entry = counts.by_target.get_mut(&self.key).filter(|entry| entry.counter == self.counter)?;
        Some(change(entry))
    }
}

/// What is worth a write: not each probe that has just started.
fn lasting(by_target: &BTreeMap<String, Entry>, now: Instant) -> BTreeMap<String, Record> {
    let records = by_target.iter().filter_map(|(key, Entry { record, since, .. })| {
        let waited =
            since.map(|since| now.saturating_duration_since(since)).filter(|waited| *waited >= SILENT);
        let record = Record { silence: record.silence + waited.unwrap_or_default(), ..*record };
        (record != Record::default()).then(|| (key.clone(), record))
    });
    records.collect()
}

/// All that a target is, so that another check begins anew, and the next version of this program finds it.
fn key(target: &Target) -> String {
    target.in_words()
}

fn read(path: &Path) -> Option<BTreeMap<String, Record>> {
    let (text, written) = state_file::read(path).ok()?;
    if written.elapsed().unwrap_or_default() > OLD {
        return None;
    }
    let mut targets = serde_json::from_slice::<Document>(&text).ok()?.targets;
    for Record { failures, silence } in targets.values_mut() {
        // Whatever has been written there.
        (*failures, *silence) = ((*failures).min(MOST_FAILURES), (*silence).min(OLD));
    }
    Some(targets)
}

#[cfg(test)]
mod tests;
