//! Servers that fail and recover.

use std::time::Instant;

use anyhow::{Result, ensure};
use slb_api::types::ApiHealth;
use slb_tests::{
    World,
    client::PATIENCE,
    net::Family,
    scenario,
    server::Service,
    traffic::{Traffic, spreads},
    wait::wait_for,
};

pub(super) const WEIGHTS: [u8; 3] = [50, 30, 20];
/// Index and name of the server that fails.
const VICTIM: usize = 0;
const VICTIM_NAME: &str = "b1";
/// Exchanges after a change. They almost certainly reach a server with any slot of the table.
const EXCHANGES: u64 = 1_000;
/// Long-lived connections per family.
const LONG_LIVED: usize = 48;

/// The server's processes die: connections to them are refused.
#[test]
fn killed_server_loses_new_flows_until_it_recovers() {
    scenario!(&WEIGHTS, killed);
}

/// A machine that hangs does not answer at all.
#[test]
fn silent_server_loses_new_flows_until_it_recovers() {
    scenario!(&WEIGHTS, |world| {
        let traffic = start(world)?;
        world.net.backends[VICTIM].go_silent()?;
        left_out(world, &traffic)?;
        world.net.backends[VICTIM].speak_again()?;
        taken_back(world, traffic)
    });
}

/// With all servers down nothing is forwarded to them, and the first to recover serves at once.
#[test]
fn packets_are_dropped_while_no_server_is_healthy() {
    scenario!(&[50, 50], |world| {
        world.start()?;
        for index in [0, 1] {
            world.kill_servers(index);
        }
        for index in [0, 1] {
            world.wait_for_health(index, ApiHealth::Unhealthy)?;
        }
        let target = world.vip(Family::V4, Service::Echo);
        let refused = world.packets("drop", Some("no_server"))?;
        ensure!(world.client().exchange(Service::Echo, target).is_err(), "a dead server answered");
        ensure!(world.packets("drop", Some("no_server"))? > refused, "{:?}", world.status()?.reasons);
        world.start_servers(1)?;
        world.wait_for_health(1, ApiHealth::Healthy)?;
        for service in [Service::Http, Service::Echo] {
            for family in Family::ALL {
                let batch = world.client().exchanges(service, world.vip(family, service), 50, 4);
                batch.expect_no_failure()?;
                ensure!(batch.of("b2") == 50, "{:?}", batch.tally);
            }
        }
        Ok(())
    });
}

pub(super) fn killed(world: &mut World) -> Result<()> {
    let traffic = start(world)?;
    world.kill_servers(VICTIM);
    left_out(world, &traffic)?;
    wait_for("the end of the victim's connections", PATIENCE, || {
        Ok((traffic.alive_with(VICTIM_NAME) == 0).then_some(()))
    })?;
    world.start_servers(VICTIM)?;
    taken_back(world, traffic)
}

/// Starts daemon and traffic; every server gets long-lived connections.
fn start(world: &mut World) -> Result<Traffic> {
    world.start()?;
    let traffic = Traffic::start(world, LONG_LIVED)?;
    for (server, _) in world.plan.weights() {
        wait_for(&format!("a connection with {server}"), PATIENCE, || {
            Ok((traffic.alive_with(server) > 0).then_some(()))
        })?;
    }
    Ok(traffic)
}

/// The victim is detected under traffic. After that no exchange fails, and connections of the others never break.
fn left_out(world: &World, traffic: &Traffic) -> Result<()> {
    world.wait_for_health(VICTIM, ApiHealth::Unhealthy)?;
    let detected = Instant::now();
    let mut remaining = world.plan.weights();
    remaining.remove(VICTIM);
    spreads(world, &remaining, EXCHANGES)?;
    traffic.so_far().expect_no_failure_since(detected)?;
    traffic.expect_unbroken(Some(VICTIM_NAME))
}

/// The victim gets new flows again, without disturbing others.
fn taken_back(world: &World, traffic: Traffic) -> Result<()> {
    world.wait_for_health(VICTIM, ApiHealth::Healthy)?;
    let returned = Instant::now();
    spreads(world, &world.plan.weights(), EXCHANGES)?;
    traffic.expect_unbroken(Some(VICTIM_NAME))?;
    traffic.stop().expect_no_failure_since(returned)
}
