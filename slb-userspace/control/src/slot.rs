//! Slots of a server table.

use std::fmt;

/// Index of a slot of a server table, below
/// [`MAX_LOOKUP_TABLE_SLOTS`](slb_common::abi::lookup_table::MAX_LOOKUP_TABLE_SLOTS).
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

impl Slot {
    /// The slot at `index`.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// All slots in order, without an end: for iterating next to a table.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self)
    }

    /// Its position in a list of all slots.
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
