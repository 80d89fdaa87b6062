//! ICMP errors about packets of flows: they go to the end that has sent the embedded packet. Expected frames are built
//! anew with the other end's address and port.

mod fragments;
mod refused;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use slb_common::abi::{service::mode, stats::Reason};

use super::replies::other_port;
use crate::packets::{
    frames::{Builder, Frame, flag, number, other, tcp, udp},
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
/// IP protocol number of IPv4 in IP (RFC 2003).
const IPIP: u8 = 4;
/// Handled as any ICMP message to a VIP that is no echo request.
const UNMATCHED: Expect = Expect::Drop(Reason::Unmatched);
const NOT_READY: Expect = Expect::Drop(Reason::NotReady);
const FORGED: Expect = Expect::Drop(Reason::ForgedIcmp);
/// Bytes of the embedded transport header that RFC 792 requires.
pub(in crate::packets) const SHORT: usize = 8;
pub(in crate::packets) const ALL: usize = usize::MAX;

/// A listener of mode `nat`, its server and a client, for one family and protocol.
#[derive(Clone, Copy)]
pub(in crate::packets) struct Ends {
    pub(in crate::packets) client: SocketAddr,
    pub(in crate::packets) listener: PacketListener,
    pub(in crate::packets) server: PacketServer,
}

pub(in crate::packets) const TCP4: Ends = Ends { client: CLIENT4, listener: HTTP4, server: WEB4 };
pub(in crate::packets) const TCP6: Ends = Ends { client: CLIENT6, listener: HTTP6, server: WEB6 };
pub(super) const UDP4: Ends = Ends { client: CLIENT4, listener: DNS4, server: NAME4 };
pub(super) const UDP6: Ends = Ends { client: CLIENT6, listener: DNS6, server: NAME6 };

impl Ends {
    /// A router on the path.
    pub(in crate::packets) fn router(&self) -> IpAddr {
        match self.client.ip() {
            IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 77).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1).into(),
        }
    }

    pub(super) fn packet(&self, from: SocketAddr, to: SocketAddr) -> Builder {
        if self.listener.protocol == number::UDP {
            udp(from, to, b"some payload of a datagram")
        } else {
            tcp(from, to, flag::ACK | flag::PSH)
        }
    }

    /// The packet with which a flow begins.
    pub(super) fn first(&self) -> Frame {
        let Self { client, listener, .. } = *self;
        match listener.protocol {
            number::UDP => udp(client, listener.at, b"question").build(),
            _ => tcp(client, listener.at, flag::SYN).build(),
        }
    }

    /// "Fragmentation needed" or "packet too big" with this MTU, from `router` to the sender of the embedded packet.
    pub(super) fn too_big(
        &self,
        router: IpAddr,
        from: SocketAddr,
        to: SocketAddr,
        bytes: usize,
        mtu: u32,
    ) -> Builder {
        let head = if router.is_ipv4() { [3, 4, 0, 0] } else { [2, 0, 0, 0] };
        error(router, from.ip(), head, mtu, &embedded(self.packet(from, to), bytes))
    }

    /// The flow's first packet, and what is expected of it.
    fn begun(&self, name: &str) -> Scenario {
        let to_server = Expect::ToServer(self.listener, self.server, FlowKind::New);
        Scenario::new(name).frame(self.first(), to_server)
    }
}

/// An ICMP error.
pub(in crate::packets) fn error(
    from: IpAddr,
    to: IpAddr,
    head: [u8; 4],
    word: u32,
    embedded: &[u8],
) -> Builder {
    let protocol = if to.is_ipv4() { number::ICMP } else { number::ICMPV6 };
    other(from, to, protocol, &[&head[..], &word.to_be_bytes(), embedded].concat())
}

/// The IP header of a packet and `bytes` bytes behind it.
pub(in crate::packets) fn embedded(packet: Builder, bytes: usize) -> Vec<u8> {
    let frame = packet.build();
    frame.bytes[frame.network..frame.transport.saturating_add(bytes).min(frame.end)].to_vec()
}

/// The frame as SLB sends it: with these hardware addresses, after one more hop.
pub(in crate::packets) fn sent(builder: Builder, hop: Hop) -> &'static [u8] {
    builder.macs(hop.own, hop.peer).hop_limit(63).build().bytes.leak()
}

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, ends) in [("tcp4", TCP4), ("tcp6", TCP6), ("udp4", UDP4), ("udp6", UDP6)] {
        cases.extend(translated(name, ends));
    }
    cases.extend([TCP4, TCP6].map(forged));
    cases.extend([dropped(), unmatched(), tags(), about_tunnels(), resizing()]);
    cases.extend(untracked());
    cases.extend(refused::cases());
    cases.extend(fragments::cases());
    cases
}

/// Mode `nat`, both directions, with all of the embedded packet and with eight bytes behind its IP header.
fn translated(name: &str, ends: Ends) -> Vec<Scenario> {
    let Ends { client, listener, server } = ends;
    let router = ends.router();
    let mut cases = Vec::new();
    for (how_much, bytes) in [("all", ALL), ("eight bytes", SHORT)] {
        let error = ends.too_big(router, listener.at, client, bytes, 1400).build();
        let expected = sent(ends.too_big(router, server.at, client, bytes, 1400), server.hop);
        cases.push(
            ends.begun(&format!("{name}: an error to the VIP goes to the server, {how_much} embedded"))
                .frame(error, Expect::ErrorToServer(listener, server, expected)),
        );
        for (from, who) in [(router, "a router"), (server.at.ip(), "the server")] {
            let error = ends.too_big(from, client, server.at, bytes, 1400).build();
            let expected = sent(ends.too_big(listener.at.ip(), client, listener.at, bytes, 1400), CLIENT);
            cases.push(
                ends.begun(&format!("{name}: an error of {who} goes to the client, {how_much} embedded"))
                    .frame(error, Expect::ErrorToClient(listener, server, expected)),
            );
        }
    }
    cases
}

/// Embedded packets that the VIP has not sent, and path MTUs that no link has.
fn forged(ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let (router, least) = (ends.router(), if client.is_ipv4() { 576 } else { 1280 });
    let of = |from, mtu| {
        let message = ends.too_big(router, listener.at, client, SHORT, mtu);
        let head = if router.is_ipv4() { [3, 4, 0, 0] } else { [2, 0, 0, 0] };
        let forged = error(router, listener.at.ip(), head, mtu, &embedded(ends.packet(from, client), SHORT));
        if from == listener.at { message.build() } else { forged.build() }
    };
    let expected = sent(ends.too_big(router, server.at, client, SHORT, least), server.hop);
    ends.begun(&format!("forged ICMP errors to {}", listener.at))
        .frame(of(server.at, 1400), FORGED)
        .frame(of(client, 1400), FORGED)
        .frame(of(listener.at, least - 1), FORGED)
        .frame(of(listener.at, 0), FORGED)
        .frame(of(listener.at, least), Expect::ErrorToServer(listener, server, expected))
        .frame(about_another_protocol(&ends, server.at.ip()), FORGED)
        .frame(ends.too_big(server.at.ip(), client, server.at, SHORT, least - 1).build(), FORGED)
        // It may belong to a flow of the host.
        .frame(
            ends.too_big(server.at.ip(), client, other_port(server.at), SHORT, least - 1).build(),
            Expect::Pass(Reason::OtherProtocol),
        )
}

/// An error to the VIP about an ICMP message from `from`.
fn about_another_protocol(ends: &Ends, from: IpAddr) -> Frame {
    let protocol = if from.is_ipv4() { number::ICMP } else { number::ICMPV6 };
    let head = if from.is_ipv4() { [3, 4, 0, 0] } else { [2, 0, 0, 0] };
    let packet = other(from, ends.client.ip(), protocol, &[0; 8]);
    error(ends.router(), ends.listener.at.ip(), head, 1400, &embedded(packet, SHORT)).build()
}

/// Errors about tunnel packets go to the kernel, which learns path MTUs from them.
fn about_tunnels() -> Scenario {
    let about = |tunnel: IpAddr, server: IpAddr, packet: Builder, mtu| {
        let head = if tunnel.is_ipv4() { [3, 4, 0, 0] } else { [2, 0, 0, 0] };
        error(server, tunnel, head, mtu, &embedded(packet, ALL)).build()
    };
    let of = |tunnel: IpAddr, server: IpAddr, mtu| {
        about(tunnel, server, other(tunnel, server, IPIP, &[0x45; 20]), mtu)
    };
    let datagram = |tunnel: IpAddr, server: IpAddr, port: u16, mtu| {
        let ends = [(tunnel, 50_000), (server, port)].map(SocketAddr::from);
        about(tunnel, server, udp(ends[0], ends[1], &[0x45; 20]), mtu)
    };
    let gue = |tunnel: IpAddr, server: IpAddr, mtu| datagram(tunnel, server, GUE_PORT, mtu);
    // No tunnel packet: the host's own datagram.
    let own = |tunnel: IpAddr, server: IpAddr, mtu| datagram(tunnel, server, GUE_PORT + 1, mtu);
    Scenario::new("path MTUs of tunnels, behind which an IPv6 packet of the smallest MTU must fit")
        .frame(of(TUNNEL4, WEB4.at.ip(), 1300), Expect::Pass(Reason::OtherProtocol))
        .frame(of(TUNNEL4, WEB4.at.ip(), 1299), FORGED)
        .frame(of(TUNNEL6, WEB6.at.ip(), 1320), Expect::Pass(Reason::OtherProtocol))
        .frame(of(TUNNEL6, WEB6.at.ip(), 1319), FORGED)
        .frame(gue(TUNNEL4, WEB4.at.ip(), 1308), Expect::Pass(Reason::OtherProtocol))
        .frame(gue(TUNNEL4, WEB4.at.ip(), 1307), FORGED)
        .frame(gue(TUNNEL6, WEB6.at.ip(), 1328), Expect::Pass(Reason::OtherProtocol))
        .frame(gue(TUNNEL6, WEB6.at.ip(), 1327), FORGED)
        .frame(own(TUNNEL4, WEB4.at.ip(), 1300), Expect::Pass(Reason::OtherProtocol))
        .frame(own(TUNNEL4, WEB4.at.ip(), 1299), FORGED)
        .frame(own(TUNNEL6, WEB6.at.ip(), 1320), Expect::Pass(Reason::OtherProtocol))
        .frame(own(TUNNEL6, WEB6.at.ip(), 1319), FORGED)
}

/// While a flow may have its entry in the table that is replaced, no other end gets its errors.
fn resizing() -> Scenario {
    let Ends { client, listener, server } = UDP4;
    let stranger = other_port(client);
    Scenario::new("ICMP errors during a resize of the flow table")
        .resizing(true)
        .frame(UDP4.too_big(UDP4.router(), listener.at, stranger, SHORT, 1400).build(), NOT_READY)
        .frame(UDP4.too_big(server.at.ip(), stranger, server.at, SHORT, 1400).build(), NOT_READY)
}

/// Errors of flows that are dropped nevertheless.
fn dropped() -> Scenario {
    let Ends { client, listener, .. } = TCP4;
    let to_vip = |router: IpAddr| TCP4.too_big(router, listener.at, client, SHORT, 1400);
    let martian = listener.at.ip();
    TCP4.begun("ICMP errors that are dropped")
        .frame(to_vip(TCP4.router()).hop_limit(1).build(), Expect::Drop(Reason::HopLimit))
        .frame(to_vip(martian).build(), Expect::Drop(Reason::MartianSource))
        .frame(to_vip(Ipv4Addr::LOCALHOST.into()).build(), Expect::Drop(Reason::MartianSource))
}

/// Errors that belong to no flow, or about something else than a packet of one.
fn unmatched() -> Scenario {
    let Ends { client, listener, .. } = TCP4;
    let router = TCP4.router();
    let mut stranger = client;
    stranger.set_port(client.port() + 1);
    let about = |packet: Builder, bytes| {
        error(router, listener.at.ip(), [3, 4, 0, 0], 1400, &embedded(packet, bytes)).build()
    };
    let answer = || TCP4.packet(listener.at, client);
    let mut other_port = listener.at;
    other_port.set_port(4);
    let later_fragment = about(answer(), SHORT).transport(8 + 6, &[0x20, 1]).sound();
    TCP4.begun("ICMP errors that belong to no flow")
        .frame(about(TCP4.packet(listener.at, stranger), SHORT), UNMATCHED)
        .frame(about(TCP4.packet(other_port, client), SHORT), UNMATCHED)
        .frame(about(answer(), 7), UNMATCHED)
        .frame(about(answer(), 0), UNMATCHED)
        .frame(later_fragment, UNMATCHED)
        .frame(about(other(listener.at.ip(), client.ip(), number::ICMP, &[0; 8]), SHORT), UNMATCHED)
        // Redirects are no errors.
        .frame(about(answer(), SHORT).transport(0, &[5]).sound(), UNMATCHED)
}

fn tags() -> Scenario {
    let Ends { client, listener, server } = TCP4;
    let router = TCP4.router();
    let to_vip = || TCP4.too_big(router, listener.at, client, SHORT, 1400);
    let to_server = || TCP4.too_big(router, server.at, client, SHORT, 1400);
    let expected = |builder| Expect::ErrorToServer(listener, server, sent(builder, server.hop));
    TCP4.begun("ICMP errors with VLAN tags and priority tags")
        .frame(to_vip().tag(VLAN, 7).build(), expected(to_server().tag(VLAN, 7)))
        .frame(to_vip().tag(VLAN, 0xa000).build(), expected(to_server()))
        .frame(to_vip().tag(VLAN, 0).tag(VLAN, 7).build(), expected(to_server().tag(VLAN, 7)))
}

/// Modes without replies: the hash finds the server.
fn untracked() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for ends in [TCP4, TCP6] {
        let Ends { client, listener, server } = ends;
        for (name, mode) in [("dsr", mode::DSR), ("ipip", mode::IPIP), ("gue", mode::GUE)] {
            let world = PacketWorld::standard().with(listener, |service| service.mode = mode);
            let error = ends.too_big(ends.router(), listener.at, client, SHORT, 1400);
            cases.push(
                Scenario::new(format!("{name}: an error to {} goes to the server", listener.at))
                    .in_world(world)
                    .frame(error.build(), Expect::ToServer(listener, server, FlowKind::Old)),
            );
        }
    }
    cases
}
