//! The table that says which server a flow gets.

use crate::opaque::opaque;

/// The largest table, a prime.
pub const MAX_RING_SLOTS: u32 = 65_537;
/// The id of a slot without a server.
pub const NO_BACKEND: u32 = 0x00ff_ffff;
/// The index of a table that is not there.
pub const NO_RING: u32 = u32::MAX;
/// In a slot: it has changed hands, and some of its flows may be with another server than the one it names.
pub const MOVED: u32 = 1 << 31;

const ID: u32 = 0x00ff_ffff;
const STORED_SLOTS: usize = MAX_RING_SLOTS as usize + 3;

/// A server table: slot -> index of a server. Filled aside, put in force by one pointer write, never changed after.
///
/// While slots have changed hands there is a second one, of the same size, that names their keepers: the servers of
/// flows begun before the change.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    /// Slots in use, a prime; 0 while no server may be chosen.
    pub size: u32,
    /// Index of the table of keepers, where a slot is [`MOVED`].
    pub keepers: u32,
    /// Index of a server, or [`NO_BACKEND`]; and [`MOVED`].
    pub slots: [u32; STORED_SLOTS],
}

/// What a table says of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u32);

impl Ring {
    /// A table without servers, made where it stays: it is too large for a stack.
    #[cfg(any(test, feature = "user"))]
    pub fn empty() -> Box<Self> {
        // SAFETY: integers, for which zero is valid.
        let mut ring: Box<Self> = unsafe { Box::new_zeroed().assume_init() };
        ring.keepers = NO_RING;
        ring.slots.fill(NO_BACKEND);
        ring
    }

    /// The slots in use.
    #[cfg(any(test, feature = "user"))]
    pub fn in_use(&self) -> &[u32] {
        &self.slots[..self.size as usize]
    }

    /// The slot of a flow with this hash; below [`MAX_RING_SLOTS`]. Of 64 bits, or the verifier loses what it knows of it.
    ///
    /// The upper half of the hash is scaled to the table by a multiplication, which costs less than a remainder.
    #[inline(always)]
    pub const fn slot_of(size: u32, hash: u64) -> u64 {
        ((hash >> 32) * (size as u64)) >> 32
    }

    /// What the table says of a slot.
    #[inline(always)]
    pub fn slot(&self, slot: u64) -> Slot {
        let slot = opaque(slot);
        if slot >= u64::from(MAX_RING_SLOTS) { Slot(NO_BACKEND) } else { Slot(self.slots[slot as usize]) }
    }
}

impl Slot {
    /// The server, if there is one.
    #[inline(always)]
    pub const fn server(self) -> Option<u32> {
        let id = self.0 & ID;
        if id == NO_BACKEND { None } else { Some(id) }
    }

    /// Whether the slot has changed hands and flows of it may be elsewhere.
    #[inline(always)]
    pub const fn has_moved(self) -> bool {
        self.0 & MOVED != 0
    }
}

const _: () = assert!(size_of::<Ring>() <= 263_000);
const _: () = assert!(super::MAX_BACKENDS <= NO_BACKEND);
