//! Next hops of destinations, as the kernel's routes and neighbour table give them.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

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
    NeighbourTableFull {
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
    pub fn is_conclusive(&self) -> bool {
        match self {
            Self::NoNeighbour { has_failed, .. } => *has_failed,
            Self::NeighbourTableFull { .. } => false,
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
            Self::NeighbourTableFull { next_hop } => {
                let family = if next_hop.is_ipv4() { "ipv4" } else { "ipv6" };
                write!(
                    f,
                    "the kernel's neighbour table is full, and has no room for {next_hop}: raise \
                     net.{family}.neigh.default.gc_thresh2 and gc_thresh3"
                )
            }
            Self::InterfaceDown { interface } => write!(f, "interface {interface} is down"),
            Self::NotEthernet { interface } => write!(f, "interface {interface} is not Ethernet"),
        }
    }
}
