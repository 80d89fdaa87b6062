//! Many connections spread over the servers by weight, on both families and both protocols.

use anyhow::{Context, Result, ensure};
use slb_tests::{World, net::Family, scenario, server::Service, spread::expect_by_weight};

/// Exchanges per family.
const EXCHANGES: u64 = 4_000;
const CONCURRENCY: usize = 32;

const WEIGHTS: [u8; 4] = [40, 30, 20, 10];

#[test]
fn tcp_connections_spread_by_weight() {
    scenario("tcp_connections_spread_by_weight", &WEIGHTS, |world| spreads(world, Service::Http));
}

#[test]
fn udp_flows_spread_by_weight() {
    scenario("udp_flows_spread_by_weight", &WEIGHTS, |world| spreads(world, Service::Echo));
}

/// The ports of the VIP differ from the servers', so every exchange also shows that ports are mapped both ways.
fn spreads(world: &mut World, service: Service) -> Result<()> {
    world.start()?;
    for family in Family::ALL {
        let batch = world.client().exchanges(service, world.vip(family, service), EXCHANGES, CONCURRENCY);
        batch.expect_no_failure()?;
        ensure!(batch.successes() == EXCHANGES, "{} of {EXCHANGES} exchanges", batch.successes());
        expect_by_weight(&batch.tally, &world.plan.weights())?;
    }
    counted(world, service)
}

/// The daemon's counters saw what the clients did.
fn counted(world: &World, service: Service) -> Result<()> {
    let flows = EXCHANGES * Family::ALL.len() as u64;
    let status = world.status()?;
    let mut listeners = status.load_balancers.iter().flat_map(|balancer| &balancer.listeners);
    let listener = listeners.find(|listener| listener.name == service.name()).context("no such listener")?;
    let counters = listener.counters;
    // A port may be used again before its flow has been forgotten; that begins no new flow.
    ensure!(counters.new_flows <= flows && counters.new_flows > flows / 2, "{counters:?}, {flows} flows");
    ensure!(counters.packets_in >= flows && counters.packets_out >= flows, "{counters:?}, {flows} flows");
    ensure!(counters.bytes_in > 0 && counters.bytes_out > 0, "{counters:?}");
    Ok(())
}
