//! Outer sources that vary by flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    client::PATIENCE,
    net::{Backend, Family},
    scenario,
    server::Service,
    traffic::spreads,
    wait::wait_for,
};

use super::{DirectMode, WEIGHTS, prepare};

/// Addresses of the networks of sources.
const SOURCES: u8 = 32;
const NETWORKS: &str = "tunnel_sources = [\"10.200.0.0/27\", \"fd00:200::/123\"]\n";
const EXCHANGES: u64 = 200;
const FLOWS: u16 = 64;

#[test]
fn ipip_sources_over_ipv4_vary_by_flow() {
    scenario!(&WEIGHTS, |world| vary_by_flow(world, DirectMode::Ipip(Family::V4)));
}

#[test]
fn gue_sources_over_ipv6_vary_by_flow() {
    scenario!(&WEIGHTS, |world| vary_by_flow(world, DirectMode::Gue(Family::V6)));
}

/// Servers accept the networks alone, besides the source of health checks: all packets have sources from there. With half
/// of the addresses they accept some flows and reject others. A restart keeps that.
fn vary_by_flow(world: &mut World, direct_mode: DirectMode) -> Result<()> {
    let outer = direct_mode.tunnel().context("no tunnel")?;
    prepare(world, direct_mode)?;
    world.plan.daemon = NETWORKS.to_owned();
    allow(world, outer, SOURCES)?;
    world.start()?;
    spreads(world, &world.plan.weights(), EXCHANGES)?;
    for is_restarted in [false, true] {
        if is_restarted {
            world.restart()?;
        }
        allow(world, outer, SOURCES / 2)?;
        let before = verdicts(world)?;
        for port in 0..FLOWS {
            let from = (world.net.sources(Family::V4)[0], 40_000 + port);
            let socket = world.net.client.on_thread(|| Ok(UdpSocket::bind(from)?))?;
            socket.send_to(b"?", world.vip(Family::V4, Service::Echo))?;
        }
        wait_for("tunnel packets of allowed and of other sources", PATIENCE, || {
            let now = verdicts(world)?;
            Ok((0..2).all(|n| now[n] >= before[n] + u64::from(FLOWS) / 8).then_some(()))
        })?;
        allow(world, outer, SOURCES)?;
        let rejected = verdicts(world)?[1];
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        ensure!(verdicts(world)?[1] == rejected, "sources outside the network");
    }
    Ok(())
}

/// Lets servers accept tunnels of the first `sources` addresses of the network, and of health checks.
fn allow(world: &World, outer: Family, sources: u8) -> Result<()> {
    let address = |last: u8| match outer {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 200, 0, last)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, last.into())),
    };
    let allowed: Vec<_> = (0..sources).map(address).chain([world.net.slb_address(outer)]).collect();
    world.net.backends.iter().try_for_each(|backend| backend.decapsulate(&allowed))
}

/// Packets that servers have decapsulated, and those whose source they do not accept.
fn verdicts(world: &World) -> Result<[u64; 2]> {
    let count = |backend: &Backend| {
        let reasons = backend.decapsulator()?.reasons;
        let of = |is_counted: fn(&str) -> bool| {
            reasons.iter().filter(|counted| is_counted(&counted.reason)).map(|counted| counted.packets).sum()
        };
        Ok([of(|reason| reason.contains("_in_")), of(|reason| reason == "source_not_allowed")])
    };
    world.net.backends.iter().map(count).try_fold([0, 0], |sum, one: Result<[u64; 2]>| {
        let one = one?;
        Ok([sum[0] + one[0], sum[1] + one[1]])
    })
}
