//! Servers and the next hops that lead to them.

use super::{Address, Handle, MacPair};

/// A server as the packet path sees it.
///
/// Address and port never change under one reference; the other words may change at any time.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backend {
    /// Where packets go.
    pub address: Address,
    /// Port, in network byte order.
    pub port: u16,
    /// [`Backend::ALIVE`], [`Backend::NEW`], [`Backend::TERMINATING`], [`Backend::REMOVED`] and [`Backend::ADDED`].
    pub flags: u8,
    /// Weight 0 to 100, for whoever reads the map.
    pub weight: u8,
    /// Index of the next hop; 0 while there is none.
    pub next_hop: u32,
    /// This use of the id; an unused entry has [`Handle`] 0.
    pub handle: Handle,
    /// Sum of the words of an outer IPv4 header to this server that are the same in every packet (mode `ipip`).
    pub outer_sum: u32,
    /// The ring it stands in, for whoever reads the map.
    pub lookup_table: u32,
    /// One of the `HEALTH_` values, for whoever reads the map.
    pub health: u32,
    /// [`Backend::endpoint_of`] its address and port: flows of one client endpoint never share it.
    pub endpoint: u32,
    /// When its connections are cut, in seconds since the machine started (`CLOCK_BOOTTIME`); 0 where nothing ends them. For
    /// the daemon.
    pub deadline: u32,
    /// When it began to take new flows, in the same seconds; 0 where its weight does not grow any more. For the daemon.
    pub since: u32,
    /// Weight that counts now: it may be on its way to [`Self::weight`].
    pub share: u32,
    /// Keeps the entry on one cache line.
    pub reserved: u32,
}

impl Backend {
    /// Able to serve, and reached, as far as is known. Where it is not, datagrams go to another server at once. TCP connections
    /// stay: no other server could go on with them, and it may be the check that errs, or the network that comes back.
    pub const ALIVE: u8 = 1;
    /// New flows may be given to it.
    pub const NEW: u8 = 2;
    /// Its connections have had their time: both ends are told that they are over. Never together with the two above.
    pub const TERMINATING: u8 = 4;
    /// Not configured any more: here for the flows it has. For the daemon.
    pub const REMOVED: u8 = 8;
    /// Added to a group in use, and has taken no new flows yet. For the daemon.
    pub const ADDED: u8 = 16;

    /// The endpoint with this [`server_hash`](super::service::ServiceIndex::server_hash): an odd number of 16 bits, the same for all servers of an address
    /// and port, and hardly ever for others.
    #[inline(always)]
    pub const fn endpoint_of(hash: u64) -> u32 {
        (hash >> 44) as u32 & 0xffff | 1
    }

    /// Whether it is able to serve, as far as is known.
    #[inline(always)]
    pub const fn is_alive(&self) -> bool {
        self.flags & Self::ALIVE != 0
    }

    /// Whether its connections have had their time.
    #[inline(always)]
    pub const fn is_terminating(&self) -> bool {
        self.flags & Self::TERMINATING != 0
    }

    /// No probe has ended yet.
    pub const HEALTH_UNKNOWN: u32 = 0;
    /// Able to serve.
    pub const HEALTH_HEALTHY: u32 = 1;
    /// Not able to serve.
    pub const HEALTH_UNHEALTHY: u32 = 2;
    /// Not checked.
    pub const HEALTH_UNCHECKED: u32 = 3;
    /// Able to serve, and standing by: another one has the traffic.
    pub const HEALTH_STANDBY: u32 = 4;
}

/// Where frames leave. An entry is written once and never changed while anything points at it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// Index of the interface; 0 in an unused entry.
    pub ifindex: u32,
    /// The largest IP packet that may leave there, in bytes.
    pub mtu: u32,
    /// From the interface's own hardware address to that of the next hop.
    pub macs: MacPair,
}

const _: () = assert!(size_of::<Backend>() == 64);
const _: () = assert!(size_of::<NextHop>() == 24);
