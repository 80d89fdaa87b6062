//! Servers and the next hops that lead to them.

use super::{Address, Mac, Reference};

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
    /// [`Backend::ALIVE`] and [`Backend::NEW`].
    pub flags: u8,
    /// Weight 0 to 100, for whoever reads the map: the packet path has it in the ring.
    pub weight: u8,
    /// This use of the id; an unused entry has [`Reference`] 0.
    pub reference: Reference,
    /// Index of the next hop; 0 while there is none.
    pub next_hop: u32,
    /// The ring it stands in, for whoever reads the map.
    pub ring: u32,
    /// One of the `HEALTH_` values, for whoever reads the map.
    pub health: u32,
    /// Keeps the entry on one cache line.
    pub reserved: [u32; 7],
}

impl Backend {
    /// Able to serve, as far as is known. Where it is not, datagrams go to another server at once. TCP connections stay:
    /// no other server could go on with them, and it may be the check that errs.
    pub const ALIVE: u8 = 1;
    /// New flows may be given to it.
    pub const NEW: u8 = 2;

    /// No probe has ended yet.
    pub const HEALTH_UNKNOWN: u32 = 0;
    /// Able to serve.
    pub const HEALTH_HEALTHY: u32 = 1;
    /// Not able to serve.
    pub const HEALTH_UNHEALTHY: u32 = 2;
    /// Not checked.
    pub const HEALTH_UNCHECKED: u32 = 3;
}

/// Where frames leave. An entry is written once and never changed while anything points at it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// Index of the interface; 0 in an unused entry.
    pub ifindex: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
    /// Hardware address of the next hop.
    pub destination: Mac,
    /// The interface's own hardware address.
    pub source: Mac,
}

const _: () = assert!(size_of::<Backend>() == 64);
const _: () = assert!(size_of::<NextHop>() == 24);
