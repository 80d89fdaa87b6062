//! Next hops: the interface and the MAC address by which packets to an IP address leave this host.
//!
//! They come from the kernel's routes and its neighbour table. Policy rules apply, for a local packet without a mark. A
//! [`Resolver`] watches a set of destinations, keeps their neighbour entries fresh, and follows changes.
//!
//! Invariants:
//! - Never a wrong MAC address: a destination resolves to the kernel's usable neighbour entry, or to the last one while
//!   the kernel resolves it again (`next_hop_cache`).
//! - The last address ends with the kernel's verdict: another address, state `FAILED`, or 10 s without either. It ends
//!   after 250 ms if the link is down or the route is gone.
//! - A published map has exactly the destinations that were watched when it was made.

mod follow;
pub mod host_interfaces;
mod kernel;
mod limits;
mod links;
mod next_hop_cache;
mod notifications;
mod own_address;
mod resolver;
#[cfg(test)]
mod tests;
mod tunnel_errors;
mod view;
pub mod vips;

pub(crate) use kernel::link;
pub use kernel::{links, links_now, local_among};
pub use links::{LinkChange, follow as follow_links};
pub use resolver::Resolver;
use slb_common::net::vlan::Vlan;
pub use slb_control::inputs::{Mac, NextHop, Resolution, Resolutions, Unresolved};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index, unique in the network namespace.
    pub index: u32,
    /// Name, unique in the network namespace.
    pub name: String,
    /// Alternative names, unique like `name`.
    pub altnames: Vec<String>,
    /// MAC address of an Ethernet interface.
    pub mac: Option<Mac>,
    /// Whether it is up and has carrier.
    pub up: bool,
    /// Whether it is set up (`IFF_UP`), with carrier or without.
    pub is_enabled: bool,
    /// The kernel's name for its kind (`veth`, `bond`, ...); most physical interfaces have none.
    pub kind: Option<String>,
    /// The attached XDP program.
    pub xdp: Option<Xdp>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Index of the bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// The VLAN of a VLAN device.
    pub vlan: Option<Vlan>,
    /// The lower interface (of a VLAN, ...), or the peer (of a veth).
    pub below: Option<Below>,
}

#[cfg(test)]
impl Link {
    /// An interface that is up and has no relation to others.
    pub(crate) fn sample(index: u32, name: &str) -> Self {
        Self {
            index,
            name: name.to_owned(),
            altnames: Vec::new(),
            mac: None,
            up: true,
            is_enabled: true,
            kind: None,
            xdp: None,
            mtu: 1500,
            master: None,
            vlan: None,
            below: None,
        }
    }
}

/// A lower interface or veth peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Below {
    /// Index of the interface.
    pub index: u32,
    /// The kernel's id (nsid) of the network namespace it is in, if that is another one.
    pub namespace: Option<i32>,
}

/// An XDP program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xdp {
    /// Whether it is native XDP, not generic XDP.
    pub native: bool,
    /// Id of the program.
    pub program: u32,
}
