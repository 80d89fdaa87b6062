//! The packet path on the host, in the world of the packet cases.

pub use slb_packet_host::host::{Host, Totals};
use slb_userspace::dataplane::interfaces::Interfaces;

use super::world;

/// Empty tables except [`world::interfaces`].
pub fn host() -> Host {
    with_interfaces(Host::default())
}

/// As [`host`], with a flow table of `slots` slots, a power of two.
pub fn with_flows(slots: u32) -> Host {
    with_interfaces(Host::with_flows(slots))
}

/// Replaces the interface table.
pub fn put_interfaces(host: &mut Host, interfaces: &Interfaces) {
    host.put_interfaces(interfaces.entries(), interfaces.own_macs());
}

fn with_interfaces(mut host: Host) -> Host {
    put_interfaces(&mut host, &world::interfaces());
    host
}
