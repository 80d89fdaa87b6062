//! Concurrent writers of the flow table, and the order of eviction.

extern crate std;

mod stalled;

use std::{
    boxed::Box,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    vec::Vec,
};

use super::*;
use crate::{
    abi::{
        Address,
        backend::NextHop,
        flow::WORDS,
        interface::Interface,
        lookup_table::LookupTable,
        service::Service,
        shared_word::SharedWord,
        stats::{Action, Limited},
    },
    datapath::tables::Direction,
};

const SLOTS: u32 = 64;
const CLIENTS: u32 = 200;
const THREADS: u32 = 4;
const STEPS: u32 = 200_000;
const HZ: u32 = 250;
const SEED: u64 = 7;

struct Shared {
    index: Box<ServiceIndex>,
    entries: Vec<[SharedWord; WORDS]>,
    /// Jiffies, the low word.
    now: AtomicU32,
}

impl Shared {
    fn new() -> Self {
        let mut index = ServiceIndex::empty();
        index.hz = HZ;
        let entries = (0..SLOTS).map(|_| Default::default()).collect();
        Self { index, entries, now: AtomicU32::new(1000 * HZ) }
    }
}

impl Tables for Shared {
    fn index(&self) -> Option<&ServiceIndex> {
        Some(&self.index)
    }
    fn service(&self, _: u32) -> Option<&Service> {
        None
    }
    fn lookup_table(&self, _: u32) -> Option<&LookupTable> {
        None
    }
    fn backend(&self, _: u32) -> Option<&Backend> {
        None
    }
    fn next_hop(&self, _: u32) -> Option<&NextHop> {
        None
    }
    fn flow_mask(&self) -> u32 {
        SLOTS - 1
    }
    fn flow(&self, slot: u32) -> Option<FlowEntry<'_>> {
        self.entries.get(slot as usize).map(FlowEntry::new)
    }
    fn flow_seed(&self) -> u64 {
        SEED
    }
    fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }
    fn turn(&self, _: u32) -> Option<&SharedWord> {
        None
    }
    fn load(&self, _: u32) -> Option<&SharedWord> {
        None
    }
    fn interface_at(&self, _: u32) -> Option<&Interface> {
        None
    }
    fn is_own_mac(&self, _: u32, _: u64) -> bool {
        false
    }
    fn route_to_client(&self, _: &Packet) -> ClientPath {
        ClientPath::default()
    }
    fn redirect(&self, _: u32) -> bool {
        false
    }
    fn count(&self, _: Action, _: u32) {}
    fn may_send(&self, _: Limited, _: u32) -> bool {
        unreachable!()
    }
    fn count_forgotten(&self) {}
    fn count_evicted(&self, _: bool) {}
    fn count_service(&self, _: u32, _: Direction, _: usize, _: bool) {}
    fn count_backend(&self, _: u32, _: Direction, _: usize, _: bool) {}
}

fn client(n: u32) -> Client {
    Client::new(&Address::v4([10, 0, 0, n as u8]), n as u16, 6)
}

/// A flow whose words all hold `n` and `use_`, so that a mix of two flows shows.
fn flow(n: u32, use_: u32) -> Flow {
    let client = ClientPath(u64::from(use_) << 32 | u64::from(n));
    let numbers = Numbers { client: n ^ use_, server: use_ };
    Flow { service: n, backend: Handle::new(n, use_), client, arrival: n as u8, numbers }
}

fn play(shared: &Shared, thread: u32) {
    let flows = Flows::open(&shared.index, shared);
    let mut dice = 0x9e37_79b9_u32.wrapping_mul(thread + 1);
    for step in 0..STEPS {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let n = (dice >> 8) % CLIENTS;
        let query = flows.query(client(n));
        let found = flows.read(&query, shared.find_flow(&query, n));
        if let Some(found) = &found {
            let use_ = found.flow.backend.0 >> 32;
            assert_eq!(found.flow, flow(n, use_ as u32), "words of two flows");
        }
        let new = flow(n, 1 + (step << 2 | thread));
        match (found, dice >> 29) {
            (Some(found), 0) => drop(flows.replace(&found, &query, &new, 0, 225)),
            (Some(found), 1) => {
                flows.touch(&found, found.meta.state() | state::ASSURED, 225);
            }
            (Some(found), 2) => {
                flows.touch(&found, found.meta.state() | state::RESET, 225);
            }
            (Some(_), _) => {}
            (None, _) => drop(flows.put(&query, &new, 0, 225)),
        }
    }
}

#[test]
fn several_processors_share_a_table() {
    let shared = Shared::new();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let shared = &shared;
            scope.spawn(move || play(shared, thread));
        }
    });
    let flows = Flows::open(&shared.index, &shared);
    let mut used = 0;
    for slot in 0..SLOTS {
        let entry = shared.flow(slot).unwrap();
        assert!(!entry.meta().is_being_written(), "slot {slot} was left half written");
        used += u32::from(entry.meta().is_used());
        for distance in 0..WINDOW {
            let there = shared.flow((slot + distance) & (SLOTS - 1)).unwrap();
            let is_here = there.meta().is_used() && flows.home(&there.client()) == slot;
            assert_eq!(entry.hop_bitmap() >> distance & 1 == 1, is_here, "home {slot}, distance {distance}");
        }
    }
    assert!(used > SLOTS / 2, "{used} flows in {SLOTS} slots");
}

/// A RST that may be forged makes an established flow evictable, but after all others.
#[test]
fn flow_that_has_only_been_reset_makes_room_last() {
    const OTHERS: [(u32, bool); 5] = [
        (0, true),
        (state::ANSWERED, true),
        (state::ASSURED | state::CLIENT_FIN | state::SERVER_FIN, true),
        (state::RESET, true),
        (state::ASSURED, false),
    ];
    let fill = |shared: &Shared, slot: u32, bits, silence| {
        let (entry, last) = (shared.flow(slot).unwrap(), shared.now.load(Ordering::Relaxed) - silence);
        let meta = entry.meta();
        assert!(entry.lock(meta));
        entry.fill(meta, &client(slot), &flow(slot, 1), last, bits, 225);
    };
    for (conflicts, come_first) in OTHERS {
        let shared = Shared::new();
        (0..SLOTS).filter(|slot| *slot != 9).for_each(|slot| fill(&shared, slot, conflicts, slot));
        fill(&shared, 9, state::ASSURED | state::RESET, 100 * HZ);
        let flows = Flows::open(&shared.index, &shared);
        assert_eq!(flows.place(0) != 9, come_first, "{conflicts:#x}");
        fill(&shared, 9, state::ASSURED | state::RESET | state::REOPENED, 100 * HZ);
        assert!(flows.place(0) != 9, "its server has yet to decide");
    }
}
