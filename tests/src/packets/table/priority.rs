//! Priority tags, which have VLAN id 0 (IEEE 802.1Q, table 9-2). Linux treats such frames as untagged, and SLB forwards
//! them without the tag.

use std::net::{IpAddr, SocketAddr};

use slb_common::abi::{
    backend::Backend,
    mode::Mode,
    service::{mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{Builder, echo, flag, not_ip, number, other, tcp, udp},
    icmp::IcmpCause,
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const PRIORITY: u16 = 5 << 13;
const DROP_ELIGIBLE: u16 = 1 << 12;

/// Tags of frames without a VLAN.
const NONE: [&[(u16, u16)]; 5] = [
    &[(VLAN, 0)],
    &[(VLAN, PRIORITY)],
    &[(VLAN, PRIORITY | DROP_ELIGIBLE)],
    &[(SERVICE_VLAN, PRIORITY)],
    &[(SERVICE_VLAN, PRIORITY), (VLAN, 0)],
];
/// Tags of frames in VLAN 7.
const SEVEN: [&[(u16, u16)]; 3] =
    [&[(VLAN, PRIORITY), (VLAN, 7)], &[(VLAN, 7), (VLAN, PRIORITY)], &[(SERVICE_VLAN, 7), (VLAN, 0)]];

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = vec![
        refused(),
        unmatched(PriorityCase::Four),
        unmatched(PriorityCase::Six),
        dropped(),
        passed(),
        macs(),
        three_tags(),
    ];
    for family in [PriorityCase::Four, PriorityCase::Six] {
        cases.extend([family.nat(), family.near(), family.ended(), family.icmp_error(), family.echo()]);
        cases.extend([mode::DSR, mode::IPIP, mode::GUE].map(|mode| family.one_way(mode)));
    }
    cases
}

fn tagged(builder: Builder, tags: &[(u16, u16)]) -> Builder {
    tags.iter().fold(builder, |builder, (kind, control)| builder.tag(*kind, *control))
}

#[derive(Debug, Clone, Copy)]
enum PriorityCase {
    Four,
    Six,
}

impl PriorityCase {
    fn client(self) -> SocketAddr {
        if matches!(self, Self::Four) { CLIENT4 } else { CLIENT6 }
    }

    fn vip(self) -> IpAddr {
        if matches!(self, Self::Four) { VIP4 } else { VIP6 }
    }

    /// A listener whose server is behind the second interface.
    fn far(self) -> (PacketListener, PacketServer) {
        if matches!(self, Self::Four) { (FAR4, DISTANT4) } else { (FAR6, DISTANT6) }
    }

    /// A listener whose server is behind the client's interface.
    fn lan(self) -> (PacketListener, PacketServer) {
        if matches!(self, Self::Four) { (HTTP4, WEB4) } else { (HTTP6, WEB6) }
    }

    fn case(self, name: &str) -> Scenario {
        Scenario::new(format!("priority tags, {self:?}: {name}"))
    }

    fn nat(self) -> Scenario {
        let (listener, server) = self.far();
        let mut case = self.case("nat, through another interface, both ways");
        for (n, tags) in (0..).zip(NONE) {
            let client = SocketAddr::new(self.client().ip(), 30_000 + n);
            let send = |flags| tagged(tcp(client, listener.at, flags), tags);
            let answer =
                |flags| tagged(tcp(server.at, client, flags).macs(SERVER_MAC, SERVER_SIDE_MAC), tags);
            let to = |flow| Expect::ToServer(listener, server, flow);
            let back = Expect::ToClient(listener, server, CLIENT);
            case = case
                .frame(send(flag::SYN).build(), to(FlowKind::New))
                .frame_through(FAR, answer(flag::SYN | flag::ACK).build(), back)
                .frame(send(flag::ACK).padding(5).build(), to(FlowKind::Old))
                // The other packets of the flow are untagged.
                .frame(tcp(client, listener.at, flag::ACK).build(), to(FlowKind::Old))
                .frame_through(FAR, tcp(server.at, client, flag::ACK).build(), back)
                .frame(send(flag::FIN | flag::ACK).build(), to(FlowKind::Old))
                .frame_through(FAR, answer(flag::FIN | flag::ACK).build(), back);
        }
        // In the kernel all frames arrive on the same interface.
        case.host_only()
    }

    fn near(self) -> Scenario {
        let (listener, server) = self.lan();
        let (to, back) =
            (|flow| Expect::ToServer(listener, server, flow), Expect::ToClient(listener, server, CLIENT));
        let far = self.far();
        let mut case = self.case("nat, back out of the interface; tags of real VLANs stay");
        for (n, tags) in (0..).zip(NONE.into_iter().chain(SEVEN)) {
            let client = SocketAddr::new(self.client().ip(), 30_000 + n);
            case = case
                .frame(tagged(tcp(client, listener.at, flag::SYN), tags).build(), to(FlowKind::New))
                .frame(tagged(tcp(server.at, client, flag::SYN | flag::ACK), tags).build(), back)
                .frame(tagged(tcp(client, listener.at, flag::ACK), tags).build(), to(FlowKind::Old));
        }
        for (n, tags) in (0..).zip(NONE) {
            let client = SocketAddr::new(self.client().ip(), 31_000 + n);
            let expect = Expect::ToServer(far.0, far.1, FlowKind::New);
            case = case.frame(tagged(tcp(client, far.0.at, flag::SYN), tags).build(), expect);
        }
        for tags in SEVEN {
            let crossing = Expect::Drop(Reason::VlanCrossing);
            case = case.frame(tagged(tcp(self.client(), far.0.at, flag::SYN), tags).build(), crossing);
        }
        case
    }

    fn one_way(self, mode: u8) -> Scenario {
        let (listener, server) = self.far();
        let name = Mode::from_number(mode).map_or("", Mode::name);
        let world = PacketWorld::standard().with(listener, |service| service.mode = mode);
        let mut case = self.case(&format!("{name}, through another interface")).in_world(world);
        for tags in NONE {
            let syn = tagged(tcp(self.client(), listener.at, flag::SYN), tags);
            case = case
                .frame(syn.clone().build(), Expect::ToServer(listener, server, FlowKind::New))
                .frame(syn.padding(9).build(), Expect::ToServer(listener, server, FlowKind::New));
        }
        for tags in SEVEN {
            let crossing = Expect::Drop(Reason::VlanCrossing);
            case = case.frame(tagged(tcp(self.client(), listener.at, flag::SYN), tags).build(), crossing);
        }
        case
    }

    /// Connections of a terminating server: a packet of each side first becomes a RST to the other side, then is
    /// answered with one.
    fn ended(self) -> Scenario {
        let (listener, server) = self.lan();
        let mut case = self.case("resets").in_world(
            PacketWorld::standard()
                .flags(server, Backend::TERMINATING)
                .with_previous_backend(listener.table.expect("a table"), server),
        );
        for (n, tags) in (0..).zip(NONE.into_iter().chain(SEVEN)) {
            let client = SocketAddr::new(self.client().ip(), 30_000 + n);
            let send = || tagged(tcp(client, listener.at, flag::ACK), tags).build();
            let answer = || tagged(tcp(server.at, client, flag::ACK), tags).build();
            case = case
                .frame(send(), Expect::EndServer(listener, server, FlowKind::Old))
                .frame(send(), Expect::End)
                .frame(answer(), Expect::End);
        }
        case
    }

    fn icmp_error(self) -> Scenario {
        let (listener, _) = self.lan();
        let (dns, headers) = if matches!(self, Self::Four) { (DNS4, 28) } else { (DNS6, 48) };
        let mut case = self.case("ICMP errors");
        for tags in NONE.into_iter().chain(SEVEN) {
            let payload = vec![0x5a; MTU as usize + 1 - headers];
            case = case
                .frame(
                    tagged(tcp(self.client(), listener.at, flag::SYN), tags).hop_limit(1).build(),
                    Expect::IcmpError(IcmpCause::HopLimit),
                )
                .frame(
                    tagged(udp(self.client(), dns.at, &payload), tags).build(),
                    Expect::IcmpError(IcmpCause::TooBig(MTU as u16)),
                );
        }
        case
    }

    fn echo(self) -> Scenario {
        let listener = if matches!(self, Self::Four) { ECHO4 } else { ECHO6 };
        NONE.into_iter().chain(SEVEN).fold(self.case("echo"), |case, tags| {
            let request = echo(self.client().ip(), self.vip(), b"abc");
            case.frame(tagged(request, tags).build(), Expect::Answer(listener))
        })
    }
}

/// A tag does not make a malformed packet valid.
fn refused() -> Scenario {
    let syn = || tagged(tcp(CLIENT4, HTTP4.at, flag::SYN), NONE[1]);
    Scenario::new("priority tags: broken packets")
        .frame(syn().build().network(0, &[0x44]), Expect::Drop(Reason::BadHeader))
        .frame(syn().build().patch(|f| f.bytes[f.network + 3] += 1), Expect::Drop(Reason::BadLength))
        .frame(syn().build().network(6, &[0x20, 2]), Expect::Drop(Reason::Fragment))
        .frame(
            tagged(tcp(HTTP4.at, HTTP4.at, flag::SYN), NONE[1]).build(),
            Expect::Drop(Reason::MartianSource),
        )
}

fn unmatched(family: PriorityCase) -> Scenario {
    let (client, vip) = (family.client(), family.vip());
    let at = SocketAddr::new(vip, 4443);
    let mut case = family.case("unmatched, rejected");
    for tags in NONE.into_iter().chain(SEVEN) {
        case = case
            .frame(tagged(tcp(client, at, flag::SYN), tags).build(), Expect::Refuse)
            .frame(tagged(tcp(client, at, flag::RST), tags).build(), Expect::Drop(Reason::Unmatched))
            .frame(tagged(udp(client, at, b"abc"), tags).build(), Expect::IcmpError(IcmpCause::NoPort))
            .frame(
                tagged(other(client.ip(), vip, 47, &[0; 12]), tags).build(),
                Expect::IcmpError(IcmpCause::NoProtocol),
            );
    }
    case
}

fn dropped() -> Scenario {
    let world = [ECHO4, ECHO6].into_iter().fold(PacketWorld::standard(), |world, echo| {
        world.with(echo, |vip| vip.policy = policy::DROP_UNMATCHED)
    });
    let mut case = Scenario::new("priority tags: unmatched, dropped").in_world(world);
    for (client, vip) in [(CLIENT4, VIP4), (CLIENT6, VIP6)] {
        let syn = tcp(client, SocketAddr::new(vip, 4443), flag::SYN);
        case = case.frame(tagged(syn, NONE[1]).build(), Expect::Drop(Reason::Unmatched));
    }
    case
}

/// The kernel gets passed frames unchanged: it may have a VLAN device for VLAN 0, or use the priority.
fn passed() -> Scenario {
    let pass = Expect::Pass;
    let mut case = Scenario::new("priority tags: passed packets keep their tags").in_world(
        PacketWorld::standard().with(ECHO4, |vip| vip.policy = 0).with(ECHO6, |vip| vip.policy = 0),
    );
    for tags in NONE.into_iter().chain(SEVEN) {
        for (client, vip, server) in [(CLIENT4, VIP4, WEB4), (CLIENT6, VIP6, WEB6)] {
            let to = SocketAddr::new(vip, 4443);
            case = case
                .frame(tagged(tcp(client, to, flag::SYN), tags).build(), pass(Reason::NotOurs))
                .frame(tagged(tcp(client, server.at, flag::SYN), tags).build(), pass(Reason::NotOurs))
                .frame(tagged(tcp(server.at, client, flag::ACK), tags).build(), pass(Reason::NotOurs))
                .frame(
                    tagged(other(client.ip(), vip, 47, &[0; 12]), tags).build(),
                    pass(Reason::OtherProtocol),
                );
        }
        let solicitation =
            other(CLIENT6.ip(), VIP6, number::ICMPV6, &[135, 0, 0, 0, 0, 0, 0, 0]).hop_limit(255);
        case = case.frame(tagged(solicitation, tags).build(), pass(Reason::OtherProtocol));
    }
    // An ARP frame.
    case.frame(not_ip(OWN_MAC, VLAN, &[0xa0, 0, 8, 6, 0, 1, 8, 0]), pass(Reason::NotIp))
}

/// The client's MAC is read at the right offset, with and without tags.
fn macs() -> Scenario {
    let here = [2, 0, 0, 0, 0, 0xaa];
    let back = Expect::ToClient(HTTP4, WEB4, Hop { peer: here, ..CLIENT });
    let send = |flags| tcp(CLIENT4, HTTP4.at, flags).macs(here, OWN_MAC);
    let answer = || tcp(WEB4.at, CLIENT4, flag::ACK);
    let mut case = Scenario::new("priority tags: the client's MAC is read behind the tags")
        .frame(tagged(send(flag::SYN), NONE[1]).build(), Expect::ToServer(HTTP4, WEB4, FlowKind::New))
        .frame(answer().build(), back);
    for tags in NONE {
        case = case
            .frame(tagged(send(flag::ACK), tags).build(), Expect::ToServer(HTTP4, WEB4, FlowKind::Old))
            .frame(answer().build(), back)
            .frame(tagged(answer(), tags).build(), back);
    }
    case
}

/// At most two tags are parsed, whatever their VLAN ids.
fn three_tags() -> Scenario {
    let syn = |tags| tagged(tcp(CLIENT4, HTTP4.at, flag::SYN), tags).build();
    Scenario::new("priority tags: three tags")
        .frame(syn(&[(VLAN, 0), (VLAN, 7), (VLAN, 8)]), Expect::Pass(Reason::NotIp))
        .frame(syn(&[(VLAN, 0), (VLAN, 0), (VLAN, 0)]), Expect::Pass(Reason::NotIp))
}
