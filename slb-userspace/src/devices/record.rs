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
pub use off::{RestoreOutcome, RestoreResult, restore_command};
use off::{SwitchedOff, find, namespace};

const FILE: &str = "interfaces.json";

/// The record. Clones share it.
#[derive(Debug, Clone)]
pub struct InterfaceRecord(Arc<Mutex<RecordState>>);

#[derive(Debug)]
struct RecordState {
    /// Its file, if it is persisted.
    path: Option<PathBuf>,
    /// Whether the file matches `document`.
    is_written: bool,
    /// Why the last write of the file failed; `None` if it succeeded.
    trouble: Option<String>,
    document: RecordDocument,
    /// Features that could not be switched off, by interface index.
    still_on: BTreeMap<u32, Vec<String>>,
    /// Failures to restore features that have been logged.
    said: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct RecordDocument {
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
pub struct SwitchResult {
    /// Features that are off now.
    pub off: Vec<String>,
    /// Features that stay on.
    pub on: Vec<String>,
    /// Whether the features that are off are persisted for the next run and for `slbd detach`.
    pub is_persisted: bool,
}

impl InterfaceRecord {
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

    fn new(left: Option<RecordDocument>, pins: &Path) -> Self {
        let new = || RecordDocument {
            boot: state_file::boot_id(),
            pins: pins.to_owned(),
            ..RecordDocument::default()
        };
        Self(Arc::new(Mutex::new(RecordState {
            path: None,
            is_written: false,
            trouble: None,
            document: left.unwrap_or_else(new),
            still_on: BTreeMap::new(),
            said: BTreeSet::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, RecordState> {
        // Each change is one assignment, so the record is consistent even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Persists the record in a directory from now on. The directory must be this daemon's alone.
    pub fn persist_in(&self, directory: &Path) {
        let (mut state, path) = (self.state(), Some(directory.join(FILE)));
        if state.path != path {
            (state.path, state.is_written) = (path, false);
            state.save();
        }
    }

    /// Index of the interface that had a configured name.
    pub fn index_of(&self, name: &str) -> Option<u32> {
        self.state().document.names.get(name).copied()
    }

    /// Sets the index of the attached interfaces by configured name.
    pub fn note_names(&self, names: BTreeMap<String, u32>) {
        self.state().change(|document| document.names = names);
    }

    /// Switches merging features off, and records those that are off.
    ///
    /// # Errors
    /// The result cannot be read.
    pub fn switch_off(&self, link: &Link, features: &[String]) -> Result<SwitchResult> {
        self.switch_off_by(link, features, switch_off)
    }

    fn switch_off_by(
        &self,
        link: &Link,
        features: &[String],
        switch_off: impl Fn(&Link, &[String]) -> Result<Vec<String>>,
    ) -> Result<SwitchResult> {
        let still_on = self.state().still_on.get(&link.index).cloned().unwrap_or_default();
        let without =
            |on: &[String]| features.iter().filter(|name| !on.contains(name)).cloned().collect::<Vec<_>>();
        // First, so that a daemon that is killed meanwhile leaves nothing unrecorded. Features that stayed on at the
        // last attempt are left out; otherwise each attempt would write the file twice.
        self.note_switched_off(link, &without(&still_on));
        let on = switch_off(link, features)?;
        let off = without(&on);
        let is_persisted = self.note_switched_off(link, &off);
        self.note_on(link, &on);
        Ok(SwitchResult { off, on, is_persisted })
    }

    /// Records features as switched off. Returns whether the record is persisted.
    fn note_switched_off(&self, link: &Link, features: &[String]) -> bool {
        let namespace = namespace();
        self.state().change(|document| {
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
        let mut state = self.state();
        state.still_on.insert(link.index, features.to_vec());
        state.change(|document| {
            let Some(noted) = document.switched_off.get_mut(&link.index) else { return };
            noted.features.retain(|name| !features.contains(name));
            if noted.features.is_empty() {
                document.switched_off.remove(&link.index);
            }
        });
    }

    /// Features that SLB has switched off at an interface of this network namespace.
    pub fn switched_off(&self, link: &Link) -> Vec<String> {
        let state = self.state();
        let noted = state.document.switched_off.get(&link.index);
        let noted = noted.filter(|noted| noted.namespace == namespace());
        noted.map_or_else(Vec::new, SwitchedOff::features)
    }

    /// Restores all features that SLB has switched off. Those in other network namespaces are returned as failed.
    pub fn restore_features(&self) -> Vec<RestoreResult> {
        self.restore_by(|_, _| true, namespace(), find, switch_on)
    }

    /// As [`Self::restore_features`], without interfaces of other network namespaces and without those in `needed`. A
    /// failure is retried with each call and returned once.
    pub fn restore_unneeded(&self, needed: &BTreeSet<u32>) -> Vec<RestoreResult> {
        let here = namespace();
        let is_over = |index: u32, off: &SwitchedOff| off.namespace == here && !needed.contains(&index);
        let mut results = self.restore_by(is_over, here, find, switch_on);
        self.drop_logged(&mut results);
        results
    }

    /// Removes failures that were already returned by the last call.
    fn drop_logged(&self, results: &mut Vec<RestoreResult>) {
        let failures = results.iter().filter(|results| results.outcome == RestoreOutcome::Failed);
        let failures = failures.map(|results| results.said.clone()).collect();
        let known = std::mem::replace(&mut self.state().said, failures);
        results.retain(|results| !known.contains(&results.said));
    }

    fn restore_by(
        &self,
        is_over: impl Fn(u32, &SwitchedOff) -> bool,
        here: u64,
        find: impl Fn(u32) -> Result<Option<Link>>,
        switch_on: impl Fn(&Link, &[String]) -> Result<()>,
    ) -> Vec<RestoreResult> {
        let mut results = Vec::new();
        self.state().change(|document| {
            document.switched_off.retain(|index, off| {
                if !is_over(*index, off) {
                    return true;
                }
                let came = off.restore_features(*index, here, &find, &switch_on);
                // It still has to be restored.
                let stays = came.outcome == RestoreOutcome::Failed;
                results.push(came);
                stays
            });
        });
        results
    }

    /// Removes the file if it belongs to these pins, which have been removed. If features could not be restored, they
    /// stay in the file for the next `slbd detach`.
    pub fn forget(&self, directory: &Path) {
        let pins = self.state().document.pins.clone();
        if !matches!(read(directory, &pins), Ok(Some(_))) {
            return;
        }
        if self.state().document.switched_off.is_empty() {
            // If it stays, the next start finds no interface of its pins in it.
            let _ = fs::remove_file(directory.join(FILE));
        } else {
            self.note_names(BTreeMap::new());
            self.persist_in(directory);
        }
    }
}

impl RecordState {
    /// Changes the document and saves it. Returns whether the file matches.
    fn change(&mut self, change: impl FnOnce(&mut RecordDocument)) -> bool {
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

/// The record of an earlier run with these pins since boot.
fn read(directory: &Path, pins: &Path) -> Result<Option<RecordDocument>> {
    let path = directory.join(FILE);
    let cannot = || format!("cannot read {}", path.display());
    let text = match state_file::read(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        read => read.with_context(cannot)?.0,
    };
    let left = serde_json::from_slice::<RecordDocument>(&text).with_context(cannot)?;
    Ok(Some(left).filter(|left| left.boot.trim_end() == state_file::boot_id() && left.pins == pins))
}

#[cfg(test)]
mod tests;
