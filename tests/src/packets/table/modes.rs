//! Modes `dsr`, `ipip` and `gue`: the expected bytes of forwarded packets.

use std::net::SocketAddr;

use slb_common::abi::{
    mode::Mode,
    service::{mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{Builder, echo, flag, number, tcp, udp},
    icmp::IcmpCause,
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const NOT_OURS: Expect = Expect::Pass(Reason::NotOurs);

/// Header bytes before the payload of a datagram, per family.
const UDP4: usize = 20 + 8;
const UDP6: usize = 40 + 8;

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = dsr_bytes();
    cases.extend(dsr_ways());
    for (name, server) in [("IPv4", WEB4), ("IPv6", WEB6)] {
        for mode in [Mode::Ipip, Mode::Gue] {
            let tunnel = TunnelCase { server, mode };
            let named = |case: Scenario| Scenario {
                name: format!("{} over {name}: {}", mode.name(), case.name),
                ..case
            };
            let all = tunnel.bytes().into_iter().chain(tunnel.refused()).chain(tunnel.labels());
            cases.extend(all.map(named));
        }
    }
    cases
}

fn dsr(listener: PacketListener) -> PacketWorld {
    PacketWorld::standard().with(listener, |service| service.mode = mode::DSR)
}

fn dsr_bytes() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, client, listener, server) in [("IPv4", CLIENT4, HTTP4, WEB4), ("IPv6", CLIENT6, HTTP6, WEB6)] {
        let case = |what: &str| Scenario::new(format!("dsr/{name}: {what}")).in_world(dsr(listener));
        let to = |flow| Expect::ToServer(listener, server, flow);
        let send = |flags| tcp(client, listener.at, flags);
        let syn = || send(flag::SYN);
        cases.extend([
            case("every SYN counts as a new flow: flows are untracked")
                .frame(syn().build(), to(FlowKind::New))
                .frame(send(flag::ACK | flag::PSH).build(), to(FlowKind::Old))
                .frame(send(flag::ACK | flag::FIN).build(), to(FlowKind::Old))
                .frame(syn().build(), to(FlowKind::New)),
            case("RST and segments without flags are forwarded")
                .frame(send(flag::RST).build(), to(FlowKind::Old))
                .frame(send(0).build(), to(FlowKind::Old)),
            case("SYN with RST begins no flow").frame(send(flag::SYN | flag::RST).build(), to(FlowKind::Old)),
            case("tags")
                .frame(syn().tag(VLAN, 0xa07b).build(), to(FlowKind::New))
                .frame(syn().tag(SERVICE_VLAN, 7).tag(VLAN, 8).build(), to(FlowKind::New)),
            case("padding").frame(syn().padding(9).build(), to(FlowKind::New)),
            case("the hop limit is left to the server")
                .frame(syn().hop_limit(1).build(), to(FlowKind::New))
                .frame(syn().hop_limit(0).build(), to(FlowKind::New)),
            case("a packet from its own server is dropped as a loop")
                .frame(syn().macs(SERVER_MAC, OWN_MAC).build(), Expect::Drop(Reason::Loop))
                .frame(syn().tag(VLAN, 7).macs(SERVER_MAC, OWN_MAC).build(), Expect::Drop(Reason::Loop))
                .frame(syn().build(), to(FlowKind::New)),
            case("answers bypass SLB")
                .frame(syn().build(), to(FlowKind::New))
                .frame(tcp(listener.at, client, flag::SYN | flag::ACK).build(), NOT_OURS)
                .frame(tcp(server.at, client, flag::SYN | flag::ACK).build(), NOT_OURS),
            case("answers bypass SLB although the flow is tracked")
                .change(dsr(listener).with(listener, |service| service.policy = policy::TRACK))
                .frame(syn().build(), to(FlowKind::New))
                .frame(tcp(listener.at, client, flag::SYN | flag::ACK).build(), NOT_OURS)
                .frame(tcp(server.at, client, flag::SYN | flag::ACK).build(), NOT_OURS),
            case("an unhealthy, removed or unresolved server")
                .change(dsr(listener).flags(server, 0))
                .frame(syn().build(), Expect::Drop(Reason::NoServer))
                // Established flows stay although the server table has not changed yet.
                .frame(send(flag::ACK).build(), to(FlowKind::Old))
                .change(dsr(listener).without(server))
                .frame(send(flag::ACK).build(), Expect::Drop(Reason::NoServer))
                .change(dsr(listener).server(PacketServer { hop: UNRESOLVED, ..server }))
                .frame(syn().build(), Expect::Drop(Reason::NoNextHop)),
        ]);
    }
    cases
}

fn dsr_ways() -> Vec<Scenario> {
    let syn = |listener: PacketListener| tcp(CLIENT4, listener.at, flag::SYN);
    let ask = |client: SocketAddr, listener: PacketListener| udp(client, listener.at, b"odd");
    vec![
        Scenario::new("dsr: datagrams")
            .in_world(dsr(DNS4).with(DNS6, |service| service.mode = mode::DSR))
            .frame(ask(CLIENT4, DNS4).build(), Expect::ToServer(DNS4, NAME4, FlowKind::Old))
            .frame(
                ask(CLIENT4, DNS4).build().transport(6, &[0, 0]),
                Expect::ToServer(DNS4, NAME4, FlowKind::Old),
            )
            .frame(ask(CLIENT6, DNS6).build(), Expect::ToServer(DNS6, NAME6, FlowKind::Old)),
        Scenario::new("dsr: IPv4 options, tagged")
            .in_world(dsr(HTTP4))
            .frame(syn(HTTP4).options(10).build(), Expect::ToServer(HTTP4, WEB4, FlowKind::New))
            .frame(syn(HTTP4).options(1).tag(VLAN, 7).build(), Expect::ToServer(HTTP4, WEB4, FlowKind::New)),
        Scenario::new("dsr: IPv6 extension header").in_world(dsr(HTTP6)).frame(
            tcp(CLIENT6, HTTP6.at, flag::SYN).extension(number::DESTINATION_OPTIONS, 2).build(),
            Expect::ToServer(HTTP6, WEB6, FlowKind::New),
        ),
        Scenario::new("dsr: the server's address family differs from the VIP's")
            .in_world(dsr(HTTP4).table(1, &[WEB6]).with(HTTP6, |s| s.mode = mode::DSR).table(2, &[WEB4]))
            .frame(syn(HTTP4).build(), Expect::ToServer(HTTP4, WEB6, FlowKind::New))
            .frame(tcp(CLIENT6, HTTP6.at, flag::SYN).build(), Expect::ToServer(HTTP6, WEB4, FlowKind::New)),
        Scenario::new("dsr: out of another interface")
            .in_world(dsr(FAR4))
            .frame(syn(FAR4).build(), Expect::ToServer(FAR4, DISTANT4, FlowKind::New))
            .frame(syn(FAR4).tag(VLAN, 7).build(), Expect::Drop(Reason::VlanCrossing)),
        Scenario::new("dsr: from a VIP to itself, and echo")
            .in_world(dsr(HTTP4))
            .frame(tcp(HTTP4.at, HTTP4.at, flag::SYN).build(), Expect::Drop(Reason::MartianSource))
            .frame(echo(CLIENT4.ip(), VIP4, b"abc").build(), Expect::Answer(ECHO4)),
    ]
}

/// Tunnels to a server, whose address determines the outer family.
#[derive(Clone, Copy)]
struct TunnelCase {
    server: PacketServer,
    mode: Mode,
}

impl TunnelCase {
    /// Listeners of both families and protocols use the server.
    fn world(self) -> PacketWorld {
        [(HTTP4, 1), (HTTP6, 2), (DNS4, 3), (DNS6, 4)].into_iter().fold(
            PacketWorld::standard(),
            |world, (listener, table)| {
                world.with(listener, |service| service.mode = self.mode.number()).table(table, &[self.server])
            },
        )
    }

    fn case(self, name: &str) -> Scenario {
        Scenario::new(name).in_world(self.world())
    }

    fn to(self, listener: PacketListener, flow: FlowKind) -> Expect {
        Expect::ToServer(listener, self.server, flow)
    }

    fn bytes(self) -> Vec<Scenario> {
        let mut cases = Vec::new();
        for (name, client, listener, dns) in [("IPv4", CLIENT4, HTTP4, DNS4), ("IPv6", CLIENT6, HTTP6, DNS6)]
        {
            let case = |what: &str| self.case(&format!("{name}: {what}"));
            let (new, old) = (self.to(listener, FlowKind::New), self.to(listener, FlowKind::Old));
            let send = |flags| tcp(client, listener.at, flags);
            let syn = || send(flag::SYN);
            cases.extend([
                case("TCP")
                    .frame(syn().build(), new)
                    .frame(send(flag::ACK | flag::PSH).build(), old)
                    .frame(send(flag::ACK | flag::FIN).build(), old)
                    .frame(send(flag::RST).build(), old),
                case("UDP")
                    .frame(udp(client, dns.at, b"even").build(), self.to(dns, FlowKind::Old))
                    .frame(udp(client, dns.at, b"odd").build(), self.to(dns, FlowKind::Old))
                    .frame(udp(client, dns.at, b"").build(), self.to(dns, FlowKind::Old)),
                case("tags")
                    .frame(syn().tag(VLAN, 0xa07b).build(), new)
                    .frame(syn().tag(SERVICE_VLAN, 7).tag(VLAN, 8).build(), new),
                case("padding is not encapsulated").frame(syn().padding(11).build(), new),
                case("the hop before the last").frame(syn().hop_limit(2).build(), new),
                case("the highest hop limit").frame(syn().hop_limit(255).build(), new),
                case("answers bypass SLB")
                    .frame(syn().build(), new)
                    .frame(tcp(listener.at, client, flag::SYN | flag::ACK).build(), NOT_OURS),
            ]);
        }
        let syn4 = || tcp(CLIENT4, HTTP4.at, flag::SYN);
        let syn6 = || tcp(CLIENT6, HTTP6.at, flag::SYN);
        let (four, six) = (self.to(HTTP4, FlowKind::New), self.to(HTTP6, FlowKind::New));
        cases.extend([
            self.case("IPv4 options, tagged")
                .frame(syn4().options(10).build(), four)
                .frame(syn4().options(3).tag(VLAN, 7).build(), four),
            self.case("IPv6 extension header, tagged")
                .frame(syn6().extension(number::DESTINATION_OPTIONS, 2).build(), six)
                .frame(syn6().extension(number::HOP_BY_HOP, 1).tag(VLAN, 7).build(), six),
            self.case("UDP/IPv4 without checksum").frame(
                udp(CLIENT4, DNS4.at, b"unchecked").build().transport(6, &[0, 0]),
                self.to(DNS4, FlowKind::Old),
            ),
        ]);
        for class in [0, 0x03, 0xb8, 0xff] {
            let vcf = [0x60 | class >> 4, class << 4 | 1, 2, 3];
            cases.push(
                self.case(&format!("class of service {class:#x}"))
                    .frame(syn4().build().network(1, &[class]).sound(), four)
                    .frame(syn6().build().network(0, &vcf).sound(), six),
            );
        }
        // Identifications for which a checksum becomes, or stays, one of the two zeros of one's complement.
        for id in [0_u16, 1, 0x7fff, 0xfffe, 0xffff] {
            for ttl in [2, 64, 65] {
                let frame = syn4().hop_limit(ttl).build().network(4, &id.to_be_bytes()).sound();
                cases.push(self.case(&format!("identification {id:#x}, TTL {ttl}")).frame(frame, four));
            }
        }
        cases
    }

    fn refused(self) -> Vec<Scenario> {
        let ip = if self.server.at.is_ipv4() { 20 } else { 40 };
        let grown = ip + if self.mode == Mode::Gue { 8 } else { 0 };
        let room = MTU as usize - grown;
        let datagram =
            |client: SocketAddr, listener: PacketListener, headers: usize, len: usize| -> Builder {
                udp(client, listener.at, &vec![0x5a; len - headers])
            };
        let four = |len| datagram(CLIENT4, DNS4, UDP4, len);
        let six = |len| datagram(CLIENT6, DNS6, UDP6, len);
        let too_big = Expect::IcmpError(IcmpCause::TooBig(room as u16));
        let last = Expect::IcmpError(IcmpCause::HopLimit);
        let at = |hop_limit| {
            (
                tcp(CLIENT4, HTTP4.at, flag::SYN).hop_limit(hop_limit).build(),
                tcp(CLIENT6, HTTP6.at, flag::SYN).hop_limit(hop_limit).build(),
            )
        };
        vec![
            self.case("a tunnel packet of exactly the MTU is forwarded")
                .frame(four(room).build(), self.to(DNS4, FlowKind::Old))
                .frame(six(room).build(), self.to(DNS6, FlowKind::Old))
                .frame(four(room).tag(SERVICE_VLAN, 7).tag(VLAN, 8).build(), self.to(DNS4, FlowKind::Old))
                .frame(four(room).padding(4).build(), self.to(DNS4, FlowKind::Old)),
            self.case("a tunnel packet above the MTU draws an ICMP error")
                .frame(four(room + 1).build(), too_big)
                .frame(six(room + 1).build(), too_big)
                .frame(four(room + 1).tag(VLAN, 7).build(), too_big)
                .frame(four(MTU as usize).build(), too_big)
                .frame(six(MTU as usize).build(), too_big)
                .frame(four(room + 1).build().network(6, &[0, 0]).sound(), Expect::Drop(Reason::TooBig)),
            self.case("a packet without hops left draws an ICMP error")
                .frame(at(1).0, last)
                .frame(at(1).1, last)
                .frame(at(0).0, last)
                .frame(at(0).1, last),
            self.case("through another interface")
                .change(self.world().server(PacketServer { hop: ROUTER, ..self.server }))
                .frame(
                    tcp(CLIENT4, HTTP4.at, flag::SYN).build(),
                    Expect::ToServer(HTTP4, PacketServer { hop: ROUTER, ..self.server }, FlowKind::New),
                )
                .frame(
                    tcp(CLIENT4, HTTP4.at, flag::SYN).tag(VLAN, 7).build(),
                    Expect::Drop(Reason::VlanCrossing),
                ),
        ]
    }

    /// The case itself checks that labels, ports and sources are stable, and different per flow.
    fn labels(self) -> Vec<Scenario> {
        let mut world = self.world();
        (world.state.index.tunnel.by_flow_v4, world.state.index.tunnel.by_flow_v6) =
            (u32::from_ne_bytes([0, 0, 0xff, 0]), u32::from_ne_bytes([0xff, 0xff, 0, 0]));
        let case = self.case("flow labels and sources that vary by flow").in_world(world);
        vec![self.each_flow_thrice(self.case("flow labels")), self.each_flow_thrice(case)]
    }

    fn each_flow_thrice(self, mut case: Scenario) -> Scenario {
        for flags in [flag::SYN, flag::ACK, flag::ACK | flag::FIN] {
            for port in 40_000..40_016 {
                let flow = if flags == flag::SYN { FlowKind::New } else { FlowKind::Old };
                for (client, listener) in [(CLIENT4, HTTP4), (CLIENT6, HTTP6)] {
                    let client = SocketAddr::new(client.ip(), port);
                    case = case.frame(tcp(client, listener.at, flags).build(), self.to(listener, flow));
                }
            }
        }
        case
    }
}
