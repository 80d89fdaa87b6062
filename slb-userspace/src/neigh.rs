//! Next hops: through which interface, and to which MAC address, packets for an IP address leave this host.
//!
//! The answers are the kernel's own: its routes (policy rules included, for a packet of this host without a mark) and
//! its neighbour table. A [`Resolver`] watches a set of destinations, keeps their neighbours warm, and follows changes.
//!
//! Invariants:
//! - Never a wrong MAC address: a destination is resolved with the address of the kernel's usable neighbour entry, or with the last
//!   one while the kernel resolves it again (`hold`). The last one ends with the kernel's verdict: another address, the entry's
//!   state `FAILED`, or after 10 s without any of these. It ends after 250 ms where the link is down or the route gone.
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

/// What is known of every watched destination.
pub type Resolutions = Arc<BTreeMap<IpAddr, Resolution>>;

/// What is known of the next hop to a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Packets can be sent.
    Resolved(NextHop),
    /// Packets cannot be sent, and why.
    Unresolved(Unresolved),
}

/// How packets to a destination leave this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the outgoing interface.
    pub interface_index: u32,
    /// Name of the outgoing interface.
    pub interface: String,
    /// The outgoing interface's own address.
    pub source_mac: Mac,
    /// Address of the destination, or of the gateway to it.
    pub destination_mac: Mac,
    /// The largest IP packet the route and the outgoing interface take, in bytes.
    pub mtu: u32,
    /// Whether the destination is reached through a gateway.
    pub through_gateway: bool,
}

/// Why there is no next hop to a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// No route, or one that discards, rejects or replicates packets.
    NoRoute,
    /// The destination is an address of this host.
    Local,
    /// The next hop has not answered on this interface, or no longer does.
    NoNeighbour {
        /// Address that was asked for: the destination, or the gateway to it.
        next_hop: IpAddr,
        /// Name of the outgoing interface.
        interface: String,
        /// Whether the kernel has given it up, and is not asking for the first time.
        has_failed: bool,
    },
    /// The kernel has no room for an entry of the next hop.
    NoRoom {
        /// Address to ask for: the destination, or the gateway to it.
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
    /// Whether this is the kernel's last word, and not only what it does not know yet.
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
    /// Its alternative names, which are unique, too.
    pub altnames: Vec<String>,
    /// Address, if it is an Ethernet interface.
    pub mac: Option<Mac>,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// What the kernel calls its kind (`veth`, `bond`, ...); most physical interfaces have none.
    pub kind: Option<String>,
    /// The XDP program it runs.
    pub xdp: Option<Xdp>,
    /// The largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// Index of the bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// The interface it lies upon (of a VLAN, ...), or its peer (of a veth).
    pub below: Option<Below>,
}

/// The interface that another one lies upon, or its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Below {
    /// Its index.
    pub index: u32,
    /// What the kernel calls the other network namespace it is in.
    pub namespace: Option<i32>,
}

/// An XDP program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xdp {
    /// Whether it runs in the driver, not in the kernel's generic hook.
    pub native: bool,
    /// Id of the program.
    pub program: u32,
}
