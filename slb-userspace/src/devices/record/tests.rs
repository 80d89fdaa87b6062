use std::cell::RefCell;

use super::*;
use crate::devices::tests::link;

impl InterfaceRecord {
    fn document(&self) -> RecordDocument {
        self.state().document.clone()
    }
}

fn open(directory: &Path, pins: &str) -> InterfaceRecord {
    InterfaceRecord::open(directory, Path::new(pins))
}

#[test]
fn record_is_found_with_the_same_pins_only() {
    let directory = tempfile::tempdir().unwrap();
    let record = open(directory.path(), "/pins/a");
    record.note_names([("eth0".to_owned(), 7)].into());
    assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), None, "it is not kept yet");
    record.persist_in(directory.path());
    record.note_switched_off(&link(8, "eth1", None), &["rx-gro".to_owned()]);
    assert_eq!(open(directory.path(), "/pins/a").document(), record.document());
    assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), Some(7));
    assert_eq!(open(directory.path(), "/pins/b").index_of("eth0"), None);
    open(directory.path(), "/pins/b").forget(directory.path());
    assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), Some(7));
    undone(&record, &[], namespace(), &[]);
    record.forget(directory.path());
    assert!(!directory.path().join(FILE).exists());
}

/// Restores features of interfaces not in `needed`, where `links` exist. Returns the results, and what was switched on.
fn undone(
    record: &InterfaceRecord,
    links: &[Link],
    here: u64,
    needed: &[u32],
) -> (Vec<RestoreResult>, Vec<String>) {
    let changed = RefCell::new(Vec::new());
    let switch_on = |link: &Link, features: &[String]| {
        changed.borrow_mut().push(format!("{} {}", link.name, features.join(" ")));
        Ok(())
    };
    let find = |index| Ok(links.iter().find(|link| link.index == index).cloned());
    let undone = record.restore_by(|index, _| !needed.contains(&index), here, find, switch_on);
    (undone, changed.into_inner())
}

#[test]
fn feature_that_cannot_be_restored_is_reported_with_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let record = open(directory.path(), "/pins/a");
    let eth1 = link(8, "eth1", None);
    let noted = ["rx-lro", "rx-gro"].map(|name| record.note_switched_off(&eth1, &[name.to_owned()]));
    assert_eq!(noted, [false; 2], "it is not kept");
    assert_eq!(record.switched_off(&eth1), ["rx-gro", "rx-lro"]);
    let (undone, changed) = undone(&record, &[], namespace(), &[]);
    let said = "eth1: SLB has switched off rx-gro, rx-lro: interface eth1 is not there; to restore it: ethtool -K eth1 \
                rx-gro on rx-lro on";
    assert_eq!(undone, [RestoreResult { outcome: RestoreOutcome::Gone, said: said.to_owned() }]);
    assert_eq!(changed, [""; 0]);
}

#[test]
fn only_the_interface_that_slb_changed_is_restored() {
    let elsewhere = "eth1: SLB has switched off rx-gro: interface eth1 is in another network namespace; to restore it: \
                     ethtool -K eth1 rx-gro on";
    let done = |name: &str| format!("{name}: switched on again: rx-gro");
    for (link_now, here, changes, outcome, said) in [
        (link(8, "eth1", None), namespace(), &["eth1 rx-gro"][..], RestoreOutcome::Restored, done("eth1")),
        (link(8, "wan0", None), namespace(), &["wan0 rx-gro"], RestoreOutcome::Restored, done("wan0")),
        (link(8, "eth1", None), namespace() + 1, &[], RestoreOutcome::Failed, elsewhere.to_owned()),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let record = open(directory.path(), "/pins/a");
        record.note_switched_off(&link(8, "eth1", None), &["rx-gro".to_owned()]);
        let (undone, changed) = undone(&record, &[link_now], here, &[]);
        assert_eq!(changed, changes);
        assert_eq!(undone, [RestoreResult { outcome, said }]);
    }
}

#[test]
fn boot_id_of_earlier_versions_with_its_line_feed_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let record = open(directory.path(), "/pins/a");
    record.persist_in(directory.path());
    record.note_names([("eth0".to_owned(), 7)].into());
    let file = directory.path().join(FILE);
    let boot = state_file::boot_id();
    let text = fs::read_to_string(&file).unwrap().replace(&boot, &format!("{boot}\\n"));
    fs::write(file, text).unwrap();
    assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), Some(7));
}

#[test]
fn needed_feature_stays_off_and_restored_one_leaves_the_record() {
    let directory = tempfile::tempdir().unwrap();
    let record = open(directory.path(), "/pins/a");
    record.persist_in(directory.path());
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
fn features_in_another_network_namespace_are_left_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let record = open(directory.path(), "/pins/a");
    record.note_switched_off(&link(8, "eth1", None), &["rx-gro".to_owned()]);
    record.state().document.switched_off.values_mut().for_each(|off| off.namespace += 1);
    assert_eq!(record.restore_unneeded(&BTreeSet::new()), []);
    assert_eq!(record.switched_off(&link(8, "eth1", None)), [""; 0]);
    assert_eq!(record.restore_features()[0].outcome, RestoreOutcome::Failed);
}

#[test]
fn note_that_could_not_be_written_is_written_by_a_later_one() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    fs::write(&state, "a file where the directory belongs").unwrap();
    let record = open(&state, "/pins/a");
    record.persist_in(&state);
    let note = || record.note_switched_off(&link(8, "eth1", None), &["rx-gro".to_owned()]);
    assert_eq!([note(), note()], [false; 2], "nothing is on disk");
    fs::remove_file(&state).unwrap();
    assert!(note(), "the same note is written now");
    assert_eq!(open(&state, "/pins/a").document(), record.document());
}

#[test]
fn feature_that_stays_off_is_kept_for_the_next_attempt() {
    let directory = tempfile::tempdir().unwrap();
    let record = open(directory.path(), "/pins/a");
    record.persist_in(directory.path());
    let eth1 = link(8, "eth1", None);
    record.note_switched_off(&eth1, &["rx-gro".to_owned()]);
    let find = |_| Ok(Some(eth1.clone()));
    let undone = record.restore_by(|_, _| true, namespace(), find, |_, _| anyhow::bail!("busy"));
    assert_eq!(undone[0].outcome, RestoreOutcome::Failed);
    assert_eq!(open(directory.path(), "/pins/a").switched_off(&eth1), ["rx-gro"]);
}

#[test]
fn renamed_interface_keeps_its_record() {
    let directory = tempfile::tempdir().unwrap();
    let record = open(directory.path(), "/pins/a");
    record.note_switched_off(&link(8, "eth1", None), &["rx-gro".to_owned()]);
    let wan0 = link(8, "wan0", None);
    assert_eq!(record.switched_off(&wan0), ["rx-gro"]);
    let find = |_| Ok(Some(wan0.clone()));
    let said = &record.restore_by(|_, _| true, namespace(), find, |_, _| anyhow::bail!("busy"))[0].said;
    assert_eq!(said, "wan0: SLB has switched off rx-gro: busy; to restore it: ethtool -K wan0 rx-gro on");
    let (undone, changed) = undone(&record, &[wan0], namespace(), &[]);
    assert_eq!(changed, ["wan0 rx-gro"]);
    assert_eq!(undone[0].said, "wan0: switched on again: rx-gro");
}

#[test]
fn features_that_stay_on_are_not_noted_as_off() {
    let directory = tempfile::tempdir().unwrap();
    let record = open(directory.path(), "/pins/a");
    record.persist_in(directory.path());
    let (eth1, file) = (link(8, "eth1", None), directory.path().join(FILE));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let switched = |features: &[&str], seen: &[&str]| {
        let switch_off = |_: &Link, _: &[String]| {
            assert_eq!(
                open(directory.path(), "/pins/a").switched_off(&eth1),
                seen,
                "while it is switched off"
            );
            Ok(names(&["rx-gro-hw"]))
        };
        record.switch_off_by(&eth1, &names(features), switch_off).unwrap()
    };
    let both = ["rx-gro", "rx-gro-hw"];
    let result =
        |off: &[&str]| SwitchResult { off: names(off), on: names(&["rx-gro-hw"]), is_persisted: true };
    assert_eq!(switched(&both, &both), result(&["rx-gro"]));
    assert_eq!(open(directory.path(), "/pins/a").switched_off(&eth1), ["rx-gro"]);
    // An extra line feed shows whether the file is written again.
    let text = fs::read(&file).unwrap();
    fs::write(&file, [&text[..], b"\n"].concat()).unwrap();
    assert_eq!(switched(&["rx-gro-hw"], &["rx-gro"]), result(&[]));
    assert_eq!(fs::read(&file).unwrap().len(), text.len() + 1, "it is written though nothing has changed");
}

#[test]
fn restore_failure_is_reported_once_and_kept_after_pins_are_gone() {
    let directory = tempfile::tempdir().unwrap();
    let record = open(directory.path(), "/pins/a");
    record.persist_in(directory.path());
    let eth1 = link(8, "eth1", None);
    record.note_names([("eth0".to_owned(), 7)].into());
    record.note_switched_off(&eth1, &["rx-gro".to_owned()]);
    let attempt = |record: &InterfaceRecord| {
        let find = |_| Err(anyhow::anyhow!("no more sockets"));
        let mut undone = record.restore_by(|_, _| true, namespace(), find, |_, _| Ok(()));
        record.drop_logged(&mut undone);
        undone.into_iter().map(|undone| undone.outcome).collect::<Vec<_>>()
    };
    assert_eq!(attempt(&record), [RestoreOutcome::Failed]);
    assert_eq!(attempt(&record), []);
    let detached = open(directory.path(), "/pins/a");
    assert_eq!(attempt(&detached), [RestoreOutcome::Failed]);
    detached.forget(directory.path());
    let again = open(directory.path(), "/pins/a");
    assert_eq!((again.index_of("eth0"), again.switched_off(&eth1)), (None, vec!["rx-gro".to_owned()]));
    undone(&again, &[eth1], namespace(), &[]);
    again.forget(directory.path());
    assert!(!directory.path().join(FILE).exists());
}

#[test]
fn unreadable_record_is_empty_and_reported() {
    let directory = tempfile::tempdir().unwrap();
    let read = || InterfaceRecord::read(directory.path(), Path::new("/pins/a"));
    assert_eq!(read().unwrap().index_of("eth0"), None, "there is none");
    fs::write(directory.path().join(FILE), "{").unwrap();
    assert_eq!(open(directory.path(), "/pins/a").index_of("eth0"), None);
    let said = format!("{:#}", read().unwrap_err());
    assert!(said.contains("cannot read") && said.contains(FILE), "{said}");
}
