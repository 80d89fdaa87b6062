//! Truncated frames.

use slb_common::abi::stats::Reason;

use crate::packets::{
    frames::{echo, flag, not_ip, number, tcp, udp},
    scenario::{Expect, Scenario},
    world::*,
};

/// Valid frames cut at every length. They are passed while the destination cannot be read, and dropped from there on.
pub(super) fn cases() -> Vec<Scenario> {
    let frames = [
        ("TCP/IPv4", tcp(CLIENT4, HTTP4.at, flag::SYN).build(), 34, Reason::BadLength),
        ("TCP/IPv6", tcp(CLIENT6, HTTP6.at, flag::SYN).build(), 54, Reason::BadLength),
        (
            "UDP/IPv4 with a tag",
            udp(CLIENT4, DNS4.at, b"12345").tag(0x8100, 1).build(),
            38,
            Reason::BadLength,
        ),
        (
            "UDP/IPv6 with two tags",
            udp(CLIENT6, DNS6.at, b"12345").tag(0x88a8, 1).tag(0x8100, 1).build(),
            62,
            Reason::BadLength,
        ),
        (
            "UDP/IPv4 with a priority tag",
            udp(CLIENT4, DNS4.at, b"12345").tag(0x8100, 0xa000).build(),
            38,
            Reason::BadLength,
        ),
        (
            "echo/IPv4 with options",
            echo(CLIENT4.ip(), VIP4, b"12345").options(4).build(),
            34,
            Reason::BadLength,
        ),
        (
            "TCP/IPv6 with extension headers",
            tcp(CLIENT6, HTTP6.at, flag::SYN).extension(number::HOP_BY_HOP, 2).build(),
            54,
            Reason::BadLength,
        ),
    ];
    let mut cases = Vec::new();
    for (name, frame, readable, reason) in frames {
        let mut both = Scenario::new(format!("{name}, truncated at every length"));
        let mut tiny =
            Scenario::new(format!("{name}, truncated at every length below an Ethernet header")).host_only();
        for len in 0..frame.bytes.len() {
            let expect = if len < readable { Expect::Pass(Reason::Truncated) } else { Expect::Drop(reason) };
            if len < 14 {
                tiny = tiny.frame(frame.clone().cut(len), expect);
            } else {
                both = both.frame(frame.clone().cut(len), expect);
            }
        }
        cases.extend([both, tiny]);
    }
    // The length fields fit the cut frame: only the transport header is truncated.
    let mut headers = Scenario::new("transport headers truncated at every length");
    for room in 0..20_u8 {
        let segment = tcp(CLIENT4, HTTP4.at, flag::SYN).build();
        let cut = segment.cut(34 + usize::from(room)).network(2, &[0, 20 + room]);
        headers = headers.frame(cut, Expect::Drop(Reason::Truncated));
    }
    for room in 0..8_u8 {
        let datagram = udp(CLIENT6, DNS6.at, b"").build();
        let cut = datagram.cut(54 + usize::from(room)).network(4, &[0, room]);
        headers = headers.frame(cut, Expect::Drop(Reason::Truncated));
    }
    for room in 0..8_u8 {
        let request = echo(CLIENT6.ip(), VIP6, b"").build();
        let cut = request.cut(54 + usize::from(room)).network(4, &[0, room]);
        headers = headers.frame(cut, Expect::Drop(Reason::Truncated));
    }
    cases.push(headers);
    cases.push(
        Scenario::new("tags truncated at every length")
            .frame(not_ip(OWN_MAC, 0x8100, &[]), Expect::Pass(Reason::Truncated))
            .frame(not_ip(OWN_MAC, 0x8100, &[0, 1, 8]), Expect::Pass(Reason::Truncated))
            .frame(not_ip(OWN_MAC, 0x8100, &[0, 1, 8, 0]), Expect::Pass(Reason::Truncated))
            .frame(not_ip(OWN_MAC, 0x88a8, &[0, 1, 0x81, 0, 0, 1, 8]), Expect::Pass(Reason::Truncated)),
    );
    cases
}
