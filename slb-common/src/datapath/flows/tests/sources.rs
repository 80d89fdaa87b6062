//! Allocation of sources: each belongs to one flow alone, also if processors allocate it at once.

use std::time::{Duration, Instant};

use super::*;
use crate::abi::source::{BUCKET, SourceKey};

const TCP: u8 = 6;
/// Sources for which the flows of all threads compete.
const PORTS: u16 = 24;

fn server_hash(shared: &SharedTable) -> u64 {
    ServiceIndex::server_hash(&shared.server.address, shared.server.port)
}

fn source(port: u16) -> Source {
    Source::candidate(3, port)
}

/// Locks an entry. Another thread may have it locked, to release a word that leads there.
fn lock(shared: &SharedTable, slot: u32) -> (FlowEntry<'_>, SequenceWord) {
    let entry = shared.flow(slot).unwrap();
    loop {
        let sequence_word = entry.sequence_word();
        if !sequence_word.is_locked() && entry.lock(sequence_word) {
            return (entry, sequence_word);
        }
        thread::yield_now();
    }
}

/// Puts a TCP flow of the server into a slot.
fn put(shared: &SharedTable, slot: u32, bits: u32) {
    let (entry, sequence_word) = lock(shared, slot);
    let flow = Flow { backend: shared.server.handle, ..flow(slot, 1) };
    entry.publish(sequence_word, &client(slot), &flow, shared.now(), bits, 225);
}

/// Allocates a source as the packet path does: while the entry is locked.
fn allocate(shared: &SharedTable, slot: u32, port: u16, is_scarce: bool) -> bool {
    let (entry, sequence_word) = lock(shared, slot);
    let is_allocated =
        allocate_source(slot, server_hash(shared), Allocation::new(source(port), TCP, is_scarce), shared);
    entry.unlock(sequence_word);
    is_allocated
}

fn holder(shared: &SharedTable, port: u16) -> Option<Client> {
    let flows = Flows::open(&shared.index, shared);
    flows.find_by_source(server_hash(shared), source(port), TCP).map(|(_, client)| client)
}

#[test]
fn source_leads_to_its_flow_alone() {
    let shared = SharedTable::new();
    (0..2).for_each(|slot| put(&shared, slot, state::ASSURED));
    assert_eq!(holder(&shared, 7), None);
    assert!(allocate(&shared, 0, 7, false));
    assert_eq!(holder(&shared, 7), Some(client(0)));
    assert!(allocate(&shared, 0, 7, false), "its own source");
    assert!(!allocate(&shared, 1, 7, false) && !allocate(&shared, 1, 7, true));
    assert!(allocate(&shared, 1, 8, false));
    assert_eq!((holder(&shared, 7), holder(&shared, 8)), (Some(client(0)), Some(client(1))));
    let other = allocate_source(1, server_hash(&shared), Allocation::new(source(7), 17, false), &shared);
    assert!(other, "another protocol");
}

#[test]
fn source_is_free_once_its_flow_has_another_or_is_replaced() {
    let shared = SharedTable::new();
    (0..3).for_each(|slot| put(&shared, slot, state::ASSURED));
    assert!(allocate(&shared, 0, 7, false) && allocate(&shared, 0, 9, false));
    assert!(allocate(&shared, 1, 7, false));
    put(&shared, 1, state::ASSURED);
    assert_eq!(holder(&shared, 7), None, "the slot has another flow");
    assert!(allocate(&shared, 2, 7, false));
    assert_eq!((holder(&shared, 7), holder(&shared, 9)), (Some(client(2)), Some(client(0))));
}

#[test]
fn flow_loses_its_source_after_its_end_or_where_sources_are_scarce() {
    const CLOSED: u32 = state::ASSURED | state::CLIENT_FIN | state::SERVER_FIN;
    // State, seconds of silence, whether sources are scarce, whether another flow gets the source.
    let cases = [
        (CLOSED, 59, true, false),
        (CLOSED, 60, false, true),
        (state::ASSURED, 960, true, false),
        (state::ASSURED, 961, false, true),
        (0, 0, true, false),
        (0, 1, true, true),
        (0, 899, false, false),
    ];
    for (bits, silence, is_scarce, passes) in cases {
        let shared = SharedTable::new();
        put(&shared, 0, bits);
        assert!(allocate(&shared, 0, 7, false));
        shared.now.fetch_add(silence * HZ, Ordering::Relaxed);
        put(&shared, 1, state::ASSURED);
        let name = format!("{bits:#x} after {silence} s");
        assert_eq!(allocate(&shared, 1, 7, is_scarce), passes, "{name}");
        assert_eq!(holder(&shared, 7), Some(client(u32::from(passes))), "{name}");
        assert_eq!(!shared.flow(0).unwrap().source().is_allocated(), passes, "{name}");
    }
}

#[test]
fn bucket_takes_a_further_flow_when_a_word_is_stale() {
    let shared = SharedTable::new();
    // Ports whose keys share a bucket.
    let bucket = |port: u16| {
        let key = SourceKey::new(server_hash(&shared), source(port), TCP, SEED);
        key.bucket() & ((SLOTS - 1) / FLOWS_PER_BUCKET)
    };
    let ports: Vec<u16> = (0..).filter(|port| bucket(*port) == bucket(0)).take(BUCKET + 1).collect();
    for (slot, port) in (0..).zip(&ports) {
        put(&shared, slot, state::ASSURED);
        assert_eq!(allocate(&shared, slot, *port, false), (slot as usize) < BUCKET, "{slot}");
    }
    put(&shared, 3, state::ASSURED);
    assert!(allocate(&shared, BUCKET as u32, ports[BUCKET], false));
    let held = ports.iter().filter(|port| holder(&shared, **port).is_some()).count();
    assert_eq!(held, BUCKET);
}

/// Another thread that allocates the source at once has a word, too, until it gives up.
fn wait_for_holder(shared: &SharedTable, port: u16, slot: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while holder(shared, port) != Some(client(slot)) {
        assert!(Instant::now() < deadline, "port {port} does not lead to slot {slot}");
        thread::yield_now();
    }
}

/// Each thread has flows of its own, and gives their sources up again and again.
#[test]
fn concurrent_allocations_never_give_one_source_to_two_flows() {
    const EACH: u32 = SLOTS / THREADS;
    let shared = SharedTable::new();
    (0..SLOTS).for_each(|slot| put(&shared, slot, state::ASSURED));
    let holders: Vec<AtomicU32> = (0..PORTS).map(|_| AtomicU32::new(u32::MAX)).collect();
    let allocations = AtomicU32::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (shared, holders, allocations) = (&shared, &holders, &allocations);
            scope.spawn(move || {
                let mut rng = 0x9e37_79b9_u32.wrapping_mul(thread + 1);
                let mut held = [None; EACH as usize];
                for _ in 0..STEPS {
                    rng = rng.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let (n, port) = ((rng >> 8) % EACH, (rng >> 16) as u16 % PORTS);
                    let slot = thread * EACH + n;
                    if let Some(port) = held[n as usize].take() {
                        let before = holders[usize::from(port)].swap(u32::MAX, Ordering::SeqCst);
                        assert_eq!(before, slot, "port {port}");
                        put(shared, slot, state::ASSURED);
                    } else if allocate(shared, slot, port, false) {
                        let before = holders[usize::from(port)].swap(slot, Ordering::SeqCst);
                        assert_eq!(before, u32::MAX, "port {port}");
                        wait_for_holder(shared, port, slot);
                        held[n as usize] = Some(port);
                        allocations.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(allocations.load(Ordering::Relaxed) > STEPS / 2, "{allocations:?} allocations");
}
