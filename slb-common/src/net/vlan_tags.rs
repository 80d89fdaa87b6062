//! Rewrites VLAN tags (IEEE 802.1Q, 9.6).

use super::{
    ethernet::{ETHERNET_TYPE, MAX_VLAN_TAGS},
    frame::FrameBuffer,
    headers::{VlanTag, ether_type},
    vlan::Vlan,
};

/// Words of the two hardware addresses, which lie before the tags.
const MAC_WORDS: usize = ETHERNET_TYPE / size_of::<VlanTag>();

/// Replaces the VLAN tags of a frame by that of `vlan`, with priority 0; by none for [`Vlan::NONE`]. After `None` the
/// frame must be dropped: it is truncated, or there is no headroom.
#[inline(always)]
pub fn set_vlan<G: FrameBuffer>(head: &mut G, vlan: Vlan) -> Option<()> {
    for _ in 0..MAX_VLAN_TAGS {
        remove_tag(head)?;
    }
    if vlan.is_none() {
        return Some(());
    }
    if !head.grow(size_of::<VlanTag>()) {
        return None;
    }
    let frame = &mut head.frame();
    for word in 0..MAC_WORDS {
        let at = word * size_of::<VlanTag>();
        let bytes = *frame.header::<[u8; 4]>(at + size_of::<VlanTag>())?;
        *frame.header_mut::<[u8; 4]>(at)? = bytes;
    }
    let kind = if vlan.is_service() { ether_type::SERVICE_VLAN } else { ether_type::VLAN };
    *frame.header_mut::<[u8; 2]>(ETHERNET_TYPE)? = kind.to_ne_bytes();
    *frame.header_mut::<[u8; 2]>(ETHERNET_TYPE + 2)? = vlan.id().to_be_bytes();
    Some(())
}

/// Removes the outer tag, if there is one.
#[inline(always)]
fn remove_tag<G: FrameBuffer>(head: &mut G) -> Option<()> {
    let frame = &mut head.frame();
    let kind = u16::from_ne_bytes(*frame.header::<[u8; 2]>(ETHERNET_TYPE)?);
    if kind != ether_type::VLAN && kind != ether_type::SERVICE_VLAN {
        return Some(());
    }
    // The last word first, as each is moved over the next one.
    for word in (0..MAC_WORDS).rev() {
        let at = word * size_of::<VlanTag>();
        let bytes = *frame.header::<[u8; 4]>(at)?;
        *frame.header_mut::<[u8; 4]>(at + size_of::<VlanTag>())? = bytes;
    }
    if head.shrink(size_of::<VlanTag>()) { Some(()) } else { None }
}
