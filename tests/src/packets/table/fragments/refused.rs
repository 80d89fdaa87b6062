//! Fragments that are not forwarded, and what follows from it.

use slb_common::abi::{interface, service::mode, stats::Reason};

use super::{DROPPED, Ends, ID, UDP4, UDP6, in_mode, numbered, three};
use crate::packets::{
    fragments::{Fragment, cut},
    frames::{Builder, flag, tcp, udp},
    icmp::IcmpCause,
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for ends in [UDP4, UDP6] {
        cases.extend([
            early(ends),
            expired(ends),
            hop_limit(ends),
            too_big(ends),
            too_big_answer(ends),
            roles(ends),
            refused_first(ends),
            refused_with_same_id(ends),
        ]);
    }
    cases.extend([(CLIENT4, HTTP4, WEB4), (CLIENT6, HTTP6, WEB6)].map(|(client, listener, server)| {
        tiny(Ends { name: if client.is_ipv4() { "IPv4" } else { "IPv6" }, client, listener, server })
    }));
    cases.push(without_checksum6());
    cases
}

/// A later fragment that arrives before the first one is lost; it does not wait.
fn early(ends: Ends) -> Scenario {
    let [first, middle, last] = three(ends.question());
    let [back, back_middle, _] = three(ends.answer());
    ends.case("a later fragment before the first")
        .frame(last.frame(), DROPPED)
        .frame(first.frame(), ends.begins(first))
        .frame(last.frame(), ends.goes(last))
        .frame(Fragment { id: ID ^ 1, ..middle }.frame(), DROPPED)
        .frame(middle.frame(), ends.goes(middle))
        // To no VIP: it may be a packet of another flow that the host routes.
        .frame(back_middle.frame(), Expect::Pass(Reason::Fragment))
        .frame(back.frame(), ends.returns(back))
        .frame(back_middle.frame(), ends.returns(back_middle))
}

/// A record holds for 30 seconds.
fn expired(ends: Ends) -> Scenario {
    let [first, middle, last] = three(ends.question());
    let [back, _, back_last] = three(ends.answer());
    let began = 0_u32.wrapping_sub(10 * HZ);
    ends.case("a record expires")
        .host_only()
        .clock(began)
        .frame(first.frame(), ends.begins(first))
        .frame(back.frame(), ends.returns(back))
        .clock(began.wrapping_add(30 * HZ - 1))
        .frame(middle.frame(), ends.goes(middle))
        .frame(back_last.frame(), ends.returns(back_last))
        .clock(began.wrapping_add(30 * HZ))
        .frame(last.frame(), DROPPED)
        .frame(back_last.frame(), Expect::Pass(Reason::Fragment))
        .frame(first.frame(), ends.goes(first))
        .frame(last.frame(), ends.goes(last))
}

/// No ICMP error is sent about a later fragment (RFC 792), nor about one behind an IPv6 fragment header.
fn hop_limit(ends: Ends) -> Scenario {
    const LAST_HOP: Expect = Expect::Drop(Reason::HopLimit);
    let [first, _, last] = three(ends.question());
    let [tired_first, _, tired] = three(ends.question().hop_limit(1));
    let [back, _, _] = three(ends.answer());
    let [tired_answer, _, tired_back] = three(ends.answer().hop_limit(1));
    let of_first = if ends.client.is_ipv4() { Expect::IcmpError(IcmpCause::HopLimit) } else { LAST_HOP };
    ends.case("no hops left")
        .frame(tired_first.frame(), of_first)
        .frame(last.frame(), DROPPED)
        .frame(first.frame(), ends.begins(first))
        .frame(tired.frame(), LAST_HOP)
        .frame(last.frame(), ends.goes(last))
        .frame(tired_answer.frame(), of_first)
        .frame(back.frame(), ends.returns(back))
        .frame(tired_back.frame(), LAST_HOP)
        // In mode `dsr` SLB does not act as a router.
        .change(in_mode(mode::DSR))
        .frame(tired_first.frame(), ends.goes(tired_first))
        .frame(tired.frame(), ends.goes(tired))
}

/// A fragment of `bytes` behind the IP headers, at this offset of a long datagram.
fn sized(of: Builder, at: usize, bytes: usize) -> Fragment {
    let whole = cut(of.build(), ID, 16_000)[0];
    Fragment { at, len: bytes, more: true, ..whole }
}

/// The largest content of a fragment, and the same with eight bytes more.
fn sizes(ends: Ends) -> [usize; 2] {
    let headers = if ends.client.is_ipv4() { 20 } else { 40 + 8 };
    let most = (MTU as usize - headers) / 8 * 8;
    [most, most + 8]
}

/// Senders of IPv6 fragments learn the path MTU by the first one; IPv4 fragments without DF get no ICMP error.
fn too_big(ends: Ends) -> Scenario {
    let question = || udp(ends.client, ends.listener.at, &numbered(6_000));
    let [fits, exceeds] = sizes(ends);
    let dropped = Expect::Drop(Reason::TooBig);
    let of_first =
        if ends.client.is_ipv4() { dropped } else { Expect::IcmpError(IcmpCause::TooBig(MTU as u16)) };
    let (large, first) = (sized(question(), 0, exceeds), sized(question(), 0, fits));
    let (large_later, later) = (sized(question(), 1600, exceeds), sized(question(), 1600, fits));
    ends.case("fragments above the MTU")
        .frame(large.frame(), of_first)
        .frame(later.frame(), DROPPED)
        // The flow has begun by the first datagram.
        .frame(first.frame(), ends.goes(first))
        .frame(large_later.frame(), dropped)
        .frame(later.frame(), ends.goes(later))
}

fn too_big_answer(ends: Ends) -> Scenario {
    let answer = || udp(ends.server.at, ends.client, &numbered(6_000));
    let [fits, exceeds] = sizes(ends);
    let dropped = Expect::Drop(Reason::TooBig);
    let of_first =
        if ends.client.is_ipv4() { dropped } else { Expect::IcmpError(IcmpCause::TooBig(MTU as u16)) };
    let (large, first) = (sized(answer(), 0, exceeds), sized(answer(), 0, fits));
    let (large_later, later) = (sized(answer(), 1600, exceeds), sized(answer(), 1600, fits));
    ends.case("a server's fragments above the MTU")
        .frame(
            udp(ends.client, ends.listener.at, b"?").build(),
            Expect::ToServer(ends.listener, ends.server, FlowKind::New),
        )
        .frame(large.frame(), of_first)
        .frame(later.frame(), Expect::Pass(Reason::Fragment))
        .frame(first.frame(), ends.returns(first))
        .frame(large_later.frame(), dropped)
        .frame(later.frame(), ends.returns(later))
}

fn roles(ends: Ends) -> Scenario {
    let [first, middle, _] = three(ends.question());
    let [back, back_middle, _] = three(ends.answer());
    let (client, server) = (interface::CLIENT, interface::SERVER);
    let wrong = Expect::Drop(Reason::WrongInterface);
    ends.case("roles of interfaces")
        .frame(first.frame(), ends.begins(first))
        .frame(back.frame(), ends.returns(back))
        .interfaces(interfaces_in_roles(server, client))
        .frame(middle.frame(), wrong)
        .frame(back_middle.frame(), ends.returns(back_middle))
        .interfaces(interfaces_in_roles(client, server))
        .frame(middle.frame(), ends.goes(middle))
        .frame(back_middle.frame(), wrong)
}

/// Nothing follows a first fragment that is not forwarded.
fn refused_first(ends: Ends) -> Scenario {
    let [first, middle, _] = three(ends.question());
    let table = ends.listener.table.expect("a server table");
    ends.case("a refused first fragment leaves no record")
        .in_world(PacketWorld::standard().table(table, &[]))
        .frame(first.frame(), Expect::Drop(Reason::NoServer))
        .change(PacketWorld::standard())
        .frame(middle.frame(), DROPPED)
}

/// Its later fragments do not follow those of the packet that had its identification before.
fn refused_with_same_id(ends: Ends) -> Scenario {
    let closed = std::net::SocketAddr::new(ends.listener.at.ip(), 4443);
    let [first, middle, last] = three(ends.question());
    let [other, other_middle, _] = three(udp(ends.client, closed, &numbered(3_000)));
    // IPv6: no ICMP error about a packet with a fragment header.
    let refused = if ends.client.is_ipv4() {
        Expect::IcmpError(IcmpCause::NoPort)
    } else {
        Expect::Drop(Reason::Unmatched)
    };
    ends.case("a refused first fragment with the identification of a forwarded one")
        .frame(first.frame(), ends.begins(first))
        .frame(middle.frame(), ends.goes(middle))
        .frame(other.frame(), refused)
        .frame(other_middle.frame(), DROPPED)
        .frame(last.frame(), DROPPED)
}

/// The whole transport header lies in the first fragment (RFC 1858, 3; RFC 7112).
fn tiny(ends: Ends) -> Scenario {
    let segment = cut(tcp(ends.client, ends.listener.at, flag::SYN).build(), ID, 64)[0];
    let part = |at, len| Fragment { at, len, more: at == 0, ..segment };
    // The header has 28 bytes. Padding must not be read as content.
    let short = |len| part(0, len).frame().patch(|f| f.bytes.extend([0; 60]));
    let datagram = udp(ends.client, beside_port(ends), b"of no more than eight bytes");
    let datagram = Fragment { len: 7, more: true, ..cut(datagram.build(), ID, 64)[0] };
    [0, 3, 4, 8, 16, 20, 24, 27]
        .into_iter()
        .fold(ends.case("tiny first fragments"), |case, len| {
            case.frame(part(0, len).frame(), DROPPED).frame(short(len), DROPPED)
        })
        .frame(part(24, 21).frame(), DROPPED)
        .frame(datagram.frame(), DROPPED)
        .frame(part(0, 28).frame(), ends.begins(part(0, 28)))
        .frame(part(24, 21).frame(), ends.goes(part(24, 21)))
}

/// The UDP listener of the same VIP.
fn beside_port(ends: Ends) -> std::net::SocketAddr {
    if ends.client.is_ipv4() { DNS4.at } else { DNS6.at }
}

/// RFC 8200, 8.1: over IPv6 the checksum is not optional.
fn without_checksum6() -> Scenario {
    let fragments = cut(UDP6.question().build().transport(6, &[0, 0]), ID, 1400);
    UDP6.case("a datagram without checksum")
        .frame(fragments[0].frame(), DROPPED)
        .frame(fragments[1].frame(), DROPPED)
}
