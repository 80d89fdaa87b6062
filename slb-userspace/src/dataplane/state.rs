//! What the data plane holds, and the operations that change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use slb_common::{
    abi::{
        Address, MAX_RINGS,
        backend::{Backend, NextHop},
        ring::{MAX_RING_SLOTS, NO_BACKEND, Ring},
        service::Service,
    },
    maglev,
};

/// The table of a service that has none.
pub const NO_TABLE: u32 = u32::MAX;
/// A table no service ever has.
pub const SPARE_TABLE: u32 = MAX_RINGS - 1;

/// Everything the data plane holds. Ids are indexes into the maps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Settings of the packet path.
    pub settings: Settings,
    /// Services by id.
    pub services: BTreeMap<u32, Service>,
    /// Ids of the services that packets find.
    pub indexed: BTreeSet<u32>,
    /// Server tables by id.
    pub tables: BTreeMap<u32, Table>,
    /// Servers by id.
    pub backends: BTreeMap<u32, Backend>,
    /// Next hops by id; never 0, which stands for none.
    pub next_hops: BTreeMap<u32, NextHop>,
    /// Indexes of the interfaces packets may leave through.
    pub interfaces: BTreeSet<u32>,
}

/// Settings of the packet path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Seed of the flow hash and of the server tables.
    pub seed: u64,
    /// Jiffies in a second.
    pub hz: u32,
    /// The last generation given to an id.
    pub generation: u16,
}

/// What a server table is built from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Slots, a prime; 0 in a table of unknown content.
    pub slots: u32,
    /// Seed of the table.
    pub seed: u64,
    /// The servers that may be given new flows.
    pub members: Vec<Member>,
}

/// A server in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Id of the server in the maps.
    pub backend: u32,
    /// What the table is computed from: the same on every node.
    pub address: SocketAddr,
    /// Weight, 1 to 100.
    pub weight: u8,
}

impl Table {
    /// The slots each member holds, in the order of the members, and the table as packets use it.
    pub fn build(&self) -> Box<Ring> {
        let names: Vec<_> = self.members.iter().map(|member| member.address.to_string()).collect();
        let members: Vec<_> = names
            .iter()
            .zip(&self.members)
            .map(|(name, member)| maglev::Member { name: name.as_bytes(), weight: member.weight })
            .collect();
        let mut ring =
            Box::new(Ring { size: 0, reserved: 0, slots: [NO_BACKEND; MAX_RING_SLOTS as usize + 3] });
        if members.is_empty() {
            return ring;
        }
        for (slot, member) in ring.slots.iter_mut().zip(maglev::build(self.slots, self.seed, &members)) {
            // At most MAX_BACKENDS, which is below u16::MAX.
            *slot = self.members.get(usize::from(member)).map_or(NO_BACKEND, |m| m.backend as u16);
        }
        ring.size = self.slots;
        ring
    }
}

/// One change of the data plane.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Changes the settings.
    PutSettings(Settings),
    /// Lets packets leave through an interface.
    PutInterface(u32),
    /// Ends that.
    RemoveInterface(u32),
    /// Writes a next hop.
    PutNextHop(u32, NextHop),
    /// Forgets a next hop.
    ClearNextHop(u32),
    /// Writes a server; `fresh` sets its counters to zero first.
    PutBackend {
        /// Id.
        id: u32,
        /// Entry.
        backend: Backend,
        /// Whether the id is put to a new use.
        fresh: bool,
    },
    /// Forgets a server.
    ClearBackend(u32),
    /// Builds a server table aside and puts it in force in one step.
    PutTable(u32, Table),
    /// Puts the empty table in force.
    ClearTable(u32),
    /// Writes a service; `fresh` sets its counters to zero first.
    PutService {
        /// Id.
        id: u32,
        /// Entry.
        service: Box<Service>,
        /// Whether the id is put to a new use.
        fresh: bool,
    },
    /// Waits until no packet is being forwarded by what was in force before.
    Settle,
    /// Forgets a service.
    ClearService(u32),
    /// Builds an index of these services aside and puts it in force in one step.
    PutIndex(BTreeSet<u32>),
}

/// The address as it stands in a packet.
pub fn to_address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

/// The address as people write it.
pub fn to_ip(address: &Address) -> IpAddr {
    if address.is_v4() { IpAddr::from(address.v4_bytes()) } else { IpAddr::from(address.v6_bytes()) }
}

/// Address and port of a server.
pub fn backend_address(backend: &Backend) -> SocketAddr {
    SocketAddr::new(to_ip(&backend.address), u16::from_be(backend.port))
}
