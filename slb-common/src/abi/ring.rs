//! The table that says which server a new flow gets.

/// The largest table, a prime.
pub const MAX_RING_SLOTS: u32 = 65_537;
/// A slot without a server.
pub const NO_BACKEND: u16 = u16::MAX;

const STORED_SLOTS: usize = MAX_RING_SLOTS as usize + 3;

/// A server table: slot -> index of a server. Filled aside, put in force by one pointer write, never changed after.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    /// Slots in use, a prime; 0 while no server may be chosen.
    pub size: u32,
    /// Keeps the slots aligned.
    pub reserved: u32,
    /// Index of a server, or [`NO_BACKEND`].
    pub slots: [u16; STORED_SLOTS],
}

impl Ring {
    /// The server of a flow with this hash, if the table has one.
    ///
    /// The upper half of the hash is scaled to the table by a multiplication, which costs less than a remainder.
    #[inline(always)]
    pub fn server(&self, hash: u64) -> Option<u32> {
        let slot = ((hash >> 32) * u64::from(self.size)) >> 32;
        // Tighter than the array is long: the verifier's bound of twice the slot is off by one.
        if slot >= u64::from(MAX_RING_SLOTS) {
            return None;
        }
        match self.slots[slot as usize] {
            NO_BACKEND => None,
            server => Some(u32::from(server)),
        }
    }
}

const _: () = assert!(size_of::<Ring>() == 131_088);
