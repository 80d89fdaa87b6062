//! Next hops: the interface and the MAC address by which packets to an IP address leave this host.
//!
//! They come from the kernel's routes and its neighbour table. Policy rules apply, for a local packet without a mark. A
//! [`Resolver`] watches a set of destinations, keeps their neighbour entries fresh, and follows changes.
//!
//! Invariants:
//! - Never a wrong MAC address: a destination resolves to the kernel's usable neighbour entry, or to the last one while
//!   the kernel resolves it again (`hold`).
//! - The last address ends with the kernel's verdict: another address, state `FAILED`, or 10 s without either. It ends
//!   after 250 ms if the link is down or the route is gone.
//! - A published map has exactly the destinations that were watched when it was made.

mod follow;
mod hold;
mod kernel;
mod limits;
mod links;
mod notifications;
mod resolver;
#[cfg(test)]
mod tests;
mod view;
pub mod vips;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

pub(crate) use kernel::link;
pub use kernel::{links, links_now, local_of};
pub use links::{LinkChange, follow as follow_links};
pub use resolver::Resolver;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Resolution of every watched destination.
pub type Resolutions = Arc<BTreeMap<IpAddr, Resolution>>;

/// Whether a destination has a next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The next hop is usable.
    Resolved(NextHop),
    /// There is no usable next hop, with the reason.
    Unresolved(Unresolved),
}

/// How packets to a destination leave this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the outgoing interface.
    pub interface_index: u32,
    /// Name of the outgoing interface.
    pub interface: String,
    /// MAC address of the outgoing interface.
    pub source_mac: Mac,
    /// MAC address of the destination, or of the gateway to it.
    pub destination_mac: Mac,
    /// Largest IP packet in bytes: the smaller of route MTU and interface MTU.
    pub mtu: u32,
    /// Whether the destination is reached through a gateway.
    pub through_gateway: bool,
}

/// Why there is no next hop to a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// No route, or one of a type other than unicast and local, such as blackhole or multicast.
    NoRoute,
    /// The destination is an address of this host.
    Local,
    /// The next hop does not answer on this interface.
    NoNeighbour {
        /// Address that was solicited: the destination, or the gateway to it.
        next_hop: IpAddr,
        /// Name of the outgoing interface.
        interface: String,
        /// Whether the kernel's entry has failed. If not, the kernel is still resolving.
        has_failed: bool,
    },
    /// The kernel's neighbour table is full.
    NoRoom {
        /// Address without an entry: the destination, or the gateway to it.
        next_hop: IpAddr,
    },
    /// The outgoing interface is down or has no carrier.
    InterfaceDown {
        /// Name of the outgoing interface.
        interface: String,
    },
    /// The outgoing interface has no Ethernet addresses.
    NotEthernet {
        /// Name of the outgoing interface.
        interface: String,
    },
}

impl Unresolved {
    /// Whether this is final, not only a resolution that is still running.
    pub fn is_verdict(&self) -> bool {
        match self {
            Self::NoNeighbour { has_failed, .. } => *has_failed,
            Self::NoRoom { .. } => false,
            Self::NoRoute | Self::Local | Self::InterfaceDown { .. } | Self::NotEthernet { .. } => true,
        }
    }
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("no route"),
            Self::Local => f.write_str("address of this host"),
            Self::NoNeighbour { next_hop, interface, .. } => {
                write!(f, "{next_hop} does not answer on {interface}")
            }
            Self::NoRoom { next_hop } => {
                let sysctls = limits::sysctls(*next_hop);
                write!(
                    f,
                    "the kernel's neighbour table is full, and has no room for {next_hop}: raise {sysctls}"
                )
            }
            Self::InterfaceDown { interface } => write!(f, "interface {interface} is down"),
            Self::NotEthernet { interface } => write!(f, "interface {interface} is not Ethernet"),
        }
    }
}

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
    /// The kernel's name for its kind (`veth`, `bond`, ...); most physical interfaces have none.
    pub kind: Option<String>,
    /// The attached XDP program.
    pub xdp: Option<Xdp>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Index of the bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// The lower interface (of a VLAN, ...), or the peer (of a veth).
    pub below: Option<Below>,
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
