//! The kernel learns path MTUs as route exceptions, and sends no notification.

use std::{net::UdpSocket, os::fd::AsRawFd as _};

use nix::sys::socket::{
    AddressFamily as Family, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
    SockaddrLike, sendto, socket,
};
use tokio::time::{interval, sleep};

use slb_common::net::headers::protocol;

use super::{super::tunnel_errors::TunnelErrors, *};

/// Four times the interval of reading routes, which takes 2 % of the time: a busy machine may be slower.
const SOON: Duration = Duration::from_secs(8);
const DISTANT: [&str; 2] = ["198.51.100.7", "2001:db8:9::7"];
const MTU: u16 = 1_400;
/// An error that has been sent wakes within this time.
const QUIET: Duration = Duration::from_millis(100);

/// Meanwhile other neighbours change all the time, and a server in the interface's subnet does not answer.
#[test]
fn learned_path_mtu_is_used_soon_despite_neighbour_changes() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        let (resolver, mut seen) = Resolver::spawn().unwrap();
        let (dead, changing) = ("192.0.2.66", "192.0.2.77");
        resolver.watch(DISTANT.into_iter().chain([dead, changing]).map(ip).collect());
        run(
            "ip link set lo up; ip route add 198.51.100.0/24 via 192.0.2.2; ip route add 2001:db8:9::/64 via 2001:db8::2",
        );
        let Resolution::Resolved(hop) = pair.resolved_through_gateway(PEER_MAC) else { panic!() };
        for address in DISTANT {
            until(&mut seen, address, &Resolution::Resolved(hop.clone())).await;
        }
        until(&mut seen, dead, &no_neighbour(dead)).await;

        let change = async {
            let mut ticks = interval(Duration::from_millis(200));
            for turn in 0.. {
                ticks.tick().await;
                pair.add_permanent(ip(changing), [0x02, 0, 0, 0, 1, turn]).await;
            }
        };
        let learn = async {
            // Half-way between two readings.
            sleep(Duration::from_secs(1)).await;
            learn_from("192.0.2.1:4000", DISTANT[0], say_too_big);
            learn_from("[2001:db8::1]:4000", DISTANT[1], say_too_big_v6);
            let learnt = Resolution::Resolved(NextHop { mtu: MTU.into(), ..hop });
            for address in DISTANT {
                let found = timeout(SOON, until(&mut seen, address, &learnt)).await;
                found.unwrap_or_else(|_| panic!("{address}: no smaller MTU within {SOON:?}"));
            }
        };
        tokio::select! {
            () = change => {}
            () = learn => {}
        }
    });
}

/// Sends a datagram, to which a router reports that it was too big.
fn learn_from(own: &str, distant: &str, say: impl Fn()) {
    let client = UdpSocket::bind(own).unwrap();
    client.connect((ip(distant), 9)).unwrap();
    client.send(b"large, say").unwrap();
    say();
}

/// UDP from port 4000 to 9, 1,480 bytes.
const UDP: [u8; 8] = [0x0f, 0xa0, 0, 9, 5, 200, 0, 0];

/// Sends this host "fragmentation needed" (RFC 792, RFC 1191) about a datagram.
fn say_too_big() {
    say_too_big_about(17);
}

/// As [`say_too_big`], about a packet of another protocol.
fn say_too_big_about(protocol: u8) {
    let [high, low] = MTU.to_be_bytes();
    say_about(protocol, [3, 4, 0, 0, 0, 0, high, low]);
}

/// Sends this host an ICMP error with this header, except the checksum.
fn say_about(protocol: u8, header: [u8; 8]) {
    let mut message = header.to_vec();
    message.extend([0x45, 0, 5, 220, 0, 0, 0x40, 0, 63, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]);
    message.extend(UDP);
    let sum: u32 = message.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    send(Family::Inet, SockProtocol::Icmp, &SockaddrIn::new(192, 0, 2, 1, 0), &message);
}

/// Sends this host "packet too big" (RFC 4443) about a datagram. The kernel fills in the checksum.
fn say_too_big_v6() {
    say_too_big_v6_about(17);
}

/// As [`say_too_big_v6`], about a packet of another protocol.
fn say_too_big_v6_about(protocol: u8) {
    let [high, low] = MTU.to_be_bytes();
    say_v6_about(protocol, [2, 0, 0, 0, 0, 0, high, low]);
}

/// As [`say_about`], over IPv6.
fn say_v6_about(protocol: u8, header: [u8; 8]) {
    let mut message = header.to_vec();
    message.extend([0x60, 0, 0, 0, 5, 200, protocol, 63]);
    let (own, distant): (Ipv6Addr, Ipv6Addr) = ("2001:db8::1".parse().unwrap(), DISTANT[1].parse().unwrap());
    message.extend(own.octets());
    message.extend(distant.octets());
    message.extend(UDP);
    let own = std::net::SocketAddrV6::new(own, 0, 0, 0);
    send(Family::Inet6, SockProtocol::IcmpV6, &SockaddrIn6::from(own), &message);
}

fn send(family: Family, protocol: SockProtocol, to: &impl SockaddrLike, message: &[u8]) {
    let raw = socket(family, SockType::Raw, SockFlag::empty(), protocol).unwrap();
    sendto(raw.as_raw_fd(), message, to, MsgFlags::empty()).unwrap();
}

/// The kernel learns from errors about tunnel packets while the sockets exist, which the errors wake.
#[test]
fn icmp_errors_about_tunnel_packets_are_learned_from() {
    in_namespace(|| async {
        let _pair = Pair::create().await;
        run(
            "ip link set lo up; ip route add 198.51.100.0/24 via 192.0.2.2; ip route add 2001:db8:9::/64 via 2001:db8::2",
        );
        let protocols = [protocol::IPV4, protocol::IPV6, protocol::UDP];
        let sources = ["192.0.2.1", "2001:db8::1"].map(ip);
        let each = sources.into_iter().flat_map(|from| protocols.map(|protocol| (from, protocol)));
        let errors = TunnelErrors::open(&each.collect()).unwrap();
        for outer in protocols {
            for (distant, say) in
                [(DISTANT[0], say_too_big_about as fn(u8)), (DISTANT[1], say_too_big_v6_about as fn(u8))]
            {
                // Unreachable, which states no MTU.
                say_about(outer, [3, 3, 0, 0, 0, 0, 0, 0]);
                say_v6_about(outer, [1, 4, 0, 0, 0, 0, 0, 0]);
                let woken = timeout(QUIET, errors.arrive()).await;
                assert!(woken.is_err(), "woken by an error without MTU about protocol {outer}");
                say(outer);
                timeout(SOON, errors.arrive()).await.expect("an error");
                let route = run(&format!("ip route get {distant}"));
                assert!(route.contains(&format!("mtu {MTU}")), "{route}");
                run("ip route flush cache; ip -6 route flush cache");
            }
        }
    });
}
