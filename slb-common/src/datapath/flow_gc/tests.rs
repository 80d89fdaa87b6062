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
        let distance = (0..WINDOW).find(|n| table.at(home + n).meta().is_free()).unwrap();
        let (entry, meta) = (table.at(home + distance), table.at(home + distance).meta());
        assert!(entry.lock(meta));
        table.at(home).set_hop(distance);
        entry.fill(meta, &client, &flow(n), 0, bits, idle_units(IDLE));
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

fn look(flow_gc: &mut FlowGc, table: &FlowTable<'_>, seconds: u32) -> (Look, usize) {
    let mut shown = 0;
    let clock = Clock { now: seconds * HZ, hz: HZ };
    let look = flow_gc.look(table, clock, &mut |seen| {
        assert_eq!(seen.client.parts().1, seen.flow.backend.id() as u16);
        shown += 1;
        Fate::Goes
    });
    (look, shown)
}

#[test]
fn flows_are_shown_and_erased_some_time_after_they_expire() {
    let slots = table(40, state::ASSURED);
    let (table, flow_gc) = (FlowTable::new(&slots, SEED), &mut FlowGc::default());
    let live = |seconds: u32| {
        let mut live = 0;
        let fill = table.live(Clock { now: seconds * HZ, hz: HZ }, &mut |_| live += 1);
        (live, fill)
    };
    let fill = |assured| Fill { entries: SLOTS, used: 40, assured };
    assert_eq!((live(IDLE), live(IDLE + 1)), ((40, fill(40)), (0, fill(0))));
    assert_eq!(look(flow_gc, &table, IDLE), (Look { live: 40, assured: 40, ..Look::default() }, 40));
    assert_eq!(look(flow_gc, &table, IDLE + GRACE), (Look::default(), 40));
    let used = (0..SLOTS as u32).find(|slot| table.at(*slot).meta().is_used()).unwrap();
    let meta = table.at(used).meta();
    table.at(used).touch(meta, (IDLE + GRACE) * HZ, meta.state());
    let erased = Look { live: 1, assured: 1, erased: 39, ..Look::default() };
    assert_eq!(look(flow_gc, &table, IDLE + GRACE + 1), (erased, 1));
    assert!(table.is_sound());
    assert_eq!(look(flow_gc, &table, 2 * (IDLE + GRACE) + 1).0.erased, 1);
    assert!(
        (0..SLOTS as u32).all(|slot| table.at(slot).meta().is_free() && table.at(slot).hop_bitmap() == 0)
    );
}

#[test]
fn flows_that_are_not_assured_are_erased_once_they_expire() {
    let slots = table(40, state::ANSWERED);
    let (table, flow_gc) = (FlowTable::new(&slots, SEED), &mut FlowGc::default());
    assert_eq!(look(flow_gc, &table, IDLE).0.live, 40);
    assert_eq!(look(flow_gc, &table, IDLE + 1), (Look { erased: 40, ..Look::default() }, 0));
    assert!(table.is_sound());
}

#[test]
fn flows_that_are_over_are_shown_and_erased_sooner() {
    let slots = table(1, state::RESET);
    let (table, flow_gc) = (FlowTable::new(&slots, SEED), &mut FlowGc::default());
    assert_eq!(look(flow_gc, &table, OVER), (Look::default(), 1));
    assert_eq!(look(flow_gc, &table, OVER + 1), (Look { erased: 1, ..Look::default() }, 0));
    assert!(table.is_sound());
}

#[test]
fn a_flow_that_is_marked_as_over_has_expired_just_now_if_it_has() {
    for (seconds, silence) in [(IDLE, 0), (IDLE + 1, IDLE * HZ + 1), (IDLE + 30, IDLE * HZ + 1)] {
        let slots = table(1, 0);
        let table = FlowTable::new(&slots, SEED);
        let clock = Clock { now: seconds * HZ, hz: HZ };
        FlowGc::default().look(&table, clock, &mut |_| Fate::Ends);
        let mut marked = |seen: &Seen<'_>| {
            assert_eq!((seen.meta.is_finished(), seen.meta.silence(clock.now)), (true, silence));
            Fate::Goes
        };
        assert_eq!(FlowGc::default().look(&table, clock, &mut marked), Look::default());
    }
}

#[test]
fn a_client_is_kept_to_its_server_while_its_flows_go_on_and_some_time_after() {
    const KEPT: u16 = 3600;
    let slots = table(1, state::ASSURED);
    let (table, flow_gc) = (FlowTable::new(&slots, SEED), &mut FlowGc::default());
    let whole = Client::whole(&client(0).parts().0, 1);
    let (home, _) = table.home(0, &whole);
    let distance = (0..WINDOW).find(|n| table.at(home + n).meta().is_free()).unwrap();
    let (entry, meta) = (table.at(home + distance), table.at(home + distance).meta());
    assert!(entry.lock(meta));
    table.at(home).set_hop(distance);
    entry.fill(meta, &whole, &flow(0), 0, state::CLIENT, persistence_units(600));
    let mut at = |seconds, fate| {
        let clock = Clock { now: seconds * HZ, hz: HZ };
        let look = flow_gc.look(&table, clock, &mut |seen| {
            if seen.meta.is_client() && fate != Fate::Ends { Fate::Goes } else { fate }
        });
        assert!(table.is_sound());
        (look.live, look.erased)
    };
    assert_eq!(at(500, Fate::Holds(persistence_units(KEPT))), (1, 0));
    assert_eq!(entry.meta().last_seen(), 500 * HZ);
    assert_eq!(entry.meta().state() & state::ASSURED, state::ASSURED);
    assert_eq!(at(900, Fate::Goes), (1, 0));
    assert_eq!(at(1000, Fate::Goes), (0, 1), "the flow");
    assert_eq!(entry.meta().last_seen(), 500 * HZ);
    assert_eq!(at(500 + 3600, Fate::Goes), (0, 0));
    assert_eq!(at(500 + 3601, Fate::Goes), (0, 1), "the client");
}

#[test]
fn flows_have_the_age_that_looks_have_seen() {
    let slots = table(1, 0);
    let (table, mut flow_gc) = (FlowTable::new(&slots, SEED), FlowGc::default());
    let mut ages = |now: u32| {
        let mut ages = BTreeMap::new();
        let clock = Clock { now, hz: HZ };
        flow_gc.look(&table, clock, &mut |seen| {
            ages.insert(seen.client.parts().1, seen.age);
            Fate::Goes
        });
        ages
    };
    // Jiffies wrap around meanwhile.
    let start = 0_u32.wrapping_sub(2 * HZ);
    let at = |seconds: u32| start.wrapping_add(seconds * HZ);
    let put = |port: u16, slot: u32| {
        let entry = table.at(slot);
        let meta = entry.meta();
        assert!(entry.lock(meta));
        entry.fill(meta, &client(port), &flow(port), at(1), 0, idle_units(IDLE));
    };
    let used = (0..SLOTS as u32).find(|slot| table.at(*slot).meta().is_used()).unwrap();
    assert_eq!(ages(start), [(0, None)].into(), "it may have been there for long");
    let other = (used + 1) % SLOTS as u32;
    put(7, other);
    assert_eq!(ages(at(1)), [(0, None), (7, Some(0))].into());
    table.at(other).touch(table.at(other).meta(), at(4), state::ANSWERED | state::USED);
    assert_eq!(ages(at(4)), [(0, None), (7, Some(3))].into(), "the same flow");
    put(7, other);
    put(0, used);
    assert_eq!(ages(at(5)), [(0, Some(0)), (7, Some(0))].into(), "others in their places");
    assert_eq!(ages(at(6) + HZ / 2), [(0, Some(1)), (7, Some(1))].into());
    assert_eq!(ages(at(7)), [(0, Some(2)), (7, Some(2))].into(), "halves add up");
    for second in (60..=600).step_by(60) {
        table.at(used).touch(table.at(used).meta(), at(second), state::USED);
        table.at(other).touch(table.at(other).meta(), at(second), state::USED);
        assert_eq!(ages(at(second))[&7], Some(second - 5));
    }
    assert_eq!(ages(at(606)), [(0, None), (7, None)].into(), "old");
}

#[test]
fn a_flow_that_goes_on_meanwhile_is_not_erased() {
    let slots = table(1, 0);
    let table = FlowTable::new(&slots, SEED);
    let used = (0..SLOTS as u32).find(|slot| table.at(*slot).meta().is_used()).unwrap();
    let meta = table.at(used).meta();
    table.at(used).touch(meta, 1, meta.state());
    assert!(!table.erase(used, meta) && table.at(used).meta().is_used());
    let meta = table.at(used).meta();
    assert!(table.erase(used, meta));
    table.at(used).touch(meta, 1, meta.state());
    assert!(table.at(used).meta().is_free(), "seen by one who did not see it erased");
}

#[test]
fn entry_that_a_packet_writes_is_unread_however_long() {
    let slots = table(3, 0);
    let (table, flow_gc) = (FlowTable::new(&slots, SEED), &mut FlowGc::default());
    let used: Vec<_> = (0..SLOTS as u32).filter(|slot| table.at(*slot).meta().is_used()).collect();
    let meta = table.at(used[0]).meta();
    assert!(table.at(used[0]).lock(meta));
    for seconds in [1, 12, IDLE] {
        let unread = (Look { live: 2, unread: 1, ..Look::default() }, 2);
        assert_eq!(look(flow_gc, &table, seconds), unread, "after {seconds} s");
    }
    table.at(used[0]).fill(meta, &client(9), &flow(9), 0, 0, idle_units(IDLE));
    assert_eq!(look(flow_gc, &table, IDLE), (Look { live: 3, ..Look::default() }, 3));
}
