//! Connections spread over the servers by weight, in both families and protocols.

use anyhow::{Context, Result, ensure};
use slb_tests::{World, net::Family, scenario, server::Service, spread::expect_by_weight};

/// Exchanges per family.
const EXCHANGES: u64 = 4_000;
const CONCURRENCY: usize = 32;

const WEIGHTS: [u8; 4] = [40, 30, 20, 10];

#[test]
fn tcp_connections_spread_by_weight() {
    scenario!(&WEIGHTS, |world| spreads(world, Service::Http));
}

#[test]
fn udp_flows_spread_by_weight() {
    scenario!(&WEIGHTS, |world| spreads(world, Service::Echo));
}

/// With the scheduler `maglev-client`, each client address has one server, and not all have the same.
#[test]
fn all_flows_of_one_client_go_to_one_server() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        for family in Family::ALL {
            ensure!(servers_of_clients(world, family)?.iter().all(|servers| *servers > 1));
        }
        world.plan.listeners.entry(Service::Lines).or_default().scheduler = Some("maglev-client");
        world.reload()?;
        for family in Family::ALL {
            ensure!(servers_of_clients(world, family)?.iter().all(|servers| *servers == 1));
        }
        Ok(())
    });
}

/// Number of servers that many connections of each client address reach. All addresses together reach several.
fn servers_of_clients(world: &World, family: Family) -> Result<Vec<usize>> {
    const CONNECTIONS: usize = 128;
    let connections = world.client().long_lived(world.vip(family, Service::Lines), CONNECTIONS)?;
    ensure!(connections.alive().len() > 1, "{:?}", connections.alive());
    Ok(connections.servers_by_client().values().map(std::collections::BTreeSet::len).collect())
}

/// The ports of the VIP differ from the servers', so every exchange also shows that ports are translated in both
/// directions.
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

/// The daemon's counters agree with the clients.
fn counted(world: &World, service: Service) -> Result<()> {
    let flows = EXCHANGES * Family::ALL.len() as u64;
    let status = world.status()?;
    let mut listeners = status.load_balancers.iter().flat_map(|balancer| &balancer.listeners);
    let listener = listeners.find(|listener| listener.name == service.name()).context("no such listener")?;
    let counters = listener.counters;
    // A client port may be reused before its entry has expired; that begins no new flow.
    ensure!(counters.total_flows <= flows && counters.total_flows > flows / 2, "{counters:?}, {flows} flows");
    ensure!(
        counters.packets_from_clients >= flows && counters.packets_to_clients >= flows,
        "{counters:?}, {flows} flows"
    );
    ensure!(counters.bytes_from_clients > 0 && counters.bytes_to_clients > 0, "{counters:?}");
    Ok(())
}
