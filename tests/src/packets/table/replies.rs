//! Answers of servers to clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[cfg(doc)]
use slb_common::abi::backend::Backend;
use slb_common::abi::{service::ServiceIndex, stats::Reason};
use slb_control::dataplane::state::to_address;

use crate::packets::{
    frames::{Frame, flag, tcp, udp},
    icmp::IcmpCause,
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const NOT_OURS: Expect = Expect::Pass(Reason::NotOurs);
const LAST_HOP: Expect = Expect::IcmpError(IcmpCause::HopLimit);

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, client, listener, server) in [
        ("IPv4", CLIENT4, HTTP4, WEB4),
        ("IPv6", CLIENT6, HTTP6, WEB6),
        ("IPv4, same port", CLIENT4, STRAIGHT4, STRAIGHT),
    ] {
        let back = Expect::ToClient(listener, server, CLIENT);
        let answer = |flags| tcp(server.at, client, flags).macs(SERVER_MAC, SERVER_SIDE_MAC).build();
        let begun = |name: &str| {
            Scenario::new(format!("TCP/{family}: {name}")).frame(
                tcp(client, listener.at, flag::SYN).build(),
                Expect::ToServer(listener, server, FlowKind::New),
            )
        };
        cases.extend([
            begun("SYN-ACK, data and FIN go back")
                .frame(answer(flag::SYN | flag::ACK), back)
                .frame(answer(flag::ACK | flag::PSH), back)
                .frame(answer(flag::ACK | flag::FIN), back),
            begun("RST goes back").frame(answer(flag::RST | flag::ACK), back),
            begun("another port of the server")
                .frame(tcp(other_port(server.at), client, flag::ACK).build(), NOT_OURS),
            begun("another address that collides with the server's in filter and endpoint hash")
                .frame(tcp(alike(server.at), client, flag::ACK).build(), NOT_OURS)
                .frame(tcp(alike(server.at), client, flag::SYN | flag::ACK).build(), NOT_OURS)
                .frame(answer(flag::SYN | flag::ACK), back),
            begun("another port of the client")
                .frame(tcp(server.at, other_port(client), flag::ACK).build(), NOT_OURS),
            begun("an answer without hops left is refused by an ICMP error")
                .frame(tcp(server.at, client, flag::ACK).hop_limit(1).build(), LAST_HOP)
                .frame(tcp(server.at, client, flag::ACK).hop_limit(0).build(), LAST_HOP)
                .frame(tcp(server.at, client, flag::ACK).hop_limit(2).build(), back),
            begun("answers with tags and padding")
                .frame(tcp(server.at, client, flag::ACK).tag(0x8100, 9).padding(5).build(), back),
            begun("a malformed answer passes to the kernel")
                .frame(answer(flag::ACK).transport(12, &[4 << 4]), Expect::Pass(Reason::BadHeader)),
            begun("the listener is gone")
                .change(PacketWorld::standard().without_listener(listener))
                .frame(answer(flag::ACK), NOT_OURS),
            begun("the server is gone")
                .change(PacketWorld::standard().without(server))
                .frame(answer(flag::ACK), NOT_OURS),
            Scenario::new(format!("TCP/{family}: packets of a server outside of flows pass to the kernel"))
                .frame(answer(flag::SYN), NOT_OURS)
                .frame(answer(flag::ACK), NOT_OURS),
        ]);
    }
    cases.extend(udp_cases());
    cases.extend(client_moves());
    cases.push(
        Scenario::new("answers of a mid-stream pickup reach the client")
            .frame(tcp(CLIENT4, HTTP4.at, flag::ACK).build(), Expect::ToServer(HTTP4, WEB4, FlowKind::Old))
            .frame(tcp(WEB4.at, CLIENT4, flag::ACK).build(), Expect::ToClient(HTTP4, WEB4, CLIENT)),
    );
    cases.push(
        Scenario::new("a RST without an entry creates none")
            .frame(tcp(CLIENT4, HTTP4.at, flag::RST).build(), Expect::ToServer(HTTP4, WEB4, FlowKind::Old))
            .frame(tcp(WEB4.at, CLIENT4, flag::RST).build(), NOT_OURS),
    );
    cases
}

/// An address with the same port that collides with the server's in the filter of servers and in [`Backend::endpoint`].
fn alike(server: SocketAddr) -> SocketAddr {
    let place = |at: &SocketAddr| ServiceIndex::server_hash(&to_address(at.ip()), at.port().to_be()) >> 44;
    let other = |n: u32| match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(0x0b00_0000 | n)),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(0x2001_0db8_00ee_u128 << 80 | u128::from(n))),
    };
    let mut others = (1..1 << 24).map(|n| SocketAddr::new(other(n), server.port()));
    others.find(|other| place(other) == place(&server)).expect("one in a million addresses is like it")
}

fn udp_cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, client, listener, server) in [("IPv4", CLIENT4, DNS4, NAME4), ("IPv6", CLIENT6, DNS6, NAME6)]
    {
        let back = Expect::ToClient(listener, server, CLIENT);
        cases.push(
            Scenario::new(format!("UDP/{family}: answers go back"))
                .frame(udp(server.at, client, b"too early").build(), NOT_OURS)
                .frame(
                    udp(client, listener.at, b"?").build(),
                    Expect::ToServer(listener, server, FlowKind::New),
                )
                .frame(udp(server.at, client, b"an answer").build(), back)
                .frame(udp(server.at, client, b"another one").build(), back),
        );
        let headers = if client.is_ipv4() { 28 } else { 48 };
        let sized = |len: usize| udp(server.at, client, &vec![0x5a; len - headers]).build();
        let (largest, too_big) = (MTU as usize, Expect::IcmpError(IcmpCause::TooBig(MTU as u16)));
        cases.push(
            Scenario::new(format!("UDP/{family}: answers up to the MTU of the client's link go back"))
                .frame(
                    udp(client, listener.at, b"?").build(),
                    Expect::ToServer(listener, server, FlowKind::New),
                )
                .frame(sized(largest), back)
                .frame(sized(largest + 1), too_big),
        );
    }
    let asked = |name| {
        Scenario::new(name)
            .frame(udp(CLIENT4, DNS4.at, b"?").build(), Expect::ToServer(DNS4, NAME4, FlowKind::New))
    };
    let back = Expect::ToClient(DNS4, NAME4, CLIENT);
    cases.push(
        asked("UDP/IPv4: an answer without checksum")
            .frame(udp(NAME4.at, CLIENT4, b"unchecked").build().transport(6, &[0, 0]), back),
    );
    let first = udp(DNS4.at, CLIENT4, &[0, 0]).build();
    let residue = [first.bytes[first.transport + 6], first.bytes[first.transport + 7]];
    cases.push(
        asked("UDP/IPv4: an answer whose checksum becomes 0")
            .frame(udp(NAME4.at, CLIENT4, &residue).build(), back),
    );
    cases
}

/// Without a route in the kernel, answers of an established connection follow the client's frames.
fn client_moves() -> Vec<Scenario> {
    const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc2];
    let back = |hop| Expect::ToClient(HTTP4, WEB4, hop);
    let to = |flow| Expect::ToServer(HTTP4, WEB4, flow);
    let data = || tcp(CLIENT4, HTTP4.at, flag::ACK);
    let answer = || -> Frame { tcp(WEB4.at, CLIENT4, flag::ACK).build() };
    let established = |name: &str| {
        Scenario::new(name)
            .host_only()
            .frame(tcp(CLIENT4, HTTP4.at, flag::SYN).build(), to(FlowKind::New))
            .frame(tcp(WEB4.at, CLIENT4, flag::SYN | flag::ACK).build(), back(CLIENT))
            .frame(data().build(), to(FlowKind::Old))
    };
    let mut other_router = CLIENT;
    other_router.peer = ROUTER_MAC;
    let mut other_interface = other_router;
    (other_interface.out, other_interface.own) = (FAR, ROUTER.own);
    vec![
        established("answers follow the client to another router")
            .frame(data().macs(ROUTER_MAC, OWN_MAC).build(), to(FlowKind::Old))
            .frame(answer(), back(other_router))
            // Any MAC of SLB is accepted as destination.
            .frame(data().macs(ROUTER_MAC, OTHER_OWN_MAC).build(), to(FlowKind::Old))
            .frame(answer(), back(other_router))
            .frame(data().build(), to(FlowKind::Old))
            .frame(answer(), back(CLIENT)),
        established("answers follow the client to another interface")
            .frame_through(FAR, data().macs(ROUTER_MAC, ROUTER.own).build(), to(FlowKind::Old))
            .frame(answer(), back(other_interface)),
        established("answers follow the client path of the client's FIN")
            .frame(
                tcp(CLIENT4, HTTP4.at, flag::FIN | flag::ACK).macs(ROUTER_MAC, OWN_MAC).build(),
                to(FlowKind::Old),
            )
            .frame(tcp(WEB4.at, CLIENT4, flag::FIN | flag::ACK).build(), back(other_router))
            .frame(data().macs(ROUTER_MAC, OWN_MAC).build(), to(FlowKind::Old))
            .frame(answer(), back(other_router)),
    ]
}

pub(super) fn other_port(mut at: SocketAddr) -> SocketAddr {
    at.set_port(at.port() + 1);
    at
}
