//! The Ethernet header and its VLAN tags.
//!
//! `parse` walks them itself: through [`network`], LLVM 22 has the daemon's program store a register that was never
//! written, which the verifier refuses.

use super::{
    frame::Frame,
    headers::{EthernetAddresses, VlanTag, ether_type},
};

/// Offset of the network header in a frame without VLAN tag.
pub const UNTAGGED: usize = ETHERNET_TYPE + 2;

/// VLAN tags that are walked.
pub const MAX_VLAN_TAGS: usize = 2;

/// Offset of the first type field.
pub const ETHERNET_TYPE: usize = size_of::<EthernetAddresses>();

/// Returns the type behind up to two VLAN tags (IEEE 802.1Q, 9.6), as it stands in the frame, and the offset behind it;
/// `None` where the frame ends before.
#[inline(always)]
pub fn network(frame: &Frame<'_>) -> Option<(u16, usize)> {
    let mut kind = u16::from_ne_bytes(*frame.header::<[u8; 2]>(ETHERNET_TYPE)?);
    let mut offset = UNTAGGED;
    for _ in 0..MAX_VLAN_TAGS {
        if kind != ether_type::VLAN && kind != ether_type::SERVICE_VLAN {
            break;
        }
        kind = u16::from_ne_bytes(frame.header::<VlanTag>(offset)?.ether_type);
        offset += size_of::<VlanTag>();
    }
    Some((kind, offset))
}
