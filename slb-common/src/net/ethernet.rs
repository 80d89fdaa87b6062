//! The Ethernet header and its VLAN tags.
//!
//! `parse` reads the tags itself, not by [`network`]: LLVM 22 would have the daemon's program store a register that was
//! never written, which the verifier refuses.

use super::{
    frame::{Frame, FrameBuffer},
    headers::{EthernetAddresses, VlanTag, ether_type},
};

/// Offset of the network header in a frame without VLAN tag.
pub const UNTAGGED: usize = ETHERNET_TYPE + 2;

/// Most VLAN tags that are read.
pub const MAX_VLAN_TAGS: usize = 2;

/// Offset of the first type field.
pub const ETHERNET_TYPE: usize = size_of::<EthernetAddresses>();

/// Whether a hardware address is a group address (IEEE 802, 8.2.2). It is in the lower 48 bits, in the byte order of a
/// frame.
#[inline(always)]
pub const fn is_group(mac: u64) -> bool {
    mac.to_ne_bytes()[0] & 1 != 0
}

/// The type behind up to two VLAN tags (IEEE 802.1Q, 9.6), in network byte order, and the offset behind it. `None` if
/// the frame is truncated.
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

/// Length of the priority tags (IEEE 802.1Q, table 9-2) of a frame in bytes. `None` if the frame is truncated.
#[inline(always)]
pub fn priority_tags_len(frame: &Frame<'_>) -> Option<usize> {
    let (mut offset, mut len) = (ETHERNET_TYPE, 0);
    for _ in 0..MAX_VLAN_TAGS {
        if !is_tag(frame, offset)? {
            break;
        }
        if frame.header::<VlanTag>(offset + 2)?.is_priority() {
            len += size_of::<VlanTag>();
        }
        offset += size_of::<VlanTag>();
    }
    Some(len)
}

/// Removes priority tags (IEEE 802.1Q, table 9-2). After `None` the frame must be dropped.
#[inline(always)]
pub fn remove_priority_tags<G: FrameBuffer>(head: &mut G) -> Option<()> {
    // The inner tag first, so that the outer one keeps its offset.
    remove_priority_tag::<G, { ETHERNET_TYPE + size_of::<VlanTag>() }>(head)?;
    remove_priority_tag::<G, ETHERNET_TYPE>(head)
}

/// Removes the tag whose type is at the offset `AT`, if it is a priority tag.
#[inline(always)]
fn remove_priority_tag<G: FrameBuffer, const AT: usize>(head: &mut G) -> Option<()> {
    let frame = &mut head.frame();
    if !is_tag(frame, ETHERNET_TYPE)?
        || !is_tag(frame, AT)?
        || !frame.header::<VlanTag>(AT + 2)?.is_priority()
    {
        return Some(());
    }
    // Moves the bytes before the tag, the last word first.
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
