//! Mode `full-nat` with the client endpoint as a TCP option (TOA).

use std::net::SocketAddr;

use slb_common::abi::{service::policy, stats::Reason};

use super::{
    full_nat::{PORTS, answer, local, world as full_nat},
    related::{Ends, TCP4, TCP6},
};
use crate::packets::{
    fragments::cut,
    frames::{FIRST, Frame, Segment, flag, number, segment, tcp},
    icmp::IcmpCause,
    scenario::{Expect, FlowKind, Scenario},
    toa::{KIND, Toa, option},
    world::*,
};

const VLAN: u16 = 0x8100;

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, ends) in [("tcp4", TCP4), ("tcp6", TCP6)] {
        let of = |what: &str| format!("toa, {name}: {what}");
        cases.extend([
            opening(of("segments that open a connection"), ends),
            again(of("a connection that begins anew"), ends),
            tagged(of("a frame with VLAN tags"), ends),
            full(of("options without room"), ends),
            sizes(of("segments as large as the MTU"), ends),
            refused(of("a client's RST"), ends),
            fragments(of("a SYN in fragments"), ends),
            reused(of("a port that is used again"), ends),
            switched_off(of("a listener without it"), ends),
            hairpin(of("a flow of mode nat with a source"), ends),
        ]);
    }
    cases.push(extension());
    cases
}

fn world(ends: Ends) -> PacketWorld {
    full_nat(ends, PORTS).with(ends.listener, |service| service.policy |= policy::TOA)
}

fn source(ends: Ends) -> SocketAddr {
    local(ends, ends.client.port())
}

fn with(toa: Toa, ends: Ends, flow: FlowKind) -> Expect {
    Expect::ToServerWith(toa, ends.listener, ends.server, source(ends), flow)
}

fn without(ends: Ends, flow: FlowKind) -> Expect {
    Expect::ToServerFrom(ends.listener, ends.server, source(ends), flow)
}

/// SYN, SYN again, SYN-ACK, and the segment that acknowledges it have the option, later ones and answers do not.
fn opening(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let inserted = |flow| with(Toa::Inserted, ends, flow);
    Scenario::new(name)
        .in_world(world(ends))
        .frame(ends.first(), inserted(FlowKind::New))
        .frame(ends.first(), inserted(FlowKind::Old))
        .frame(answer(ends, source(ends)), Expect::ToClientOf(listener, server, client))
        .frame(client_segment(ends, flag::ACK, b""), inserted(FlowKind::Old))
        .frame(client_segment(ends, flag::ACK, b"data"), without(ends, FlowKind::Old))
        .frame(client_segment(ends, flag::ACK | flag::FIN, b""), without(ends, FlowKind::Old))
}

/// The client's segment after its SYN.
fn client_segment(ends: Ends, flags: u8, payload: &[u8]) -> Frame {
    let numbers = Segment { flags, sequence: FIRST + 18, acknowledgement: FIRST + 18, payload };
    segment(ends.client, ends.listener.at, numbers).build()
}

/// A client's port that is used again after a RST of the server.
fn again(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let refusal = tcp(server.at, source(ends), flag::RST | flag::ACK);
    let numbers = Segment { flags: flag::SYN, sequence: FIRST + 9999, acknowledgement: 0, payload: b"" };
    let second = segment(client, listener.at, numbers).build();
    Scenario::new(name)
        .in_world(world(ends))
        .frame(ends.first(), with(Toa::Inserted, ends, FlowKind::New))
        .frame(
            refusal.macs(SERVER_MAC, SERVER_SIDE_MAC).build(),
            Expect::ToClientOf(listener, server, client),
        )
        .frame(second, with(Toa::Inserted, ends, FlowKind::New))
}

fn tagged(name: String, ends: Ends) -> Scenario {
    let syn = |tags: &[u16]| {
        let syn = tcp(ends.client, ends.listener.at, flag::SYN);
        tags.iter().fold(syn, |syn, id| syn.tag(VLAN, *id)).build()
    };
    Scenario::new(name)
        .in_world(world(ends))
        .frame(syn(&[9]), with(Toa::Inserted, ends, FlowKind::New))
        .frame(syn(&[9, 10]), with(Toa::Inserted, ends, FlowKind::Old))
        // A priority tag is removed.
        .frame(syn(&[0]), with(Toa::Inserted, ends, FlowKind::Old))
}

/// A SYN with these TCP options, padded to `words` words.
fn syn(ends: Ends, options: &[u8], words: usize, payload: &[u8]) -> Frame {
    let mut content = options.to_vec();
    content.resize(4 * words, 1);
    content.extend(payload);
    let numbers = Segment { flags: flag::SYN, sequence: FIRST, acknowledgement: 0, payload: &content };
    let frame = segment(ends.client, ends.listener.at, numbers).build();
    frame.transport(12, &[(5 + words as u8) << 4]).sound()
}

/// Without room the option is left out, and the client cannot forge it.
fn full(name: String, ends: Ends) -> Scenario {
    let option = option(&ends.first());
    let words = option.len() / 4;
    let forged = [&[1, KIND, option.len() as u8], &option[2..]].concat();
    let unforged = [&[2, 4, KIND, 8, 1], &option[..]].concat();
    Scenario::new(name)
        .in_world(world(ends))
        .frame(syn(ends, &[], 10 - words, b""), with(Toa::Inserted, ends, FlowKind::New))
        .frame(syn(ends, &[], 11 - words, b""), without(ends, FlowKind::Old))
        .frame(syn(ends, &[], 10, b""), without(ends, FlowKind::Old))
        .frame(syn(ends, &forged, 10, b""), with(Toa::Renamed(1), ends, FlowKind::Old))
        // The first one is the content of another option.
        .frame(syn(ends, &unforged, 10, b""), with(Toa::Renamed(5), ends, FlowKind::Old))
        // Behind the end of the options there are none.
        .frame(syn(ends, &[&[1, 0], &forged[..]].concat(), 10, b""), without(ends, FlowKind::Old))
}

/// A segment never becomes larger than the MTU, and is not refused because of the option.
fn sizes(name: String, ends: Ends) -> Scenario {
    let header = if ends.client.is_ipv4() { 40 } else { 60 };
    let len = option(&ends.first()).len();
    let payload = vec![7; MTU as usize - header];
    Scenario::new(name)
        .in_world(world(ends))
        .frame(syn(ends, &[], 0, &payload[len..]), with(Toa::Inserted, ends, FlowKind::New))
        .frame(syn(ends, &[], 0, &payload[len - 1..]), without(ends, FlowKind::Old))
        .frame(syn(ends, &[], 0, &payload), without(ends, FlowKind::Old))
        .frame(
            syn(ends, &[], 0, &[&payload[..], b"x"].concat()),
            Expect::IcmpError(IcmpCause::TooBig(MTU as u16)),
        )
}

fn refused(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, .. } = ends;
    Scenario::new(name)
        .in_world(world(ends))
        .frame(tcp(client, listener.at, flag::RST).build(), Expect::Drop(Reason::Reset))
        .frame(ends.first(), with(Toa::Inserted, ends, FlowKind::New))
        .frame(tcp(client, listener.at, flag::RST).build(), without(ends, FlowKind::Old))
}

/// A SYN of an established connection, whose server may take it for another one.
fn reused(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let option = option(&ends.first());
    let old = |toa| with(toa, ends, FlowKind::Old);
    Scenario::new(name)
        .in_world(world(ends))
        .frame(ends.first(), with(Toa::Inserted, ends, FlowKind::New))
        .frame(answer(ends, source(ends)), Expect::ToClientOf(listener, server, client))
        .frame(client_segment(ends, flag::ACK, b""), old(Toa::Inserted))
        .frame(syn(ends, &option, 5, b""), old(Toa::Inserted))
        .frame(syn(ends, &option, 10, b""), old(Toa::Renamed(0)))
        .frame(client_segment(ends, flag::RST, b""), without(ends, FlowKind::Old))
        .frame(syn(ends, &option, 5, b""), old(Toa::Inserted))
}

/// Servers trust the local address, whatever the listener: the client's own option must not reach them.
fn switched_off(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let forged = syn(ends, &option(&ends.first()), 5, b"");
    Scenario::new(name)
        .in_world(full_nat(ends, PORTS))
        .frame(forged.clone(), with(Toa::Renamed(0), ends, FlowKind::New))
        .frame(answer(ends, source(ends)), Expect::ToClientOf(listener, server, client))
        .frame(client_segment(ends, flag::ACK, b""), without(ends, FlowKind::Old))
        .frame(forged, with(Toa::Renamed(0), ends, FlowKind::Old))
}

/// A server that asks its own VIP.
fn hairpin(name: String, ends: Ends) -> Scenario {
    let client = SocketAddr::new(ends.server.at.ip(), ends.client.port());
    let asking = Ends { client, ..ends };
    let forged = syn(asking, &option(&asking.first()), 5, b"");
    Scenario::new(name)
        .in_world(PacketWorld::standard().locals(&[LOCAL4, LOCAL6], PORTS))
        .frame(forged, with(Toa::Renamed(0), asking, FlowKind::New))
}

/// A SYN in fragments gets no option, and its client cannot forge it.
fn fragments(name: String, ends: Ends) -> Scenario {
    let Ends { listener, server, .. } = ends;
    let mut case = Scenario::new(name).in_world(world(ends));
    case = case.frame(ends.first(), with(Toa::Inserted, ends, FlowKind::New));
    let forged = syn(ends, &option(&ends.first()), 10, &[7; 40]);
    let renamed = Toa::Renamed(0).of(&forged);
    for (fragment, expected) in cut(forged, 7, 64).into_iter().zip(cut(renamed, 7, 64)) {
        case = case
            .frame(fragment.frame(), Expect::FragmentToServerFrom(listener, server, source(ends), expected));
    }
    case
}

/// Between the IP header and the TCP header.
fn extension() -> Scenario {
    let Ends { client, listener, .. } = TCP6;
    let syn = tcp(client, listener.at, flag::SYN).extension(number::DESTINATION_OPTIONS, 1).build();
    Scenario::new("toa, tcp6: extension headers")
        .in_world(world(TCP6))
        .frame(syn, without(TCP6, FlowKind::New))
}
