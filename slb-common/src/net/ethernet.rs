//! The Ethernet header and its VLAN tags.
//!
//! `parse` walks them itself: through [`network`], LLVM 22 has the daemon's program store a register that was never
//! written, which the verifier refuses.

use super::{
    frame::{Frame, Growing},
    headers::{EthernetAddresses, VlanTag, ether_type},
};

/// Offset of the network header in a frame without VLAN tag.
pub const UNTAGGED: usize = ETHERNET_TYPE + 2;

/// VLAN tags that are walked.
pub const MAX_VLAN_TAGS: usize = 2;

/// Offset of the first type field.
pub const ETHERNET_TYPE: usize = size_of::<EthernetAddresses>();

/// Whether a hardware address, as the first bytes of a frame in the lower 48 bits, is one of a group of stations (IEEE 802, 8.2.2).
#[inline(always)]
pub const fn is_group(mac: u64) -> bool {
    mac.to_ne_bytes()[0] & 1 != 0
}

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

/// Takes the priority tags off (IEEE 802.1Q, table 9-2). `None` if that cannot be done: the frame is of no use then.
#[inline(always)]
pub fn remove_priority_tags<G: Growing>(head: &mut G) -> Option<()> {
    // The inner tag first: then the outer one is still where it was.
    remove_priority_tag::<G, { ETHERNET_TYPE + size_of::<VlanTag>() }>(head)?;
    remove_priority_tag::<G, ETHERNET_TYPE>(head)
}

/// Takes the tag off whose type lies at `AT`, if it is a priority tag.
#[inline(always)]
fn remove_priority_tag<G: Growing, const AT: usize>(head: &mut G) -> Option<()> {
    let frame = &mut head.frame();
    if !is_tag(frame, ETHERNET_TYPE)?
        || !is_tag(frame, AT)?
        || !frame.header::<VlanTag>(AT + 2)?.is_priority()
    {
        return Some(());
    }
    // What lies before it moves, the last word first.
    let mut end = AT;
    while end > 0 {
        let word = *frame.header::<[u8; 4]>(end - 4)?;
        *frame.header_mut::<[u8; 4]>(end)? = word;
        end -= 4;
    }
    if head.shrink(size_of::<VlanTag>()) { Some(()) } else { None }
}

#[inline(always)]
fn is_tag(frame: &Frame<'_>, at: usize) -> Option<bool> {
    let kind = u16::from_ne_bytes(*frame.header::<[u8; 2]>(at)?);
    Some(kind == ether_type::VLAN || kind == ether_type::SERVICE_VLAN)
}
