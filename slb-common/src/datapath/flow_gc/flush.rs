//! Flush: erases the entries that an administrator chooses, a range of slots at a time.

use std::ops::Range;

use super::{FlowTable, GcEntry, SlotContent};

/// Reads of an entry that packets keep changing before it is given up.
const TRIES: u32 = 16;

/// Result of a flush.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct FlushResult {
    /// Entries that were erased; in a dry run, that would be.
    pub erased: usize,
    /// Entries that stayed locked, or changed before each attempt. They remain in the table, and may be among those to
    /// erase.
    pub locked: usize,
}

impl FlowTable<'_> {
    /// Erases the entries in `slots` that `selects` accepts: flows and affinity entries. Without `erases` it only
    /// counts them. A locked entry stays: only its writer unlocks it.
    pub fn flush(
        &self,
        slots: Range<u32>,
        erases: bool,
        selects: &mut dyn FnMut(&GcEntry<'_>) -> bool,
    ) -> FlushResult {
        let mut flushed = FlushResult::default();
        for slot in slots.start..slots.end.min(self.len()) {
            match self.flush_one(slot, erases, selects) {
                Some(true) => flushed.erased += 1,
                Some(false) => {}
                None => flushed.locked += 1,
            }
        }
        flushed
    }

    /// Whether the entry was to be erased, and has been. `None` if it stays locked or keeps changing.
    fn flush_one(
        &self,
        slot: u32,
        erases: bool,
        selects: &mut dyn FnMut(&GcEntry<'_>) -> bool,
    ) -> Option<bool> {
        for _ in 0..TRIES {
            let (sequence_word, client, flow) = match self.read(slot) {
                // The next GC pass releases an entry that a killed daemon left locked.
                SlotContent::Free | SlotContent::Abandoned(_) => return Some(false),
                SlotContent::Locked => return None,
                SlotContent::Used(sequence_word, client, flow) => (sequence_word, client, flow),
            };
            if !selects(&GcEntry { sequence_word, client: &client, flow: &flow, age: None }) {
                return Some(false);
            }
            if !erases || self.erase(slot, sequence_word) {
                return Some(true);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{client, table},
        *,
    };
    use crate::abi::flow::state;

    const SEED: u64 = 7;

    /// Ports of the clients of all entries, sorted.
    fn ports(table: &FlowTable<'_>) -> Vec<u16> {
        let mut ports = Vec::new();
        table.flush(0..u32::MAX, false, &mut |seen| {
            ports.push(seen.client.parts().1);
            false
        });
        ports.sort_unstable();
        ports
    }

    #[test]
    fn flush_erases_chosen_entries_of_a_range_and_their_hop_bits() {
        let slots = table(40, state::ASSURED);
        let table = FlowTable::new(&slots, SEED);
        let mut odd = |seen: &GcEntry<'_>| seen.client.parts().1 % 2 == 1;
        let whole = FlushResult { erased: 20, locked: 0 };
        assert_eq!(table.flush(0..64, false, &mut odd), whole, "counted");
        assert_eq!(ports(&table).len(), 40, "and not erased");
        let parts = [0..20, 20..64, 64..1000].map(|part| table.flush(part, true, &mut odd).erased);
        assert_eq!((parts.iter().sum::<usize>(), parts[2]), (20, 0));
        assert!(table.is_sound());
        assert_eq!(ports(&table), (0..40).step_by(2).collect::<Vec<_>>());
    }

    /// The writer continues later, and unlocks the entry.
    #[test]
    fn flush_leaves_locked_entries_to_their_writers() {
        let slots = table(40, state::ASSURED);
        let table = FlowTable::new(&slots, SEED);
        let slot = (0..64).find(|slot| table.at(*slot).sequence_word().is_used()).unwrap();
        let (entry, sequence_word) = (table.at(slot), table.at(slot).sequence_word());
        let (client, flow) = (entry.client(), entry.read(sequence_word).unwrap());
        assert!(entry.lock(sequence_word));
        assert_eq!(table.flush(0..64, true, &mut |_| true), FlushResult { erased: 39, locked: 1 });
        entry.publish(sequence_word, &client, &flow, 9, state::ASSURED, 1);
        assert_eq!(ports(&table), [client.parts().1]);
        assert!(table.is_sound());
        assert_eq!(table.flush(0..64, true, &mut |_| true), FlushResult { erased: 1, locked: 0 });
        assert!(table.is_sound());
    }

    #[test]
    fn flush_rereads_an_entry_that_changed_before_erasure() {
        let slots = table(1, 0);
        let table = FlowTable::new(&slots, SEED);
        let assures = |seen: &GcEntry<'_>| {
            let is_one = seen.sequence_word.state() & state::ASSURED == 0;
            let slot = (0..64).find(|slot| table.at(*slot).sequence_word().is_used()).unwrap();
            // A packet changes the entry after it was read.
            table.at(slot).touch(seen.sequence_word, 5, seen.sequence_word.state() | state::ASSURED);
            is_one
        };
        assert_eq!(table.flush(0..64, true, &mut { assures }), FlushResult::default());
        assert_eq!(ports(&table), [client(0).parts().1]);
        let changes = |seen: &GcEntry<'_>| {
            let slot = (0..64).find(|slot| table.at(*slot).sequence_word().is_used()).unwrap();
            table.at(slot).touch(
                seen.sequence_word,
                seen.sequence_word.last_seen() + 1,
                seen.sequence_word.state(),
            )
        };
        assert_eq!(table.flush(0..64, true, &mut { changes }), FlushResult { erased: 0, locked: 1 });
    }
}
