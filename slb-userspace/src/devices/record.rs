//! What a later run, or `slbd detach`, must know of interfaces: under which configured name an interface runs the program, and what
//! SLB has switched off. In a file of the state directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::merging::switch_on;
use crate::{neigh::Link, state_file};

const FILE: &str = "interfaces.json";

/// The record.
#[derive(Debug)]
pub struct Record {
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

impl Record {
    /// What an earlier run with these pins has left in a directory; nothing where there is none, or after a restart of the machine.
    pub fn open(directory: &Path, pins: &Path) -> Self {
        let new = || Document { boot: state_file::boot_id(), pins: pins.to_owned(), ..Document::default() };
        Self { path: None, document: read(directory, pins).unwrap_or_else(new) }
    }

    /// Keeps the record in a directory of this daemon alone, from now on.
    pub fn keep_in(&mut self, directory: &Path) {
        self.path = Some(directory.join(FILE));
        self.write();
    }

    /// The interface that has had a configured name.
    pub fn index_of(&self, name: &str) -> Option<u32> {
        self.document.names.get(name).copied()
    }

    /// Notes under which configured names interfaces run the program.
    pub fn note_names(&mut self, names: BTreeMap<String, u32>) {
        self.change(|document| document.names = names);
    }

    /// Notes what SLB has switched off at an interface.
    pub fn note_switched_off(&mut self, link: &Link, features: &[String]) {
        let namespace = namespace();
        self.change(|document| {
            let new = || SwitchedOff { interface: link.name.clone(), namespace, features: BTreeSet::new() };
            let noted = document.switched_off.entry(link.index).or_insert_with(new);
            if noted.namespace != namespace {
                *noted = new();
            }
            noted.interface.clone_from(&link.name);
            noted.features.extend(features.iter().cloned());
        });
    }

    fn change(&mut self, change: impl FnOnce(&mut Document)) {
        let before = self.document.clone();
        change(&mut self.document);
        if before != self.document {
            self.write();
        }
    }

    fn write(&self) {
        let Some(path) = &self.path else { return };
        let written = serde_json::to_vec(&self.document).map_err(Into::into);
        if let Err(error) = written.and_then(|text| state_file::replace(path, &text)) {
            tracing::warn!(
                error = format!("{error:#}"),
                "what SLB does to interfaces is not kept for the next start"
            );
        }
    }

    /// Switches on again what SLB has switched off. Returns what it did, or why not and what to do, in words. `links` are the
    /// interfaces of this network namespace.
    pub fn undo(&self, links: &[Link]) -> Vec<String> {
        self.undo_by(links, namespace(), switch_on)
    }

    fn undo_by(
        &self,
        links: &[Link],
        here: u64,
        switch_on: impl Fn(&Link, &[String]) -> Result<()>,
    ) -> Vec<String> {
        let done = |(index, off): (&u32, &SwitchedOff)| {
            let SwitchedOff { interface, features, .. } = off;
            let features: Vec<_> = features.iter().cloned().collect();
            let named = features.join(", ");
            off.find(*index, links, here).and_then(|link| switch_on(link, &features)).map_or_else(
                |error| {
                    let on = features.join(" on ");
                    format!("{interface}: SLB has switched off {named}: {error:#}; to restore it: ethtool -K {interface} {on} on")
                },
                |()| format!("{interface}: switched on again: {named}"),
            )
        };
        self.document.switched_off.iter().map(done).collect()
    }

    /// Removes the file of the pins that have been removed; that of others stays.
    pub fn forget(directory: &Path, pins: &Path) {
        if read(directory, pins).is_some() {
            // Should it stay, the next start finds no interface of its pins in it.
            let _ = fs::remove_file(directory.join(FILE));
        }
    }
}

/// What an earlier run with these pins has left since the machine started.
fn read(directory: &Path, pins: &Path) -> Option<Document> {
    let (text, _) = state_file::read(&directory.join(FILE))?;
    let left = serde_json::from_slice::<Document>(&text).ok()?;
    (left.boot.trim_end() == state_file::boot_id() && left.pins == pins).then_some(left)
}

impl SwitchedOff {
    /// The interface, if it is here and has the name yet: another one is a stranger's.
    fn find<'links>(&self, index: u32, links: &'links [Link], here: u64) -> Result<&'links Link> {
        let name = &self.interface;
        if self.namespace != here {
            bail!("interface {name} is in another network namespace");
        }
        let Some(link) = links.iter().find(|link| link.index == index) else {
            bail!("interface {name} is not there");
        };
        if link.name != *name && !link.altnames.contains(name) {
            bail!("interface {index} is not {name} any more, but {}", link.name);
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
    use std::cell::Cell;

    use super::*;
    use crate::devices::tests::link;

    fn open(directory: &Path, pins: &str) -> Record {
        Record::open(directory, Path::new(pins))
    }

    #[test]
    fn record_is_found_with_the_same_pins_only() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = open(directory.path(), "/pins/a");
        record.note_names([("eth0".to_owned(), 7)].into());
        assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), None, "it is not kept yet");
        record.keep_in(directory.path());
        record.note_switched_off(&link(8, "eth1", None), &["rx-gro".to_owned()]);
        assert_eq!(open(directory.path(), "/pins/a").document, record.document);
        assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), Some(7));
        assert_eq!(open(directory.path(), "/pins/b").index_of("eth0"), None);
        Record::forget(directory.path(), Path::new("/pins/b"));
        assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), Some(7));
        Record::forget(directory.path(), Path::new("/pins/a"));
        assert!(!directory.path().join(FILE).exists());
    }

    #[test]
    fn what_cannot_be_switched_on_is_named_with_the_command() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = open(directory.path(), "/pins/a");
        record.note_switched_off(&link(8, "eth1", None), &["rx-lro".to_owned()]);
        record.note_switched_off(&link(8, "eth1", None), &["rx-gro".to_owned()]);
        assert_eq!(
            record.undo(&[]),
            [
                "eth1: SLB has switched off rx-gro, rx-lro: interface eth1 is not there; to restore it: ethtool -K eth1 rx-gro \
              on rx-lro on"
            ]
        );
    }

    #[test]
    fn only_the_interface_that_slb_has_changed_is_changed_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = open(directory.path(), "/pins/a");
        record.note_switched_off(&link(8, "eth1", None), &["rx-gro".to_owned()]);
        let altname = Link { altnames: vec!["eth1".to_owned()], ..link(8, "wan", None) };
        let restore = "to restore it: ethtool -K eth1 rx-gro on";
        let elsewhere = format!(
            "eth1: SLB has switched off rx-gro: interface eth1 is in another network namespace; {restore}"
        );
        let stranger = format!(
            "eth1: SLB has switched off rx-gro: interface 8 is not eth1 any more, but eth7; {restore}"
        );
        let done = "eth1: switched on again: rx-gro".to_owned();
        for (link, here, changed, said) in [
            (link(8, "eth1", None), namespace(), 1, &done),
            (altname, namespace(), 1, &done),
            (link(8, "eth7", None), namespace(), 0, &stranger),
            (link(8, "eth1", None), namespace() + 1, 0, &elsewhere),
        ] {
            let calls = Cell::new(0);
            let switch_on = |_: &Link, _: &[String]| {
                calls.set(calls.get() + 1);
                Ok(())
            };
            let named = link.name.clone();
            assert_eq!(record.undo_by(&[link], here, switch_on), std::slice::from_ref(said), "{named}");
            assert_eq!(calls.get(), changed, "{named}");
        }
    }

    #[test]
    fn boot_id_of_earlier_versions_with_its_line_feed_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = open(directory.path(), "/pins/a");
        record.keep_in(directory.path());
        record.note_names([("eth0".to_owned(), 7)].into());
        let file = directory.path().join(FILE);
        let boot = state_file::boot_id();
        let text = fs::read_to_string(&file).unwrap().replace(&boot, &format!("{boot}\\n"));
        fs::write(file, text).unwrap();
        assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), Some(7));
    }

    #[test]
    fn record_that_cannot_be_read_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), None);
    }
}
