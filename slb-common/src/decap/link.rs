//! The Ethernet header, moved from before the outer packet to before the inner one.

use crate::{
    abi::Mac,
    net::{
        ethernet::{ETHERNET_TYPE, UNTAGGED},
        frame::Frame,
        headers::{EthernetAddresses, VlanTag},
    },
};

/// A type and the tag it announces.
type Tag = [u8; 4];

/// Writes the header of the packet at `network`, with its VLAN tags, before the packet at `inner`, and returns how many
/// bytes then lie before it.
///
/// The old place and the new one may overlap: everything is read before anything is written.
#[inline(always)]
pub(super) fn move_header(
    frame: &mut Frame<'_>,
    network: usize,
    inner: usize,
    ether_type: u16,
) -> Option<usize> {
    let cut = inner.checked_sub(network)?;
    let addresses = frame.header::<EthernetAddresses>(0)?;
    let (destination, source) = (Mac::new(addresses.destination), Mac::new(addresses.source));
    let tags = network.checked_sub(UNTAGGED)? / size_of::<VlanTag>();
    let first = if tags > 0 { u32::from_ne_bytes(*frame.header::<Tag>(ETHERNET_TYPE)?) } else { 0 };
    let second = if tags > 1 { u32::from_ne_bytes(*frame.header::<Tag>(ETHERNET_TYPE + 4)?) } else { 0 };

    let addresses = frame.header_mut::<EthernetAddresses>(cut)?;
    addresses.destination = destination.bytes();
    addresses.source = source.bytes();
    if tags > 0 {
        *frame.header_mut::<Tag>(cut + ETHERNET_TYPE)? = first.to_ne_bytes();
    }
    if tags > 1 {
        *frame.header_mut::<Tag>(cut + ETHERNET_TYPE + 4)? = second.to_ne_bytes();
    }
    *frame.header_mut::<[u8; 2]>(inner - 2)? = ether_type.to_ne_bytes();
    Some(cut)
}
