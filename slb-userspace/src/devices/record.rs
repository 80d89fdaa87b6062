//! What a later run, or `slbd detach`, must know of interfaces: under which configured name an interface runs the program, and what
//! SLB has switched off. In a file of the state directory.

mod off;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::merging::{switch_off, switch_on};
use crate::{neigh::Link, state_file};
pub use off::{Outcome, Undone, restoring};
use off::{SwitchedOff, find, namespace};

const FILE: &str = "interfaces.json";

/// The record. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Record(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    /// Its file, if it is kept.
    path: Option<PathBuf>,
    /// Whether the file says what `document` says.
    is_written: bool,
    /// Why the file could not be written the last time.
    trouble: Option<String>,
    document: Document,
    /// Features that have stayed on when they were switched off, by index of the interface.
    stuck: BTreeMap<u32, Vec<String>>,
    /// What has been said of interfaces whose features stay off.
    said: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Document {
    /// Indexes of interfaces mean something until the machine restarts.
    boot: String,
    /// The pins that it belongs to: daemons with other pins may be in another network namespace.
    pins: PathBuf,
    /// Index of the interface that runs the program, by configured name.
    names: BTreeMap<String, u32>,
    /// Features that SLB has switched off, by index of the interface.
    switched_off: BTreeMap<u32, SwitchedOff>,
}

/// What has come of switching features off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    /// Those that are off now.
    pub off: Vec<String>,
    /// Those that stay on.
    pub on: Vec<String>,
    /// Whether the next run, and `slbd detach`, know of those that are off.
    pub is_kept: bool,
}

impl Record {
    /// What an earlier run with these pins has left in a directory; nothing where there is none, or after a restart of the machine.
    /// A file that cannot be read counts as none, and the log says so.
    pub fn open(directory: &Path, pins: &Path) -> Self {
        Self::read(directory, pins).unwrap_or_else(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "which features an earlier run has switched off is not known (`ethtool -k NAME` shows generic-receive-offload, \
                 rx-gro-hw, large-receive-offload): a new file replaces it"
            );
            Self::new(None, pins)
        })
    }

    /// As [`Self::open`].
    ///
    /// # Errors
    /// There is a file that cannot be read.
    pub fn read(directory: &Path, pins: &Path) -> Result<Self> {
        Ok(Self::new(read(directory, pins)?, pins))
    }

    fn new(left: Option<Document>, pins: &Path) -> Self {
        let new = || Document { boot: state_file::boot_id(), pins: pins.to_owned(), ..Document::default() };
        Self(Arc::new(Mutex::new(Kept {
            path: None,
            is_written: false,
            trouble: None,
            document: left.unwrap_or_else(new),
            stuck: BTreeMap::new(),
            said: BTreeSet::new(),
        })))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Each change is one assignment, so that a panic leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the record in a directory of this daemon alone, from now on.
    pub fn keep_in(&self, directory: &Path) {
        let (mut kept, path) = (self.kept(), Some(directory.join(FILE)));
        if kept.path != path {
            (kept.path, kept.is_written) = (path, false);
            kept.save();
        }
    }

    /// The interface that has had a configured name.
    pub fn index_of(&self, name: &str) -> Option<u32> {
        self.kept().document.names.get(name).copied()
    }

    /// Notes under which configured names interfaces run the program.
    pub fn note_names(&self, names: BTreeMap<String, u32>) {
        self.kept().change(|document| document.names = names);
    }

    /// Switches features off that merge frames, and keeps which of them are off.
    ///
    /// # Errors
    /// What came of it is not known.
    pub fn switch_off(&self, link: &Link, features: &[String]) -> Result<Switched> {
        self.switch_off_by(link, features, switch_off)
    }

    fn switch_off_by(
        &self,
        link: &Link,
        features: &[String],
        switch_off: impl Fn(&Link, &[String]) -> Result<Vec<String>>,
    ) -> Result<Switched> {
        let stuck = self.kept().stuck.get(&link.index).cloned().unwrap_or_default();
        let without =
            |on: &[String]| features.iter().filter(|name| !on.contains(name)).cloned().collect::<Vec<_>>();
        // Before it happens: a daemon that dies meanwhile leaves nothing that is not known. What stayed on the last time is left
        // out, or each attempt would write the file twice.
        self.note_switched_off(link, &without(&stuck));
        let on = switch_off(link, features)?;
        let off = without(&on);
        let is_kept = self.note_switched_off(link, &off);
        self.note_on(link, &on);
        Ok(Switched { off, on, is_kept })
    }

    /// Notes what is off at an interface. Returns whether the next run, and `slbd detach`, know of it.
    fn note_switched_off(&self, link: &Link, features: &[String]) -> bool {
        let namespace = namespace();
        self.kept().change(|document| {
            if features.is_empty() {
                return;
            }
            let new = || SwitchedOff { interface: link.name.clone(), namespace, features: BTreeSet::new() };
            let noted = document.switched_off.entry(link.index).or_insert_with(new);
            if noted.namespace != namespace {
                *noted = new();
            }
            noted.interface.clone_from(&link.name);
            noted.features.extend(features.iter().cloned());
        })
    }

    /// Notes which features of an interface have stayed on.
    fn note_on(&self, link: &Link, features: &[String]) {
        let mut kept = self.kept();
        kept.stuck.insert(link.index, features.to_vec());
        kept.change(|document| {
            let Some(noted) = document.switched_off.get_mut(&link.index) else { return };
            noted.features.retain(|name| !features.contains(name));
            if noted.features.is_empty() {
                document.switched_off.remove(&link.index);
            }
        });
    }

    /// What SLB has switched off at an interface of this network namespace.
    pub fn switched_off(&self, link: &Link) -> Vec<String> {
        let kept = self.kept();
        let noted = kept.document.switched_off.get(&link.index);
        let noted = noted.filter(|noted| noted.namespace == namespace());
        noted.map_or_else(Vec::new, SwitchedOff::features)
    }

    /// Switches on again all that SLB has switched off, as far as it is in this network namespace. Returns what came of it.
    pub fn undo(&self) -> Vec<Undone> {
        self.undo_by(|_, _| true, namespace(), find, switch_on)
    }

    /// As [`Self::undo`], but at interfaces of this network namespace only, and not at those of the indexes `needed`. What has
    /// failed is tried again with each call, and returned once.
    pub fn undo_unneeded(&self, needed: &BTreeSet<u32>) -> Vec<Undone> {
        let here = namespace();
        let is_over = |index: u32, off: &SwitchedOff| off.namespace == here && !needed.contains(&index);
        let mut undone = self.undo_by(is_over, here, find, switch_on);
        self.leave_out_known(&mut undone);
        undone
    }

    /// Leaves out failures that are the same as the last time.
    fn leave_out_known(&self, undone: &mut Vec<Undone>) {
        let failures = undone.iter().filter(|undone| undone.outcome == Outcome::Failed);
        let failures = failures.map(|undone| undone.said.clone()).collect();
        let known = std::mem::replace(&mut self.kept().said, failures);
        undone.retain(|undone| !known.contains(&undone.said));
    }

    fn undo_by(
        &self,
        is_over: impl Fn(u32, &SwitchedOff) -> bool,
        here: u64,
        find: impl Fn(u32) -> Result<Option<Link>>,
        switch_on: impl Fn(&Link, &[String]) -> Result<()>,
    ) -> Vec<Undone> {
        let mut undone = Vec::new();
        self.kept().change(|document| {
            document.switched_off.retain(|index, off| {
                if !is_over(*index, off) {
                    return true;
                }
                let came = off.undo(*index, here, &find, &switch_on);
                // What is off is still to be restored.
                let stays = came.outcome == Outcome::Failed;
                undone.push(came);
                stays
            });
        });
        undone
    }

    /// Removes the file of the pins that have been removed; that of others stays. What could not be restored stays in it, for the
    /// next `slbd detach`.
    pub fn forget(&self, directory: &Path) {
        let pins = self.kept().document.pins.clone();
        if !matches!(read(directory, &pins), Ok(Some(_))) {
            return;
        }
        if self.kept().document.switched_off.is_empty() {
            // Should it stay, the next start finds no interface of its pins in it.
            let _ = fs::remove_file(directory.join(FILE));
        } else {
            self.note_names(BTreeMap::new());
            self.keep_in(directory);
        }
    }
}

impl Kept {
    /// Returns whether the file says the same.
    fn change(&mut self, change: impl FnOnce(&mut Document)) -> bool {
        let before = self.document.clone();
        change(&mut self.document);
        self.is_written &= before == self.document;
        self.save()
    }

    /// Writes the file, if there is one, and it does not say the same. Returns whether it does then.
    fn save(&mut self) -> bool {
        let Some(path) = self.path.as_ref().filter(|_| !self.is_written) else { return self.is_written };
        let written = serde_json::to_vec(&self.document).map_err(Into::into);
        let written = written.and_then(|text| state_file::replace(path, &text));
        self.is_written = written.is_ok();
        let trouble = written.err().map(|error| format!("{error:#}"));
        match &trouble {
            Some(error) if self.trouble != trouble => {
                tracing::warn!(error, "what SLB does to interfaces is not kept for the next start");
            }
            None if self.trouble.is_some() => {
                tracing::info!("what SLB does to interfaces is kept for the next start again");
            }
            _ => {}
        }
        self.trouble = trouble;
        self.is_written
    }
}

/// What an earlier run with these pins has left since the machine started.
fn read(directory: &Path, pins: &Path) -> Result<Option<Document>> {
    let path = directory.join(FILE);
    let cannot = || format!("cannot read {}", path.display());
    let text = match state_file::read(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        read => read.with_context(cannot)?.0,
    };
    let left = serde_json::from_slice::<Document>(&text).with_context(cannot)?;
    Ok(Some(left).filter(|left| left.boot.trim_end() == state_file::boot_id() && left.pins == pins))
}

#[cfg(test)]
mod tests;
