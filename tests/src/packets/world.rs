//! The world of the packet cases: addresses, listeners, servers, and the state of the data plane built from them.
//!
//! Every table has one server or none, so a case can name the server of a flow without computing a hash.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use slb_common::{
    abi::{
        Handle, MacPair,
        backend::{Backend, NextHop},
        ids::{BackendId, NextHopId, ServiceId, TableId},
        interface::{self, InterfaceProperties},
        service::{Service, ServiceIndex, policy},
        tunnel::Tunnel,
    },
    datapath::ipip::outer_sum,
    net::vlan::Vlan,
};
use slb_control::{
    dataplane::state::{
        ControlSettings, MapState, ServerTable, SlotOrder, TableMember, TableSpec, to_address,
    },
    ids::entry,
    slot::Slot,
    slot_migration::SlotMigration,
};
use slb_packet_host::locals;
use slb_userspace::dataplane::interfaces::Interfaces;

use super::frames::number;

/// Index of the loopback interface, on which test frames arrive.
pub const LO: u32 = 1;
/// Index of a second interface.
pub const FAR: u32 = 11;

/// Source MAC of the client's frames.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
/// SLB's MAC towards the client.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x01];
/// Source MAC of the servers' frames.
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x51];
/// SLB's MAC towards the servers.
pub const SERVER_SIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x02];

/// A further MAC of SLB towards the client.
pub const OTHER_OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x03];

/// All MACs of the loopback interface. They do not fit into its entry of the interface table.
pub const OWN_MACS: [[u8; 6]; 5] =
    [OWN_MAC, SERVER_SIDE_MAC, OTHER_OWN_MAC, [2, 0, 0, 0, 0, 0x04], [2, 0, 0, 0, 0, 0x05]];

/// Idle timeout in seconds; longer than any case lasts.
pub const IDLE_SECONDS: u16 = 1_000;
/// Idle timeout in jiffies.
pub const IDLE: u32 = IDLE_SECONDS as u32 * HZ;
/// Jiffies per second, as configured in the packet path.
pub const HZ: u32 = 250;
/// Seed of the server tables.
pub const SEED: u64 = 42;
/// MTU of every next hop.
pub const MTU: u32 = 1500;
/// Outer IPv4 source address of tunnel packets.
pub const TUNNEL4: IpAddr = v4(10, 0, 0, 254, 0).ip();
/// Outer IPv6 source address of tunnel packets.
pub const TUNNEL6: IpAddr = v6(0xa, 0xfe, 0).ip();

/// A local address.
pub const LOCAL4: IpAddr = v4(10, 0, 0, 200, 0).ip();
/// A local address.
pub const LOCAL6: IpAddr = v6(0xa, 0x200, 0).ip();

/// Upper bound of the ids of services and servers, exclusive.
pub const IDS: u32 = 32;

const SLOTS: u32 = 251;

/// A next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Index in the map.
    pub id: u32,
    /// Index of the interface.
    pub out: u32,
    /// MAC of the neighbour.
    pub peer: [u8; 6],
    /// MAC of SLB on that interface.
    pub own: [u8; 6],
    /// The VLAN in which frames leave; `None` if they keep their tags.
    pub vlan: Option<Vlan>,
}

/// Next hop by the loopback interface.
pub const LAN: Hop = Hop { id: 1, out: LO, peer: SERVER_MAC, own: SERVER_SIDE_MAC, vlan: None };
/// Next hop by the second interface.
pub const ROUTER: Hop = Hop {
    id: 2,
    out: FAR,
    peer: [2, 0, 0, 0, 0, 0xf1],
    own: [0x06, 0x10, 0x20, 0x30, 0x40, 0x50],
    vlan: None,
};
/// No resolved next hop.
pub const UNRESOLVED: Hop = Hop { id: 0, out: 0, peer: [0; 6], own: [0; 6], vlan: None };

/// A server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketServer {
    /// Id of its entry in the maps.
    pub id: u32,
    /// Generation of the id.
    pub generation: u16,
    /// Address and port.
    pub at: SocketAddr,
    /// Its next hop.
    pub hop: Hop,
}

/// A service: a listener at one VIP, or echo of one VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketListener {
    /// Id of its entry in the maps.
    pub id: u32,
    /// VIP and port; port 0 for the echo entry of a VIP.
    pub at: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Id of its server table; `None` for echo.
    pub table: Option<u32>,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
}

const fn v6(network: u16, host: u16, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host)), port)
}

/// An IPv4 client endpoint.
pub const CLIENT4: SocketAddr = v4(203, 0, 113, 7, 40_000);
/// An IPv6 client endpoint.
pub const CLIENT6: SocketAddr = v6(0xc, 7, 40_000);
/// The IPv4 VIP.
pub const VIP4: IpAddr = v4(198, 51, 100, 10, 0).ip();
/// The IPv6 VIP.
pub const VIP6: IpAddr = v6(0x10, 0x10, 0).ip();

const fn server(id: u32, at: SocketAddr, hop: Hop) -> PacketServer {
    PacketServer { id, generation: 1, at, hop }
}

/// Server of [`HTTP4`] and [`TWIN4`], with a port of its own.
pub const WEB4: PacketServer = server(1, v4(10, 0, 0, 1, 8080), LAN);
/// Server of [`HTTP6`].
pub const WEB6: PacketServer = server(2, v6(0xa, 1, 8080), LAN);
/// Server of [`DNS4`].
pub const NAME4: PacketServer = server(3, v4(10, 0, 0, 1, 5353), LAN);
/// Server of [`DNS6`].
pub const NAME6: PacketServer = server(4, v6(0xa, 1, 5353), LAN);
/// Server of [`SECOND4`].
pub const OTHER4: PacketServer = server(5, v4(10, 0, 0, 2, 8080), LAN);
/// In no table of the standard world.
pub const OTHER6: PacketServer = server(6, v6(0xa, 2, 8080), LAN);
/// Server of [`FAR4`].
pub const DISTANT4: PacketServer = server(7, v4(10, 1, 0, 3, 8080), ROUTER);
/// Server of [`FAR6`].
pub const DISTANT6: PacketServer = server(8, v6(0xb, 3, 8080), ROUTER);
/// Server of [`UNRESOLVED4`].
pub const UNKNOWN4: PacketServer = server(9, v4(10, 0, 0, 4, 8080), UNRESOLVED);
/// Server of [`FOURTH4`].
pub const FOURTH: PacketServer = server(10, v4(10, 0, 0, 5, 8080), LAN);
/// Server of [`FIFTH4`].
pub const FIFTH: PacketServer = server(11, v4(10, 0, 0, 6, 8080), LAN);
/// Server of [`STRAIGHT4`], with the listener's port.
pub const STRAIGHT: PacketServer = server(12, v4(10, 0, 0, 7, 443), LAN);
/// Replaces [`NAME4`] in some cases.
pub const NAME4B: PacketServer = server(13, v4(10, 0, 0, 2, 5353), LAN);

const fn listener(id: u32, ip: IpAddr, port: u16, protocol: u8, table: u32) -> PacketListener {
    PacketListener { id, at: SocketAddr::new(ip, port), protocol, table: Some(table) }
}

/// TCP over IPv4.
pub const HTTP4: PacketListener = listener(0, VIP4, 80, number::TCP, 1);
/// TCP over IPv6.
pub const HTTP6: PacketListener = listener(1, VIP6, 80, number::TCP, 2);
/// UDP over IPv4.
pub const DNS4: PacketListener = listener(2, VIP4, 53, number::UDP, 3);
/// UDP over IPv6.
pub const DNS6: PacketListener = listener(3, VIP6, 53, number::UDP, 4);
/// Echo over IPv4.
pub const ECHO4: PacketListener =
    PacketListener { id: 4, at: SocketAddr::new(VIP4, 0), protocol: number::ICMP, table: None };
/// Echo over IPv6.
pub const ECHO6: PacketListener =
    PacketListener { id: 5, at: SocketAddr::new(VIP6, 0), protocol: number::ICMPV6, table: None };
/// TCP over IPv4, with a server table of its own.
pub const SECOND4: PacketListener = listener(6, VIP4, 81, number::TCP, 5);
/// TCP over IPv4; its server is behind the second interface.
pub const FAR4: PacketListener = listener(7, VIP4, 82, number::TCP, 6);
/// TCP over IPv6; its server is behind the second interface.
pub const FAR6: PacketListener = listener(8, VIP6, 82, number::TCP, 7);
/// TCP over IPv4 with an empty server table.
pub const DESERTED4: PacketListener = listener(9, VIP4, 83, number::TCP, 8);
/// TCP over IPv4; the next hop of its server is not resolved.
pub const UNRESOLVED4: PacketListener = listener(10, VIP4, 84, number::TCP, 9);
/// TCP over IPv4 with a server table that does not exist.
pub const UNFILLED4: PacketListener = listener(11, VIP4, 85, number::TCP, 99);
/// TCP over IPv4 with the server table of [`HTTP4`].
pub const TWIN4: PacketListener = listener(12, VIP4, 86, number::TCP, 1);
/// TCP over IPv4, with a server table of its own.
pub const FOURTH4: PacketListener = listener(13, VIP4, 87, number::TCP, 10);
/// TCP over IPv4, with a server table of its own.
pub const FIFTH4: PacketListener = listener(14, VIP4, 88, number::TCP, 11);
/// TCP over IPv4; its server has the same port.
pub const STRAIGHT4: PacketListener = listener(15, VIP4, 443, number::TCP, 12);
/// UDP over IPv4 with the server table of [`DNS4`].
pub const DNS4_TWIN: PacketListener = listener(16, VIP4, 54, number::UDP, 3);

/// All listeners.
pub const LISTENERS: [PacketListener; 17] = [
    HTTP4,
    HTTP6,
    DNS4,
    DNS6,
    ECHO4,
    ECHO6,
    SECOND4,
    FAR4,
    FAR6,
    DESERTED4,
    UNRESOLVED4,
    UNFILLED4,
    TWIN4,
    FOURTH4,
    FIFTH4,
    STRAIGHT4,
    DNS4_TWIN,
];
/// All servers.
pub const SERVERS: [PacketServer; 13] =
    [WEB4, WEB6, NAME4, NAME6, OTHER4, OTHER6, DISTANT4, DISTANT6, UNKNOWN4, FOURTH, FIFTH, STRAIGHT, NAME4B];
/// Server tables: id, and the server in every slot.
const TABLES: [(u32, Option<PacketServer>); 12] = [
    (1, Some(WEB4)),
    (2, Some(WEB6)),
    (3, Some(NAME4)),
    (4, Some(NAME6)),
    (5, Some(OTHER4)),
    (6, Some(DISTANT4)),
    (7, Some(DISTANT6)),
    (8, None),
    (9, Some(UNKNOWN4)),
    (10, Some(FOURTH)),
    (11, Some(FIFTH)),
    (12, Some(STRAIGHT)),
];

/// The server in a listener's table, in the standard world.
pub fn server_of(listener: &PacketListener) -> Option<PacketServer> {
    TABLES.iter().find(|(id, _)| Some(*id) == listener.table)?.1
}

fn endpoint(at: SocketAddr) -> u32 {
    Backend::endpoint_of(ServiceIndex::server_hash(&to_address(at.ip()), at.port().to_be()))
}

/// The interfaces that run the program. [`SERVER_SIDE_MAC`] is an additional MAC of the loopback interface.
pub fn interfaces() -> Interfaces {
    interfaces_in_roles(interface::CLIENT | interface::SERVER, interface::CLIENT | interface::SERVER)
}

/// [`interfaces`] with these role flags of [`LO`] and [`FAR`].
pub fn interfaces_in_roles(near: u16, far: u16) -> Interfaces {
    let mut interfaces = Interfaces::default();
    for (ifindex, mac, flags) in [(LO, OWN_MAC, near), (FAR, ROUTER.own, far)] {
        let group = ifindex;
        let mtu = MTU as u16;
        let properties = InterfaceProperties { ifindex, group, mac, flags, mtu, ..Default::default() };
        interfaces.insert(properties, &BTreeSet::from(OWN_MACS)).expect("indexes differ in their low bits");
    }
    interfaces
}

/// UDP destination port of tunnel packets of mode `gue`: not the default.
pub const GUE_PORT: u16 = 7_777;

/// Outer source addresses of tunnel packets.
pub fn tunnel() -> Tunnel {
    Tunnel { v4: to_address(TUNNEL4), v6: to_address(TUNNEL6), ..Tunnel::default() }
}

/// A state of the data plane.
#[derive(Debug, Clone, Default)]
pub struct PacketWorld {
    /// The state.
    pub state: MapState,
}

impl PacketWorld {
    /// Empty maps.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The standard world: all listeners and servers above.
    pub fn standard() -> Self {
        let mut world = Self::empty();
        world.state.settings = ControlSettings { seed: SEED, generation: 1 };
        world.state.index.hz = HZ;
        world.state.index.tunnel = tunnel();
        world.state.index.gue_port = GUE_PORT;
        world.state.interfaces.extend([LO, FAR]);
        for hop in [LAN, ROUTER] {
            let hop_entry = NextHop { ifindex: hop.out, mtu: MTU, macs: MacPair::new(hop.peer, hop.own) };
            world.state.next_hops.insert(NextHopId::new(hop.id), hop_entry);
        }
        let mut world = SERVERS.into_iter().fold(world, Self::server);
        for (id, server) in TABLES {
            world = world.table(id, server.as_slice());
        }
        LISTENERS.into_iter().fold(world, Self::listener)
    }

    /// Adds a server that is alive and takes new flows.
    #[must_use]
    pub fn server(mut self, server: PacketServer) -> Self {
        let backend = Backend {
            address: to_address(server.at.ip()),
            port: server.at.port().to_be(),
            flags: Backend::ALIVE | Backend::ACCEPTS_NEW,
            weight: 1,
            effective_weight: 1,
            handle: Handle::new(server.id, server.generation.into()),
            next_hop: server.hop.id,
            endpoint: endpoint(server.at),
            outer_sum: outer_sum(&tunnel().v4, &to_address(server.at.ip())),
            ..Backend::default()
        };
        self.state.index.servers.insert(&backend);
        self.state.backends.insert(BackendId::new(server.id), backend);
        self
    }

    /// Sets the flags of a server.
    #[must_use]
    pub fn flags(mut self, server: PacketServer, flags: u8) -> Self {
        self.state.backends.get_mut(&BackendId::new(server.id)).expect("the server is there").flags = flags;
        self
    }

    /// Gives flows these local addresses, with the same first and last port.
    #[must_use]
    pub fn locals(mut self, locals: &[IpAddr], ports: (u16, u16)) -> Self {
        self.state.index.locals = locals::table(locals, ports);
        self
    }

    /// Puts a next hop into a VLAN.
    #[must_use]
    pub fn hop_in_vlan(mut self, hop: Hop, vlan: Vlan) -> Self {
        let entry = self.state.next_hops.get_mut(&NextHopId::new(hop.id)).expect("the hop is there");
        entry.macs = entry.macs.in_vlan(vlan);
        self
    }

    /// Marks the next hop of a server as unresolved. As in the daemon, the server is then not alive either.
    #[must_use]
    pub fn without_next_hop(mut self, server: PacketServer) -> Self {
        self.state.backends.get_mut(&BackendId::new(server.id)).expect("the server is there").next_hop = 0;
        self.flags(server, 0)
    }

    /// Removes a server.
    #[must_use]
    pub fn without(mut self, server: PacketServer) -> Self {
        self.state.backends.remove(&BackendId::new(server.id));
        self
    }

    /// Fills a server table by Maglev hashing, with equal weights.
    #[must_use]
    pub fn table(self, id: u32, servers: &[PacketServer]) -> Self {
        self.table_of(id, servers.iter().map(|server| (*server, 1)), SlotOrder::Maglev)
    }

    /// Fills a server table for round robin.
    #[must_use]
    pub fn round_robin(self, id: u32, servers: &[PacketServer]) -> Self {
        self.weighted_round_robin(id, servers.iter().map(|server| (*server, 1)))
    }

    /// Fills a server table for weighted round robin.
    #[must_use]
    pub fn weighted_round_robin(
        self,
        id: u32,
        servers: impl Iterator<Item = (PacketServer, u8)> + Clone,
    ) -> Self {
        self.table_of(id, servers, SlotOrder::RoundRobin)
    }

    fn table_of(
        mut self,
        id: u32,
        servers: impl Iterator<Item = (PacketServer, u8)> + Clone,
        order: SlotOrder,
    ) -> Self {
        let member = |(server, weight): (PacketServer, u8)| TableMember {
            backend: BackendId::new(server.id),
            address: server.at,
            weight,
        };
        let members = servers.clone().map(member).collect();
        self.state.tables.insert(
            TableId::new(id),
            ServerTable::new(TableSpec { slots: SLOTS, seed: 1, members, order, ..TableSpec::default() }),
        );
        for (server, _) in servers {
            if let Some(backend) = self.state.backends.get_mut(&BackendId::new(server.id)) {
                backend.lookup_table = id;
            }
        }
        self
    }

    /// Makes every slot of a table a migrating slot whose previous backend is `previous_backend`.
    #[must_use]
    pub fn with_previous_backend(mut self, table: u32, previous_backend: PacketServer) -> Self {
        let table = self.state.tables.get_mut(&TableId::new(table)).expect("the table is there");
        let previous_backend = BackendId::new(previous_backend.id);
        let slots = (0..SLOTS).map(|slot| (Slot::new(slot), previous_backend));
        table.slot_migration = SlotMigration::from_maps(slots, Duration::ZERO);
        self
    }

    /// Changes the map entry of a listener.
    #[must_use]
    pub fn with(mut self, listener: PacketListener, change: impl FnOnce(&mut Service)) -> Self {
        let service =
            self.state.services.get_mut(&ServiceId::new(listener.id)).expect("the listener is there");
        change(service);
        self.state.index.entries.insert(ServiceId::new(listener.id), entry(service, SEED));
        self
    }

    /// Adds a listener.
    #[must_use]
    pub fn listener(mut self, listener: PacketListener) -> Self {
        let service = Service {
            address: to_address(listener.at.ip()),
            port: listener.at.port().to_be(),
            protocol: listener.protocol,
            handle: Handle::new(listener.id, 1),
            lookup_table: listener.table.unwrap_or(TableId::NONE.index()),
            idle_timeout: IDLE_SECONDS,
            policy: if listener.table.is_none() { policy::REJECT_UNMATCHED } else { 0 },
            ..Service::default()
        };
        self.state.index.entries.insert(ServiceId::new(listener.id), entry(&service, SEED));
        self.state.services.insert(ServiceId::new(listener.id), service);
        self
    }

    /// Removes a listener.
    #[must_use]
    pub fn without_listener(mut self, listener: PacketListener) -> Self {
        self.state.services.remove(&ServiceId::new(listener.id));
        self.state.index.entries.remove(&ServiceId::new(listener.id));
        self
    }
}
