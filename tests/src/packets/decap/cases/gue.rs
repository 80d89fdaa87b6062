//! Packets of Generic UDP Encapsulation.

use std::net::{IpAddr, SocketAddr};

use slb_common::abi::decap::DecapReason;

use super::{
    super::DecapCase, BALANCER4, BALANCER6, ECT_0, IN4, IN6, SERVER4, SERVER6, STRANGER4, STRANGER6, case,
    inner4, inner6, is_v4, strip,
};
use crate::packets::{
    frames::{Builder, Frame, number, udp},
    world::{CLIENT4, DNS4},
};

/// UDP destination port of the policy.
pub(super) const PORT: u16 = 6_081;
/// Offset of the checksum in the UDP header.
const CHECK: usize = 6;

pub(super) fn cases() -> Vec<DecapCase> {
    let mut cases = Vec::new();
    for inner in [inner4(), inner6()] {
        for ends in [(BALANCER4, SERVER4), (BALANCER6, SERVER6)] {
            cases.extend(stripped(ends, &inner));
            cases.extend(refused(ends, &inner));
        }
        for ends in [(STRANGER4, SERVER4), (STRANGER6, SERVER6)] {
            let frame = datagram(ends, PORT, payload(&inner)).build();
            cases.push(case("GUE of a stranger", frame, DecapReason::SourceNotAllowed));
        }
    }
    cases
}

fn payload(inner: &Frame) -> &[u8] {
    &inner.bytes[inner.network..inner.end]
}

fn datagram((from, to): (IpAddr, IpAddr), port: u16, payload: &[u8]) -> Builder {
    udp(SocketAddr::new(from, 50_000), SocketAddr::new(to, port), payload)
}

/// A header of variant 0.
fn variant_0(first: u8, kind: u8, flags: [u8; 2], inner: &Frame) -> Vec<u8> {
    [&[first, kind], &flags[..], payload(inner)].concat()
}

fn number_of(inner: &Frame) -> u8 {
    if is_v4(inner) { IN4 } else { IN6 }
}

fn stripped(ends: (IpAddr, IpAddr), inner: &Frame) -> Vec<DecapCase> {
    let plain = || datagram(ends, PORT, payload(inner));
    let mut cases = vec![
        strip("GUE variant 1", &plain().build(), inner, ECT_0),
        strip("GUE, tagged", &plain().tag(0x88a8, 1).tag(0x8100, 2).build(), inner, ECT_0),
        strip("GUE, padding", &plain().padding(30).build(), inner, ECT_0),
        strip("GUE without checksum", &plain().build().transport(CHECK, &[0, 0]), inner, ECT_0),
        strip("GUE with a wrong checksum", &plain().build().transport(CHECK, &[1, 2]), inner, ECT_0),
        strip(
            "GUE variant 0",
            &datagram(ends, PORT, &variant_0(0, number_of(inner), [0; 2], inner)).build(),
            inner,
            ECT_0,
        ),
    ];
    let extended = if ends.0.is_ipv4() {
        plain().options(10)
    } else {
        plain().extension(number::DESTINATION_OPTIONS, 8)
    };
    cases.push(strip("GUE behind options", &extended.build(), inner, ECT_0));
    cases
}

fn refused(ends: (IpAddr, IpAddr), inner: &Frame) -> Vec<DecapCase> {
    use DecapReason::{
        BadInner, BadOuter, DestinationNotAccepted, Fragment, GueHeader, InnerHopLimit, InnerVersion,
        NotTunnel,
    };
    let to = |port, bytes: &[u8]| datagram(ends, port, bytes).build();
    let own = number_of(inner);
    let other = if is_v4(inner) { IN6 } else { IN4 };
    let zero = |first, kind, flags| to(PORT, &variant_0(first, kind, flags, inner));
    let whole = to(PORT, payload(inner));
    let elsewhere = udp(CLIENT4, "10.0.0.11:53".parse().expect("an address"), b"elsewhere").build();
    let last = udp(CLIENT4, DNS4.at, b"a question").hop_limit(1).build();
    let len = |len: u16| whole.clone().transport(4, &len.to_be_bytes());
    let right = (whole.end - whole.transport) as u16;
    let mut cases = vec![
        case("GUE to another port", to(PORT + 1, payload(inner)), NotTunnel),
        case("GUE to port 0", to(0, payload(inner)), NotTunnel),
        case("GUE control message", zero(0x20, own, [0; 2]), GueHeader),
        case("GUE extension fields", zero(1, own, [0; 2]), GueHeader),
        case("GUE flags", zero(0, own, [0x80, 0]), GueHeader),
        case("GUE of another protocol", zero(0, number::TCP, [0; 2]), GueHeader),
        case("GUE variant 2", zero(0x80, own, [0; 2]), GueHeader),
        case("GUE variant 1 of IP version 5", zero(0x50, own, [0; 2]), GueHeader),
        case("GUE variant 0 of the other version", zero(0, other, [0; 2]), InnerVersion),
        case("GUE elsewhere", to(PORT, payload(&elsewhere)), DestinationNotAccepted),
        case("GUE without hops left", to(PORT, payload(&last)), InnerHopLimit),
        case("GUE of nothing", to(PORT, b""), BadOuter),
        case("GUE longer than the packet", len(right + 1), BadOuter),
        case("GUE shorter than the inner packet", len(right - 1), BadInner),
        case("GUE of three bytes", len(11), BadOuter),
        case("GUE of less than a header", len(7), BadOuter),
    ];
    for cut in whole.transport..whole.end {
        // Without the port it is any datagram.
        let reason = if cut < whole.transport + 8 { NotTunnel } else { BadOuter };
        cases.push(case("cut GUE", whole.clone().cut(cut), reason));
    }
    if ends.0.is_ipv4() {
        cases.push(case("first fragment of GUE", whole.clone().network(6, &[0x20, 0]), Fragment));
        cases.push(case("later fragment of GUE", whole.network(6, &[0, 7]), NotTunnel));
    }
    cases
}
