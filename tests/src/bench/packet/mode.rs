//! The workloads, by mode.
//!
//! A mode is a constant like [`NAT`], plus lines in [`workloads`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use slb_bench_common::packet::FLOW_BITS;
use slb_common::abi::{
    MacPair,
    access_list::MAX_NETWORKS,
    backend::NextHop,
    family::Family,
    ids::{AccessListId, BackendId, NextHopId, TableId},
    mode::Mode,
    service::policy,
};
use slb_config::model::TableSize;
use slb_control::dataplane::state::{ControlSettings, MapState, ServerTable, TableMember, TableSpec};

use super::{
    flood::ESTABLISHED,
    workload::{ExpectedResult, PacketStream, VariedAddress, Workload, WorkloadStep},
};
use crate::packets::{
    frames::{Frame, flag, number, tcp, udp},
    world::{
        HZ, LAN, LO, LOCAL4, LOCAL6, MTU, PacketListener, PacketServer, PacketWorld, SEED, SERVER_MAC,
        SERVER_SIDE_MAC, VIP4, VIP6, tunnel,
    },
};

/// Number of servers in workloads with packets to servers.
pub(super) const SERVERS: u16 = 64;
/// Default number of flow-table entries, which is the daemon's default.
const FLOW_TABLE: u32 = 262_144;
/// Entries for four times the largest number of flows. In a half-full table, a few in a million flows find no slot in
/// their neighbourhood.
const LARGE_FLOW_TABLE: u32 = 1 << 22;

const MANY: u64 = 1 << 16;
const MOST: u64 = 1 << 20;

/// Client network, reserved for benchmarks (RFC 2544). The bits of flow numbers are 0.
const CLIENT4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)), 1024);
const CLIENT6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0)), 1024);
/// An address that is no VIP.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 99)), 80);

/// EtherType and content of a priority tag (802.1Q, VLAN 0), and its length.
const PRIORITY_TAG: (u16, u16) = (0x8100, 0xa000);
const TAG_BYTES: i64 = 4;

/// Payload that fills the part of a frame that the wrapper rewrites.
const PAYLOAD: [u8; 40] = [b'x'; 40];

/// A mode of SLB, as the benchmark names it.
#[derive(Debug, Clone, Copy)]
pub struct ModeSpec {
    /// Name in the figures.
    pub name: &'static str,
    /// The mode.
    pub mode: Mode,
    /// Whether flows are tracked in steady state: a SYN of a tracked flow does not count as a new flow.
    pub is_tracked: bool,
}

/// Mode `nat`: SLB rewrites the destination address, and answers return through SLB.
pub const NAT: ModeSpec = ModeSpec { name: "nat", mode: Mode::Nat, is_tracked: true };
/// Mode `full-nat`: SLB rewrites both ends. The measured flow keeps its client's port.
pub const FULL_NAT: ModeSpec = ModeSpec { name: "full-nat", mode: Mode::FullNat, is_tracked: true };
/// Mode `dsr`: SLB rewrites only the MACs.
pub const DSR: ModeSpec = ModeSpec { name: "dsr", mode: Mode::Dsr, is_tracked: false };
/// Mode `ipip`: SLB encapsulates packets.
pub const IPIP: ModeSpec = ModeSpec { name: "ipip", mode: Mode::Ipip, is_tracked: false };

/// All workloads.
pub fn workloads() -> Vec<Workload> {
    use Family::{V4, V6};
    let (tcp, udp) = (number::TCP, number::UDP);
    vec![
        IPIP.established_flows(tcp, V4, 1),
        IPIP.established_flows(tcp, V4, MANY),
        IPIP.established_flows(tcp, V4, MOST),
        IPIP.new_flows("", FLOW_TABLE, 0),
        IPIP.established_flows(udp, V4, 1),
        IPIP.established_flows(tcp, V6, 1),
        DSR.established_flows(tcp, V4, 1),
        DSR.established_flows(tcp, V4, MOST),
        DSR.new_flows("", FLOW_TABLE, 0),
        DSR.established_flows(udp, V4, 1),
        DSR.established_flows(tcp, V6, 1),
        DSR.priority_tagged(),
        NAT.established_flows(tcp, V4, 1),
        NAT.established_flows(tcp, V4, MANY),
        NAT.established_flows(tcp, V4, MOST),
        NAT.answers(1),
        NAT.answers(MANY),
        NAT.answers(MOST),
        NAT.new_flows("", LARGE_FLOW_TABLE, 0),
        NAT.new_flows(", table full", MANY as u32, 2 * MANY),
        NAT.established_flows(udp, V4, 1),
        NAT.established_flows(tcp, V6, 1),
        NAT.established_flows(tcp, V6, MANY),
        NAT.established_flows(udp, V6, 1),
        NAT.priority_tagged(),
        NAT.access_list(1),
        NAT.access_list(MANY),
        NAT.not_ours(),
        FULL_NAT.established_flows(tcp, V4, 1),
        FULL_NAT.established_flows(tcp, V4, MANY),
        FULL_NAT.answers(1),
        FULL_NAT.new_flows("", LARGE_FLOW_TABLE, 0),
        FULL_NAT.established_flows(udp, V4, 1),
        FULL_NAT.established_flows(tcp, V6, 1),
    ]
}

/// State and packets of a flood.
pub(super) struct Scene {
    /// One listener and its servers.
    pub(super) state: MapState,
    /// SYNs of the established flows.
    pub(super) syn: PacketStream,
    /// Answers to them, from the first server.
    pub(super) answer: PacketStream,
    /// Later packets of the established flows.
    pub(super) established: PacketStream,
    /// Packets of the flood, each of another flow.
    pub(super) flood: PacketStream,
}

/// A flood of packets with these TCP flags to a listener with `servers` servers.
pub(super) fn flood(mode: &ModeSpec, servers: u16, flags: u8) -> Scene {
    /// A shared address of RFC 6598; clients of established flows have others.
    const FLOODER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 1024);
    let (listener, state) = mode.world(number::TCP, Family::V4, servers);
    let established = |flags| PacketStream::new(packet(&listener, flags), ESTABLISHED, VariedAddress::Source);
    let answer = tcp(server(1, Family::V4).at, client(Family::V4), flag::ACK | flag::SYN)
        .macs(SERVER_MAC, SERVER_SIDE_MAC)
        .build();
    Scene {
        state,
        syn: established(flag::SYN),
        answer: PacketStream::new(answer, ESTABLISHED, VariedAddress::Destination),
        established: established(flag::ACK),
        flood: PacketStream::new(
            tcp(FLOODER, listener.at, flags).build(),
            1 << FLOW_BITS,
            VariedAddress::Source,
        ),
    }
}

impl ModeSpec {
    /// Expected result of a client's packet of an established flow.
    fn to_server(self, family: Family) -> ExpectedResult {
        ExpectedResult { grown: self.mode.overhead(family) as i64, ..ExpectedResult::TO_SERVER }
    }

    /// Packets of clients in established flows.
    fn established_flows(&self, protocol: u8, family: Family, flows: u64) -> Workload {
        let (listener, state) = self.world(protocol, family, SERVERS);
        let packets = |flags| PacketStream::new(packet(&listener, flags), flows, VariedAddress::Source);
        // A SYN without an entry counts as a new flow; another packet does not.
        let to_server = self.to_server(family);
        let audit = self.is_tracked.then(|| WorkloadStep::once(packets(flag::SYN), to_server));
        // Untracked datagrams of old and new flows look alike.
        let first =
            if self.is_tracked || protocol == number::TCP { to_server.beginning() } else { to_server };
        let transport = if protocol == number::TCP { "TCP" } else { "UDP" };
        let version = if family == Family::V4 { 4 } else { 6 };
        Workload {
            name: format!("{} {transport}{version} to server, {}", self.name, count(flows)),
            state,
            flow_table: flow_table(flows),
            fill: Some(WorkloadStep::once(packets(flag::SYN), first)),
            measured: WorkloadStep::once(packets(flag::ACK), to_server),
            audit,
        }
    }

    /// Packets of clients on a white list with as many networks as a list may have.
    fn access_list(&self, flows: u64) -> Workload {
        let mut plain = self.established_flows(number::TCP, Family::V4, flows);
        let others = (1..MAX_NETWORKS as u32).map(|n| Ipv4Net::new_assert((0xc600_0000 | n << 8).into(), 24));
        // The network of all clients.
        let networks = others.chain([Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15)]).map(IpNet::V4);
        let list = AccessListId::new(1);
        plain.state.access_lists.insert(list, Arc::new(networks.collect()));
        for entry in plain.state.index.entries.values_mut() {
            entry.policy |= policy::ALLOW_LISTED;
            entry.access_list = list.index();
        }
        Workload { name: format!("{}, access list", plain.name), ..plain }
    }

    /// Answers of a server. An answer without an entry would be passed, so no audit step is needed.
    fn answers(&self, flows: u64) -> Workload {
        // One server only: all answers have the same source.
        let (listener, state) = self.world(number::TCP, Family::V4, 1);
        let client = client(Family::V4);
        let to = if self.mode == Mode::FullNat { SocketAddr::new(LOCAL4, client.port()) } else { client };
        let answer = tcp(server(1, Family::V4).at, to, flag::ACK | flag::PSH)
            .macs(SERVER_MAC, SERVER_SIDE_MAC)
            .build();
        let request = PacketStream::new(packet(&listener, flag::SYN), flows, VariedAddress::Source);
        Workload {
            name: format!("{} TCP4 to client, {}", self.name, count(flows)),
            state,
            flow_table: flow_table(flows),
            fill: Some(WorkloadStep::once(request, self.to_server(Family::V4).beginning())),
            measured: WorkloadStep::once(
                PacketStream::new(answer, flows, VariedAddress::Destination),
                ExpectedResult::TO_CLIENT,
            ),
            audit: None,
        }
    }

    /// Every packet begins a flow; `before` flows have begun when the measurement begins.
    fn new_flows(&self, what: &str, flow_table: u32, before: u64) -> Workload {
        let (listener, state) = self.world(number::TCP, Family::V4, SERVERS);
        let traffic = PacketStream::new(packet(&listener, flag::SYN), 1 << FLOW_BITS, VariedAddress::Source);
        Workload {
            name: format!("{} TCP4 new flow{what}", self.name),
            state,
            flow_table,
            fill: None,
            measured: WorkloadStep {
                traffic,
                packets: before,
                expect: self.to_server(Family::V4).beginning(),
            },
            audit: None,
        }
    }

    /// Packets of one flow in frames with a priority tag, which SLB removes.
    fn priority_tagged(&self) -> Workload {
        let plain = self.established_flows(number::TCP, Family::V4, 1);
        let (listener, _) = self.world(number::TCP, Family::V4, SERVERS);
        let frames =
            |flags| tcp(client(Family::V4), listener.at, flags).tag(PRIORITY_TAG.0, PRIORITY_TAG.1).build();
        let packets = |flags| PacketStream::new(frames(flags), 1, VariedAddress::Neither);
        let expect = ExpectedResult { grown: -TAG_BYTES, ..self.to_server(Family::V4) };
        Workload {
            name: format!("{} TCP4 to server, 1 flow, VLAN 0", self.name),
            fill: Some(WorkloadStep::once(packets(flag::SYN), expect.beginning())),
            measured: WorkloadStep::once(packets(flag::ACK), expect),
            audit: self.is_tracked.then(|| WorkloadStep::once(packets(flag::SYN), expect)),
            ..plain
        }
    }

    /// Packets to an address that is no VIP, with a listener of this mode configured.
    fn not_ours(&self) -> Workload {
        let (_, state) = self.world(number::TCP, Family::V4, SERVERS);
        let frame = tcp(client(Family::V4), ELSEWHERE, flag::ACK).build();
        Workload {
            name: format!("{} TCP4 not ours", self.name),
            state,
            flow_table: FLOW_TABLE,
            fill: None,
            measured: WorkloadStep::once(
                PacketStream::new(frame, 1, VariedAddress::Source),
                ExpectedResult::NOT_OURS,
            ),
            audit: None,
        }
    }

    /// One listener and its servers, all reached by the interface on which packets arrive.
    fn world(&self, protocol: u8, family: Family, servers: u16) -> (PacketListener, MapState) {
        const TABLE: u32 = 1;
        let vip = if family == Family::V4 { VIP4 } else { VIP6 };
        let listener = PacketListener { id: 0, at: SocketAddr::new(vip, 80), protocol, table: Some(TABLE) };
        let servers: Vec<PacketServer> = (1..=servers).map(|number| server(number, family)).collect();
        let mut world = PacketWorld::empty();
        world.state.settings = ControlSettings { seed: SEED, generation: 1 };
        world.state.index.hz = HZ;
        world.state.index.tunnel = tunnel();
        world.state.interfaces.insert(LO);
        let hop = NextHop { ifindex: LAN.out, mtu: MTU, macs: MacPair::new(LAN.peer, LAN.own) };
        world.state.next_hops.insert(NextHopId::new(LAN.id), hop);
        let members = servers
            .iter()
            .map(|s| TableMember { backend: BackendId::new(s.id), address: s.at, weight: 1 })
            .collect();
        let spec = TableSpec { slots: TableSize::DEFAULT.slots(), seed: 1, members, ..TableSpec::default() };
        world.state.tables.insert(TableId::new(TABLE), ServerTable::new(spec));
        let world = servers.into_iter().fold(world, PacketWorld::server).listener(listener);
        let mut world = world.with(listener, |service| service.mode = self.mode.number());
        if self.mode == Mode::FullNat {
            world = world.locals(&[LOCAL4, LOCAL6], (1024, u16::MAX));
        }
        (listener, world.state)
    }
}

/// A packet of a client; `flags` apply to TCP only.
fn packet(listener: &PacketListener, flags: u8) -> Frame {
    let client = client(if listener.at.is_ipv4() { Family::V4 } else { Family::V6 });
    if listener.protocol == number::TCP {
        tcp(client, listener.at, flags).build()
    } else {
        udp(client, listener.at, &PAYLOAD).build()
    }
}

const fn client(family: Family) -> SocketAddr {
    match family {
        Family::V4 => CLIENT4,
        Family::V6 => CLIENT6,
    }
}

/// Server number `number`, counted from 1.
fn server(number: u16, family: Family) -> PacketServer {
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + u32::from(number))),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, number)),
    };
    PacketServer { id: number.into(), generation: 1, at: SocketAddr::new(ip, 8080), hop: LAN }
}

fn flow_table(flows: u64) -> u32 {
    if flows > MANY { LARGE_FLOW_TABLE } else { FLOW_TABLE }
}

fn count(flows: u64) -> String {
    match flows {
        1 => "1 flow".to_owned(),
        MOST.. => format!("{}M flows", flows >> 20),
        _ => format!("{}k flows", flows >> 10),
    }
}
