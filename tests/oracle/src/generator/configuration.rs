//! Random configurations over few endpoints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{access, listener_limits::with_limits, quic};
use crate::{
    choices::Choices,
    world::{
        FAR, FOREIGN, Hop, Interface, Listener, Mac, Mode, NEAR, Protocol, Server, ServerState, Table, Tag,
        Unmatched, Vip, VlanDevice, World,
    },
};

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(network: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host))
}

/// The VIPs.
pub(super) const VIPS: [IpAddr; 4] =
    [v4(198, 51, 100, 10), v6(0x10, 0x10), v4(198, 51, 100, 11), v6(0x10, 0x11)];
/// Addresses of clients. The last two of each family are servers, which are clients now and then.
pub(super) const CLIENTS: [IpAddr; 8] = [
    v4(203, 0, 113, 7),
    v4(203, 0, 113, 8),
    v4(10, 0, 0, 1),
    v4(10, 0, 0, 2),
    v6(0xc, 7),
    v6(0xc, 8),
    v6(0xa, 1),
    v6(0xa, 2),
];

/// Local addresses, three of each family.
pub(super) const LOCALS: [IpAddr; 6] =
    [v4(10, 0, 0, 201), v4(10, 0, 0, 202), v4(10, 0, 0, 203), v6(0xa, 0x201), v6(0xa, 0x202), v6(0xa, 0x203)];
/// SLB's addresses on the near interface. All of them do not fit into its entry of the interface table.
pub(super) const NEAR_MACS: [Mac; 5] = [own(1), own(2), own(3), own(4), own(5)];
/// SLB's addresses on the far interface.
pub(super) const FAR_MACS: [Mac; 2] = [own(0x11), own(0x12)];
/// Addresses of routers in front of clients.
pub(super) const CLIENT_MACS: [Mac; 3] = [peer(0xc1), peer(0xc2), peer(0xc3)];

const fn own(number: u8) -> Mac {
    [2, 0, 0, 0, 0, number]
}

const fn peer(number: u8) -> Mac {
    [2, 0, 0, 0, 1, number]
}

const SERVERS: usize = 14;
const TABLES: usize = 12;
/// Servers without a port of their own, behind ranges, and their tables, which come after the others.
const RANGE_SERVERS: usize = 4;
const RANGE_TABLES: usize = 4;
/// First and last port of ranges. Servers of single ports have some of these ports, too.
const RANGES: [(u16, u16); 3] = [(8078, 8083), (8084, 8089), (1, u16::MAX)];

/// A random configuration.
pub fn world(choices: &mut impl Choices) -> World {
    let mut servers: Vec<_> = (0..SERVERS).map(|number| server(choices, number)).collect();
    // Tables of one server each: a client endpoint can have more flows than SLB can tell apart.
    let is_spread = choices.rarely(4);
    let tables: Vec<_> = (0..TABLES)
        .map(|number| {
            let table = table(choices, number, &servers);
            if is_spread { Table { members: vec![number], previous: None } } else { table }
        })
        .collect();
    let mut tables = tables;
    let behind_ranges: Vec<_> = (0..RANGE_SERVERS).map(|number| portless(choices, number)).collect();
    tables.extend((0..RANGE_TABLES).map(|number| {
        let Table { members, previous } = table(choices, number, &behind_ranges);
        let behind = |server: usize| SERVERS + server;
        Table { members: members.into_iter().map(behind).collect(), previous: previous.map(behind) }
    }));
    servers.extend(behind_ranges);
    let mut world = World {
        hz: choices.pick(&[100, 250, 1000]),
        interfaces: interfaces(choices),
        vlan_devices: vlan_devices(choices),
        vips: VIPS.map(|ip| vip(choices, ip)).to_vec(),
        servers,
        tables,
        listeners: Vec::new(),
        locals: locals(choices),
        local_ports: choices.pick(&[
            (1024, u16::MAX),
            (1024, u16::MAX),
            (1024, 32_767),
            (40_001, 40_001),
            (40_000, 40_003),
        ]),
        access_lists: access::lists(choices),
        tunnel: (Ipv4Addr::new(10, 0, 0, 254), Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0xfe)),
        tunnel_by_flow: (0, 0),
    };
    if choices.below(3) == 0 {
        world.tunnel = (Ipv4Addr::new(10, 0x80, 0, 0), Ipv6Addr::new(0x2001, 0xdb8, 0x80, 0, 0, 0, 0, 0));
        world.tunnel_by_flow = (choices.pick(&[0, 1, 0xffff]), choices.pick(&[0, 0xff, u32::MAX]));
    }
    // Most listeners belong to the first VIP of each family, so that a client endpoint has many flows.
    for port in 80..96 {
        for family in 0..2 {
            let vip = VIPS[family + if choices.rarely(8) { 2 } else { 0 }];
            if choices.below(3) > 0 {
                let mut listener = listener(choices, SocketAddr::new(vip, port));
                if is_spread && choices.below(4) > 0 {
                    (listener.mode, listener.protocol) = (Mode::Nat, Protocol::Tcp);
                    (listener.toa, listener.quic) = (false, None);
                    listener.table = Some(usize::from(port - 80) / 2 * 2 % TABLES + family);
                }
                world.listeners.push(with_limits(choices, listener));
            }
        }
    }
    for ((first, last), family) in RANGES.into_iter().flat_map(|range| [(range, 0), (range, 1)]) {
        if choices.rarely(if last == u16::MAX { 6 } else { 3 }) {
            let range = ranged(choices, SocketAddr::new(VIPS[family], first), last);
            world.listeners.push(with_limits(choices, range));
        }
    }
    world
}

/// A listener with a range.
fn ranged(choices: &mut impl Choices, at: SocketAddr, last: u16) -> Listener {
    let listener = listener(choices, at);
    let tables: Vec<_> = (TABLES..TABLES + RANGE_TABLES)
        .filter(|table| listener.mode.is_tunnel() || table.is_multiple_of(2) == at.is_ipv4())
        .collect();
    Listener { last: Some(last), table: listener.table.map(|_| choices.pick(&tables)), ..listener }
}

/// A server behind ranges: with the address of others, and the port of each packet.
fn portless(choices: &mut impl Choices, number: usize) -> Server {
    let mut server = server(choices, number);
    let host = 1 + number as u16 / 2;
    let ip = if number.is_multiple_of(2) { v4(10, 0, 0, host as u8) } else { v6(0xa, host) };
    server.at = SocketAddr::new(ip, 0);
    server
}

/// Local addresses; none in one of three configurations.
fn locals(choices: &mut impl Choices) -> Vec<IpAddr> {
    let (number, rest) = (choices.below(3) as usize, choices.below(2) as usize);
    [&LOCALS[..number], &LOCALS[3..3 + number.min(1 + rest)]].concat()
}

/// MTUs of links: mostly that of Ethernet.
const MTUS: [u32; 6] = [1500, 1500, 1500, 1500, 600, 1320];

fn interfaces(choices: &mut impl Choices) -> Vec<Interface> {
    let (near, far) = (choices.below(8), choices.below(4));
    let mut mtu = || choices.pick(&MTUS) as u16;
    vec![
        Interface { index: NEAR, macs: NEAR_MACS.to_vec(), client: near != 6, server: near != 7, mtu: mtu() },
        Interface { index: FAR, macs: FAR_MACS.to_vec(), client: far < 3, server: far > 0, mtu: mtu() },
    ]
}

/// VLANs on both interfaces: ids and kinds of tags that frames have.
const TAGS: [Tag; 2] = [Tag { kind: 0x8100, id: 7 }, Tag { kind: 0x88a8, id: 8 }];

fn vlan_devices(choices: &mut impl Choices) -> Vec<VlanDevice> {
    if choices.rarely(3) {
        return Vec::new();
    }
    let mut device = |index, below, tag: usize, mac| {
        let mtu = choices.pick(&MTUS) as u16;
        VlanDevice { index, below, tag: TAGS[tag], mac, mtu }
    };
    vec![
        device(21, NEAR, 0, NEAR_MACS[0]),
        device(22, NEAR, 1, NEAR_MACS[2]),
        device(23, FAR, 0, FAR_MACS[1]),
    ]
}

fn vip(choices: &mut impl Choices, ip: IpAddr) -> Vip {
    let unmatched = choices.pick(&[Unmatched::Reject, Unmatched::Reject, Unmatched::Drop, Unmatched::Pass]);
    Vip { ip, echo: !choices.rarely(4), unmatched }
}

/// Servers with even numbers are IPv4. Some share an address, or address and port of the client.
fn server(choices: &mut impl Choices, number: usize) -> Server {
    let host = 1 + number as u16 / 4;
    let ip = if number.is_multiple_of(2) { v4(10, 0, 0, host as u8) } else { v6(0xa, host) };
    let hop = Hop {
        interface: match choices.below(16) {
            0 | 1 => FAR,
            2 => FOREIGN,
            _ => NEAR,
        },
        mtu: choices.pick(&MTUS),
        // Servers that share a router share its address.
        peer: peer(0x51 + choices.below(3) as u8),
        own: NEAR_MACS[1],
        tag: choices.rarely(4).then(|| choices.pick(&TAGS)),
    };
    let hop = Hop { own: if hop.interface == NEAR { hop.own } else { FAR_MACS[0] }, ..hop };
    let state = if choices.rarely(8) { choices.pick(&ServerState::ALL) } else { ServerState::Up };
    Server {
        at: SocketAddr::new(ip, 8080 + number as u16 / 2 % 2),
        hop: (!choices.rarely(16)).then_some(hop),
        state,
    }
}

/// Tables with even numbers are of IPv4 servers.
fn table(choices: &mut impl Choices, number: usize, servers: &[Server]) -> Table {
    let is_v4 = number.is_multiple_of(2);
    let family: Vec<_> = (0..servers.len()).filter(|server| servers[*server].at.is_ipv4() == is_v4).collect();
    let size = choices.pick(&[1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 0]);
    let mut members: Vec<_> = (0..size).map(|_| choices.pick(&family)).collect();
    members.sort_unstable();
    members.dedup();
    let migrates = choices.rarely(4) && !members.is_empty();
    Table { members, previous: migrates.then(|| choices.pick(&family)) }
}

fn listener(choices: &mut impl Choices, at: SocketAddr) -> Listener {
    let mode = choices.pick(&[
        Mode::Nat,
        Mode::Nat,
        Mode::Nat,
        Mode::FullNat,
        Mode::FullNat,
        Mode::Dsr,
        Mode::Ipip,
        Mode::Gue,
    ]);
    let tables: Vec<_> =
        (0..TABLES).filter(|table| mode.is_tunnel() || table.is_multiple_of(2) == at.is_ipv4()).collect();
    let protocol = choices.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp]);
    Listener {
        at,
        last: None,
        protocol,
        mode,
        toa: mode == Mode::FullNat && protocol == Protocol::Tcp && choices.rarely(2),
        table: (!choices.rarely(16)).then(|| choices.pick(&tables)),
        idle: choices.pick(&[20, 60, 100, 1000]),
        track: choices.rarely(3),
        follow: choices.rarely(3),
        by_client: choices.rarely(6),
        access: access::of_listener(choices),
        bandwidth: None,
        new_connections: None,
        quic: quic::of_listener(choices, protocol),
    }
}
