use std::collections::BTreeMap;

use super::*;
use crate::abi::{
    Address, Handle,
    flow::{idle_units, persistence_units},
};

const HZ: u32 = 250;
const SEED: u64 = 7;
const SLOTS: usize = 64;
const IDLE: u32 = 900;

/// A table with a flow of each of these clients, last seen at 0, in the first free slot of its neighbourhood.
pub(super) fn table(clients: u16, bits: u32) -> Vec<[SharedWord; WORDS]> {
    let slots: Vec<[SharedWord; WORDS]> = (0..SLOTS).map(|_| Default::default()).collect();
    let table = FlowTable::new(&slots, SEED);
    for n in 0..clients {
        let client = client(n);
        let (home, _) = table.home(0, &client);
        let distance = (0..NEIGHBOURHOOD).find(|n| table.at(home + n).sequence_word().is_free()).unwrap();
        let (entry, sequence_word) = (table.at(home + distance), table.at(home + distance).sequence_word());
        assert!(entry.lock(sequence_word));
        table.at(home).set_hop(distance);
        entry.publish(sequence_word, &client, &flow(n), 0, bits, idle_units(IDLE));
    }
    assert!(table.is_sound());
    slots
}

pub(super) fn client(n: u16) -> Client {
    Client::new(&Address::v4([192, 0, 2, 1]), n, 6)
}

fn flow(n: u16) -> Flow {
    Flow { service: 1, backend: Handle::new(n.into(), 1), ..Flow::default() }
}

fn gc_pass(flow_gc: &mut FlowGc, table: &FlowTable<'_>, seconds: u32) -> (GcPass, usize) {
    let mut shown = 0;
    let clock = Clock { now: seconds * HZ, hz: HZ };
    let gc_pass = flow_gc.gc_pass(table, clock, &mut |seen| {
        assert_eq!(seen.client.parts().1, seen.flow.backend.id() as u16);
        shown += 1;
        GcAction::Keep
    });
    (gc_pass, shown)
}

#[test]
fn assured_flows_are_erased_a_grace_time_after_expiry() {
    let slots = table(40, state::ASSURED);
    let (table, flow_gc) = (FlowTable::new(&slots, SEED), &mut FlowGc::default());
    let live = |seconds: u32| {
        let mut live = 0;
        let fill = table.live(Clock { now: seconds * HZ, hz: HZ }, &mut |_| live += 1);
        (live, fill)
    };
    let fill = |assured| FlowTableUsage { entries: SLOTS, used: 40, assured };
    assert_eq!((live(IDLE), live(IDLE + 1)), ((40, fill(40)), (0, fill(0))));
    assert_eq!(gc_pass(flow_gc, &table, IDLE), (GcPass { live: 40, assured: 40, ..GcPass::default() }, 40));
    assert_eq!(gc_pass(flow_gc, &table, IDLE + GRACE), (GcPass::default(), 40));
    let used = (0..SLOTS as u32).find(|slot| table.at(*slot).sequence_word().is_used()).unwrap();
    let sequence_word = table.at(used).sequence_word();
    table.at(used).touch(sequence_word, (IDLE + GRACE) * HZ, sequence_word.state());
    let erased = GcPass { live: 1, assured: 1, erased: 39, ..GcPass::default() };
    assert_eq!(gc_pass(flow_gc, &table, IDLE + GRACE + 1), (erased, 1));
    assert!(table.is_sound());
    assert_eq!(gc_pass(flow_gc, &table, 2 * (IDLE + GRACE) + 1).0.erased, 1);
    assert!(
        (0..SLOTS as u32)
            .all(|slot| table.at(slot).sequence_word().is_free() && table.at(slot).hop_bitmap() == 0)
    );
}

#[test]
fn flows_that_are_not_assured_are_erased_at_expiry() {
    let slots = table(40, state::ANSWERED);
    let (table, flow_gc) = (FlowTable::new(&slots, SEED), &mut FlowGc::default());
    assert_eq!(gc_pass(flow_gc, &table, IDLE).0.live, 40);
    assert_eq!(gc_pass(flow_gc, &table, IDLE + 1), (GcPass { erased: 40, ..GcPass::default() }, 0));
    assert!(table.is_sound());
}

#[test]
fn finished_flows_are_erased_sooner() {
    let slots = table(1, state::RESET);
    let (table, flow_gc) = (FlowTable::new(&slots, SEED), &mut FlowGc::default());
    assert_eq!(gc_pass(flow_gc, &table, FINISHED_TIMEOUT), (GcPass::default(), 1));
    assert_eq!(
        gc_pass(flow_gc, &table, FINISHED_TIMEOUT + 1),
        (GcPass { erased: 1, ..GcPass::default() }, 0)
    );
    assert!(table.is_sound());
}

#[test]
fn expired_flow_marked_finished_counts_as_just_expired() {
    for (seconds, silence) in [(IDLE, 0), (IDLE + 1, IDLE * HZ + 1), (IDLE + 30, IDLE * HZ + 1)] {
        let slots = table(1, 0);
        let table = FlowTable::new(&slots, SEED);
        let clock = Clock { now: seconds * HZ, hz: HZ };
        FlowGc::default().gc_pass(&table, clock, &mut |_| GcAction::Terminate);
        let mut marked = |seen: &GcEntry<'_>| {
            assert_eq!(
                (seen.sequence_word.is_finished(), seen.sequence_word.silence(clock.now)),
                (true, silence)
            );
            GcAction::Keep
        };
        assert_eq!(FlowGc::default().gc_pass(&table, clock, &mut marked), GcPass::default());
    }
}

#[test]
fn affinity_entry_outlives_its_clients_flows_by_the_timeout() {
    const PERSISTENCE: u16 = 3600;
    let slots = table(1, state::ASSURED);
    let (table, flow_gc) = (FlowTable::new(&slots, SEED), &mut FlowGc::default());
    let affinity = Client::affinity(&client(0).parts().0, 1);
    let (home, _) = table.home(0, &affinity);
    let distance = (0..NEIGHBOURHOOD).find(|n| table.at(home + n).sequence_word().is_free()).unwrap();
    let (entry, sequence_word) = (table.at(home + distance), table.at(home + distance).sequence_word());
    assert!(entry.lock(sequence_word));
    table.at(home).set_hop(distance);
    entry.publish(sequence_word, &affinity, &flow(0), 0, state::AFFINITY, persistence_units(600));
    let mut at = |seconds, fate| {
        let clock = Clock { now: seconds * HZ, hz: HZ };
        let gc_pass = flow_gc.gc_pass(&table, clock, &mut |seen| {
            if seen.sequence_word.is_affinity() && fate != GcAction::Terminate {
                GcAction::Keep
            } else {
                fate
            }
        });
        assert!(table.is_sound());
        (gc_pass.live, gc_pass.erased)
    };
    assert_eq!(at(500, GcAction::RefreshAffinity(persistence_units(PERSISTENCE))), (1, 0));
    assert_eq!(entry.sequence_word().last_seen(), 500 * HZ);
    assert_eq!(entry.sequence_word().state() & state::ASSURED, state::ASSURED);
    assert_eq!(at(900, GcAction::Keep), (1, 0));
    assert_eq!(at(1000, GcAction::Keep), (0, 1), "the flow");
    assert_eq!(entry.sequence_word().last_seen(), 500 * HZ);
    assert_eq!(at(500 + 3600, GcAction::Keep), (0, 0));
    assert_eq!(at(500 + 3601, GcAction::Keep), (0, 1), "the client");
}

#[test]
fn flow_age_counts_from_the_first_gc_pass_that_saw_it() {
    let slots = table(1, 0);
    let (table, mut flow_gc) = (FlowTable::new(&slots, SEED), FlowGc::default());
    let mut ages = |now: u32| {
        let mut ages = BTreeMap::new();
        let clock = Clock { now, hz: HZ };
        flow_gc.gc_pass(&table, clock, &mut |seen| {
            ages.insert(seen.client.parts().1, seen.age);
            GcAction::Keep
        });
        ages
    };
    // Jiffies wrap around meanwhile.
    let start = 0_u32.wrapping_sub(2 * HZ);
    let at = |seconds: u32| start.wrapping_add(seconds * HZ);
    let put = |port: u16, slot: u32| {
        let entry = table.at(slot);
        let sequence_word = entry.sequence_word();
        assert!(entry.lock(sequence_word));
        entry.publish(sequence_word, &client(port), &flow(port), at(1), 0, idle_units(IDLE));
    };
    let used = (0..SLOTS as u32).find(|slot| table.at(*slot).sequence_word().is_used()).unwrap();
    assert_eq!(ages(start), [(0, None)].into(), "it may have been there for long");
    let other = (used + 1) % SLOTS as u32;
    put(7, other);
    assert_eq!(ages(at(1)), [(0, None), (7, Some(0))].into());
    table.at(other).touch(table.at(other).sequence_word(), at(4), state::ANSWERED | state::USED);
    assert_eq!(ages(at(4)), [(0, None), (7, Some(3))].into(), "the same flow");
    put(7, other);
    put(0, used);
    assert_eq!(ages(at(5)), [(0, Some(0)), (7, Some(0))].into(), "others in their places");
    assert_eq!(ages(at(6) + HZ / 2), [(0, Some(1)), (7, Some(1))].into());
    assert_eq!(ages(at(7)), [(0, Some(2)), (7, Some(2))].into(), "halves add up");
    for second in (60..=600).step_by(60) {
        table.at(used).touch(table.at(used).sequence_word(), at(second), state::USED);
        table.at(other).touch(table.at(other).sequence_word(), at(second), state::USED);
        assert_eq!(ages(at(second))[&7], Some(second - 5));
    }
    assert_eq!(ages(at(606)), [(0, None), (7, None)].into(), "old");
}

#[test]
fn flow_active_since_it_was_read_is_not_erased() {
    let slots = table(1, 0);
    let table = FlowTable::new(&slots, SEED);
    let used = (0..SLOTS as u32).find(|slot| table.at(*slot).sequence_word().is_used()).unwrap();
    let sequence_word = table.at(used).sequence_word();
    table.at(used).touch(sequence_word, 1, sequence_word.state());
    assert!(!table.erase(used, sequence_word) && table.at(used).sequence_word().is_used());
    let sequence_word = table.at(used).sequence_word();
    assert!(table.erase(used, sequence_word));
    table.at(used).touch(sequence_word, 1, sequence_word.state());
    assert!(table.at(used).sequence_word().is_free(), "seen by a reader that did not see it erased");
}

#[test]
fn entry_locked_by_a_packet_stays_unread() {
    let slots = table(3, 0);
    let (table, flow_gc) = (FlowTable::new(&slots, SEED), &mut FlowGc::default());
    let used: Vec<_> = (0..SLOTS as u32).filter(|slot| table.at(*slot).sequence_word().is_used()).collect();
    let sequence_word = table.at(used[0]).sequence_word();
    assert!(table.at(used[0]).lock(sequence_word));
    for seconds in [1, 12, IDLE] {
        let unread = (GcPass { live: 2, unread: 1, ..GcPass::default() }, 2);
        assert_eq!(gc_pass(flow_gc, &table, seconds), unread, "after {seconds} s");
    }
    table.at(used[0]).publish(sequence_word, &client(9), &flow(9), 0, 0, idle_units(IDLE));
    assert_eq!(gc_pass(flow_gc, &table, IDLE), (GcPass { live: 3, ..GcPass::default() }, 3));
}
