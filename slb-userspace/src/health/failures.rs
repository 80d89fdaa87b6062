//! Failures in a row that have not made a server unhealthy yet, in a file: a daemon that is restarted again and again must not begin
//! to count anew each time.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::Target;

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
    /// Those that an earlier run has left in a directory. What cannot be read counts as none.
    pub fn open(directory: &Path) -> Self {
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
        let part = path.with_extension("part");
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        fs::write(&part, text).with_context(|| part.display().to_string())?;
        fs::rename(&part, &path).with_context(|| path.display().to_string())
    }
}

/// All that a target is, so that another check begins anew.
fn key(target: &Target) -> String {
    format!("{target:?}")
}

fn read(path: &Path) -> Option<BTreeMap<String, u8>> {
    let age = fs::symlink_metadata(path).ok()?.modified().ok()?.elapsed().unwrap_or_default();
    if age > OLD {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::model::CheckKind, health::testing::target};

    #[test]
    fn counts_are_found_by_the_next_run_and_nonsense_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let target = target("10.0.0.1:80".parse().unwrap(), CheckKind::Tcp, Duration::from_secs(1));
        let failures = Failures::open(directory.path());
        failures.note(&target, 2);
        failures.save().unwrap();
        assert_eq!(Failures::open(directory.path()).of(&target), 2);
        failures.note(&target, 0);
        failures.save().unwrap();
        assert_eq!(Failures::open(directory.path()).of(&target), 0);
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(Failures::open(directory.path()).of(&target), 0);
    }
}
