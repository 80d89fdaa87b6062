//! Fragments: the first one has ports and leaves a record, later ones follow it.

mod refused;

use std::net::{IpAddr, SocketAddr};

use slb_common::abi::{service::mode, stats::Reason};

use crate::packets::{
    fragments::{Fragment, cut},
    frames::{Builder, flag, number, tcp, udp},
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

/// A later fragment without a record, or a malformed fragment.
const DROPPED: Expect = Expect::Drop(Reason::Fragment);
/// Identification of the fragments.
const ID: u32 = 0x0102_beef;
/// Bytes of each fragment behind the IP header; with an outer header it fits.
const BYTES: usize = 1400;

/// Both ends of a UDP listener's flow.
#[derive(Clone, Copy)]
struct Ends {
    name: &'static str,
    client: SocketAddr,
    listener: PacketListener,
    server: PacketServer,
}

const UDP4: Ends = Ends { name: "IPv4", client: CLIENT4, listener: DNS4, server: NAME4 };
const UDP6: Ends = Ends { name: "IPv6", client: CLIENT6, listener: DNS6, server: NAME6 };

impl Ends {
    /// A datagram that becomes three fragments.
    fn question(&self) -> Builder {
        udp(self.client, self.listener.at, &numbered(3_000))
    }

    fn answer(&self) -> Builder {
        udp(self.server.at, self.client, &numbered(3_001)).macs(SERVER_MAC, SERVER_SIDE_MAC)
    }

    /// Mode `nat`: the fragment begins a flow.
    fn begins(&self, fragment: Fragment) -> Expect {
        Expect::FragmentToServer(self.listener, self.server, FlowKind::New, fragment)
    }

    fn goes(&self, fragment: Fragment) -> Expect {
        Expect::FragmentToServer(self.listener, self.server, FlowKind::Old, fragment)
    }

    fn returns(&self, fragment: Fragment) -> Expect {
        Expect::FragmentToClient(self.listener, self.server, fragment)
    }

    fn case(&self, name: &str) -> Scenario {
        Scenario::new(format!("fragments/{}: {name}", self.name))
    }
}

fn numbered(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn fragments(of: Builder) -> Vec<Fragment> {
    cut(of.build(), ID, BYTES)
}

fn in_mode(mode: u8) -> PacketWorld {
    [DNS4, DNS6, HTTP4, HTTP6]
        .into_iter()
        .fold(PacketWorld::standard(), |world, listener| world.with(listener, |service| service.mode = mode))
}

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for ends in [UDP4, UDP6] {
        cases.extend([
            both_ways(ends),
            changed_meanwhile(ends),
            second_source(ends),
            headers(ends),
            tags(ends),
            id_again(ends),
        ]);
        for (name, mode) in [("dsr", mode::DSR), ("ipip", mode::IPIP), ("gue", mode::GUE)] {
            cases.push(direct(ends, name, mode));
            cases.push(direct_change(ends, name, mode));
        }
    }
    // Outer headers of the other family.
    let over6 = Ends { server: WEB6, ..UDP4 };
    let world = in_mode(mode::IPIP).table(3, &[WEB6]).table(4, &[NAME4]);
    let [case4, case6] =
        [over6, Ends { server: NAME4, ..UDP6 }].map(|ends| direct(ends, "ipip, other family", mode::IPIP));
    cases.extend([case4.in_world(world.clone()), case6.in_world(world)]);
    for (client, listener, server) in [(CLIENT4, HTTP4, WEB4), (CLIENT6, HTTP6, WEB6)] {
        cases.push(segments(client, listener, server));
    }
    cases.push(without_checksum());
    cases.push(atomic());
    cases.extend(refused::cases());
    cases
}

/// First, middle and last fragments of datagrams in mode `nat`.
fn both_ways(ends: Ends) -> Scenario {
    let [first, middle, last] = three(ends.question());
    let back = three(ends.answer());
    let case = ends
        .case("a datagram and its answer")
        .frame(first.frame(), ends.begins(first))
        .frame(middle.frame(), ends.goes(middle))
        .frame(last.frame(), ends.goes(last));
    back.into_iter().fold(case, |case, fragment| case.frame(fragment.frame(), ends.returns(fragment)))
}

fn three(of: Builder) -> [Fragment; 3] {
    fragments(of).try_into().expect("three fragments")
}

/// Later fragments go where the first one went although new flows go to another server.
fn changed_meanwhile(ends: Ends) -> Scenario {
    let [first, middle, last] = three(ends.question());
    let [back, back_middle, back_last] = three(ends.answer());
    let other = PacketServer { id: 13, at: beside(ends.server.at), ..ends.server };
    let table = ends.listener.table.expect("a server table");
    let changed = PacketWorld::standard().server(other).table(table, &[other]);
    ends.case("the server table changes meanwhile")
        .frame(first.frame(), ends.begins(first))
        .change(changed.clone())
        .frame(middle.frame(), ends.goes(middle))
        .frame(back.frame(), ends.returns(back))
        .frame(back_middle.frame(), ends.returns(back_middle))
        .change(changed.clone().flags(ends.server, 0))
        .frame(last.frame(), ends.goes(last))
        .change(changed.without(ends.server))
        .frame(last.frame(), Expect::Drop(Reason::NoServer))
        .frame(back_last.frame(), Expect::Drop(Reason::NoServer))
        .change(PacketWorld::standard().without_listener(ends.listener))
        .frame(last.frame(), DROPPED)
        .frame(back_last.frame(), Expect::Drop(Reason::NoServer))
}

fn beside(at: SocketAddr) -> SocketAddr {
    let ip = match at.ip() {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + 100).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + 100).into()),
    };
    SocketAddr::new(ip, at.port())
}

/// Two clients use one identification at once, and one of them in two protocols.
fn second_source(ends: Ends) -> Scenario {
    let other = Ends { client: beside(ends.client), ..ends };
    let [first, middle, last] = three(ends.question());
    let [other_first, other_middle, other_last] = three(other.question());
    let elsewhere = PacketServer { id: 13, at: beside(ends.server.at), ..ends.server };
    let table = ends.listener.table.expect("a server table");
    let changed = PacketWorld::standard().server(elsewhere).table(table, &[elsewhere]);
    let other = Ends { server: elsewhere, ..other };
    ends.case("two clients with one identification")
        .frame(first.frame(), ends.begins(first))
        .frame(other_last.frame(), DROPPED)
        .change(changed)
        .frame(other_first.frame(), other.begins(other_first))
        .frame(middle.frame(), ends.goes(middle))
        .frame(other_middle.frame(), other.goes(other_middle))
        .frame(other_last.frame(), other.goes(other_last))
        .frame(last.frame(), ends.goes(last))
}

/// IPv4 options; an IPv6 extension header before the fragment header.
fn headers(ends: Ends) -> Scenario {
    let question = if ends.client.is_ipv4() {
        ends.question().options(2)
    } else {
        ends.question().extension(number::DESTINATION_OPTIONS, 2)
    };
    let [first, middle, last] = three(question);
    ends.case("options and extension headers")
        .frame(first.frame(), ends.begins(first))
        .frame(middle.frame(), ends.goes(middle))
        .frame(last.frame(), ends.goes(last))
}

fn tags(ends: Ends) -> Scenario {
    let [first, middle, last] = three(ends.question().tag(0x8100, 9));
    let priority = three(ends.question().tag(0x8100, 0xa000));
    let back = three(ends.answer().tag(0x88a8, 7).tag(0x8100, 0));
    let case = ends
        .case("VLAN tags and priority tags")
        .frame(first.frame(), ends.begins(first))
        .frame(middle.frame(), ends.goes(middle))
        .frame(last.frame(), ends.goes(last));
    let case =
        priority.into_iter().fold(case, |case, fragment| case.frame(fragment.frame(), ends.goes(fragment)));
    back.into_iter().fold(case, |case, fragment| case.frame(fragment.frame(), ends.returns(fragment)))
}

/// Identifications of IPv4 are used again soon: the newest first fragment counts.
fn id_again(ends: Ends) -> Scenario {
    let other = Ends { client: SocketAddr::new(ends.client.ip(), 40_001), ..ends };
    let elsewhere = PacketServer { id: 13, at: beside(ends.server.at), ..ends.server };
    let other = Ends { server: elsewhere, ..other };
    let table = ends.listener.table.expect("a server table");
    let changed = PacketWorld::standard().server(elsewhere).table(table, &[elsewhere]);
    let [first, middle, _] = three(ends.question());
    let [other_first, other_middle, other_last] = three(other.question());
    ends.case("a second datagram with the same identification")
        .frame(first.frame(), ends.begins(first))
        .change(changed)
        .frame(middle.frame(), ends.goes(middle))
        .frame(other_first.frame(), other.begins(other_first))
        .frame(other_middle.frame(), other.goes(other_middle))
        .frame(other_last.frame(), other.goes(other_last))
}

fn direct(ends: Ends, name: &str, mode: u8) -> Scenario {
    let [first, middle, last] = three(ends.question());
    let second = Ends { client: SocketAddr::new(ends.client.ip(), 40_001), ..ends };
    let others = cut(second.question().build(), ID + 1, BYTES);
    let case = ends
        .case(&format!("{name}: first, middle and last"))
        .in_world(in_mode(mode))
        .frame(last.frame(), DROPPED)
        .frame(first.frame(), ends.goes(first))
        .frame(middle.frame(), ends.goes(middle))
        .frame(last.frame(), ends.goes(last));
    // The flow label of a tunnel is that of the flow: see `FlowLabels`.
    let case = others.into_iter().fold(case, |case, other| case.frame(other.frame(), second.goes(other)));
    case.frame(
        ends.question().build().patch(|f| f.bytes.truncate(f.transport + 4)),
        Expect::Drop(Reason::BadLength),
    )
}

/// The hash leads to another server, and the flow is untracked.
fn direct_change(ends: Ends, name: &str, mode: u8) -> Scenario {
    let [first, middle, last] = three(ends.question());
    let other = PacketServer { id: 13, at: beside(ends.server.at), ..ends.server };
    let table = ends.listener.table.expect("a server table");
    let changed = in_mode(mode).server(other).table(table, &[other]);
    let moved = Ends { server: other, ..ends };
    ends.case(&format!("{name}: the server table changes meanwhile"))
        .in_world(in_mode(mode))
        .frame(first.frame(), ends.goes(first))
        .change(changed)
        .frame(middle.frame(), ends.goes(middle))
        .frame(last.frame(), ends.goes(last))
        .frame(first.frame(), moved.goes(first))
        .frame(last.frame(), moved.goes(last))
}

/// TCP segments: a SYN, and data in both directions.
fn segments(client: SocketAddr, listener: PacketListener, server: PacketServer) -> Scenario {
    let ends = Ends { name: if client.is_ipv4() { "IPv4" } else { "IPv6" }, client, listener, server };
    // The header has 28 bytes.
    let of =
        |segment: Builder| <[Fragment; 2]>::try_from(cut(segment.build(), ID, 32)).expect("two fragments");
    let [syn, syn_last] = of(tcp(client, listener.at, flag::SYN));
    let [data, data_last] = of(tcp(client, listener.at, flag::ACK | flag::PSH));
    let answer = |flags| tcp(server.at, client, flags).macs(SERVER_MAC, SERVER_SIDE_MAC);
    let [back, back_last] = of(answer(flag::ACK));
    ends.case("TCP segments")
        .frame(syn_last.frame(), DROPPED)
        .frame(syn.frame(), ends.begins(syn))
        .frame(syn_last.frame(), ends.goes(syn_last))
        .frame(
            answer(flag::SYN | flag::ACK).build(),
            Expect::ToClient(listener, server, crate::packets::scenario::CLIENT),
        )
        .frame(data.frame(), ends.goes(data))
        .frame(data_last.frame(), ends.goes(data_last))
        .frame(back.frame(), ends.returns(back))
        .frame(back_last.frame(), ends.returns(back_last))
        // It would replace the flags of the header (RFC 3128).
        .frame(Fragment { at: 8, len: 16, ..data_last }.frame(), DROPPED)
}

/// RFC 768: over IPv4 the checksum may be 0, and stays so.
fn without_checksum() -> Scenario {
    let case = UDP4.case("a datagram without checksum");
    let whole = UDP4.question().build().transport(6, &[0, 0]);
    let fragments = cut(whole, ID, BYTES);
    let case = case.frame(fragments[0].frame(), UDP4.begins(fragments[0]));
    let case = case.frame(fragments[1].frame(), UDP4.goes(fragments[1]));
    let back = cut(UDP4.answer().build().transport(6, &[0, 0]), ID, BYTES);
    case.frame(back[0].frame(), UDP4.returns(back[0])).frame(back[2].frame(), UDP4.returns(back[2]))
}

/// RFC 6946: a packet with a fragment header that is no fragment. It leaves no record.
fn atomic() -> Scenario {
    let ends = UDP6;
    let atomic = |of: Builder| cut(of.build(), ID, 8_000)[0];
    let (question, answer) =
        (atomic(udp(ends.client, ends.listener.at, b"?")), atomic(udp(ends.server.at, ends.client, b"!")));
    let segment = atomic(tcp(CLIENT6, HTTP6.at, flag::SYN));
    let [_, _, last] = three(ends.question());
    let [_, _, back] = three(ends.answer());
    ends.case("atomic fragments")
        .frame(question.frame(), ends.begins(question))
        .frame(question.frame(), ends.goes(question))
        .frame(last.frame(), DROPPED)
        .frame(answer.frame(), ends.returns(answer))
        .frame(back.frame(), Expect::Pass(Reason::Fragment))
        .frame(segment.frame(), Expect::FragmentToServer(HTTP6, WEB6, FlowKind::New, segment))
}
