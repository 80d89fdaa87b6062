//! Martian sources: VIPs, loopback, multicast, broadcast and unspecified addresses.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use slb_tests::{
    World,
    client::PATIENCE,
    config::{Listener, LoadBalancer, Target},
    forge::{CapturedFrame, FloodStats, Forger, MacPair, Tap},
    net::Family,
    packets::frames::{self, Frame, flag},
    scenario,
    server::Service,
};

use super::{WEIGHTS, on_clients_side, report};
use crate::modes::beside::tunnel_vip;

/// Addresses that no host has.
const UNUSED_SOURCES: [&str; 12] = [
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.8.8.8",
    "224.0.0.1",
    "239.1.2.3",
    "255.255.255.255",
    "::",
    "::1",
    "ff02::1",
    "ff05::2",
    "ff0e::1",
];
/// Payload of the last frame.
const LAST: &[u8] = b"last";

/// Payload for frames from an address, since answers to earlier ones may arrive late.
fn mark(from: IpAddr) -> String {
    format!("from {from}.")
}

/// A SYN, a mid-stream segment, a datagram and an echo request from an address.
fn all(world: &World, mac_pair: MacPair, from: IpAddr) -> Vec<Frame> {
    let mark = mark(from);
    let mark = mark.as_bytes();
    let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
    let [lines, echo] = [Service::Lines, Service::Echo].map(|service| world.vip(family, service));
    // The source port is a service's: an answer to a VIP would be a request to it.
    vec![
        mac_pair.carrying((from, lines.port()).into(), lines, flag::SYN, [7, 0], mark),
        mac_pair.carrying((from, 4_000).into(), lines, flag::PSH | flag::ACK, [7, 7], mark),
        mac_pair.datagram((from, echo.port()).into(), echo, mark),
        mac_pair.datagram((from, 4_000).into(), echo, mark),
        frames::echo(from, family.vip(), mark).macs(mac_pair.sender, mac_pair.receiver).build(),
    ]
}

/// Sends frames and then a request of a real client. Returns how many frames come out before its answer, forwarded or
/// answered.
fn come_out(
    world: &World,
    forger: &Forger,
    mac_pair: MacPair,
    taps: &[Tap],
    froms: &[IpAddr],
) -> Result<(FloodStats, usize)> {
    let marks: Vec<_> = froms.iter().map(|from| mark(*from)).collect();
    let sent = forger.send_all(froms.iter().flat_map(|from| all(world, mac_pair, *from)))?;
    let own: SocketAddr = (world.net.sources(Family::V4)[0], 700).into();
    forger.send(&mac_pair.datagram(own, world.vip(Family::V4, Service::Echo), LAST))?;
    let mut seen = 0;
    let [at_client, at_servers @ ..] = taps else { bail!("no tap") };
    let mut count = |packet: &CapturedFrame| {
        let text = String::from_utf8_lossy(&packet.payload);
        let forged = marks.iter().any(|mark| text.contains(mark));
        seen += usize::from(forged && packet.from != own && packet.to != own);
        packet.payload.ends_with(LAST)
    };
    at_client.wait("the answer to what comes last", PATIENCE, &mut count)?;
    for tap in at_servers {
        for packet in tap.seen()? {
            count(&packet);
        }
    }
    Ok((sent, seen))
}

#[test]
fn packets_with_martian_source_are_neither_forwarded_nor_answered() {
    scenario!(&WEIGHTS, |world| {
        // The service at the other VIP would answer the first one's answer, and so on.
        let echo = Listener::new("echo", "udp", Service::Echo.vip_port(), Target::Group("echo".to_owned()));
        world.plan.additional_load_balancers.push(LoadBalancer {
            name: "other".to_owned(),
            addresses: Family::ALL.map(tunnel_vip).into(),
            listeners: vec![Listener { check: None, ..echo }],
        });
        world.start()?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let taps = [Tap::at(&world.net.client, "eth0")].into_iter();
        let taps = taps.chain(world.net.backends.iter().map(|backend| Tap::at(&backend.namespace, "eth0")));
        let taps = taps.collect::<Result<Vec<_>>>()?;
        let sound = Family::ALL.map(|family| world.net.sources(family)[3]);
        let (sent, out) = come_out(world, &forger, mac_pair, &taps, &sound)?;
        ensure!(out as u64 >= sent.frames, "{out} of {} frames of a client's own come out", sent.frames);

        let mut achieved = Vec::new();
        for address in UNUSED_SOURCES {
            let from = address.parse().context(address)?;
            let (sent, out) = come_out(world, &forger, mac_pair, &taps, &[from])?;
            report(format!("source {address}"), sent, format!("{out} frames come out"));
            achieved.extend((out > 0).then_some(address));
        }
        for vip in Family::ALL.into_iter().flat_map(|family| [family.vip(), tunnel_vip(family)]) {
            let (sent, out) = come_out(world, &forger, mac_pair, &taps, &[vip])?;
            report(format!("source {vip}, a VIP"), sent, format!("{out} frames come out"));
            achieved.extend((out > 0).then_some("a VIP"));
        }
        ensure!(achieved.is_empty(), "frames come out that are from {achieved:?}");
        Ok(())
    });
}
