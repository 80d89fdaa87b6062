//! Failures in a row that have not made a server unhealthy yet, in a file: a daemon that is restarted again and again must not begin
//! to count anew each time.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;

use super::Target;
use crate::state_file;

const FILE: &str = "failures.json";
/// Age from which a file says nothing about the servers of now. Results come at least every 350 s.
const OLD: Duration = Duration::from_secs(600);

/// The failures in a row of all targets that have any.
#[derive(Debug, Clone, Default)]
pub struct Failures(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    by_target: BTreeMap<String, u8>,
    is_changed: bool,
    path: Option<PathBuf>,
}

impl Failures {
    /// Those that an earlier run has left in a directory of this daemon alone; what cannot be read counts as none. Without a
    /// directory they are counted, and not kept.
    pub fn open(directory: Option<&Path>) -> Self {
        let Some(directory) = directory else { return Self::default() };
        let path = directory.join(FILE);
        let by_target = read(&path).unwrap_or_default();
        Self(Arc::new(Mutex::new(Counts { by_target, is_changed: false, path: Some(path) })))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A count is changed by one assignment: it is whole whoever has panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Failures in a row of a target.
    pub(super) fn of(&self, target: &Target) -> u8 {
        self.counts().by_target.get(&key(target)).copied().unwrap_or_default()
    }

    /// Notes the failures in a row of a target.
    pub(super) fn note(&self, target: &Target, failures: u8) {
        let mut counts = self.counts();
        let before = match failures {
            0 => counts.by_target.remove(&key(target)),
            _ => counts.by_target.insert(key(target), failures),
        };
        counts.is_changed |= before.unwrap_or_default() != failures;
    }

    /// Writes what has changed, by renaming.
    ///
    /// # Errors
    /// The file cannot be written. It is tried again with the next change.
    pub fn save(&self) -> Result<()> {
        let (path, text) = {
            let mut counts = self.counts();
            let Some(path) = counts.path.clone().filter(|_| counts.is_changed) else { return Ok(()) };
            counts.is_changed = false;
            (path, serde_json::to_vec(&counts.by_target)?)
        };
        state_file::replace(&path, &text)
    }
}

/// All that a target is, so that another check begins anew.
fn key(target: &Target) -> String {
    format!("{target:?}")
}

fn read(path: &Path) -> Option<BTreeMap<String, u8>> {
    let (text, written) = state_file::read(path)?;
    let age = written.elapsed().unwrap_or_default();
    (age <= OLD).then(|| serde_json::from_slice(&text).ok())?
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{config::model::CheckKind, health::testing::target};

    #[test]
    fn counts_are_found_by_the_next_run_and_nonsense_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let target = target("10.0.0.1:80".parse().unwrap(), CheckKind::Tcp, Duration::from_secs(1));
        let open = || Failures::open(Some(directory.path()));
        let failures = open();
        failures.note(&target, 2);
        failures.save().unwrap();
        assert_eq!(open().of(&target), 2);
        failures.note(&target, 0);
        failures.save().unwrap();
        assert_eq!(open().of(&target), 0);
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(open().of(&target), 0);
        assert_eq!(Failures::open(None).of(&target), 0);
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
        assert!(failures.save().is_err());
        assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
    }
}
