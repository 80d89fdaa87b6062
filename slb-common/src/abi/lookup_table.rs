//! Server tables: slot -> server.

use super::ids::{BackendId, TableId};
use crate::opaque::opaque;

/// Most slots of a table, a prime.
pub const MAX_LOOKUP_TABLE_SLOTS: u32 = 65_537;
/// The id in a slot without a server.
pub const NO_BACKEND: u32 = BackendId::NONE.index();
/// The index of no table.
pub const NO_LOOKUP_TABLE: u32 = TableId::NONE.index();
/// Bit of a slot's word: the slot migrates. Some of its flows may be with another server than its current backend.
pub const MIGRATING: u32 = 1 << 31;

const ID: u32 = 0x00ff_ffff;
/// Bits of a slot's word: how many of the next slots have the same server, up to 127.
const RUN: u32 = !(MIGRATING | ID);
const RUN_SHIFT: u32 = RUN.trailing_zeros();
/// Greatest number of next slots that a word can hold.
#[cfg(any(test, feature = "user"))]
const MAX_RUN: u32 = RUN >> RUN_SHIFT;
const STORED_SLOTS: usize = MAX_LOOKUP_TABLE_SLOTS as usize + 3;

/// A server table. The daemon builds a new one, activates it by one pointer write, and never changes it after that.
///
/// While slots migrate, a second table of the same size names their previous backends.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct LookupTable {
    /// Slots in use, a prime; 0 while no server may be selected.
    pub size: u32,
    /// Index of the table of previous backends, for slots with [`MIGRATING`].
    pub previous_backends: u32,
    /// Words of the slots: id of a server or [`NO_BACKEND`], and [`MIGRATING`]. With round robin also the number of
    /// next slots with the same server.
    pub slots: [u32; STORED_SLOTS],
}

/// The word of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u32);

impl LookupTable {
    /// A table without servers. On the heap: it is too large for a stack.
    #[cfg(any(test, feature = "user"))]
    pub fn empty() -> Box<Self> {
        // SAFETY: integers, for which zero is valid.
        let mut lookup_table: Box<Self> = unsafe { Box::new_zeroed().assume_init() };
        lookup_table.previous_backends = NO_LOOKUP_TABLE;
        lookup_table.slots.fill(NO_BACKEND);
        lookup_table
    }

    /// Writes to each slot in use how many of the next ones have the same server. Servers with a high weight may have
    /// long runs.
    #[cfg(any(test, feature = "user"))]
    pub fn write_run_lengths(&mut self) {
        let slots = &mut self.slots[..self.size as usize];
        let mut next = slots.first().map_or(NO_BACKEND, |slot| current_backend(*slot));
        let mut run = 0;
        // The first slot follows the last one, so runs at the end are known in the second round.
        for _ in 0..2 {
            for slot in slots.iter_mut().rev() {
                run = if current_backend(*slot) == next { MAX_RUN.min(run + 1) } else { 0 };
                next = current_backend(*slot);
                *slot = *slot & !RUN | run << RUN_SHIFT;
            }
        }
    }

    /// The slots in use.
    #[cfg(any(test, feature = "user"))]
    pub fn in_use(&self) -> &[u32] {
        &self.slots[..self.size as usize]
    }

    /// The current backends of the slots in use.
    #[cfg(any(test, feature = "user"))]
    pub fn current_backends(&self) -> impl ExactSizeIterator<Item = BackendId> + '_ {
        self.in_use().iter().map(|slot| BackendId::new(current_backend(*slot)))
    }

    /// The slot of a flow with this hash; below [`MAX_LOOKUP_TABLE_SLOTS`]. 64 bits wide, or the verifier loses its
    /// bounds.
    ///
    /// A multiplication scales the upper half of the hash to the table, which costs less than a remainder.
    #[inline(always)]
    pub const fn slot_of(size: u32, hash: u64) -> u64 {
        ((hash >> 32) * (size as u64)) >> 32
    }

    /// The word of a slot.
    #[inline(always)]
    pub fn slot(&self, slot: u64) -> Slot {
        let slot = opaque(slot);
        if slot >= u64::from(MAX_LOOKUP_TABLE_SLOTS) {
            Slot(NO_BACKEND)
        } else {
            Slot(self.slots[slot as usize])
        }
    }
}

/// Id of the server in a slot's word, or [`NO_BACKEND`].
pub const fn current_backend(slot: u32) -> u32 {
    slot & ID
}

impl Slot {
    /// Id of the server; `None` if there is none.
    #[inline(always)]
    pub const fn server(self) -> Option<u32> {
        let id = current_backend(self.0);
        if id == NO_BACKEND { None } else { Some(id) }
    }

    /// Distance to the next slot with another server, at most 128. Without round robin always 1.
    #[inline(always)]
    pub const fn next(self) -> u64 {
        ((self.0 & RUN) >> RUN_SHIFT) as u64 + 1
    }

    /// Whether the slot migrates: flows of it may be with another server.
    #[inline(always)]
    pub const fn is_migrating(self) -> bool {
        self.0 & MIGRATING != 0
    }
}

const _: () = assert!(size_of::<LookupTable>() <= 263_000);
const _: () = assert!(super::MAX_BACKENDS <= NO_BACKEND);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_to_next_backend_wraps_around_and_is_at_most_128() {
        let mut lookup_table = LookupTable::empty();
        lookup_table.size = 300;
        lookup_table.slots[..300].fill(7);
        lookup_table.slots[140] = 8;
        lookup_table.slots[141] = 9 | MIGRATING;
        lookup_table.write_run_lengths();
        let next = |slot| lookup_table.slot(slot).next();
        assert_eq!((next(139), next(140), next(141)), (1, 1, 1));
        // Slots 142 to 299 and 0 to 139 are one run.
        assert_eq!((next(138), next(20), next(12), next(0), next(299)), (2, 120, 128, 128, 128));
        assert_eq!([7, 140, 141].map(|slot| lookup_table.slot(slot).server()), [Some(7), Some(8), Some(9)]);
        assert_eq!([140, 141].map(|slot| lookup_table.slot(slot).is_migrating()), [false, true]);
        let noted = lookup_table.slots;
        lookup_table.write_run_lengths();
        assert!(lookup_table.slots == noted, "noted twice");
    }
}
