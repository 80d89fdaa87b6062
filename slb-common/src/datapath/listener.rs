//! Finds the listener of a packet: that of its port, else the narrowest port range.

use super::path_calls::PathCalls;
use crate::{
    abi::{
        Address,
        service::{IndexEntry, NO_SLOT, ServiceIndex},
    },
    opaque::forget,
};

/// The listener at an endpoint; `port` is in network byte order. With `FAST` a listener of this port alone is found without
/// a call.
#[inline(always)]
pub(super) fn find<'t, const FAST: bool, T: PathCalls>(
    index: &'t ServiceIndex,
    address: &Address,
    port: u16,
    protocol: u8,
    maps: &T,
) -> Option<&'t IndexEntry> {
    let slot = if !FAST {
        maps.listener_slot(index, address, port, protocol)
    } else {
        match index.find_slot(address, port, protocol) {
            NO_SLOT if index.has_ranges() => maps.find_range(index, address, port, protocol),
            slot => slot,
        }
    };
    // One entry of unknown place: the verifier follows the code behind it once.
    index.entry(forget(slot, index.seed))
}
