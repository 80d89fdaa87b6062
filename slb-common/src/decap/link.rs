//! The Ethernet header, moved from before the outer packet to before the inner one.

use crate::{
    abi::decap::Policy,
    net::{
        ethernet::{ETHERNET_TYPE, UNTAGGED},
        frame::Frame,
        headers::VlanTag,
    },
};

/// Writes the header of the packet at `network`, with its VLAN tags, before the packet at `inner`, and returns how many
/// bytes then lie before it.
///
/// The old place and the new one may overlap: everything is read before anything is written, word by word, for arrays of
/// bytes would be copied byte by byte.
#[inline(always)]
pub(super) fn move_header(
    frame: &mut Frame<'_>,
    network: usize,
    inner: usize,
    ether_type: u16,
    policy: &Policy,
) -> Option<usize> {
    let tags = network.checked_sub(UNTAGGED)? / size_of::<VlanTag>();
    // What the compiler knows of the new place by comparisons made before, the verifier does not: they are made again.
    let cut = policy.hide(inner.checked_sub(network)?);
    let type_at = policy.hide(inner.checked_sub(size_of::<u16>())?);

    let addresses = (read(frame, 0)?, read(frame, 4)?, read(frame, 8)?);
    // A type and the tag it announces.
    let first = if tags > 0 { read(frame, ETHERNET_TYPE)? } else { 0 };
    let second = if tags > 1 { read(frame, ETHERNET_TYPE + 4)? } else { 0 };

    write(frame, cut, addresses.0)?;
    write(frame, cut + 4, addresses.1)?;
    write(frame, cut + 8, addresses.2)?;
    if tags > 0 {
        write(frame, cut + ETHERNET_TYPE, first)?;
    }
    if tags > 1 {
        write(frame, cut + ETHERNET_TYPE + 4, second)?;
    }
    *frame.header_mut::<[u8; 2]>(type_at)? = ether_type.to_ne_bytes();
    Some(cut)
}

#[inline(always)]
fn read(frame: &Frame<'_>, at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*frame.header::<[u8; 4]>(at)?))
}

#[inline(always)]
fn write(frame: &mut Frame<'_>, at: usize, word: u32) -> Option<()> {
    *frame.header_mut::<[u8; 4]>(at)? = word.to_ne_bytes();
    Some(())
}
