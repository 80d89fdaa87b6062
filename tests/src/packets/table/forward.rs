//! Packets of clients to servers, and echo.

use slb_common::abi::stats::Reason;

use crate::packets::{
    check,
    frames::{echo, flag, not_ip, number, other, tcp, udp},
    icmp::IcmpCause,
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    cases.extend(tcp_cases());
    cases.extend(udp_cases());
    cases.extend(tags());
    cases.extend(echoes());
    cases.extend(not_ours());
    cases.extend(nowhere_to_go());
    cases
}

fn tcp_cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, client, listener, server) in [("IPv4", CLIENT4, HTTP4, WEB4), ("IPv6", CLIENT6, HTTP6, WEB6)]
    {
        let at = listener.at;
        let expect = |flow| Expect::ToServer(listener, server, flow);
        for (name, flags, flow) in [
            ("SYN", flag::SYN, FlowKind::New),
            ("mid-stream data without an entry", flag::ACK | flag::PSH, FlowKind::Old),
            ("FIN without an entry", flag::ACK | flag::FIN, FlowKind::Old),
            ("RST without an entry", flag::RST, FlowKind::Old),
            ("SYN with RST begins no flow", flag::SYN | flag::RST, FlowKind::Old),
            ("no flags", 0, FlowKind::Old),
        ] {
            let frame = tcp(client, at, flags).build();
            cases.push(Scenario::new(format!("TCP/{family}: {name}")).frame(frame, expect(flow)));
        }
        cases.push(
            Scenario::new(format!("TCP/{family}: SYN, data, FIN"))
                .frame(tcp(client, at, flag::SYN).build(), expect(FlowKind::New))
                .frame(tcp(client, at, flag::SYN).build(), expect(FlowKind::Old))
                .frame(tcp(client, at, flag::ACK | flag::PSH).build(), expect(FlowKind::Old))
                .frame(tcp(client, at, flag::ACK | flag::FIN).build(), expect(FlowKind::Old)),
        );
    }
    cases.push(Scenario::new("TCP: the server has the listener's port").frame(
        tcp(CLIENT4, STRAIGHT4.at, flag::SYN).build(),
        Expect::ToServer(STRAIGHT4, STRAIGHT, FlowKind::New),
    ));
    cases.push(
        Scenario::new("sent out of another interface")
            .frame(tcp(CLIENT4, FAR4.at, flag::SYN).build(), Expect::ToServer(FAR4, DISTANT4, FlowKind::New))
            .frame(tcp(CLIENT6, FAR6.at, flag::SYN).build(), Expect::ToServer(FAR6, DISTANT6, FlowKind::New)),
    );
    cases.push(Scenario::new("sent back out of the arrival interface").host_only().frame_through(
        FAR,
        tcp(CLIENT4, FAR4.at, flag::SYN).build(),
        Expect::ToServer(FAR4, DISTANT4, FlowKind::New),
    ));
    cases
}

fn udp_cases() -> Vec<Scenario> {
    let to4 = |flow| Expect::ToServer(DNS4, NAME4, flow);
    let to6 = |flow| Expect::ToServer(DNS6, NAME6, flow);
    let mut cases = vec![
        Scenario::new("UDP/IPv4").frame(udp(CLIENT4, DNS4.at, b"even").build(), to4(FlowKind::New)),
        Scenario::new("UDP/IPv4 of odd length")
            .frame(udp(CLIENT4, DNS4.at, b"odd").build(), to4(FlowKind::New)),
        Scenario::new("UDP/IPv4 without payload")
            .frame(udp(CLIENT4, DNS4.at, b"").build(), to4(FlowKind::New)),
        Scenario::new("UDP/IPv4 twice is one flow")
            .frame(udp(CLIENT4, DNS4.at, b"1").build(), to4(FlowKind::New))
            .frame(udp(CLIENT4, DNS4.at, b"2").build(), to4(FlowKind::Old)),
        Scenario::new("UDP/IPv4 without checksum")
            .frame(udp(CLIENT4, DNS4.at, b"unchecked").build().transport(6, &[0, 0]), to4(FlowKind::New)),
        Scenario::new("UDP/IPv6").frame(udp(CLIENT6, DNS6.at, b"even").build(), to6(FlowKind::New)),
        Scenario::new("UDP/IPv6 of odd length")
            .frame(udp(CLIENT6, DNS6.at, b"odd").build(), to6(FlowKind::New)),
        Scenario::new("UDP/IPv6 without checksum").frame(
            udp(CLIENT6, DNS6.at, b"unchecked").build().transport(6, &[0, 0]),
            Expect::Drop(Reason::BadHeader),
        ),
        Scenario::new("UDP shorter than its IP packet").frame(
            udp(CLIENT4, DNS4.at, b"12345678").build().transport(4, &[0, 12]).sound(),
            to4(FlowKind::New),
        ),
    ];
    // The payload makes the checksum towards the server 0, which UDP sends as 0xffff.
    for (name, client, listener, server, expect) in [
        ("IPv4", CLIENT4, DNS4, NAME4, to4(FlowKind::New)),
        ("IPv6", CLIENT6, DNS6, NAME6, to6(FlowKind::New)),
    ] {
        let towards = udp(client, server.at, &[0, 0]).build();
        let residue =
            u16::from_be_bytes([towards.bytes[towards.transport + 6], towards.bytes[towards.transport + 7]]);
        let payload = residue.to_be_bytes();
        let check = {
            let frame = udp(client, server.at, &payload).build();
            [frame.bytes[frame.transport + 6], frame.bytes[frame.transport + 7]]
        };
        assert_eq!(check, [0xff, 0xff], "the payload does not do what it is for");
        cases.push(
            Scenario::new(format!("UDP/{name}: a checksum that becomes 0"))
                .frame(udp(client, listener.at, &payload).build(), expect),
        );
    }
    cases
}

fn tags() -> Vec<Scenario> {
    let syn = || tcp(CLIENT4, HTTP4.at, flag::SYN);
    let expect = Expect::ToServer(HTTP4, WEB4, FlowKind::New);
    let six = Expect::ToServer(HTTP6, WEB6, FlowKind::New);
    vec![
        Scenario::new("one VLAN tag").frame(syn().tag(VLAN, 0xa07b).build(), expect),
        Scenario::new("one service VLAN tag").frame(syn().tag(SERVICE_VLAN, 7).build(), expect),
        Scenario::new("two VLAN tags").frame(syn().tag(SERVICE_VLAN, 7).tag(VLAN, 8).build(), expect),
        Scenario::new("two VLAN tags of one kind").frame(syn().tag(VLAN, 7).tag(VLAN, 8).build(), expect),
        Scenario::new("three VLAN tags")
            .frame(syn().tag(VLAN, 7).tag(VLAN, 8).tag(VLAN, 9).build(), Expect::Pass(Reason::NotIp)),
        Scenario::new("VLAN tags and IPv6")
            .frame(tcp(CLIENT6, HTTP6.at, flag::SYN).tag(SERVICE_VLAN, 7).tag(VLAN, 8).build(), six),
        Scenario::new("a VLAN tag means nothing on another interface")
            .frame(tcp(CLIENT4, FAR4.at, flag::SYN).tag(VLAN, 7).build(), Expect::Drop(Reason::VlanCrossing)),
        Scenario::new("VLAN tag and echo")
            .frame(echo(CLIENT4.ip(), VIP4, b"abc").tag(VLAN, 7).build(), Expect::Answer(ECHO4)),
        Scenario::new("VLAN tags, IPv4 options and UDP").frame(
            udp(CLIENT4, DNS4.at, b"x").tag(VLAN, 1).tag(VLAN, 2).options(10).build(),
            Expect::ToServer(DNS4, NAME4, FlowKind::New),
        ),
    ]
}

fn echoes() -> Vec<Scenario> {
    let nothing = |ip| {
        let mut frame = echo(CLIENT4.ip(), ip, &[0; 4]).build();
        frame.bytes[frame.transport + 4..frame.transport + 8].fill(0);
        check::refresh(&mut frame);
        frame
    };
    let ask4 = |payload: &[u8]| echo(CLIENT4.ip(), VIP4, payload);
    let ask6 = |payload: &[u8]| echo(CLIENT6.ip(), VIP6, payload);
    vec![
        Scenario::new("echo/IPv4").frame(ask4(&[7; 56]).build(), Expect::Answer(ECHO4)),
        Scenario::new("echo/IPv4 of odd length").frame(ask4(b"odd").build(), Expect::Answer(ECHO4)),
        Scenario::new("echo/IPv4 without payload").frame(ask4(b"").build(), Expect::Answer(ECHO4)),
        Scenario::new("echo/IPv4 of zeros").frame(nothing(VIP4), Expect::Answer(ECHO4)),
        Scenario::new("echo/IPv4 with options").frame(ask4(b"abc").options(3).build(), Expect::Answer(ECHO4)),
        Scenario::new("echo/IPv4 at its last hop")
            .frame(ask4(b"abc").hop_limit(1).build(), Expect::Answer(ECHO4)),
        Scenario::new("echo/IPv4 padded").frame(ask4(b"abc").padding(15).build(), Expect::Answer(ECHO4)),
        Scenario::new("echo/IPv6").frame(ask6(&[7; 56]).build(), Expect::Answer(ECHO6)),
        Scenario::new("echo/IPv6 of odd length").frame(ask6(b"odd").build(), Expect::Answer(ECHO6)),
        Scenario::new("echo/IPv6 without payload").frame(ask6(b"").build(), Expect::Answer(ECHO6)),
        Scenario::new("echo/IPv6 behind an extension header")
            .frame(ask6(b"abc").extension(number::DESTINATION_OPTIONS, 2).build(), Expect::Answer(ECHO6)),
        Scenario::new("echo to an address without listeners")
            .frame(echo(CLIENT4.ip(), WEB4.at.ip(), b"abc").build(), Expect::Pass(Reason::NotOurs))
            .frame(echo(CLIENT6.ip(), WEB6.at.ip(), b"abc").build(), Expect::Pass(Reason::NotOurs)),
        Scenario::new("echo to a VIP whose listeners are gone")
            .in_world(PacketWorld::standard().without_listener(ECHO4))
            .frame(ask4(b"abc").build(), Expect::Pass(Reason::NotOurs)),
        Scenario::new("echo reply to a VIP")
            .frame(ask4(b"abc").build().transport(0, &[0]).sound(), Expect::Drop(Reason::Unmatched))
            .frame(ask6(b"abc").build().transport(0, &[129]).sound(), Expect::Drop(Reason::Unmatched)),
        Scenario::new("other ICMP to a VIP")
            .frame(ask4(b"abc").build().transport(0, &[3, 3]).sound(), Expect::Drop(Reason::Unmatched))
            .frame(ask4(b"abc").build().transport(1, &[1]).sound(), Expect::Drop(Reason::Unmatched))
            .frame(ask6(b"abc").build().transport(0, &[2, 0]).sound(), Expect::Drop(Reason::Unmatched))
            .frame(
                ask6(b"abc").hop_limit(255).build().transport(0, &[135, 0]).sound(),
                Expect::Pass(Reason::OtherProtocol),
            ),
        Scenario::new("ICMPv6 in IPv4 and ICMP in IPv6")
            .frame(
                other(CLIENT4.ip(), VIP4, number::ICMPV6, &[128, 0, 0, 0, 0, 0, 0, 0]).build(),
                Expect::Drop(Reason::Unmatched),
            )
            .frame(
                other(CLIENT6.ip(), VIP6, number::ICMP, &[8, 0, 0, 0, 0, 0, 0, 0]).build(),
                Expect::Drop(Reason::Unmatched),
            ),
    ]
}

fn not_ours() -> Vec<Scenario> {
    let mut elsewhere = HTTP4.at;
    elsewhere.set_port(8088);
    let mut elsewhere6 = HTTP6.at;
    elsewhere6.set_port(8088);
    let syn = || tcp(CLIENT4, HTTP4.at, flag::SYN);
    let not_ours = Expect::Pass(Reason::NotOurs);
    let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 198, 51, 100, 1, 0, 0, 0, 0, 0, 0, 198, 51, 100, 10];
    vec![
        Scenario::new("another address")
            .frame(tcp(CLIENT4, WEB4.at, flag::SYN).build(), not_ours)
            .frame(tcp(CLIENT6, WEB6.at, flag::SYN).build(), not_ours)
            .frame(udp(CLIENT4, NAME4.at, b"x").build(), not_ours),
        Scenario::new("another port of the VIP")
            .frame(tcp(CLIENT4, elsewhere, flag::SYN).build(), Expect::Refuse)
            .frame(tcp(CLIENT6, elsewhere6, flag::SYN).build(), Expect::Refuse),
        Scenario::new("the same port of another protocol")
            .frame(udp(CLIENT4, HTTP4.at, b"x").build(), Expect::IcmpError(IcmpCause::NoPort))
            .frame(tcp(CLIENT4, DNS4.at, flag::SYN).build(), Expect::Refuse),
        Scenario::new("not ours and at its last hop")
            .frame(tcp(CLIENT4, WEB4.at, flag::SYN).hop_limit(1).build(), not_ours),
        Scenario::new("port 0 of the VIP")
            .frame(tcp(CLIENT4, std::net::SocketAddr::new(VIP4, 0), flag::SYN).build(), Expect::Refuse),
        Scenario::new("ARP")
            .frame(not_ip(OWN_MAC, 0x0806, &arp), Expect::Pass(Reason::NotIp))
            .frame(not_ip([0xff; 6], 0x0806, &arp), Expect::Pass(Reason::LinkMulticast)),
        Scenario::new("LLDP").frame(
            not_ip([1, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc, &[2, 7, 4, 1, 2, 3, 4, 5, 6]),
            Expect::Pass(Reason::LinkMulticast),
        ),
        Scenario::new("length in place of a type")
            .frame(not_ip(OWN_MAC, 38, &[0x42; 38]), Expect::Pass(Reason::NotIp)),
        Scenario::new("to a multicast MAC address")
            .frame(syn().macs(CLIENT_MAC, [1, 0, 0x5e, 0, 0, 1]).build(), Expect::Pass(Reason::LinkMulticast))
            .frame(syn().macs(CLIENT_MAC, [0xff; 6]).build(), Expect::Pass(Reason::LinkMulticast)),
        Scenario::new("other protocols to a VIP")
            .frame(other(CLIENT4.ip(), VIP4, 47, &[0; 24]).build(), Expect::IcmpError(IcmpCause::NoProtocol))
            .frame(other(CLIENT4.ip(), VIP4, 4, &[0; 2]).build(), Expect::Drop(Reason::Unmatched))
            .frame(other(CLIENT6.ip(), VIP6, 132, &[0; 24]).build(), Expect::IcmpError(IcmpCause::NoProtocol))
            .frame(other(CLIENT6.ip(), VIP6, 59, &[]).build(), Expect::Drop(Reason::Unmatched)),
        Scenario::new("a listener that was taken away")
            .frame(syn().build(), Expect::ToServer(HTTP4, WEB4, FlowKind::New))
            .change(PacketWorld::standard().without_listener(HTTP4))
            .frame(syn().build(), Expect::Refuse)
            .frame(tcp(CLIENT4, HTTP4.at, flag::ACK).build(), Expect::Refuse),
    ]
}

fn nowhere_to_go() -> Vec<Scenario> {
    let to = |listener: PacketListener| tcp(CLIENT4, listener.at, flag::SYN).build();
    vec![
        Scenario::new("empty maps")
            .in_world(PacketWorld::empty())
            .frame(to(HTTP4), Expect::Pass(Reason::NotOurs))
            .frame(tcp(CLIENT6, HTTP6.at, flag::SYN).build(), Expect::Pass(Reason::NotOurs))
            .frame(echo(CLIENT4.ip(), VIP4, b"abc").build(), Expect::Pass(Reason::NotOurs)),
        Scenario::new("an empty table").frame(to(DESERTED4), Expect::Drop(Reason::NoServer)),
        Scenario::new("a table that is not there").frame(to(UNFILLED4), Expect::Drop(Reason::NotReady)),
        Scenario::new("a table that was emptied, and filled again")
            .change(PacketWorld::standard().table(1, &[]))
            .frame(to(HTTP4), Expect::Drop(Reason::NoServer))
            .change(PacketWorld::standard())
            .frame(to(HTTP4), Expect::ToServer(HTTP4, WEB4, FlowKind::New)),
        Scenario::new("a table that still names a dead server")
            .in_world(PacketWorld::standard().flags(WEB4, 0))
            .frame(to(HTTP4), Expect::Drop(Reason::NoServer)),
        Scenario::new("a table that still names a server that is gone")
            .in_world(PacketWorld::standard().without(WEB4))
            .frame(to(HTTP4), Expect::Drop(Reason::NoServer)),
        Scenario::new("no next hop")
            .frame(to(UNRESOLVED4), Expect::Drop(Reason::NoNextHop))
            .change(PacketWorld::standard().server(PacketServer { hop: LAN, ..UNKNOWN4 }))
            .frame(
                to(UNRESOLVED4),
                Expect::ToServer(UNRESOLVED4, PacketServer { hop: LAN, ..UNKNOWN4 }, FlowKind::New),
            ),
        Scenario::new("from a VIP to itself")
            .frame(tcp(HTTP4.at, HTTP4.at, flag::SYN).build(), Expect::Drop(Reason::MartianSource))
            .frame(tcp(HTTP6.at, HTTP6.at, flag::SYN).build(), Expect::Drop(Reason::MartianSource))
            .frame(udp(HTTP4.at, DNS4.at, b"x").build(), Expect::Drop(Reason::MartianSource))
            .frame(echo(VIP4, VIP4, b"x").build(), Expect::Drop(Reason::MartianSource)),
        Scenario::new("the server is the client")
            .frame(tcp(WEB4.at, HTTP4.at, flag::SYN).build(), Expect::Drop(Reason::Hairpin))
            .frame(tcp(WEB6.at, HTTP6.at, flag::SYN).build(), Expect::Drop(Reason::Hairpin))
            .frame(udp(NAME4.at, DNS4.at, b"x").build(), Expect::Drop(Reason::Hairpin)),
        Scenario::new("the client is a server, but not this one")
            .frame(tcp(OTHER4.at, HTTP4.at, flag::SYN).build(), Expect::ToServer(HTTP4, WEB4, FlowKind::New)),
        Scenario::new("a full flow table")
            .host_only()
            .full()
            .frame(to(HTTP4), Expect::Drop(Reason::FlowTableFull)),
    ]
}
