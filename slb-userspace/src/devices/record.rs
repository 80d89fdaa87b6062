//! State of interfaces for later runs and for `slbd detach`, in a file of the state directory: configured names, and
//! features that SLB has switched off.

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

/// The record. Clones share it.
#[derive(Debug, Clone)]
pub struct Record(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    /// Its file, if it is persisted.
    path: Option<PathBuf>,
    /// Whether the file matches `document`.
    is_written: bool,
    /// Why the last write of the file failed; `None` if it succeeded.
    trouble: Option<String>,
    document: Document,
    /// Features that could not be switched off, by interface index.
    stuck: BTreeMap<u32, Vec<String>>,
    /// Failures to restore features that have been logged.
    said: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Document {
    /// Boot id: interface indexes are valid until the machine restarts.
    boot: String,
    /// The pins that it belongs to. Daemons with other pins may be in another network namespace.
    pins: PathBuf,
    /// Index of the attached interface, by configured name.
    names: BTreeMap<String, u32>,
    /// Features that SLB has switched off, by interface index.
    switched_off: BTreeMap<u32, SwitchedOff>,
}

/// The result of switching features off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    /// Features that are off now.
    pub off: Vec<String>,
    /// Features that stay on.
    pub on: Vec<String>,
    /// Whether the features that are off are persisted for the next run and for `slbd detach`.
    pub is_kept: bool,
}

impl Record {
    /// Reads the record of an earlier run with these pins. It is empty if there is none, or after a restart of the
    /// machine. An unreadable file counts as none and is logged.
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
    /// The file exists and cannot be read.
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
        // Each change is one assignment, so the record is consistent even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Persists the record in a directory from now on. The directory must be this daemon's alone.
    pub fn keep_in(&self, directory: &Path) {
        let (mut kept, path) = (self.kept(), Some(directory.join(FILE)));
        if kept.path != path {
            (kept.path, kept.is_written) = (path, false);
            kept.save();
        }
    }

    /// Index of the interface that had a configured name.
    pub fn index_of(&self, name: &str) -> Option<u32> {
        self.kept().document.names.get(name).copied()
    }

    /// Sets the index of the attached interfaces by configured name.
    pub fn note_names(&self, names: BTreeMap<String, u32>) {
        self.kept().change(|document| document.names = names);
    }

    /// Switches merging features off, and records those that are off.
    ///
    /// # Errors
    /// The result cannot be read.
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
        // First, so that a daemon that is killed meanwhile leaves nothing unrecorded. Features that stayed on at the
        // last attempt are left out; otherwise each attempt would write the file twice.
        self.note_switched_off(link, &without(&stuck));
        let on = switch_off(link, features)?;
        let off = without(&on);
        let is_kept = self.note_switched_off(link, &off);
        self.note_on(link, &on);
        Ok(Switched { off, on, is_kept })
    }

    /// Records features as switched off. Returns whether the record is persisted.
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

    /// Records features that could not be switched off.
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

    /// Features that SLB has switched off at an interface of this network namespace.
    pub fn switched_off(&self, link: &Link) -> Vec<String> {
        let kept = self.kept();
        let noted = kept.document.switched_off.get(&link.index);
        let noted = noted.filter(|noted| noted.namespace == namespace());
        noted.map_or_else(Vec::new, SwitchedOff::features)
    }

    /// Restores all features that SLB has switched off. Those in other network namespaces are returned as failed.
    pub fn undo(&self) -> Vec<Undone> {
        self.undo_by(|_, _| true, namespace(), find, switch_on)
    }

    /// As [`Self::undo`], without interfaces of other network namespaces and without those in `needed`. A failure is
    /// retried with each call and returned once.
    pub fn undo_unneeded(&self, needed: &BTreeSet<u32>) -> Vec<Undone> {
        let here = namespace();
        let is_over = |index: u32, off: &SwitchedOff| off.namespace == here && !needed.contains(&index);
        let mut undone = self.undo_by(is_over, here, find, switch_on);
        self.leave_out_known(&mut undone);
        undone
    }

    /// Removes failures that were already returned by the last call.
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
                // It still has to be restored.
                let stays = came.outcome == Outcome::Failed;
                undone.push(came);
                stays
            });
        });
        undone
    }

    /// Removes the file if it belongs to these pins, which have been removed. If features could not be restored, they
    /// stay in the file for the next `slbd detach`.
    pub fn forget(&self, directory: &Path) {
        let pins = self.kept().document.pins.clone();
        if !matches!(read(directory, &pins), Ok(Some(_))) {
            return;
        }
        if self.kept().document.switched_off.is_empty() {
            // If it stays, the next start finds no interface of its pins in it.
            let _ = fs::remove_file(directory.join(FILE));
        } else {
            self.note_names(BTreeMap::new());
            self.keep_in(directory);
        }
    }
}

impl Kept {
    /// Changes the document and saves it. Returns whether the file matches.
    fn change(&mut self, change: impl FnOnce(&mut Document)) -> bool {
        let before = self.document.clone();
        change(&mut self.document);
        self.is_written &= before == self.document;
        self.save()
    }

    /// Writes the file if it is outdated. Returns whether it matches.
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

/// The record of an earlier run with these pins since the machine started.
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
