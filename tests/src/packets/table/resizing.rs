//! While flows are copied into a new flow table, a flow without an entry may still have one in the old table.

use std::net::SocketAddr;

use slb_common::abi::stats::Reason;

use crate::packets::{
    frames::{flag, tcp, udp},
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const NOT_READY: Expect = Expect::Drop(Reason::NotReady);

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, client, http, web, dns, name) in
        [("IPv4", CLIENT4, HTTP4, WEB4, DNS4, NAME4), ("IPv6", CLIENT6, HTTP6, WEB6, DNS6, NAME6)]
    {
        let ask = |flags| tcp(client, http.at, flags).build();
        let answer = |flags| tcp(web.at, client, flags).macs(SERVER_MAC, SERVER_SIDE_MAC).build();
        let (begins, back) =
            (Expect::ToServer(http, web, FlowKind::New), Expect::ToClient(http, web, CLIENT));
        let case = |what: &str| Scenario::new(format!("resizing, {family}: {what}"));
        cases.extend([
            case("tracked flows go on")
                .frame(ask(flag::SYN), begins)
                .resizing(true)
                .frame(answer(flag::SYN | flag::ACK), back)
                .frame(ask(flag::ACK), Expect::ToServer(http, web, FlowKind::Old)),
            case("new flows begin").resizing(true).frame(ask(flag::SYN), begins),
            case("packets of untracked connections are dropped until the resize ends")
                .resizing(true)
                .frame(ask(flag::ACK), NOT_READY)
                .frame(ask(flag::ACK | flag::FIN), NOT_READY)
                .frame(answer(flag::ACK), NOT_READY)
                .frame(udp(name.at, client, b"an answer").build(), NOT_READY)
                .resizing(false)
                .frame(answer(flag::ACK), Expect::Pass(Reason::NotOurs))
                .frame(ask(flag::ACK), Expect::ToServer(http, web, FlowKind::Old)),
            case("datagrams are forwarded")
                .resizing(true)
                .frame(udp(client, dns.at, b"?").build(), Expect::ToServer(dns, name, FlowKind::New)),
            case("packets of no server pass to the kernel").resizing(true).frame(
                tcp(SocketAddr::new(web.at.ip(), 9), client, flag::ACK).build(),
                Expect::Pass(Reason::NotOurs),
            ),
        ]);
    }
    cases
}
