//! What a later run, or `slbd detach`, must know of interfaces: under which configured name an interface runs the program, and what
//! SLB has switched off. In a file of the state directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{merging::switch_on, netlink::link_in};
use crate::{
    neigh::{self, Link},
    state_file,
};

const FILE: &str = "interfaces.json";

/// The record. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Record(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    /// Its file, if it is kept.
    path: Option<PathBuf>,
    document: Document,
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SwitchedOff {
    interface: String,
    /// The network namespace: an index, and a name, may be another interface's in another one.
    #[serde(default)]
    namespace: u64,
    features: BTreeSet<String>,
}

/// What has become of features that SLB had switched off at an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    /// Whether they are on again.
    pub outcome: Outcome,
    /// The same in words; if they are off, with the command that switches them on.
    pub said: String,
}

/// Whether features are on again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// They are.
    Restored,
    /// There is no such interface any more.
    Gone,
    /// They are off.
    Failed,
}

/// Why an interface is not the one that SLB has changed.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("interface {0} is in another network namespace")]
    Elsewhere(String),
    #[error("interface {0} is not there")]
    Gone(String),
    #[error("interface {index} is not {before} any more, but {now}")]
    Other { index: u32, before: String, now: String },
}

impl Record {
    /// What an earlier run with these pins has left in a directory; nothing where there is none, or after a restart of the machine.
    pub fn open(directory: &Path, pins: &Path) -> Self {
        let new = || Document { boot: state_file::boot_id(), pins: pins.to_owned(), ..Document::default() };
        let document = read(directory, pins).unwrap_or_else(new);
        Self(Arc::new(Mutex::new(Kept { path: None, document })))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Each change is one assignment, so that a panic leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the record in a directory of this daemon alone, from now on.
    pub fn keep_in(&self, directory: &Path) {
        let (mut kept, path) = (self.kept(), Some(directory.join(FILE)));
        if kept.path != path {
            kept.path = path;
            kept.write();
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

    /// Notes what SLB is about to switch off at an interface. Returns whether the next run, and `slbd detach`, know of it.
    pub fn note_switched_off(&self, link: &Link, features: &[String]) -> bool {
        let namespace = namespace();
        self.kept().change(|document| {
            let new = || SwitchedOff { interface: link.name.clone(), namespace, features: BTreeSet::new() };
            let noted = document.switched_off.entry(link.index).or_insert_with(new);
            if noted.namespace != namespace {
                *noted = new();
            }
            noted.interface.clone_from(&link.name);
            noted.features.extend(features.iter().cloned());
        })
    }

    /// What SLB has switched off at an interface of this network namespace.
    pub fn switched_off(&self, link: &Link) -> Vec<String> {
        let kept = self.kept();
        let noted = kept.document.switched_off.get(&link.index);
        let noted = noted.filter(|noted| noted.own(Some(link), namespace()).is_ok());
        noted.map_or_else(Vec::new, SwitchedOff::features)
    }

    /// Switches on again all that SLB has switched off, as far as it is in this network namespace. Returns what came of it.
    pub fn undo(&self) -> Vec<Undone> {
        self.undo_by(|_, _| true, namespace(), find, switch_on)
    }

    /// As [`Self::undo`], but at interfaces of this network namespace only, and not at those of the indexes `needed`.
    pub fn undo_unneeded(&self, needed: &BTreeSet<u32>) -> Vec<Undone> {
        let here = namespace();
        let is_over = |index: u32, off: &SwitchedOff| off.namespace == here && !needed.contains(&index);
        self.undo_by(is_over, here, find, switch_on)
    }

    fn undo_by(
        &self,
        is_over: impl Fn(u32, &SwitchedOff) -> bool,
        here: u64,
        find: impl Fn(u32) -> Option<Link>,
        switch_on: impl Fn(&Link, &[String]) -> Result<()>,
    ) -> Vec<Undone> {
        let mut undone = Vec::new();
        self.kept().change(|document| {
            document.switched_off.retain(|index, off| {
                let is_over = is_over(*index, off);
                undone.extend(is_over.then(|| off.undo(*index, here, &find, &switch_on)));
                !is_over
            });
        });
        undone
    }

    /// Removes the file of the pins that have been removed; that of others stays.
    pub fn forget(directory: &Path, pins: &Path) {
        if read(directory, pins).is_some() {
            // Should it stay, the next start finds no interface of its pins in it.
            let _ = fs::remove_file(directory.join(FILE));
        }
    }
}

impl Kept {
    /// Returns whether the file, if there is one, says the same.
    fn change(&mut self, change: impl FnOnce(&mut Document)) -> bool {
        let before = self.document.clone();
        change(&mut self.document);
        if before == self.document { self.path.is_some() } else { self.write() }
    }

    fn write(&self) -> bool {
        let Some(path) = &self.path else { return false };
        let written = serde_json::to_vec(&self.document).map_err(Into::into);
        let written = written.and_then(|text| state_file::replace(path, &text));
        if let Err(error) = &written {
            tracing::warn!(
                error = format!("{error:#}"),
                "what SLB does to interfaces is not kept for the next start"
            );
        }
        written.is_ok()
    }
}

/// The command that switches features on.
pub fn restoring(interface: &str, features: &[String]) -> String {
    format!("ethtool -K {interface} {} on", features.join(" on "))
}

/// What an earlier run with these pins has left since the machine started.
fn read(directory: &Path, pins: &Path) -> Option<Document> {
    let (text, _) = state_file::read(&directory.join(FILE))?;
    let left = serde_json::from_slice::<Document>(&text).ok()?;
    (left.boot.trim_end() == state_file::boot_id() && left.pins == pins).then_some(left)
}

/// The interface of this index in this network namespace.
fn find(index: u32) -> Option<Link> {
    link_in(None, index).ok().and_then(neigh::link)
}

impl SwitchedOff {
    fn features(&self) -> Vec<String> {
        self.features.iter().cloned().collect()
    }

    fn undo(
        &self,
        index: u32,
        here: u64,
        find: impl Fn(u32) -> Option<Link>,
        switch_on: impl Fn(&Link, &[String]) -> Result<()>,
    ) -> Undone {
        let (interface, features) = (&self.interface, self.features());
        let named = features.join(", ");
        let link = find(index);
        let restored = match self.own(link.as_ref(), here) {
            Ok(link) => switch_on(link, &features).map_err(|error| (Outcome::Failed, format!("{error:#}"))),
            Err(lost @ Lost::Gone(_)) => Err((Outcome::Gone, lost.to_string())),
            Err(lost) => Err((Outcome::Failed, lost.to_string())),
        };
        let (outcome, said) = match restored {
            Ok(()) => (Outcome::Restored, format!("{interface}: switched on again: {named}")),
            Err((outcome, why)) => {
                let command = restoring(interface, &features);
                let off = format!("{interface}: SLB has switched off {named}: {why}");
                (outcome, format!("{off}; to restore it: {command}"))
            }
        };
        Undone { outcome, said }
    }

    /// `link`, which has the index now, if it is the interface: another one is a stranger's.
    fn own<'link>(&self, link: Option<&'link Link>, here: u64) -> Result<&'link Link, Lost> {
        let name = &self.interface;
        if self.namespace != here {
            return Err(Lost::Elsewhere(name.clone()));
        }
        let link = link.ok_or_else(|| Lost::Gone(name.clone()))?;
        if link.name != *name && !link.altnames.contains(name) {
            return Err(Lost::Other { index: link.index, before: name.clone(), now: link.name.clone() });
        }
        Ok(link)
    }
}

/// What tells this process's network namespace from others.
fn namespace() -> u64 {
    fs::metadata("/proc/self/ns/net").map_or(0, |found| found.ino())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::devices::tests::link;

    impl Record {
        fn document(&self) -> Document {
            self.kept().document.clone()
        }
    }

    fn open(directory: &Path, pins: &str) -> Record {
        Record::open(directory, Path::new(pins))
    }

    #[test]
    fn record_is_found_with_the_same_pins_only() {
        let directory = tempfile::tempdir().unwrap();
        let record = open(directory.path(), "/pins/a");
        record.note_names([("eth0".to_owned(), 7)].into());
        assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), None, "it is not kept yet");
        record.keep_in(directory.path());
        record.note_switched_off(&link(8, "eth1", None), &["rx-gro".to_owned()]);
        assert_eq!(open(directory.path(), "/pins/a").document(), record.document());
        assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), Some(7));
        assert_eq!(open(directory.path(), "/pins/b").index_of("eth0"), None);
        Record::forget(directory.path(), Path::new("/pins/b"));
        assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), Some(7));
        Record::forget(directory.path(), Path::new("/pins/a"));
        assert!(!directory.path().join(FILE).exists());
    }

    /// Undoes what is not needed, where there are these interfaces; returns what came of it, and which have been changed.
    fn undone(record: &Record, links: &[Link], here: u64, needed: &[u32]) -> (Vec<Undone>, Vec<String>) {
        let changed = RefCell::new(Vec::new());
        let switch_on = |link: &Link, features: &[String]| {
            changed.borrow_mut().push(format!("{} {}", link.name, features.join(" ")));
            Ok(())
        };
        let find = |index| links.iter().find(|link| link.index == index).cloned();
        let undone = record.undo_by(|index, _| !needed.contains(&index), here, find, switch_on);
        (undone, changed.into_inner())
    }

    #[test]
    fn what_cannot_be_switched_on_is_named_with_the_command() {
        let directory = tempfile::tempdir().unwrap();
        let record = open(directory.path(), "/pins/a");
        let eth1 = link(8, "eth1", None);
        let noted = ["rx-lro", "rx-gro"].map(|name| record.note_switched_off(&eth1, &[name.to_owned()]));
        assert_eq!(noted, [false; 2], "it is not kept");
        assert_eq!(record.switched_off(&eth1), ["rx-gro", "rx-lro"]);
        let (undone, changed) = undone(&record, &[], namespace(), &[]);
        let said = "eth1: SLB has switched off rx-gro, rx-lro: interface eth1 is not there; to restore it: ethtool -K eth1 \
                    rx-gro on rx-lro on";
        assert_eq!(undone, [Undone { outcome: Outcome::Gone, said: said.to_owned() }]);
        assert_eq!(changed, [""; 0]);
    }

    #[test]
    fn only_the_interface_that_slb_has_changed_is_changed_back() {
        let altname = Link { altnames: vec!["eth1".to_owned()], ..link(8, "wan", None) };
        let restore = "to restore it: ethtool -K eth1 rx-gro on";
        let elsewhere = format!(
            "eth1: SLB has switched off rx-gro: interface eth1 is in another network namespace; {restore}"
        );
        let stranger = format!(
            "eth1: SLB has switched off rx-gro: interface 8 is not eth1 any more, but eth7; {restore}"
        );
        let done = "eth1: switched on again: rx-gro".to_owned();
        for (link_now, here, changes, outcome, said) in [
            (link(8, "eth1", None), namespace(), &["eth1 rx-gro"][..], Outcome::Restored, done.clone()),
            (altname, namespace(), &["wan rx-gro"], Outcome::Restored, done),
            (link(8, "eth7", None), namespace(), &[], Outcome::Failed, stranger),
            (link(8, "eth1", None), namespace() + 1, &[], Outcome::Failed, elsewhere),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let record = open(directory.path(), "/pins/a");
            record.note_switched_off(&link(8, "eth1", None), &["rx-gro".to_owned()]);
            let (undone, changed) = undone(&record, &[link_now], here, &[]);
            assert_eq!(changed, changes);
            assert_eq!(undone, [Undone { outcome, said }]);
        }
    }

    #[test]
    fn boot_id_of_earlier_versions_with_its_line_feed_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let record = open(directory.path(), "/pins/a");
        record.keep_in(directory.path());
        record.note_names([("eth0".to_owned(), 7)].into());
        let file = directory.path().join(FILE);
        let boot = state_file::boot_id();
        let text = fs::read_to_string(&file).unwrap().replace(&boot, &format!("{boot}\\n"));
        fs::write(file, text).unwrap();
        assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), Some(7));
    }

    #[test]
    fn what_is_needed_stays_off_and_what_is_undone_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let record = open(directory.path(), "/pins/a");
        record.keep_in(directory.path());
        let links = [link(8, "eth1", None), link(9, "eth2", None)];
        let noted = links.each_ref().map(|link| record.note_switched_off(link, &["rx-gro".to_owned()]));
        assert_eq!(noted, [true; 2]);
        let changed = |needed: &[u32]| undone(&record, &links, namespace(), needed).1;
        assert_eq!(changed(&[8, 9]), [""; 0]);
        assert_eq!(changed(&[8]), ["eth2 rx-gro"]);
        assert_eq!(changed(&[8]), [""; 0]);
        let later = open(directory.path(), "/pins/a");
        assert_eq!((later.switched_off(&links[0]).len(), later.switched_off(&links[1]).len()), (1, 0));
    }

    #[test]
    fn what_another_network_namespace_has_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let record = open(directory.path(), "/pins/a");
        record.note_switched_off(&link(8, "eth1", None), &["rx-gro".to_owned()]);
        record.kept().document.switched_off.values_mut().for_each(|off| off.namespace += 1);
        assert_eq!(record.undo_unneeded(&BTreeSet::new()), []);
        assert_eq!(record.switched_off(&link(8, "eth1", None)), [""; 0]);
        assert_eq!(record.undo()[0].outcome, Outcome::Failed);
    }

    #[test]
    fn record_that_cannot_be_read_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), None);
    }
}
