//! Concurrent writers of the flow table, and the order of eviction.

extern crate std;

mod declined;
mod sources;
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
        fragment::{FragmentKey, FragmentRecord},
        interface::Interface,
        lookup_table::LookupTable,
        service::Service,
        shared_word::SharedWord,
        source::{FLOWS_PER_BUCKET, Source, SourceBucket},
        stats::{Action, GeneratedPacket},
        token_bucket::{Limit, TokenBuckets},
    },
    datapath::{flow_calls::FlowCalls, maps::Direction},
    net::vlan::Vlan,
};

const SLOTS: u32 = 64;
const CLIENTS: u32 = 200;
const THREADS: u32 = 4;
const STEPS: u32 = 200_000;
const HZ: u32 = 250;
const SEED: u64 = 7;

struct SharedTable {
    index: Box<ServiceIndex>,
    entries: Vec<[SharedWord; WORDS]>,
    sources: Vec<SourceBucket>,
    /// The server with id 0. There is no other.
    server: Backend,
    /// The server's next hop.
    hop: Option<NextHop>,
    /// Jiffies, the low word.
    now: AtomicU32,
}

impl SharedTable {
    fn new() -> Self {
        let mut index = ServiceIndex::empty();
        index.hz = HZ;
        let entries = (0..SLOTS).map(|_| Default::default()).collect();
        let sources = (0..SLOTS / FLOWS_PER_BUCKET).map(|_| Default::default()).collect();
        let (address, handle) = (Address::v4([10, 0, 0, 1]), Handle::new(0, 1));
        let server = Backend { address, port: 80, handle, ..Backend::default() };
        Self { index, entries, sources, server, hop: None, now: AtomicU32::new(1000 * HZ) }
    }
}

impl FlowCalls for SharedTable {}

impl Maps for SharedTable {
    fn index(&self) -> Option<&ServiceIndex> {
        Some(&self.index)
    }
    fn service(&self, _: u32) -> Option<&Service> {
        None
    }
    fn lookup_table(&self, _: u32) -> Option<&LookupTable> {
        None
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        (id == 0).then_some(&self.server)
    }
    fn is_listed(&self, _: u32, _: &Address) -> bool {
        false
    }
    fn quic_server(&self, _: u32, _: u32) -> Option<Handle> {
        None
    }
    fn next_hop(&self, _: u32) -> Option<&NextHop> {
        self.hop.as_ref()
    }
    fn flow_mask(&self) -> u32 {
        SLOTS - 1
    }
    fn source_bucket(&self, bucket: u32) -> Option<&SourceBucket> {
        self.sources.get(bucket as usize)
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
    fn round_robin_position(&self, _: u32) -> Option<&SharedWord> {
        None
    }
    fn token_buckets(&self, _: u32) -> Option<&TokenBuckets> {
        None
    }
    fn nanoseconds(&self) -> u64 {
        0
    }
    fn connection_count(&self, _: u32) -> Option<&SharedWord> {
        None
    }
    fn interface_at(&self, _: u32) -> Option<&Interface> {
        None
    }
    fn is_own_mac(&self, _: u32, _: u64) -> bool {
        false
    }
    fn vlan_device(&self, _: u32, _: Vlan) -> u32 {
        0
    }
    fn route_to_client(&self, _: &Packet) -> ClientPath {
        ClientPath::default()
    }
    fn link_of_client(&self, _: &Packet) -> u32 {
        0
    }
    fn redirect(&self, _: u32) -> bool {
        false
    }
    fn fragment(&self, _: &FragmentKey) -> Option<FragmentRecord> {
        None
    }
    fn put_fragment(&self, _: &FragmentKey, _: &FragmentRecord) {}
    fn remove_fragment(&self, _: &FragmentKey) {}
    fn count(&self, _: Action, _: u32) {}
    fn may_send(&self, _: GeneratedPacket, _: u32) -> bool {
        unreachable!()
    }
    fn count_evicted_migrating(&self) {}
    fn count_evicted(&self, _: bool) {}
    fn count_over_limit(&self, _: u32, _: Limit) {}
    fn count_service(&self, _: u32, _: Direction, _: usize, _: bool) {}
    fn count_backend(&self, _: u32, _: Direction, _: usize, _: bool) {}
}

fn client(n: u32) -> Client {
    Client::new(&Address::v4([10, 0, 0, n as u8]), n as u16, 6)
}

/// A flow whose words all hold `n` and `generation`, so that a mix of two flows shows.
fn flow(n: u32, generation: u32) -> Flow {
    let client = ClientPath(u64::from(generation) << 32 | u64::from(n));
    let numbers = SequenceNumbers { client: n ^ generation, server: generation };
    Flow {
        service: n,
        backend: Handle::new(n, generation),
        client,
        arrival: n as u8,
        numbers,
        port: 0,
        source: Source::NONE,
    }
}

fn run_random_operations(shared: &SharedTable, thread: u32) {
    let flows = Flows::open(&shared.index, shared);
    let mut rng = 0x9e37_79b9_u32.wrapping_mul(thread + 1);
    for step in 0..STEPS {
        rng = rng.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let n = (rng >> 8) % CLIENTS;
        let query = flows.query(client(n));
        let found = flows.read(&query, find(&query, FlowTag::new(n, 0), shared));
        if let Some(found) = &found {
            let generation = found.flow.backend.0 >> 32;
            assert_eq!(found.flow, flow(n, generation as u32), "words of two flows");
        }
        let new = flow(n, 1 + (step << 2 | thread));
        match (found, rng >> 29) {
            (Some(found), 0) => drop(flows.replace(&found, &query, &new, 0, 225)),
            (Some(found), 1) => {
                flows.touch(&found, found.sequence_word.state() | state::ASSURED, 225);
            }
            (Some(found), 2) => {
                flows.touch(&found, found.sequence_word.state() | state::RESET, 225);
            }
            (Some(_), _) => {}
            (None, _) => drop(flows.insert_entry(find_slot(query.home, shared), false, &query, &new, 0, 225)),
        }
    }
}

#[test]
fn concurrent_packets_leave_the_flow_table_consistent() {
    let shared = SharedTable::new();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let shared = &shared;
            scope.spawn(move || run_random_operations(shared, thread));
        }
    });
    let flows = Flows::open(&shared.index, &shared);
    let mut used = 0;
    for slot in 0..SLOTS {
        let entry = shared.flow(slot).unwrap();
        assert!(!entry.sequence_word().is_locked(), "slot {slot} was left half written");
        used += u32::from(entry.sequence_word().is_used());
        for distance in 0..NEIGHBOURHOOD {
            let there = shared.flow((slot + distance) & (SLOTS - 1)).unwrap();
            let is_here = there.sequence_word().is_used() && flows.home(&there.client()) == slot;
            assert_eq!(entry.hop_bitmap() >> distance & 1 == 1, is_here, "home {slot}, distance {distance}");
        }
    }
    assert!(used > SLOTS / 2, "{used} flows in {SLOTS} slots");
}

/// A RST that may be forged makes an established flow evictable, but after all others.
#[test]
fn established_flow_after_a_rst_is_evicted_last() {
    const OTHERS: [(u32, bool); 5] = [
        (0, true),
        (state::ANSWERED, true),
        (state::ASSURED | state::CLIENT_FIN | state::SERVER_FIN, true),
        (state::RESET, true),
        (state::ASSURED, false),
    ];
    let publish = |shared: &SharedTable, slot: u32, bits, silence| {
        let (entry, last) = (shared.flow(slot).unwrap(), shared.now.load(Ordering::Relaxed) - silence);
        let sequence_word = entry.sequence_word();
        assert!(entry.lock(sequence_word));
        entry.publish(sequence_word, &client(slot), &flow(slot, 1), last, bits, 225);
    };
    for (state_bits, come_first) in OTHERS {
        let shared = SharedTable::new();
        (0..SLOTS).filter(|slot| *slot != 9).for_each(|slot| publish(&shared, slot, state_bits, slot));
        publish(&shared, 9, state::ASSURED | state::RESET, 100 * HZ);
        let flows = Flows::open(&shared.index, &shared);
        assert_eq!(flows.find_slot(0) != 9, come_first, "{state_bits:#x}");
        publish(&shared, 9, state::ASSURED | state::RESET | state::REOPENED, 100 * HZ);
        assert!(flows.find_slot(0) != 9, "its server has yet to decide");
    }
}
