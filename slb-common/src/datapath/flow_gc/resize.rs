//! Copies the entries of a flow table into one of another size.
//!
//! Packets may use both tables meanwhile: the old one until its program is replaced, the new one from then on. A first
//! pass copies before the replacement, so that the new program finds the entries. A last pass copies what the old
//! program changed after that. Later passes skip entries that packets have not changed since. So few are left to copy
//! while packets may find no entry in the new table.

use super::{Clock, FlowTable, SlotContent, is_erasable};
use crate::abi::{
    flow::{Client, Flow, FlowEntry, NEIGHBOURHOOD, SequenceNumbers, SequenceWord, WORDS, state},
    shared_word::SharedWord,
};

/// Result of a copy.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CopyResult {
    /// Entries of the old table that the new table now holds.
    pub entries: usize,
    /// Entries for which the new table has no free slot.
    pub dropped: usize,
}

/// An entry of the old table.
struct Entry {
    sequence_word: SequenceWord,
    client: Client,
    flow: Flow,
}

impl FlowTable<'_> {
    /// Copies the entries of a table with the same hash seed, in the slots `old`, into this table.
    ///
    /// Entries that the next GC pass would erase are left out. With `within`, so are those that packets have not
    /// changed for that many seconds. Established flows and affinity entries come first, and so get the free slots of a
    /// smaller table.
    pub fn copy_from(&self, old: &[[SharedWord; WORDS]], clock: Clock, within: Option<u32>) -> CopyResult {
        let old = FlowTable::new(old, self.seed);
        let mut migrated = CopyResult::default();
        for is_first in [true, false] {
            for slot in 0..old.len() {
                if is_older_than(old.at(slot).sequence_word(), clock, within) {
                    continue;
                }
                let SlotContent::Used(sequence_word, client, flow) = old.read(slot) else { continue };
                if is_erasable(sequence_word, clock) || is_established(sequence_word) != is_first {
                    continue;
                }
                let is_here = self.copy(&Entry { sequence_word, client, flow }, clock);
                migrated.entries += usize::from(is_here);
                migrated.dropped += usize::from(!is_here);
            }
        }
        migrated
    }

    /// Copies one entry; `false` if there is no free slot for it.
    fn copy(&self, entry: &Entry, clock: Clock) -> bool {
        let Some((there, sequence_word)) = self.find(entry) else { return self.insert(entry) };
        merge(there, sequence_word, entry, clock);
        true
    }

    /// The entry of the same flow in this table, and its sequence word.
    fn find(&self, entry: &Entry) -> Option<(FlowEntry<'_>, SequenceWord)> {
        let (home, _) = self.home(0, &entry.client);
        let mut hop_bitmap = self.at(home).hop_bitmap();
        while hop_bitmap != 0 {
            let there = self.at(home.wrapping_add(hop_bitmap.trailing_zeros()));
            let sequence_word = there.sequence_word();
            if sequence_word.is_used() && is_same_flow(there, entry) {
                return Some((there, sequence_word));
            }
            hop_bitmap &= hop_bitmap - 1;
        }
        None
    }

    /// Writes the entry to the first free slot of its neighbourhood; `false` if there is none.
    fn insert(&self, entry: &Entry) -> bool {
        let (home, _) = self.home(0, &entry.client);
        for distance in 0..NEIGHBOURHOOD {
            let there = self.at(home.wrapping_add(distance));
            let sequence_word = there.sequence_word();
            if sequence_word.is_free() && there.lock_as_daemon(sequence_word) {
                self.at(home).set_hop(distance);
                publish(there, sequence_word, entry);
                return true;
            }
        }
        false
    }
}

/// Whether an entry of this table is of the same client endpoint, service and port.
fn is_same_flow(there: FlowEntry<'_>, entry: &Entry) -> bool {
    there.service_of(&entry.client) == Some(entry.flow.service) && there.port() == entry.flow.port
}

/// Whether a used entry was last seen more than `within` seconds ago. [`SequenceWord::last_seen`] is exact to one
/// second.
fn is_older_than(sequence_word: SequenceWord, Clock { now, hz }: Clock, within: Option<u32>) -> bool {
    sequence_word.is_used()
        && within.is_some_and(|seconds| sequence_word.silence(now) / hz.max(1) > seconds + 1)
}

fn publish(there: FlowEntry<'_>, sequence_word: SequenceWord, entry: &Entry) {
    let Entry { sequence_word: old, client, flow } = entry;
    there.publish(sequence_word, client, flow, old.last_seen(), old.state(), old.units());
}

/// Whether the entry is an affinity entry, or an assured flow that is not finished.
fn is_established(sequence_word: SequenceWord) -> bool {
    sequence_word.is_affinity() || sequence_word.state() & state::ASSURED != 0 && !sequence_word.is_finished()
}

/// Updates an entry of the new table, unless anything has changed about it since `sequence_word` was read: a packet may
/// have given the slot to another flow.
fn merge(there: FlowEntry<'_>, sequence_word: SequenceWord, entry: &Entry, Clock { now, .. }: Clock) {
    let old = entry.sequence_word;
    if sequence_word.is_affinity() != old.is_affinity() {
        return;
    }
    let is_newer = old.silence(now) < sequence_word.silence(now);
    let has_other_backend = there.backend() != entry.flow.backend;
    // A mid-stream segment made an entry before the flow was copied. The flow stays with its server.
    let is_pickup = sequence_word.state() & state::PICKED_UP != 0 && old.state() & state::PICKED_UP == 0;
    let is_datagram = !entry.client.is_tcp();
    // If the old entry is newer, the new program has seen no packet of the flow since the previous copy. That may be
    // minutes ago: server, client path and idle time may have changed.
    if is_pickup || is_newer || has_other_backend && is_datagram {
        if there.lock_as_daemon(sequence_word) {
            publish(there, sequence_word, entry);
        }
    } else if has_other_backend {
        // The new program has seen another connection from the same port.
    } else {
        // Both were seen in the same second. If the old connection has ended, the new entry may be of another one from
        // the same port.
        let bits = old.state() & (state::ANSWERED | state::ASSURED);
        let flow = there.read(sequence_word);
        if there.touch(sequence_word, sequence_word.last_seen(), sequence_word.state() | bits)
            && !old.is_finished()
            && let Some(Flow { numbers, source, .. }) = flow
        {
            there.advance(numbers, latest(numbers, entry.flow.numbers));
            // The new program allocates no source while the server may know the flow by another one.
            if entry.flow.source.is_allocated() && !source.is_allocated() {
                there.set_source(entry.flow.source);
            }
        }
    }
}

/// The later number of each side. If the new table has no number of the server, those of the old table are the
/// connection's.
const fn latest(new: SequenceNumbers, old: SequenceNumbers) -> SequenceNumbers {
    const fn later(new: u32, old: u32) -> u32 {
        if old.wrapping_sub(new) < 1 << 31 { old } else { new }
    }
    if new.server == 0 {
        return old;
    }
    SequenceNumbers { client: later(new.client, old.client), server: later(new.server, old.server) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{
        Address, Handle,
        flow::{ClientPath, idle_units, persistence_units},
        source::Source,
    };

    const CLOCK: Clock = Clock { now: 10_000 * HZ, hz: HZ };
    const HZ: u32 = 250;
    const SEED: u64 = 7;
    const IDLE: u32 = 900;
    const ESTABLISHED: u32 = state::ANSWERED | state::ASSURED;

    fn slots(len: usize) -> Vec<[SharedWord; WORDS]> {
        (0..len).map(|_| Default::default()).collect()
    }

    fn client(n: u16) -> Client {
        Client::new(&Address::v4([192, 0, 2, 1]), n, 6)
    }

    fn entry(client: Client, server: u32, silence: u32, bits: u32) -> Entry {
        let words = [const { SharedWord::new(0) }; WORDS];
        let there = FlowEntry::new(&words);
        let idle = if bits == state::AFFINITY { persistence_units(900) } else { idle_units(IDLE) };
        let flow = Flow { service: 1, backend: Handle::new(server, 1), ..Flow::default() };
        there.publish(there.sequence_word(), &client, &flow, CLOCK.now - silence * HZ, bits, idle);
        Entry { sequence_word: there.sequence_word(), client, flow }
    }

    /// Server id, seconds of silence and state bits, without `USED`, of the client's entry.
    fn summary(table: &FlowTable<'_>, client: &Client) -> Option<(u32, u32, u32)> {
        let (there, sequence_word) = table.find(&entry(*client, 0, 0, 0))?;
        Some((
            there.backend().id(),
            sequence_word.silence(CLOCK.now) / HZ,
            sequence_word.state() & !state::USED,
        ))
    }

    #[test]
    fn copy_to_a_larger_table_keeps_every_entry() {
        let (small, large) = (slots(1024), slots(4096));
        let (small, large) = (FlowTable::new(&small, SEED), FlowTable::new(&large, SEED));
        let affinity = Client::affinity(&Address::v4([192, 0, 2, 1]), 1);
        for n in 0..700 {
            assert!(small.insert(&entry(client(n), n.into(), u32::from(n), ESTABLISHED)), "{n}");
        }
        assert!(small.insert(&entry(affinity, 5, 600, state::AFFINITY)));
        assert_eq!(large.copy_from(small.slots, CLOCK, None), CopyResult { entries: 701, dropped: 0 });
        assert!(large.is_sound());
        for n in 0..700 {
            assert_eq!(summary(&large, &client(n)), Some((n.into(), n.into(), ESTABLISHED)));
        }
        assert_eq!(summary(&large, &affinity), Some((5, 600, state::AFFINITY)));
        // A second pass runs after the old program is replaced.
        assert_eq!(large.copy_from(small.slots, CLOCK, None), CopyResult { entries: 701, dropped: 0 });
        assert!(large.is_sound());
    }

    #[test]
    fn copied_flows_of_one_client_to_two_ports_of_a_range_stay_apart() {
        let (small, large) = (slots(64), slots(128));
        let (small, large) = (FlowTable::new(&small, SEED), FlowTable::new(&large, SEED));
        let at = |port: u16| {
            let entry = entry(client(1), port.into(), 0, ESTABLISHED);
            Entry { flow: Flow { port, ..entry.flow }, ..entry }
        };
        for port in [8000, 8001] {
            assert!(small.insert(&at(port)));
        }
        for _ in 0..2 {
            assert_eq!(large.copy_from(small.slots, CLOCK, None), CopyResult { entries: 2, dropped: 0 });
            for port in [8000, 8001] {
                let (there, _) = large.find(&at(port)).unwrap();
                assert_eq!((there.port(), there.backend().id()), (port, u32::from(port)));
            }
        }
        assert!(large.is_sound() && large.find(&at(8002)).is_none());
    }

    #[test]
    fn copy_to_a_smaller_table_counts_dropped_entries() {
        let (large, small) = (slots(1024), slots(64));
        let (large, small) = (FlowTable::new(&large, SEED), FlowTable::new(&small, SEED));
        for n in 0..200 {
            assert!(large.insert(&entry(client(n), 1, 0, ESTABLISHED)));
        }
        let migrated = small.copy_from(large.slots, CLOCK, None);
        assert_eq!(migrated.entries + migrated.dropped, 200);
        assert!((50..=64).contains(&migrated.entries), "{migrated:?}");
        assert!(small.is_sound());
    }

    #[test]
    fn copy_to_a_smaller_table_prefers_established_flows() {
        let (large, small) = (slots(1024), slots(64));
        let (large, small) = (FlowTable::new(&large, SEED), FlowTable::new(&small, SEED));
        for n in 0..400 {
            let bits =
                if n % 10 == 0 { ESTABLISHED } else { [0, state::RESET, state::ANSWERED][n as usize % 3] };
            assert!(large.insert(&entry(client(n), 1, 0, bits)));
        }
        small.copy_from(large.slots, CLOCK, None);
        assert!((0..400).step_by(10).all(|n| summary(&small, &client(n)) == Some((1, 0, ESTABLISHED))));
    }

    #[test]
    fn table_copy_skips_entries_that_a_gc_pass_would_erase() {
        let (old, new) = (slots(64), slots(128));
        let (old, new) = (FlowTable::new(&old, SEED), FlowTable::new(&new, SEED));
        let affinity = Client::affinity(&Address::v4([192, 0, 2, 1]), 1);
        for gone in [
            entry(client(1), 1, IDLE + 61, ESTABLISHED),
            entry(client(2), 1, 241, state::RESET),
            entry(affinity, 1, 1000, state::AFFINITY),
        ] {
            assert!(old.insert(&gone));
        }
        assert!(old.insert(&entry(client(3), 1, IDLE + 59, ESTABLISHED)));
        assert!(old.insert(&entry(client(4), 1, 239, state::RESET)));
        assert_eq!(new.copy_from(old.slots, CLOCK, None), CopyResult { entries: 2, dropped: 0 });
    }

    /// The last pass has few entries to copy.
    #[test]
    fn later_copy_pass_skips_unchanged_entries() {
        let (old, new) = (slots(64), slots(128));
        let (old, new) = (FlowTable::new(&old, SEED), FlowTable::new(&new, SEED));
        for n in 0..10 {
            assert!(old.insert(&entry(client(n), 1, n.into(), ESTABLISHED)));
        }
        assert_eq!(new.copy_from(old.slots, CLOCK, Some(4)), CopyResult { entries: 6, dropped: 0 });
        assert_eq!(summary(&new, &client(5)), Some((1, 5, ESTABLISHED)));
        assert_eq!(summary(&new, &client(6)), None);
    }

    /// A daemon was killed after it had copied the flow, and the next one continues minutes later.
    #[test]
    fn copied_flow_gets_its_new_client_path_and_idle_time() {
        let (old, new) = (slots(64), slots(128));
        let (old, new) = (FlowTable::new(&old, SEED), FlowTable::new(&new, SEED));
        let before = entry(client(1), 1, 300, ESTABLISHED);
        assert!(new.insert(&before));
        let mut since = entry(client(1), 1, 1, ESTABLISHED);
        since.flow.client = ClientPath::new(7, 9);
        since.sequence_word = {
            let words = [const { SharedWord::new(0) }; WORDS];
            let there = FlowEntry::new(&words);
            there.publish(
                there.sequence_word(),
                &since.client,
                &since.flow,
                CLOCK.now - HZ,
                ESTABLISHED,
                idle_units(60),
            );
            there.sequence_word()
        };
        assert!(old.insert(&since));
        new.copy_from(old.slots, CLOCK, None);
        let (there, sequence_word) = new.find(&since).expect("the flow");
        assert_eq!(there.read(sequence_word).map(|flow| flow.client), Some(since.flow.client));
        assert_eq!(sequence_word.units(), idle_units(60));
    }

    #[test]
    fn table_copy_keeps_the_more_advanced_sequence_numbers() {
        let cases = [
            // Entries of the old and the new table, and of the new one after the copy: state bits, numbers of client
            // and server.
            ("the old program saw the answer", (ESTABLISHED, [101, 501]), (0, [101, 0]), [101, 501]),
            (
                "the old program has seen more",
                (ESTABLISHED, [5, 90_000]),
                (ESTABLISHED, [u32::MAX - 9, 501]),
                [5, 90_000],
            ),
            (
                "the new program has seen more of one side",
                (ESTABLISHED, [101, 90_000]),
                (ESTABLISHED, [90_000, 501]),
                [90_000, 90_000],
            ),
            (
                "the connection has ended, and the port is used again",
                (ESTABLISHED | state::CLIENT_FIN | state::SERVER_FIN, [101, 501]),
                (0, [77, 0]),
                [77, 0],
            ),
        ];
        for (name, (before, old_numbers), (after, new_numbers), expected) in cases {
            let (old, new) = (slots(64), slots(128));
            let (old, new) = (FlowTable::new(&old, SEED), FlowTable::new(&new, SEED));
            let with = |bits, [of_client, of_server]: [u32; 2]| {
                let mut entry = entry(client(1), 1, 1, bits);
                entry.flow.numbers = SequenceNumbers { client: of_client, server: of_server };
                entry
            };
            assert!(old.insert(&with(before, old_numbers)));
            assert!(new.insert(&with(after, new_numbers)));
            new.copy_from(old.slots, CLOCK, None);
            let (there, sequence_word) = new.find(&with(0, [0; 2])).expect("the flow");
            let numbers = there.read(sequence_word).map(|flow| [flow.numbers.client, flow.numbers.server]);
            assert_eq!(numbers, Some(expected), "{name}");
        }
    }

    /// The new program has seen the next packet of a flow before it was copied, and has not allocated a source.
    #[test]
    fn table_copy_keeps_the_source_that_the_server_knows() {
        let allocated = |port| Source::candidate(3, port).allocated();
        let ended = ESTABLISHED | state::CLIENT_FIN | state::SERVER_FIN;
        for (bits, before, after, expected) in [
            (0, allocated(1), Source::NONE, allocated(1)),
            (0, allocated(1), Source::candidate(3, 2), allocated(1)),
            (0, allocated(1), allocated(2), allocated(2)),
            (0, Source::NONE, Source::NONE, Source::NONE),
            (ended, allocated(1), Source::NONE, Source::NONE),
        ] {
            let (old, new) = (slots(64), slots(128));
            let (old, new) = (FlowTable::new(&old, SEED), FlowTable::new(&new, SEED));
            let with = |bits, source| {
                let mut entry = entry(client(1), 1, 1, bits);
                entry.flow.source = source;
                entry
            };
            assert!(old.insert(&with(bits, before)));
            assert!(new.insert(&with(0, after)));
            new.copy_from(old.slots, CLOCK, None);
            let (there, _) = new.find(&with(0, Source::NONE)).expect("the flow");
            assert_eq!(there.source(), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn table_copy_merges_entries_of_both_tables() {
        let both = state::CLIENT_FIN | state::SERVER_FIN;
        let cases = [
            // Entries of the old and the new table, and of the new one after the copy: server, seconds of silence,
            // state bits.
            (
                "the old program saw the end",
                (1, 1, ESTABLISHED | both),
                (1, 5, ESTABLISHED),
                (1, 1, ESTABLISHED | both),
            ),
            (
                "the new program saw the end",
                (1, 5, ESTABLISHED),
                (1, 1, ESTABLISHED | both),
                (1, 1, ESTABLISHED | both),
            ),
            ("the old program saw the answer", (1, 1, ESTABLISHED), (1, 1, 0), (1, 1, ESTABLISHED)),
            ("the ports are used again", (1, 2, ESTABLISHED | both), (1, 1, 0), (1, 1, ESTABLISHED)),
            ("at another server", (1, 1, ESTABLISHED | both), (2, 1, 0), (2, 1, 0)),
            ("a packet came first", (1, 1, ESTABLISHED), (2, 0, state::PICKED_UP), (1, 1, ESTABLISHED)),
            ("at another server since", (2, 1, ESTABLISHED), (1, 5, ESTABLISHED), (2, 1, ESTABLISHED)),
            (
                "the ports are used again since",
                (1, 1, ESTABLISHED),
                (1, 5, ESTABLISHED | both),
                (1, 1, ESTABLISHED),
            ),
            (
                "picked up by both",
                (1, 1, state::PICKED_UP),
                (1, 0, state::PICKED_UP),
                (1, 0, state::PICKED_UP),
            ),
        ];
        for (name, before, after, expected) in cases {
            let (old, new) = (slots(64), slots(128));
            let (old, new) = (FlowTable::new(&old, SEED), FlowTable::new(&new, SEED));
            assert!(old.insert(&entry(client(1), before.0, before.1, before.2)));
            assert!(new.insert(&entry(client(1), after.0, after.1, after.2)));
            assert_eq!(new.copy_from(old.slots, CLOCK, None), CopyResult { entries: 1, dropped: 0 });
            assert_eq!(summary(&new, &client(1)), Some(expected), "{name}");
            assert!(new.is_sound(), "{name}");
        }
    }
}
