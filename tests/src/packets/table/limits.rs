//! Limits of listeners: bandwidth and new connections, in all modes, on the fast path and the slow path.
//!
//! In the kernel the clock runs. So a bucket holds one packet there, which it takes longer to refill than a case lasts.

use std::net::SocketAddr;

use slb_common::abi::{
    service::{Service, mode, policy},
    stats::Reason,
};

use super::related::{Ends, TCP4, TCP6, UDP4, UDP6};
use crate::packets::{
    fragments::cut,
    frames::{Builder, Frame, flag, number, tcp, udp},
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
const OVER_BANDWIDTH: Expect = Expect::Drop(Reason::BandwidthLimit);
const OVER_CONNECTIONS: Expect = Expect::Drop(Reason::NewConnectionLimit);
/// Kilobits per second. A frame with [`PAYLOAD`] takes eight seconds.
const SLOW: u32 = 1;
const PAYLOAD: [u8; 1000] = [7; 1000];
const SECOND: u64 = 1_000_000_000;

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, ends) in [("tcp4", TCP4), ("tcp6", TCP6), ("udp4", UDP4), ("udp6", UDP6)] {
        for (mode_name, mode) in
            [("nat", mode::NAT), ("dsr", mode::DSR), ("ipip", mode::IPIP), ("gue", mode::GUE)]
        {
            let of = |what: &str| format!("limits: {mode_name}, {name}: {what}");
            let limited = Limited { ends, mode };
            cases.push(limited.bandwidth(of("bandwidth")));
            if mode == mode::NAT || ends.listener.protocol == number::TCP {
                cases.push(limited.new_connections(of("new connections")));
            }
        }
        cases.push(replies(format!("limits: {name}: replies"), ends));
        cases.push(full_nat(format!("limits: full-nat, {name}"), ends));
        cases.push(fragments(format!("limits: {name}: fragments"), ends));
    }
    cases.extend([
        round_robin_takes_no_turn(),
        syn_of_known_flow(HTTP4, mode::NAT),
        syn_of_known_flow(HTTP4, mode::DSR),
        flow_without_its_server(TCP4),
        flow_without_its_server(UDP4),
        listeners_share_a_bucket_only_by_its_number(),
        bytes_and_time(),
        connections_and_time(),
    ]);
    cases
}

fn limit_bandwidth(service: &mut Service, kilobits: u32) {
    service.policy |= policy::LIMIT_BANDWIDTH;
    service.bandwidth = kilobits;
    service.token_buckets = service.handle.id() as u16;
}

fn limit_connections(service: &mut Service, number: u32) {
    // The daemon has the flows of such a listener tracked.
    service.policy |= policy::LIMIT_NEW_CONNECTIONS | policy::TRACK;
    service.new_connections = number;
    service.token_buckets = service.handle.id() as u16;
}

/// A client's packet that begins a flow, with a port of its own.
fn first(ends: Ends, n: u16) -> Builder {
    let client = SocketAddr::new(ends.client.ip(), ends.client.port() + n);
    match ends.listener.protocol {
        number::UDP => udp(client, ends.listener.at, &PAYLOAD),
        _ => tcp(client, ends.listener.at, flag::SYN),
    }
}

/// A later packet of [`first`]'s flow.
fn next(ends: Ends, n: u16) -> Builder {
    let client = SocketAddr::new(ends.client.ip(), ends.client.port() + n);
    match ends.listener.protocol {
        number::UDP => udp(client, ends.listener.at, &PAYLOAD),
        _ => tcp(client, ends.listener.at, flag::ACK),
    }
}

#[derive(Clone, Copy)]
struct Limited {
    ends: Ends,
    mode: u8,
}

impl Limited {
    fn world(self) -> PacketWorld {
        PacketWorld::standard().with(self.ends.listener, |service| service.mode = self.mode)
    }

    fn to(self, flow: FlowKind) -> Expect {
        // The first datagram of an untracked flow looks like all others.
        let is_tracked = self.mode == mode::NAT || self.ends.listener.protocol == number::TCP;
        let flow = if is_tracked { flow } else { FlowKind::Old };
        Expect::ToServer(self.ends.listener, self.ends.server, flow)
    }

    /// One frame empties the bucket, for the fast and the slow path. Without the limit the next frame is admitted.
    fn bandwidth(self, name: String) -> Scenario {
        let ends = self.ends;
        let syn = |n| first(ends, n);
        Scenario::new(name)
            .in_world(self.world())
            .frame(syn(0).build(), self.to(FlowKind::New))
            .change(self.world().with(ends.listener, |service| limit_bandwidth(service, SLOW)))
            .frame(next(ends, 0).padding(900).build(), self.to(FlowKind::Old))
            .frame(next(ends, 0).build(), OVER_BANDWIDTH)
            .frame(next(ends, 0).tag(VLAN, 0).build(), OVER_BANDWIDTH)
            .frame(syn(1).build(), OVER_BANDWIDTH)
            .change(self.world())
            .frame(next(ends, 0).build(), self.to(FlowKind::Old))
    }

    /// The second connection is refused. Packets of the established connection are admitted, with both limits set.
    fn new_connections(self, name: String) -> Scenario {
        let ends = self.ends;
        let limited = self.world().with(ends.listener, |service| {
            limit_bandwidth(service, 1_000_000);
            limit_connections(service, 1);
        });
        Scenario::new(name)
            .in_world(limited)
            .frame(first(ends, 0).build(), self.to(FlowKind::New))
            .frame(first(ends, 1).build(), OVER_CONNECTIONS)
            .frame(first(ends, 1).tag(VLAN, 0).build(), OVER_CONNECTIONS)
            .frame(next(ends, 0).build(), self.to(FlowKind::Old))
            .frame(next(ends, 0).tag(VLAN, 0).build(), self.to(FlowKind::Old))
            .change(self.world())
            // It is still new: the refused packet has made no entry.
            .frame(first(ends, 1).build(), self.to(FlowKind::New))
    }
}

fn answer(ends: Ends, to: SocketAddr) -> Builder {
    match ends.listener.protocol {
        number::UDP => udp(ends.server.at, to, &PAYLOAD),
        _ => tcp(ends.server.at, to, flag::ACK).padding(900),
    }
    .macs(SERVER_MAC, SERVER_SIDE_MAC)
}

/// Replies have a bucket of their own.
fn replies(name: String, ends: Ends) -> Scenario {
    let limited = PacketWorld::standard().with(ends.listener, |service| limit_bandwidth(service, SLOW));
    let back = Expect::ToClient(ends.listener, ends.server, CLIENT);
    let reply = || answer(ends, ends.client);
    Scenario::new(name)
        .frame(first(ends, 0).build(), Expect::ToServer(ends.listener, ends.server, FlowKind::New))
        .change(limited)
        .frame(reply().build(), back)
        .frame(reply().build(), OVER_BANDWIDTH)
        .frame(reply().tag(VLAN, 0).build(), OVER_BANDWIDTH)
        .frame(
            next(ends, 0).padding(900).build(),
            Expect::ToServer(ends.listener, ends.server, FlowKind::Old),
        )
        .frame(next(ends, 0).build(), OVER_BANDWIDTH)
        .change(PacketWorld::standard())
        .frame(reply().build(), back)
}

fn full_nat(name: String, ends: Ends) -> Scenario {
    let world = PacketWorld::standard()
        .with(ends.listener, |service| service.mode = mode::FULL_NAT)
        .locals(&[LOCAL4, LOCAL6], (1024, u16::MAX));
    let source = SocketAddr::new(if ends.client.is_ipv4() { LOCAL4 } else { LOCAL6 }, ends.client.port());
    let to = |flow| Expect::ToServerFrom(ends.listener, ends.server, source, flow);
    let back = Expect::ToClientOf(ends.listener, ends.server, ends.client);
    let connections = world.clone().with(ends.listener, |service| limit_connections(service, 1));
    let bandwidth = world.with(ends.listener, |service| limit_bandwidth(service, SLOW));
    Scenario::new(name)
        .in_world(connections)
        .frame(first(ends, 0).build(), to(FlowKind::New))
        .frame(first(ends, 1).build(), OVER_CONNECTIONS)
        .frame(next(ends, 0).build(), to(FlowKind::Old))
        .change(bandwidth)
        .frame(next(ends, 0).padding(900).build(), to(FlowKind::Old))
        .frame(next(ends, 0).build(), OVER_BANDWIDTH)
        .frame(answer(ends, source).build(), back)
        .frame(answer(ends, source).build(), OVER_BANDWIDTH)
}

/// Later fragments count.
fn fragments(name: String, ends: Ends) -> Scenario {
    let whole = match ends.listener.protocol {
        number::UDP => udp(ends.client, ends.listener.at, &[7; 3000]).build(),
        _ => return Scenario::new(name),
    };
    let cut = cut(whole, 9, 1400);
    let limited = PacketWorld::standard().with(ends.listener, |service| limit_bandwidth(service, SLOW));
    let to = |flow, n: usize| Expect::FragmentToServer(ends.listener, ends.server, flow, cut[n]);
    Scenario::new(name)
        .frame(cut[0].frame(), to(FlowKind::New, 0))
        .frame(cut[1].frame(), to(FlowKind::Old, 1))
        .change(limited)
        .frame(cut[1].frame(), to(FlowKind::Old, 1))
        .frame(cut[2].frame(), OVER_BANDWIDTH)
        .frame(cut[0].frame(), OVER_BANDWIDTH)
}

fn syn(n: u16) -> Frame {
    first(TCP4, n).build()
}

fn round_robin_takes_no_turn() -> Scenario {
    let world = |limit| {
        let policies = |service: &mut Service| {
            service.policy |= policy::ROUND_ROBIN | policy::TRACK;
            if limit {
                limit_connections(service, 1);
            }
        };
        PacketWorld::standard().with(HTTP4, policies).round_robin(1, &[WEB4, OTHER4, FOURTH])
    };
    let to = |server| Expect::ToServer(HTTP4, server, FlowKind::New);
    Scenario::new("limits: a refused connection takes no turn")
        .in_world(world(true))
        .frame(syn(0), to(WEB4))
        .frame(syn(1), OVER_CONNECTIONS)
        .frame(syn(2), OVER_CONNECTIONS)
        .change(world(false))
        .frame(syn(3), to(OTHER4))
        .frame(syn(4), to(FOURTH))
}

/// A SYN that is retransmitted is no new connection, nor is one of an established connection.
fn syn_of_known_flow(listener: PacketListener, mode: u8) -> Scenario {
    let limited = PacketWorld::standard().with(listener, |service| {
        service.mode = mode;
        limit_connections(service, 1);
    });
    let to = |flow| Expect::ToServer(listener, WEB4, flow);
    Scenario::new(format!("limits: a SYN of a known flow is no new connection, mode {mode}"))
        .in_world(limited)
        .frame(syn(0), to(FlowKind::New))
        .frame(syn(0), to(FlowKind::Old))
        .frame(syn(0), to(FlowKind::Old))
        .frame(syn(1), OVER_CONNECTIONS)
}

/// A flow whose server fails is no new connection; one that begins at the other server is.
fn flow_without_its_server(ends: Ends) -> Scenario {
    let Ends { listener, server, .. } = ends;
    let limited = || PacketWorld::standard().with(listener, |service| limit_connections(service, 1));
    let table = listener.table.expect("a listener with servers");
    let to = |server| Expect::ToServer(listener, server, FlowKind::New);
    Scenario::new(format!("limits: a flow of protocol {} that loses its server", listener.protocol))
        .in_world(limited())
        .frame(first(ends, 0).build(), to(server))
        .change(limited().table(table, &[FOURTH]).flags(server, 0))
        .frame(first(ends, 0).build(), to(FOURTH))
        .frame(first(ends, 1).build(), OVER_CONNECTIONS)
}

/// As the services of a listener with several VIPs do.
fn listeners_share_a_bucket_only_by_its_number() -> Scenario {
    let limited = |service: &mut Service| limit_connections(service, 1);
    let world = PacketWorld::standard().with(HTTP4, limited).with(SECOND4, limited).with(HTTP6, |service| {
        limited(service);
        service.token_buckets = HTTP4.id as u16;
    });
    let second = |n: u16| tcp(SocketAddr::new(CLIENT4.ip(), 5000 + n), SECOND4.at, flag::SYN).build();
    Scenario::new("limits: VIPs of a listener share its buckets, other listeners do not")
        .in_world(world)
        .frame(syn(0), Expect::ToServer(HTTP4, WEB4, FlowKind::New))
        .frame(first(TCP6, 0).build(), OVER_CONNECTIONS)
        .frame(second(0), Expect::ToServer(SECOND4, OTHER4, FlowKind::New))
        .frame(second(1), OVER_CONNECTIONS)
}

/// Every byte of a frame counts. A full bucket holds 200 ms.
fn bytes_and_time() -> Scenario {
    // A million bytes per second: 1,000 bytes in a millisecond.
    let limited = PacketWorld::standard().with(DNS4, |service| limit_bandwidth(service, 8000));
    let frame = |n: usize| udp(CLIENT4, DNS4.at, &vec![7; n - 42]).build();
    let to = |flow| Expect::ToServer(DNS4, NAME4, flow);
    let mut case = Scenario::new("limits: bandwidth by the clock").in_world(limited).host_only();
    case = case.frame(frame(1000), to(FlowKind::New));
    for _ in 1..200 {
        case = case.frame(frame(1000), to(FlowKind::Old));
    }
    // The bucket is empty to the byte, and owes one more frame.
    case.frame(frame(1500), to(FlowKind::Old))
        .frame(frame(60), OVER_BANDWIDTH)
        .nanoseconds(1_499_999)
        .frame(frame(60), OVER_BANDWIDTH)
        .nanoseconds(1)
        .frame(frame(60), to(FlowKind::Old))
        .frame(frame(60), OVER_BANDWIDTH)
        .nanoseconds(60_000)
        .frame(frame(500), to(FlowKind::Old))
        .frame(frame(60), OVER_BANDWIDTH)
}

fn connections_and_time() -> Scenario {
    let limited = PacketWorld::standard().with(HTTP4, |service| limit_connections(service, 10));
    let to = Expect::ToServer(HTTP4, WEB4, FlowKind::New);
    Scenario::new("limits: new connections by the clock")
        .in_world(limited)
        .host_only()
        .frame(syn(0), to)
        .frame(syn(1), to)
        .frame(syn(2), to)
        .frame(syn(3), OVER_CONNECTIONS)
        .nanoseconds(SECOND / 10 - 1)
        .frame(syn(3), OVER_CONNECTIONS)
        .nanoseconds(1)
        .frame(syn(3), to)
        .frame(syn(4), OVER_CONNECTIONS)
        .nanoseconds(SECOND)
        .frame(syn(4), to)
}
