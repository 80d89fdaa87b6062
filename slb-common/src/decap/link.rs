//! Moves the Ethernet header from the outer to the inner packet.

use crate::{
    abi::decap::DecapPolicy,
    net::{
        ethernet::{ETHERNET_TYPE, UNTAGGED},
        frame::Frame,
        headers::VlanTag,
    },
};

/// Writes the Ethernet header of the packet at `network`, with its VLAN tags, before the packet at `inner`. Returns the
/// number of bytes before it. `None` if the frame is truncated.
///
/// The old and the new header may overlap, so all reads precede all writes. Words are used because byte arrays would be
/// copied byte by byte.
#[inline(always)]
pub(super) fn move_header(
    frame: &mut Frame<'_>,
    network: usize,
    inner: usize,
    ether_type: u16,
    policy: &DecapPolicy,
) -> Option<usize> {
    let tags = network.checked_sub(UNTAGGED)? / size_of::<VlanTag>();
    // The compiler knows bounds of the new offset from earlier comparisons; the verifier does not. So they are checked
    // again.
    let cut = policy.forget(inner.checked_sub(network)?);
    let type_at = policy.forget(inner.checked_sub(size_of::<u16>())?);

    let addresses = (read(frame, 0)?, read(frame, 4)?, read(frame, 8)?);
    // A type and the tag behind it.
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
