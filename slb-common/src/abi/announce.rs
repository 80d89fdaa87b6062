//! VIPs that the program `slb_answer` answers ARP (RFC 826) and neighbour solicitations (RFC 4861) for. Its map is not
//! pinned: the program, which stays on the interfaces, keeps it.

use super::Address;

/// Most announced VIPs; one counts for each interface.
pub const MAX_ANNOUNCED: usize = 16_384;

/// A VIP at an interface.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnnouncedVip {
    /// The VIP.
    pub address: Address,
    /// Index of the interface.
    pub interface: u32,
    /// Zero.
    pub reserved: u32,
}

impl AnnouncedVip {
    /// A VIP at the interface with this index.
    #[inline(always)]
    pub const fn new(address: Address, interface: u32) -> Self {
        Self { address, interface, reserved: 0 }
    }
}

/// What is answered for a VIP, and how often it was.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Announcement {
    /// Hardware address of the interface.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
    /// Answers that were sent.
    pub answers: u64,
}
