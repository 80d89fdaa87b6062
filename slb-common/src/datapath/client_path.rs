//! The path of answers to a client (mode `nat`): the next hop of the kernel's route, not the sender of the last packet.
//!
//! The kernel is asked in the slow path, when a flow begins and when its packets come from elsewhere (`bpf_fib_lookup`). While a client
//! is silent, the daemon has the entry follow the kernel's routes and neighbours.

use super::tables::Tables;
use crate::abi::flow::ClientPath;

/// The path to a client. `route` is the kernel's, 0 where it names none that packets may take; its hardware address is 0 where the
/// neighbour is not resolved. `arrival` is where the client's packet came from.
#[inline(always)]
pub(super) fn choose<T: Tables>(route: ClientPath, arrival: ClientPath, tables: &T) -> ClientPath {
    if route.0 == 0 {
        return arrival;
    }
    if !is_same_way(route.interface(), arrival.interface(), tables) {
        return route;
    }
    // Members of a bond answer by themselves. A neighbour that is not resolved may be the sender.
    let mac = if route.mac() == 0 { arrival.mac() } else { route.mac() };
    ClientPath::new(arrival.interface(), mac)
}

/// Whether two interfaces, by their slots in the interface table, are of one group.
#[inline(always)]
fn is_same_way<T: Tables>(a: u32, b: u32, tables: &T) -> bool {
    match (tables.interface_at(a), tables.interface_at(b)) {
        (Some(a), Some(b)) => a.group() == b.group(),
        _ => a == b,
    }
}
