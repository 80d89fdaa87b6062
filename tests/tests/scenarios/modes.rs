//! Modes `dsr`, `ipip` and `gue`, in which answers bypass SLB.

pub(super) mod beside;
mod change;
pub(super) mod flows;
mod sources;

use anyhow::{Context as _, Result, ensure};
use slb_tests::{World, config::Mode, net::Family, scenario, server::Service, traffic::spreads};

use super::{drain, failure};

const WEIGHTS: [u8; 3] = failure::WEIGHTS;
const EXCHANGES: u64 = 1_500;

/// A mode, and the servers' addresses in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum DirectMode {
    /// Half of the entries by IPv4 address, half by IPv6 address; the family matters for the next hop only.
    Dsr,
    /// Tunnel packets of one outer family, with inner packets of both.
    Ipip(Family),
    /// The same with a UDP header.
    Gue(Family),
}

impl DirectMode {
    /// The outer family of tunnel packets; `None` without tunnels.
    pub(super) fn tunnel(self) -> Option<Family> {
        match self {
            Self::Dsr => None,
            Self::Ipip(outer) | Self::Gue(outer) => Some(outer),
        }
    }
}

/// Runs a scenario in each of these ways.
macro_rules! in_each_mode {
    ($body:ident) => {
        mod $body {
            use super::*;

            #[test]
            fn dsr() {
                scenario!(&WEIGHTS, |world| {
                    prepare(world, DirectMode::Dsr)?;
                    super::$body(world)
                });
            }

            #[test]
            fn ipip_over_ipv4() {
                scenario!(&WEIGHTS, |world| {
                    prepare(world, DirectMode::Ipip(Family::V4))?;
                    super::$body(world)
                });
            }

            #[test]
            fn ipip_over_ipv6() {
                scenario!(&WEIGHTS, |world| {
                    prepare(world, DirectMode::Ipip(Family::V6))?;
                    super::$body(world)
                });
            }

            #[test]
            fn gue_over_ipv4() {
                scenario!(&WEIGHTS, |world| {
                    prepare(world, DirectMode::Gue(Family::V4))?;
                    super::$body(world)
                });
            }

            #[test]
            fn gue_over_ipv6() {
                scenario!(&WEIGHTS, |world| {
                    prepare(world, DirectMode::Gue(Family::V6))?;
                    super::$body(world)
                });
            }
        }
    };
}
use in_each_mode;

in_each_mode!(flows_spread_by_weight_and_answers_bypass_slb);
in_each_mode!(killed_server_loses_new_flows_in_dsr_and_tunnels);
in_each_mode!(drain_resets_active_connections_at_both_ends);

/// Servers hold the VIPs and decapsulate if needed, and their answers reach the client.
pub(super) fn prepare(world: &mut World, direct_mode: DirectMode) -> Result<()> {
    world.net.route_answers()?;
    let own = Family::ALL.map(|family| world.net.slb_address(family));
    for backend in &world.net.backends {
        backend.add_vips()?;
        if direct_mode.tunnel().is_some() {
            backend.decapsulate(&own)?;
        }
    }
    // Servers become ready one by one. By default, untracked datagrams would go to the previous backends of each change
    // until the idle timeout.
    world.plan.unknown_datagrams = Some("follow");
    world.plan.mode = match direct_mode {
        DirectMode::Dsr => Mode::Dsr,
        DirectMode::Ipip(_) => Mode::Ipip,
        DirectMode::Gue(_) => Mode::Gue,
    };
    if let Some(outer) = direct_mode.tunnel() {
        world.plan.tunnel_addresses = own.into();
        for server in &mut world.plan.servers {
            server.addresses.retain(|address| address.is_ipv4() == (outer == Family::V4));
        }
    }
    Ok(())
}

fn flows_spread_by_weight_and_answers_bypass_slb(world: &mut World) -> Result<()> {
    world.start()?;
    spreads(world, &world.plan.weights(), EXCHANGES)?;
    let status = world.status()?;
    let mode = world.plan.mode.name();
    for service in [Service::Http, Service::Echo] {
        let mut listeners = status.load_balancers.iter().flat_map(|balancer| &balancer.listeners);
        let listener =
            listeners.find(|listener| listener.name == service.name()).context("no such listener")?;
        let (counters, flows) = (listener.counters, EXCHANGES * Family::ALL.len() as u64);
        ensure!(listener.mode == mode, "{}", listener.mode);
        ensure!(
            counters.packets_from_clients >= flows && counters.packets_to_clients == 0,
            "{counters:?}, {flows} flows"
        );
        // Datagrams of untracked flows, and retransmitted SYNs, look like those of new flows.
        let again = world.net.client.counter("Tcp:", "RetransSegs")?;
        let expected = if service == Service::Http { flows..=flows + again } else { 0..=0 };
        ensure!(expected.contains(&counters.total_flows), "{counters:?}, {flows} flows");
    }
    ensure!(world.packets("forward", Some("to_server"))? > 0, "{:?}", status.reasons);
    ensure!(world.packets("forward", Some("to_client"))? == 0, "{:?}", status.reasons);
    ensure!(world.packets("drop", None)? == 0, "{:?}", status.reasons);
    if world.plan.mode != Mode::Dsr {
        came_through_tunnels(world)?;
    }
    Ok(())
}

/// Every server has received inner packets of both families, in tunnel packets of its address's family only.
fn came_through_tunnels(world: &World) -> Result<()> {
    let outer = if world.plan.servers[0].addresses[0].is_ipv4() { "ipv4" } else { "ipv6" };
    for backend in &world.net.backends {
        let decapsulator = backend.decapsulator()?;
        let stripped = |reason: &str| decapsulator.reasons.iter().any(|counted| counted.reason == reason);
        for (inner, tunnel) in [("ipv4", "ipv4"), ("ipv6", "ipv4"), ("ipv4", "ipv6"), ("ipv6", "ipv6")] {
            let reason = format!("{inner}_in_{tunnel}");
            ensure!(stripped(&reason) == (tunnel == outer), "{reason}: {decapsulator:?}");
        }
        ensure!(!stripped("source_not_allowed"), "{decapsulator:?}");
    }
    Ok(())
}

/// Only active connections are terminated: idle ones are untracked.
fn drain_resets_active_connections_at_both_ends(world: &mut World) -> Result<()> {
    world.plan.drain_timeout = Some("10s");
    drain::drains(world, false, |world| {
        world.plan.servers[0].weight = 0;
        Ok(())
    })
}

fn killed_server_loses_new_flows_in_dsr_and_tunnels(world: &mut World) -> Result<()> {
    failure::killed(world)?;
    ensure!(world.packets("forward", Some("to_client"))? == 0, "{:?}", world.status()?.reasons);
    Ok(())
}
