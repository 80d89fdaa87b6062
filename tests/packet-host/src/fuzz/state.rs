//! A configuration of the oracle as a state of the data plane.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::IpNet;
use slb_common::{
    abi::{
        Address, Handle, MacPair,
        backend::{Backend, NextHop},
        flow::FlowTag,
        ids::{AccessListId, BackendId, NextHopId, ServiceId, TableId},
        interface::{self, EXTRA_MACS, InterfaceProperties, NO_MAC, own_mac_key, slot},
        mac_word,
        quic::CidFormat,
        service::{Service, ServiceIndex, mode, policy},
        tunnel::Tunnel,
    },
    datapath::ipip::outer_sum,
    net::{headers::protocol, vlan::Vlan},
};
use slb_control::{
    dataplane::{
        quic_server::QuicServerKey,
        state::{ControlSettings, MapState, ServerTable, SlotOrder, TableMember, TableSpec, to_address},
    },
    ids::entry,
    slot::Slot,
    slot_migration::SlotMigration,
};
use slb_oracle::world::{
    Access, GUE_PORT, Listener, Mode, Protocol, Server, ServerState, Table, Tag, Unmatched, Vip, World,
    port_of, position,
};

use super::slots::TableSlots;
use crate::{host::Host, locals};

/// Seed of hashes and tables.
const SEED: u64 = 42;
/// Slots of each table.
const SLOTS: u32 = 251;

/// Id of the server at this position. 0 is no server's.
pub(super) const fn server_id(number: usize) -> u32 {
    number as u32 + 1
}

/// Position of the server with this id.
pub(super) const fn number_of_server(id: u32) -> usize {
    id as usize - 1
}

/// The tag of flows of the listener with this number.
pub(super) const fn tag(number: usize) -> FlowTag {
    FlowTag::new(Handle::new(position(number) as u32, 1).tag(), port_of(number).to_be())
}

const fn table_id(number: usize) -> u32 {
    number as u32 + 1
}

/// The state of the data plane for a configuration.
pub fn state(world: &World) -> MapState {
    let settings = ControlSettings { seed: SEED, generation: 1 };
    let mut state = MapState { settings, ..MapState::default() };
    state.index.hz = world.hz;
    state.index.tunnel = tunnel(world);
    state.index.gue_port = GUE_PORT;
    state.index.locals = locals::table(&world.locals, world.local_ports);
    state.interfaces = world.interfaces.iter().map(|interface| interface.index).collect();
    for (number, server) in world.servers.iter().enumerate() {
        if let Some(hop) = server.hop {
            let macs = MacPair::new(hop.peer, hop.own).in_vlan(hop.tag.map_or(Vlan::NONE, vlan));
            let entry = NextHop { ifindex: hop.interface, mtu: hop.mtu, macs };
            state.next_hops.insert(NextHopId::new(server_id(number)), entry);
        }
        let backend = backend(world, number, server.state).unwrap_or_else(|| unused(world, number));
        state.index.servers.insert(&backend);
        if server.state != ServerState::Gone {
            state.backends.insert(BackendId::new(server_id(number)), backend);
        }
    }
    for (number, table) in world.tables.iter().enumerate() {
        state.tables.insert(TableId::new(table_id(number)), server_table(table, &world.servers));
    }
    for number in 0..world.tables.len() {
        let table = TableId::new(table_id(number));
        state.quic_servers.extend(world.quic_servers(number).map(|(server_id, server)| {
            (QuicServerKey { table, server_id }, Handle::new(self::server_id(server), 1))
        }));
    }
    let lists = world.access_lists.iter().enumerate().filter(|(_, networks)| !networks.is_empty());
    for (number, networks) in lists {
        let network = |(address, length)| IpNet::new(address, length).expect("a length of the family");
        let networks: BTreeSet<_> = networks.iter().copied().map(network).collect();
        state.access_lists.insert(AccessListId::new(list_id(number)), networks.into());
    }
    for (number, listener) in world.listeners.iter().enumerate() {
        put_service(&mut state, number, service(world, listener));
    }
    for (number, vip) in world.vips.iter().enumerate() {
        put_service(&mut state, world.listeners.len() + number, vip_entry(vip));
    }
    state
}

fn put_service(state: &mut MapState, number: usize, service: Service) {
    let id = number as u32;
    let service = Service { handle: Handle::new(id, 1), token_buckets: number as u16, ..service };
    state.index.entries.insert(ServiceId::new(number as u32), entry(&service, SEED));
    state.services.insert(ServiceId::new(number as u32), service);
}

fn tunnel(world: &World) -> Tunnel {
    Tunnel {
        v4: to_address(world.tunnel.0.into()),
        v6: to_address(world.tunnel.1.into()),
        by_flow_v4: world.tunnel_by_flow.0.to_be(),
        by_flow_v6: world.tunnel_by_flow.1.to_be(),
    }
}

/// The map entry of a server; `None` if its id is not in use.
pub(super) fn backend(world: &World, number: usize, state: ServerState) -> Option<Backend> {
    let flags = match state {
        ServerState::Up => Backend::ALIVE | Backend::ACCEPTS_NEW,
        ServerState::Drains => Backend::ALIVE,
        ServerState::Down => 0,
        ServerState::Terminating => Backend::TERMINATING,
        ServerState::Gone => return None,
    };
    Some(Backend { flags, ..unused(world, number) })
}

fn unused(world: &World, number: usize) -> Backend {
    let server = world.servers[number];
    let address: Address = to_address(server.at.ip());
    let port = server.at.port().to_be();
    Backend {
        address,
        port,
        weight: 1,
        effective_weight: 1,
        handle: Handle::new(server_id(number), 1),
        next_hop: if server.hop.is_some() { server_id(number) } else { 0 },
        endpoint: Backend::endpoint_of(ServiceIndex::server_hash(&address, port)),
        outer_sum: outer_sum(&tunnel(world).v4, &address),
        ..Backend::default()
    }
}

fn server_table(table: &Table, servers: &[Server]) -> ServerTable {
    let member = |number: &usize| TableMember {
        backend: BackendId::new(server_id(*number)),
        address: servers[*number].at,
        weight: 1,
    };
    let members = table.members.iter().map(member).collect();
    let order = SlotOrder::Maglev;
    let spec = TableSpec { slots: SLOTS, seed: 1, members, order, ..TableSpec::default() };
    let mut filled = ServerTable::new(spec);
    if let Some(previous) = table.previous {
        let slots = (0..SLOTS).map(|slot| (Slot::new(slot), BackendId::new(server_id(previous))));
        filled.slot_migration = SlotMigration::from_maps(slots, Duration::ZERO);
    }
    filled
}

/// The map id of the access list at this position. The empty list is in no map.
const fn list_id(number: usize) -> u32 {
    number as u32 + 1
}

fn service(world: &World, listener: &Listener) -> Service {
    let mut policies = match listener.access {
        None => 0,
        Some(Access { admits: true, .. }) => policy::ALLOW_LISTED,
        Some(Access { admits: false, .. }) => policy::DENY_LISTED,
    };
    let list = listener.access.map(|access| access.list).filter(|list| !world.access_lists[*list].is_empty());
    for (is_set, bit) in [
        (listener.track, policy::TRACK),
        (listener.follow, policy::FOLLOW),
        (listener.by_client, policy::BY_CLIENT),
        (listener.toa, policy::TOA),
        (listener.quic.is_some(), policy::QUIC),
        (listener.bandwidth.is_some(), policy::LIMIT_BANDWIDTH),
        (listener.new_connections.is_some(), policy::LIMIT_NEW_CONNECTIONS),
    ] {
        policies |= if is_set { bit } else { 0 };
    }
    Service {
        address: to_address(listener.at.ip()),
        port: listener.at.port().to_be(),
        last_port: listener.last.unwrap_or_default().to_be(),
        protocol: match listener.protocol {
            Protocol::Tcp => protocol::TCP,
            Protocol::Udp => protocol::UDP,
        },
        mode: match listener.mode {
            Mode::Nat => mode::NAT,
            Mode::FullNat => mode::FULL_NAT,
            Mode::Dsr => mode::DSR,
            Mode::Ipip => mode::IPIP,
            Mode::Gue => mode::GUE,
        },
        // A table that does not exist.
        lookup_table: listener.table.map_or(99, table_id),
        idle_timeout: listener.idle as u16,
        policy: policies,
        quic: listener.quic.map_or(0, |quic| CidFormat::new(quic.length, quic.rotation).number()),
        access_list: list.map_or(AccessListId::EMPTY.index(), list_id),
        bandwidth: listener.bandwidth.unwrap_or_default(),
        new_connections: listener.new_connections.unwrap_or_default(),
        ..Service::default()
    }
}

fn vip_entry(vip: &Vip) -> Service {
    let unmatched = match vip.unmatched {
        Unmatched::Pass => 0,
        Unmatched::Drop => policy::DROP_UNMATCHED,
        Unmatched::Reject => policy::REJECT_UNMATCHED,
    };
    Service {
        address: to_address(vip.ip),
        protocol: if vip.ip.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 },
        lookup_table: TableId::NONE.index(),
        policy: unmatched | if vip.echo { 0 } else { policy::NO_ECHO },
        ..Service::default()
    }
}

fn vlan(tag: Tag) -> Vlan {
    Vlan::new(tag.id, tag.kind == 0x88a8)
}

/// The entries of the VLAN devices, and the interfaces below them.
pub(super) fn vlan_devices(world: &World) -> impl Iterator<Item = InterfaceProperties> {
    world.vlan_devices.iter().map(|device| InterfaceProperties {
        ifindex: device.index,
        group: device.index,
        mac: device.mac,
        mtu: device.mtu,
        extra_macs: [NO_MAC; EXTRA_MACS],
        below: device.below,
        vlan: vlan(device.tag),
        ..InterfaceProperties::default()
    })
}

/// The entries of the interface table without VLAN devices, and the further addresses in the map of own MACs.
pub(super) fn interfaces(world: &World) -> (Vec<(u32, InterfaceProperties)>, BTreeMap<u64, u64>) {
    let (mut entries, mut own_macs) = (Vec::new(), BTreeMap::new());
    for interface in &world.interfaces {
        let mut more = interface.macs[1..].iter().copied();
        let extra_macs = [(); EXTRA_MACS].map(|()| more.next().unwrap_or(NO_MAC));
        own_macs.extend(more.map(|mac| (own_mac_key(interface.index, mac_word(mac)), 1)));
        let role = |is_set, role| if is_set { role } else { 0 };
        let flags = role(interface.client, interface::CLIENT) | role(interface.server, interface::SERVER);
        let (ifindex, mac) = (interface.index, interface.macs[0]);
        let properties = InterfaceProperties {
            ifindex,
            group: ifindex,
            mac,
            flags,
            mtu: interface.mtu,
            extra_macs,
            ..Default::default()
        };
        entries.push((slot(ifindex), properties));
    }
    (entries, own_macs)
}

/// Fills a host with a state, and returns the slots of its hashes.
pub(super) fn fill(host: &mut Host, world: &World, state: &MapState) -> TableSlots {
    for operation in slb_control::diff::diff(&MapState::default(), state) {
        host.apply(&operation);
    }
    let (mut entries, mut own_macs) = interfaces(world);
    for device in vlan_devices(world) {
        own_macs.insert(own_mac_key(device.below, device.vlan.as_mac()), device.ifindex.into());
        entries.push((slot(device.ifindex), device));
    }
    host.put_interfaces(entries.iter().map(|(slot, properties)| (slot, properties)), &own_macs);
    let listeners = state.services.values().map(|service| entry(service, SEED)).collect();
    let aside = TableId::new(u32::MAX);
    let tables = state.tables.values().map(|table| table.lookup_tables(aside).0).collect();
    TableSlots { listeners, tables }
}
