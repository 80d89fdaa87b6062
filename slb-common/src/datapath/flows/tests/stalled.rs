//! Writers of the flow table that stall, or are killed, between any two accesses.

use std::{format, rc::Rc};

use super::*;
use crate::{
    abi::shared_word::interrupt::{killed, stalled},
    datapath::flow_gc::{Clock, FlowGc, FlowTable, GcAction},
};

const IDLE: u8 = 225;
/// Idle time of affinity entries, in `persistence_units`.
const PERSISTENCE: u8 = 60;
/// Clients with flows from the beginning.
const OLD: u32 = 20;

fn table(shared: &SharedTable) -> FlowTable<'_> {
    FlowTable::new(&shared.entries, SEED)
}

fn clock(shared: &SharedTable) -> Clock {
    Clock { now: shared.now(), hz: HZ }
}

fn insert_entry(shared: &SharedTable, n: u32, generation: u32) {
    let flows = Flows::open(&shared.index, shared);
    let query = flows.query(client(n));
    // Later clients may have mid-stream pickups.
    let bits = if n < 100 { state::ANSWERED } else { state::PICKED_UP };
    let _ = match flows.read(&query, find(&query, FlowTag::new(n, 0), shared)) {
        Some(found) => flows.replace(&found, &query, &flow(n, generation), bits, IDLE),
        None => {
            flows.insert_entry(find_slot(query.home, shared), false, &query, &flow(n, generation), bits, IDLE)
        }
    };
}

/// Records the server of a client's flows in its affinity entry, as the packet path does.
fn put_client(shared: &SharedTable, n: u32, generation: u32) {
    let flows = Flows::open(&shared.index, shared);
    let query = flows.query(Client::affinity(&client(n).parts().0, n));
    flows.insert_entry(
        find_slot(query.home, shared),
        false,
        &query,
        &flow(n, generation),
        state::AFFINITY,
        PERSISTENCE,
    );
}

/// A table with flows of [`OLD`] clients, and an affinity entry of the first.
fn populated_table() -> Rc<SharedTable> {
    let shared = SharedTable::new();
    (0..OLD).for_each(|n| insert_entry(&shared, n, 1));
    put_client(&shared, 0, 1);
    Rc::new(shared)
}

/// No entry that the packet path can read holds words of two flows.
fn check(shared: &SharedTable, what: &str) {
    for (slot, words) in shared.entries.iter().enumerate() {
        let entry = FlowEntry::new(words);
        let (sequence_word, entry_client) = (entry.sequence_word(), entry.client());
        let Some(found) = entry.read(sequence_word).filter(|_| sequence_word.is_used()) else { continue };
        let n = found.service;
        let generation = (found.backend.0 >> 32) as u32;
        let whose =
            if sequence_word.is_affinity() { Client::affinity(&client(n).parts().0, n) } else { client(n) };
        assert_eq!(
            (entry_client, found),
            (whose, flow(n, generation)),
            "slot {slot} holds words of two flows: {what}"
        );
    }
}

/// Called once no writer is left.
fn check_end(shared: &SharedTable, what: &str) {
    check(shared, what);
    assert!(table(shared).is_sound(), "a bitmap does not say what is in the table: {what}");
    for (slot, words) in shared.entries.iter().enumerate() {
        assert!(!FlowEntry::new(words).sequence_word().is_locked(), "slot {slot} is left locked: {what}");
    }
}

/// Packets of other clients: three times as many flows as slots. Also packets of known flows.
fn packets(shared: &SharedTable, generation: u32) {
    (0..3 * SLOTS).for_each(|n| insert_entry(shared, 100 + n % CLIENTS, generation));
    (0..OLD).step_by(3).for_each(|n| insert_entry(shared, n, generation));
}

fn gc(shared: &SharedTable, flow_gc: &mut FlowGc, fate: GcAction) {
    flow_gc.gc_pass(&table(shared), clock(shared), &mut |_| fate);
}

fn pass(shared: &SharedTable, seconds: u32) {
    shared.now.fetch_add(seconds * HZ, Ordering::Relaxed);
}

/// Each writer stalls before each of its accesses, while more packets arrive than there are slots.
#[test]
fn stalled_packet_leaves_no_torn_entry() {
    type Writer = fn(&SharedTable);
    let writers: [(&str, Writer); 4] = [
        ("a free slot", |shared| insert_entry(shared, 50, 9)),
        ("a known flow", |shared| insert_entry(shared, 7, 9)),
        ("an affinity entry", |shared| put_client(shared, 3, 9)),
        ("a slot of another flow", |shared| {
            packets(shared, 8);
            insert_entry(shared, 50, 9);
        }),
    ];
    for (name, writer) in writers {
        let mut at = 0;
        loop {
            let what = format!("{name}, stalled at access {at}");
            let shared = populated_table();
            let (other, during) = (shared.clone(), what.clone());
            let meanwhile = move || {
                let mut flow_gc = FlowGc::default();
                for round in 0..3 {
                    gc(&other, &mut flow_gc, GcAction::Keep);
                    pass(&other, 20);
                    packets(&other, 2 + round);
                    check(&other, &during);
                }
            };
            let has_stalled = stalled(at, meanwhile, || writer(&shared));
            check_end(&shared, &what);
            packets(&shared, 10);
            gc(&shared, &mut FlowGc::default(), GcAction::Keep);
            check_end(&shared, &what);
            if !has_stalled {
                break;
            }
            at += 1;
        }
        assert!(at > 10, "{name}: {at} accesses");
    }
}

/// Name, preparation, and what the daemon does to a table and to another one that it may copy entries to.
type Daemon = (&'static str, fn(&SharedTable), fn(&SharedTable, &SharedTable));

const DAEMONS: [Daemon; 4] = [
    ("erases", |shared| pass(shared, 1000), |shared, _| gc(shared, &mut FlowGc::default(), GcAction::Keep)),
    (
        "keeps clients to their servers",
        |_| {},
        |shared, _| gc(shared, &mut FlowGc::default(), GcAction::RefreshAffinity(PERSISTENCE + 1)),
    ),
    ("migrates", |_| {}, copy_from),
    (
        "migrates what has changed",
        |shared| {
            pass(shared, 2);
            (0..OLD).for_each(|n| insert_entry(shared, n, 4));
        },
        copy_from,
    ),
];

fn copy_from(shared: &SharedTable, new: &SharedTable) {
    table(new).copy_from(&shared.entries, clock(shared), None);
}

/// Half of the entries have been copied. The new program has picked up one flow mid-stream.
fn half_copied() -> Rc<SharedTable> {
    let new = SharedTable::new();
    (0..OLD).step_by(2).for_each(|n| insert_entry(&new, n, 1));
    pass(&new, 2);
    Rc::new(new)
}

#[test]
fn preempted_daemon_leaves_no_torn_entry() {
    for (name, before, daemon) in DAEMONS {
        let mut at = 0;
        loop {
            let what = format!("{name}, preempted at access {at}");
            let shared = populated_table();
            before(&shared);
            let new = half_copied();
            let (other, other_new, during) = (shared.clone(), new.clone(), what.clone());
            let meanwhile = move || {
                for side in [&other, &other_new] {
                    pass(side, 20);
                    packets(side, 2);
                    check(side, &during);
                }
            };
            let was_preempted = stalled(at, meanwhile, || daemon(&shared, &new));
            check_end(&shared, &what);
            check_end(&new, &what);
            if !was_preempted {
                break;
            }
            at += 1;
        }
        assert!(at > 100, "{name}: {at} accesses");
    }
}

#[test]
fn entry_locked_by_a_killed_daemon_is_released_by_the_next_daemon() {
    for (name, before, daemon) in DAEMONS {
        let mut at = 0;
        loop {
            let what = format!("{name}, killed at access {at}");
            let shared = populated_table();
            before(&shared);
            let new = half_copied();
            let was_killed = killed(at, || daemon(&shared, &new));
            let locked = |side: &SharedTable| {
                side.entries.iter().filter(|e| FlowEntry::new(e).sequence_word().is_locked()).count()
            };
            for side in [&shared, &new] {
                check(side, &what);
                let locked = locked(side);
                packets(side, 2);
                check(side, &what);
                let mut flow_gc = FlowGc::default();
                let gc_pass = flow_gc.gc_pass(&table(side), clock(side), &mut |_| GcAction::Keep);
                check_end(side, &what);
                assert!(locked <= 1 && gc_pass.unread == 0, "{what}: {gc_pass:?}");
                packets(side, 3);
                check_end(side, &what);
            }
            if !was_killed {
                break;
            }
            at += 1;
        }
        assert!(at > 100, "{name}: {at} accesses");
    }
}
