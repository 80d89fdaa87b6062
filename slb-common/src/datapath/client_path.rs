//! Client paths (mode `nat`): replies take the kernel's route to the client, not the way back to the sender of the last
//! packet.
//!
//! The slow path looks the route up (`bpf_fib_lookup`) when a flow begins, and when its packets arrive from elsewhere.
//! While a client is silent, the daemon updates the entry from the kernel's routes and neighbours.

use super::maps::Maps;
use crate::abi::flow::ClientPath;

/// The path to a client. `route` is the kernel's: 0 if packets can take no route, hardware address 0 while the
/// neighbour is not resolved. `arrival` is where the client's packet came from.
#[inline(always)]
pub(super) fn choose<T: Maps>(route: ClientPath, arrival: ClientPath, maps: &T) -> ClientPath {
    if route.0 == 0 {
        return arrival;
    }
    if !is_same_group(route.interface(), arrival.interface(), maps) {
        return route;
    }
    // Replies leave through the bond member that the packet arrived on. While the neighbour is not resolved, the
    // packet's sender stands in for it.
    let mac = if route.mac() == 0 { arrival.mac() } else { route.mac() };
    ClientPath::new(arrival.interface(), mac)
}

/// Whether two interfaces belong to one group. Takes their slots in the interface table.
#[inline(always)]
fn is_same_group<T: Maps>(a: u32, b: u32, maps: &T) -> bool {
    match (maps.interface_at(a), maps.interface_at(b)) {
        (Some(a), Some(b)) => a.group() == b.group(),
        _ => a == b,
    }
}
