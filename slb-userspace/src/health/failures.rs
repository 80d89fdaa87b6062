//! What must not begin anew with each start, in a file: failures in a row that have not made a server unhealthy yet, and since when
//! a server has not answered. A daemon that is restarted faster than a check's timeout loses every probe of a server that hangs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Target;
use crate::state_file;

const FILE: &str = "failures.json";
/// Age from which a file says nothing about the servers of now. Results come at least every 350 s.
const OLD: Duration = Duration::from_secs(600);
/// Age from which a probe without a verdict is written. Servers that answer sooner cause no writes.
const SILENT: Duration = Duration::from_millis(500);
/// Time that a probe of this run has to answer before the lost one of an earlier run counts.
const GRACE: Duration = Duration::from_secs(1);

/// The failures in a row of all targets that have any, and their probes without a verdict. Times are since the machine started.
#[derive(Debug, Clone, Default)]
pub struct Failures(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    by_target: BTreeMap<String, Entry>,
    /// What the file holds.
    written: BTreeMap<String, Entry>,
    path: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    failures: u8,
    /// Start of the oldest probe without a verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    silent_since: Option<Duration>,
}

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    /// The start of the machine that times count from.
    boot: String,
    targets: BTreeMap<String, Entry>,
}

impl Failures {
    /// Those that an earlier run has left in a directory of this daemon alone; what cannot be read counts as none. Without a
    /// directory they are counted, and not kept.
    pub fn open(directory: Option<&Path>) -> Self {
        let Some(directory) = directory else { return Self::default() };
        let path = directory.join(FILE);
        let by_target = read(&path, &state_file::boot_id()).unwrap_or_default();
        Self(Arc::new(Mutex::new(Counts { written: by_target.clone(), by_target, path: Some(path) })))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A count is changed by one assignment: it is whole whoever has panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Failures in a row of a target.
    pub(super) fn of(&self, target: &Target) -> u8 {
        self.counts().by_target.get(&key(target)).map_or(0, |entry| entry.failures)
    }

    /// Notes the failures in a row of a target after a verdict.
    pub(super) fn note(&self, target: &Target, failures: u8) {
        self.set(target, Entry { failures, silent_since: None });
    }

    /// Notes that a probe starts. Returns when a probe counts as a failure that started earlier and was lost, unless a verdict
    /// comes before.
    pub(super) fn start(&self, target: &Target, now: Duration) -> Option<Duration> {
        let mut counts = self.counts();
        let entry = counts.by_target.entry(key(target)).or_default();
        // A time to come is of another clock.
        let lost = entry.silent_since.filter(|since| *since <= now);
        entry.silent_since = lost.or(Some(now));
        lost.map(|since| (since + target.check.timeout).max(now + GRACE))
    }

    /// Notes the failures in a row of a target after a lost probe has counted. The next one counts from now.
    pub(super) fn note_lost(&self, target: &Target, failures: u8, now: Duration) {
        self.set(target, Entry { failures, silent_since: Some(now) });
    }

    /// Drops those of all other targets.
    pub(super) fn keep_only<'a>(&self, targets: impl Iterator<Item = &'a Target>) {
        let keys: BTreeSet<_> = targets.map(key).collect();
        self.counts().by_target.retain(|key, _| keys.contains(key));
    }

    fn set(&self, target: &Target, entry: Entry) {
        let mut counts = self.counts();
        match entry {
            Entry { failures: 0, silent_since: None } => counts.by_target.remove(&key(target)),
            _ => counts.by_target.insert(key(target), entry),
        };
    }

    /// Writes what has changed, by renaming.
    ///
    /// # Errors
    /// The file cannot be written. It is tried again with the next change.
    pub fn save(&self, now: Duration) -> Result<()> {
        let (path, text) = {
            let mut counts = self.counts();
            let Some(path) = counts.path.clone() else { return Ok(()) };
            let targets = lasting(&counts.by_target, now);
            if targets == counts.written {
                return Ok(());
            }
            counts.written.clone_from(&targets);
            (path, serde_json::to_vec(&Document { boot: state_file::boot_id(), targets })?)
        };
        state_file::replace(&path, &text)
    }
}

/// What is worth a write: not each probe that has just started.
fn lasting(by_target: &BTreeMap<String, Entry>, now: Duration) -> BTreeMap<String, Entry> {
    let entries = by_target.iter().filter_map(|(key, entry)| {
        let silent_since = entry.silent_since.filter(|since| now.saturating_sub(*since) >= SILENT);
        let is_empty = entry.failures == 0 && silent_since.is_none();
        (!is_empty).then(|| (key.clone(), Entry { silent_since, ..*entry }))
    });
    entries.collect()
}

/// All that a target is, so that another check begins anew, and the next version of this program finds it.
fn key(target: &Target) -> String {
    target.in_words()
}

fn read(path: &Path, boot: &str) -> Option<BTreeMap<String, Entry>> {
    let (text, written) = state_file::read(path)?;
    if written.elapsed().unwrap_or_default() > OLD {
        return None;
    }
    let mut document: Document = serde_json::from_slice(&text).ok()?;
    if document.boot != boot {
        document.targets.values_mut().for_each(|entry| entry.silent_since = None);
    }
    Some(document.targets)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        config::model::CheckKind,
        health::{
            state::{Health, State},
            testing::target,
        },
    };

    const TIMEOUT: Duration = Duration::from_secs(5);
    const THRESHOLD: u8 = 3;
    /// Time between two saves.
    const TICK: Duration = Duration::from_secs(1);

    /// When a server becomes unhealthy whose answers take `answer`, under a daemon that is restarted every `life`.
    fn unhealthy_at(life: Duration, answer: Duration) -> Option<Duration> {
        let directory = tempfile::tempdir().unwrap();
        let mut target = target("10.0.0.1:80".parse().unwrap(), CheckKind::Tcp, TIMEOUT);
        target.check.unhealthy_threshold = THRESHOLD;
        for run in 1..60 {
            let begin = life * run;
            let failures = Failures::open(Some(directory.path()));
            let mut state = State::new(&target.check, Some(Health::Healthy)).after(failures.of(&target));
            // The probe starts a little later than the saves do.
            let lost = failures.start(&target, begin + Duration::from_micros(100));
            let lost = lost.filter(|lost| *lost < begin + answer);
            for tick in (1..).map(|tick| begin + TICK * tick).take_while(|tick| *tick <= begin + life) {
                if let Some(lost) = lost.filter(|lost| (tick - TICK..tick).contains(lost)) {
                    if state.observe(Health::Unhealthy).is_some() {
                        return Some(lost - life);
                    }
                    failures.note_lost(&target, state.failures(), lost);
                }
                if tick > begin + answer {
                    state.observe(Health::Healthy);
                    failures.note(&target, state.failures());
                }
                failures.save(tick).unwrap();
            }
        }
        None
    }

    #[test]
    fn hanging_server_becomes_unhealthy_although_restarts_come_before_each_timeout() {
        for seconds in 2..5 {
            let at =
                unhealthy_at(Duration::from_secs(seconds), Duration::MAX / 2).expect("it becomes unhealthy");
            // Not sooner than under a daemon that is never restarted, and at most one restart later for each failure.
            let least = TIMEOUT * THRESHOLD.into();
            let most = least + Duration::from_secs(seconds + 1) * THRESHOLD.into();
            assert!((least..=most).contains(&at), "restarts every {seconds} s: {at:?}");
        }
    }

    #[test]
    fn answering_server_stays_healthy_under_restarts() {
        for (life, answer) in [(2, 0), (2, 700), (3, 900), (4, 1), (6, 900), (60, 900)] {
            let (life, answer) = (Duration::from_secs(life), Duration::from_millis(answer));
            assert_eq!(unhealthy_at(life, answer), None, "answer {answer:?}, restarts every {life:?}");
        }
    }

    #[test]
    fn lost_probe_of_another_boot_or_clock_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let target = target("10.0.0.1:80".parse().unwrap(), CheckKind::Tcp, TIMEOUT);
        let failures = Failures::open(Some(directory.path()));
        let at = Duration::from_secs;
        failures.note(&target, 2);
        assert_eq!(failures.start(&target, at(100)), None);
        failures.save(at(101)).unwrap();
        let open = || Failures::open(Some(directory.path()));
        assert_eq!(open().start(&target, at(102)), Some(at(105)));
        assert_eq!(open().start(&target, at(200)), Some(at(201)), "the new probe has a second to answer");
        assert_eq!(open().start(&target, at(99)), None, "a time to come");

        let path = directory.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&state_file::boot_id(), "another")).unwrap();
        let failures = open();
        assert_eq!(failures.of(&target), 2);
        assert_eq!(failures.start(&target, at(102)), None);
    }

    #[test]
    fn probes_that_are_answered_soon_cause_no_writes() {
        let directory = tempfile::tempdir().unwrap();
        let target = target("10.0.0.1:80".parse().unwrap(), CheckKind::Tcp, TIMEOUT);
        let failures = Failures::open(Some(directory.path()));
        let at = Duration::from_millis;
        failures.start(&target, at(1_000));
        failures.save(at(1_499)).unwrap();
        assert!(!directory.path().join(FILE).exists());
        failures.note(&target, 0);
        failures.save(at(2_000)).unwrap();
        assert!(!directory.path().join(FILE).exists());
        failures.start(&target, at(3_000));
        failures.save(at(3_500)).unwrap();
        assert!(directory.path().join(FILE).exists());
    }

    #[test]
    fn counts_are_found_by_the_next_run_and_nonsense_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let target = target("10.0.0.1:80".parse().unwrap(), CheckKind::Tcp, Duration::from_secs(1));
        let open = || Failures::open(Some(directory.path()));
        let failures = open();
        failures.note(&target, 2);
        failures.save(Duration::ZERO).unwrap();
        assert_eq!(open().of(&target), 2);
        failures.note(&target, 0);
        failures.save(Duration::ZERO).unwrap();
        assert_eq!(open().of(&target), 0);
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(open().of(&target), 0);
        assert_eq!(Failures::open(None).of(&target), 0);
    }

    #[test]
    fn entries_have_stable_keys_and_go_with_their_targets() {
        let directory = tempfile::tempdir().unwrap();
        let kept = target("10.0.0.1:80".parse().unwrap(), CheckKind::Tcp, TIMEOUT);
        let gone = target("[fd00::2]:80".parse().unwrap(), CheckKind::Icmp, TIMEOUT);
        let failures = Failures::open(Some(directory.path()));
        failures.note(&kept, 2);
        failures.note(&gone, 1);
        failures.save(Duration::ZERO).unwrap();
        let keys = || {
            let text = fs::read(directory.path().join(FILE)).unwrap();
            serde_json::from_slice::<Document>(&text).unwrap().targets.into_keys().collect::<Vec<_>>()
        };
        let settings = "every 1s, timeout 5s, healthy after 1, unhealthy after 1, passive off";
        let tcp = format!("10.0.0.1:80 directly: tcp on port the server's {settings}");
        let icmp = format!("[fd00::2]:0 directly: icmp on port the server's {settings}");
        assert_eq!(keys(), [tcp.clone(), icmp]);

        let failures = Failures::open(Some(directory.path()));
        failures.keep_only([&kept].into_iter());
        failures.save(Duration::ZERO).unwrap();
        assert_eq!(keys(), [tcp]);
        assert_eq!(Failures::open(Some(directory.path())).of(&kept), 2);
    }

    #[test]
    fn no_other_file_is_written_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let other = directory.path().join("other");
        fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, directory.path().join("failures.part")).unwrap();
        let target = target("10.0.0.1:80".parse().unwrap(), CheckKind::Tcp, Duration::from_secs(1));
        let failures = Failures::open(Some(directory.path()));
        failures.note(&target, 2);
        assert!(failures.save(Duration::ZERO).is_err());
        assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
    }
}
