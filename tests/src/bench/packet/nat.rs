//! Workloads of mode `nat`, and of packets that are nobody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use slb_common::{
    abi::{Mac, backend::NextHop},
    bench::FLOW_BITS,
};
use slb_userspace::{
    config::model::TableSize,
    dataplane::state::{Member, Settings, State, Table},
};

use super::workload::{Expect, Side, Step, Traffic, Workload};
use crate::packets::{
    frames::{Frame, flag, number, tcp, udp},
    world::{HZ, LAN, LO, Listener, SERVER_MAC, SERVER_SIDE_MAC, Server, VIP4, VIP6, World},
};

/// Servers of a listener, where packets go to servers.
const SERVERS: u16 = 64;
/// Room in the flow table unless a workload needs more: what the daemon makes by default.
const FLOW_TABLE: u32 = 262_144;
/// Room for the largest number of flows and as many again: a table that is nearly full evicts.
const LARGE_FLOW_TABLE: u32 = 1 << 21;

const MANY: u64 = 1 << 16;
const MOST: u64 = 1 << 20;

/// The network of the clients, which is for benchmarks (RFC 2544): the bits of flow numbers are 0.
const CLIENT4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)), 1024);
const CLIENT6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0)), 1024);
/// An address that is no VIP.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 99)), 80);

/// Fills a datagram up to the bytes of a frame that are written anew.
const PAYLOAD: [u8; 40] = [b'x'; 40];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// All of them.
pub fn workloads() -> Vec<Workload> {
    let mut all = Vec::new();
    for (flows, name) in [(1, "1 flow"), (MANY, "64k flows"), (MOST, "1M flows")] {
        all.push(to_server(format!("nat TCP4 to server, {name}"), number::TCP, Family::V4, flows));
    }
    for (flows, name) in [(1, "1 flow"), (MANY, "64k flows"), (MOST, "1M flows")] {
        all.push(to_client(format!("nat TCP4 to client, {name}"), flows));
    }
    all.push(new_flows("nat TCP4 new flow".to_owned(), LARGE_FLOW_TABLE, 0));
    all.push(new_flows("nat TCP4 new flow, table full".to_owned(), MANY as u32, 2 * MANY));
    all.push(to_server("nat UDP4 to server, 1 flow".to_owned(), number::UDP, Family::V4, 1));
    all.push(to_server("nat TCP6 to server, 1 flow".to_owned(), number::TCP, Family::V6, 1));
    all.push(to_server("nat TCP6 to server, 64k flows".to_owned(), number::TCP, Family::V6, MANY));
    all.push(to_server("nat UDP6 to server, 1 flow".to_owned(), number::UDP, Family::V6, 1));
    all.push(not_ours("not ours, TCP4".to_owned()));
    all
}

/// Packets of flows that SLB remembers.
fn to_server(name: String, protocol: u8, family: Family, flows: u64) -> Workload {
    let (listener, state) = world(protocol, family, SERVERS);
    let packet = |flags| Traffic::new(packet(&listener, flags), flows, Side::Source);
    Workload {
        name,
        state,
        flow_table: flow_table(flows),
        fill: Some(Step::once(packet(flag::SYN), Expect::BEGINS)),
        measured: Step::once(packet(flag::ACK), Expect::TO_SERVER),
        // A packet without SYN that finds no flow is not counted as a new one. A SYN is.
        audit: Some(Step::once(packet(flag::SYN), Expect::TO_SERVER)),
    }
}

/// Answers: an answer that finds no flow is not ours, so there is nothing to show afterwards.
fn to_client(name: String, flows: u64) -> Workload {
    let (listener, state) = world(number::TCP, Family::V4, 1);
    let answer = tcp(server(1, Family::V4).at, client(Family::V4), flag::ACK | flag::PSH)
        .macs(SERVER_MAC, SERVER_SIDE_MAC)
        .build();
    Workload {
        name,
        state,
        flow_table: flow_table(flows),
        fill: Some(Step::once(
            Traffic::new(packet(&listener, flag::SYN), flows, Side::Source),
            Expect::BEGINS,
        )),
        measured: Step::once(Traffic::new(answer, flows, Side::Destination), Expect::TO_CLIENT),
        audit: None,
    }
}

/// Every packet begins a flow; `before` flows have begun when measuring begins.
fn new_flows(name: String, flow_table: u32, before: u64) -> Workload {
    let (listener, state) = world(number::TCP, Family::V4, SERVERS);
    let traffic = Traffic::new(packet(&listener, flag::SYN), 1 << FLOW_BITS, Side::Source);
    Workload {
        name,
        state,
        flow_table,
        fill: None,
        measured: Step { traffic, packets: before, expect: Expect::BEGINS },
        audit: None,
    }
}

fn not_ours(name: String) -> Workload {
    let (_, state) = world(number::TCP, Family::V4, SERVERS);
    let frame = tcp(client(Family::V4), ELSEWHERE, flag::ACK).build();
    Workload {
        name,
        state,
        flow_table: FLOW_TABLE,
        fill: None,
        measured: Step::once(Traffic::new(frame, 1, Side::Source), Expect::NOT_OURS),
        audit: None,
    }
}

/// A packet of a client; `flags` mean something in TCP only.
fn packet(listener: &Listener, flags: u8) -> Frame {
    let client = client(if listener.at.is_ipv4() { Family::V4 } else { Family::V6 });
    if listener.protocol == number::TCP {
        tcp(client, listener.at, flags).build()
    } else {
        udp(client, listener.at, &PAYLOAD).build()
    }
}

/// One listener and its servers, all of them reached out of the interface that packets come in by.
fn world(protocol: u8, family: Family, servers: u16) -> (Listener, State) {
    const TABLE: u32 = 1;
    let vip = if family == Family::V4 { VIP4 } else { VIP6 };
    let listener = Listener { id: 0, at: SocketAddr::new(vip, 80), protocol, table: Some(TABLE) };
    let servers: Vec<Server> = (1..=servers).map(|number| server(number, family)).collect();
    let mut world = World::empty();
    world.state.settings = Settings { seed: 42, hz: HZ, generation: 1 };
    world.state.interfaces.insert(LO);
    let hop =
        NextHop { ifindex: LAN.out, reserved: 0, destination: Mac::new(LAN.peer), source: Mac::new(LAN.own) };
    world.state.next_hops.insert(LAN.id, hop);
    let members = servers.iter().map(|s| Member { backend: s.id, address: s.at, weight: 1 }).collect();
    let table = Table { slots: TableSize::DEFAULT.slots(), seed: 1, members };
    world.state.tables.insert(TABLE, table);
    let world = servers.into_iter().fold(world, World::server).listener(listener);
    (listener, world.state)
}

const fn client(family: Family) -> SocketAddr {
    match family {
        Family::V4 => CLIENT4,
        Family::V6 => CLIENT6,
    }
}

/// Server number `number`, from 1.
fn server(number: u16, family: Family) -> Server {
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + u32::from(number))),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, number)),
    };
    Server { id: number.into(), generation: 1, at: SocketAddr::new(ip, 8080), hop: LAN }
}

fn flow_table(flows: u64) -> u32 {
    if flows > MANY { LARGE_FLOW_TABLE } else { FLOW_TABLE }
}
