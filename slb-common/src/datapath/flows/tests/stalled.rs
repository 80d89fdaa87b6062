//! Writers of the flow table that stall, or are killed, between any two accesses.

use std::{format, rc::Rc};

use super::*;
use crate::{
    abi::shared_word::interrupt::{killed, stalled},
    datapath::flow_gc::{Clock, Fate, FlowGc, FlowTable},
};

const IDLE: u8 = 225;
/// Idle time of affinity entries, in `persistence_units`.
const KEPT: u8 = 60;
/// Clients with flows from the beginning.
const OLD: u32 = 20;

fn table(shared: &Shared) -> FlowTable<'_> {
    FlowTable::new(&shared.entries, SEED)
}

fn clock(shared: &Shared) -> Clock {
    Clock { now: shared.now(), hz: HZ }
}

fn put(shared: &Shared, n: u32, use_: u32) {
    let flows = Flows::open(&shared.index, shared);
    let query = flows.query(client(n));
    // Later clients may have mid-stream pickups.
    let bits = if n < 100 { state::ANSWERED } else { state::PICKED_UP };
    let _ = match flows.read(&query, shared.find_flow(&query, n)) {
        Some(found) => flows.replace(&found, &query, &flow(n, use_), bits, IDLE),
        None => flows.put(&query, &flow(n, use_), bits, IDLE),
    };
}

/// Records the server of a client's flows in its affinity entry, as the packet path does.
fn put_client(shared: &Shared, n: u32, use_: u32) {
    let flows = Flows::open(&shared.index, shared);
    let query = flows.query(Client::whole(&client(n).parts().0, n));
    flows.put(&query, &flow(n, use_), state::CLIENT, KEPT);
}

/// A table with flows of [`OLD`] clients, and an affinity entry of the first.
fn world() -> Rc<Shared> {
    let shared = Shared::new();
    (0..OLD).for_each(|n| put(&shared, n, 1));
    put_client(&shared, 0, 1);
    Rc::new(shared)
}

/// No entry that the packet path can read holds words of two flows.
fn check(shared: &Shared, what: &str) {
    for (slot, words) in shared.entries.iter().enumerate() {
        let entry = FlowEntry::new(words);
        let (meta, current_backend) = (entry.meta(), entry.client());
        let Some(found) = entry.read(meta).filter(|_| meta.is_used()) else { continue };
        let n = found.service;
        let use_ = (found.backend.0 >> 32) as u32;
        let whose = if meta.is_client() { Client::whole(&client(n).parts().0, n) } else { client(n) };
        assert_eq!(
            (current_backend, found),
            (whose, flow(n, use_)),
            "slot {slot} holds words of two flows: {what}"
        );
    }
}

/// Called once no writer is left.
fn check_end(shared: &Shared, what: &str) {
    check(shared, what);
    assert!(table(shared).is_sound(), "a bitmap does not say what is in the table: {what}");
    for (slot, words) in shared.entries.iter().enumerate() {
        assert!(!FlowEntry::new(words).meta().is_being_written(), "slot {slot} is left locked: {what}");
    }
}

/// Packets of other clients: three times as many flows as slots. Also packets of known flows.
fn packets(shared: &Shared, use_: u32) {
    (0..3 * SLOTS).for_each(|n| put(shared, 100 + n % CLIENTS, use_));
    (0..OLD).step_by(3).for_each(|n| put(shared, n, use_));
}

fn gc(shared: &Shared, flow_gc: &mut FlowGc, fate: Fate) {
    flow_gc.look(&table(shared), clock(shared), &mut |_| fate);
}

fn pass(shared: &Shared, seconds: u32) {
    shared.now.fetch_add(seconds * HZ, Ordering::Relaxed);
}

/// Each writer stalls before each of its accesses, while more packets arrive than there are slots.
#[test]
fn packet_that_stalls_leaves_no_torn_entry_however_long() {
    type Writer = fn(&Shared);
    let writers: [(&str, Writer); 4] = [
        ("a free slot", |shared| put(shared, 50, 9)),
        ("a known flow", |shared| put(shared, 7, 9)),
        ("an affinity entry", |shared| put_client(shared, 3, 9)),
        ("a slot of another flow", |shared| {
            packets(shared, 8);
            put(shared, 50, 9);
        }),
    ];
    for (name, writer) in writers {
        let mut at = 0;
        loop {
            let what = format!("{name}, stalled at access {at}");
            let shared = world();
            let (conflicts, during) = (shared.clone(), what.clone());
            let meanwhile = move || {
                let mut flow_gc = FlowGc::default();
                for round in 0..3 {
                    gc(&conflicts, &mut flow_gc, Fate::Goes);
                    pass(&conflicts, 20);
                    packets(&conflicts, 2 + round);
                    check(&conflicts, &during);
                }
            };
            let has_stalled = stalled(at, meanwhile, || writer(&shared));
            check_end(&shared, &what);
            packets(&shared, 10);
            gc(&shared, &mut FlowGc::default(), Fate::Goes);
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
type Daemon = (&'static str, fn(&Shared), fn(&Shared, &Shared));

const DAEMONS: [Daemon; 4] = [
    ("erases", |shared| pass(shared, 1000), |shared, _| gc(shared, &mut FlowGc::default(), Fate::Goes)),
    (
        "keeps clients to their servers",
        |_| {},
        |shared, _| gc(shared, &mut FlowGc::default(), Fate::Holds(KEPT + 1)),
    ),
    ("migrates", |_| {}, migrate),
    (
        "migrates what has changed",
        |shared| {
            pass(shared, 2);
            (0..OLD).for_each(|n| put(shared, n, 4));
        },
        migrate,
    ),
];

fn migrate(shared: &Shared, new: &Shared) {
    table(new).migrate(&shared.entries, clock(shared), None);
}

/// Half of the entries have been copied. The new program has picked up one flow mid-stream.
fn half_copied() -> Rc<Shared> {
    let new = Shared::new();
    (0..OLD).step_by(2).for_each(|n| put(&new, n, 1));
    pass(&new, 2);
    Rc::new(new)
}

#[test]
fn daemon_that_is_preempted_leaves_no_torn_entry() {
    for (name, before, daemon) in DAEMONS {
        let mut at = 0;
        loop {
            let what = format!("{name}, preempted at access {at}");
            let shared = world();
            before(&shared);
            let new = half_copied();
            let (conflicts, others_new, during) = (shared.clone(), new.clone(), what.clone());
            let meanwhile = move || {
                for side in [&conflicts, &others_new] {
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
fn entry_locked_by_a_killed_daemon_is_freed_by_the_first_pass_of_the_next_one() {
    for (name, before, daemon) in DAEMONS {
        let mut at = 0;
        loop {
            let what = format!("{name}, killed at access {at}");
            let shared = world();
            before(&shared);
            let new = half_copied();
            let was_killed = killed(at, || daemon(&shared, &new));
            let locked = |side: &Shared| {
                side.entries.iter().filter(|e| FlowEntry::new(e).meta().is_being_written()).count()
            };
            for side in [&shared, &new] {
                check(side, &what);
                let locked = locked(side);
                packets(side, 2);
                check(side, &what);
                let mut flow_gc = FlowGc::default();
                let look = flow_gc.look(&table(side), clock(side), &mut |_| Fate::Goes);
                check_end(side, &what);
                assert!(locked <= 1 && look.unread == 0, "{what}: {look:?}");
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
