//! Servers and the next hops that lead to them.

use super::{
    Address, Handle, MacPair,
    health::ServerHealth,
    ids::{NextHopId, TableId},
    service::ServiceIndex,
    time::BootSecs,
};

/// A server as the packet path sees it.
///
/// Address and port never change under one handle. The other words may change at any time.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backend {
    /// Address of the server.
    pub address: Address,
    /// Port, in network byte order; 0 for the port of the packet, behind a port range.
    pub port: u16,
    /// [`Backend::ALIVE`], [`Backend::ACCEPTS_NEW`], [`Backend::TERMINATING`], [`Backend::REMOVED`] and
    /// [`Backend::ADDED`].
    pub flags: u8,
    /// Configured weight, 0 to 100. For tools.
    pub weight: u8,
    /// Index of the next hop; 0 while there is none.
    pub next_hop: u32,
    /// Handle of the server; an unused entry has [`Handle`] 0.
    pub handle: Handle,
    /// Sum of the words of an outer IPv4 header to this server that are the same in every packet (mode `ipip`).
    pub outer_sum: u32,
    /// Index of the server table that it belongs to.
    pub lookup_table: u32,
    /// Number of a [`ServerHealth`]. For tools.
    pub health: u32,
    /// [`Backend::endpoint_of`] address and port. Without meaning if the port is 0. Live `nat` flows of one client endpoint
    /// to one server port never share it, nor do those of listeners without a port range, whatever the port.
    pub endpoint: u32,
    /// Drain deadline in seconds since boot (`CLOCK_BOOTTIME`); 0 means none. For the daemon.
    pub deadline: u32,
    /// When it began to take new flows, in seconds since boot; 0 once slow start has ended. For the daemon.
    pub since: u32,
    /// Effective weight: during slow start below [`Self::weight`].
    pub effective_weight: u32,
    /// Keeps the entry on one cache line.
    pub reserved: u32,
}

impl Backend {
    /// The server table that it belongs to.
    pub const fn table(&self) -> TableId {
        TableId::new(self.lookup_table)
    }

    /// Its health.
    pub fn health(&self) -> ServerHealth {
        ServerHealth::from_number(self.health)
    }

    /// Its drain deadline, if it drains.
    pub const fn drain_deadline(&self) -> Option<BootSecs> {
        BootSecs::from_word(self.deadline)
    }

    /// When it began to take new flows; `None` once slow start has ended.
    pub const fn ramp_start(&self) -> Option<BootSecs> {
        BootSecs::from_word(self.since)
    }

    /// Its next hop, or [`NextHopId::NONE`].
    pub const fn next_hop_id(&self) -> NextHopId {
        NextHopId::new(self.next_hop)
    }

    /// Able to serve and has a next hop, as far as is known. Without it, datagrams go to another server at once. TCP
    /// connections stay: no other server could continue them, and the check may be wrong or the network may return.
    pub const ALIVE: u8 = 1;
    /// Takes new flows.
    pub const ACCEPTS_NEW: u8 = 2;
    /// Terminating: its drain deadline has passed, and its connections are reset at both ends. Never together with
    /// [`Self::ALIVE`] or [`Self::ACCEPTS_NEW`].
    pub const TERMINATING: u8 = 4;
    /// Removed: no longer configured, and kept for its flows. For the daemon.
    pub const REMOVED: u8 = 8;
    /// Added to a group in use, and has taken no new flows yet. For the daemon.
    pub const ADDED: u8 = 16;

    /// Number of the endpoint with this [`server_hash`](super::service::ServiceIndex::server_hash). It is odd and has
    /// 16 bits. All servers of an address and port have the same; other endpoints rarely do.
    #[inline(always)]
    pub const fn endpoint_of(hash: u64) -> u32 {
        (hash >> 44) as u32 & 0xffff | 1
    }

    /// Its port for a flow to this port of the VIP. Both are in network byte order.
    #[inline(always)]
    pub const fn port_for(&self, port: u16) -> u16 {
        // Without a branch: it would double the paths that the verifier follows.
        let is_open = ((self.port as u32).wrapping_sub(1) >> u16::BITS) as u16;
        self.port | port & is_open
    }

    /// [`ServiceIndex::server_hash`] of its endpoint for a flow to this port of the VIP.
    #[inline(always)]
    pub const fn server_hash_for(&self, port: u16) -> u64 {
        ServiceIndex::server_hash(&self.address, self.port_for(port))
    }

    /// [`Self::endpoint`] for a flow to this port of the VIP.
    #[inline(always)]
    pub const fn endpoint_for(&self, port: u16) -> u32 {
        Self::endpoint_of(self.server_hash_for(port))
    }

    /// [`Self::endpoint_of`] an endpoint, and above it the endpoint's port in network byte order: two ports of one server
    /// may have the same number.
    #[inline(always)]
    pub const fn endpoint_and_port_of(hash: u64, port: u16) -> u32 {
        Self::endpoint_of(hash) | (port as u32) << u16::BITS
    }

    /// [`Self::endpoint_and_port_of`] its endpoint for a flow to this port of the VIP.
    #[inline(always)]
    pub const fn endpoint_and_port_for(&self, port: u16) -> u32 {
        Self::endpoint_and_port_of(self.server_hash_for(port), self.port_for(port))
    }

    /// Whether it is able to serve and has a next hop, as far as is known.
    #[inline(always)]
    pub const fn is_alive(&self) -> bool {
        self.flags & Self::ALIVE != 0
    }

    /// Whether its drain deadline has passed.
    #[inline(always)]
    pub const fn is_terminating(&self) -> bool {
        self.flags & Self::TERMINATING != 0
    }
}

/// A next hop: how frames leave. An entry is written once and never changes while a server points at it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// Index of the interface; 0 in an unused entry.
    pub ifindex: u32,
    /// Largest IP packet that may leave there, in bytes.
    pub mtu: u32,
    /// Destination: the next hop's hardware address. Source: the interface's own. And the VLAN in which frames leave.
    pub macs: MacPair,
}

const _: () = assert!(size_of::<Backend>() == 64);
const _: () = assert!(size_of::<NextHop>() == 24);
