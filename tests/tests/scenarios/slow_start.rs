//! Slow start: servers reach their weight in steps.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use slb_api::types::ApiHealth;
use slb_tests::{
    World,
    client::{LongLived, PATIENCE},
    net::Family,
    scenario,
    server::Service,
    traffic::spreads,
    wait::wait_for,
};

const WEIGHTS: [u8; 2] = [50, 50];
/// Index and name of the server that starts slowly.
const BEGINS: usize = 0;
const BEGINS_NAME: &str = "b1";
/// The slow-start time, and the number of steps.
const TIME: Duration = Duration::from_secs(10);
/// Exchanges for measuring a share.
const EXCHANGES: u64 = 400;
const LONG_LIVED: usize = 16;

#[test]
fn recovered_server_gets_rising_share() {
    scenario!(&WEIGHTS, |world| {
        slowly(world);
        world.start()?;
        // The first servers of a group start with their full weight.
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        world.kill_servers(BEGINS);
        world.wait_for_health(BEGINS, ApiHealth::Unhealthy)?;
        let others = world.client().long_lived(world.vip(Family::V4, Service::Lines), LONG_LIVED)?;
        world.start_servers(BEGINS)?;
        rises(world, &others, |_| Ok(()))
    });
}

#[test]
fn added_server_gets_rising_share_across_daemon_restart() {
    scenario!(&WEIGHTS, |world| {
        slowly(world);
        let added = world.plan.servers.remove(BEGINS);
        world.start()?;
        let others = world.client().long_lived(world.vip(Family::V4, Service::Lines), LONG_LIVED)?;
        world.plan.servers.insert(BEGINS, added);
        world.reload()?;
        rises(world, &others, |world| {
            world.kill()?;
            world.start().map(drop)
        })
    });
}

#[test]
fn reenabled_server_gets_rising_share() {
    scenario!(&WEIGHTS, |world| {
        slowly(world);
        world.start()?;
        let port = Service::Http.backend_port();
        let addresses = world.plan.servers[BEGINS].addresses.iter();
        let entries: Vec<_> = addresses.map(|address| SocketAddr::new(*address, port).to_string()).collect();
        let set = |world: &World, what| {
            let arguments = ["server", what, "http"].into_iter().chain(entries.iter().map(String::as_str));
            world.slb(&arguments.collect::<Vec<_>>()).map(drop)
        };
        set(world, "disable")?;
        let others = world.client().long_lived(world.vip(Family::V4, Service::Lines), LONG_LIVED)?;
        set(world, "enable")?;
        rises(world, &others, |_| Ok(()))
    });
}

fn slowly(world: &mut World) {
    world.plan.slow_start.insert(Service::Http, TIME);
}

/// The server's share of new flows rises to its weight, step by step, and equals what the daemon reports. `meanwhile`
/// runs after the first steps; connections with other servers stay.
fn rises(world: &mut World, others: &LongLived, meanwhile: fn(&mut World) -> Result<()>) -> Result<()> {
    let mut meanwhile = Some(meanwhile);
    let mut shares = vec![wait_for("a share of new flows", PATIENCE, || {
        let share = share(world)?;
        Ok((share > 0.0).then_some(share))
    })?];
    ensure!(shares[0] <= 0.3, "it begins with {:?} of the flows", shares[0]);
    let target = world.vip(Family::V4, Service::Http);
    let full = wait_for("the whole weight", 3 * TIME, || {
        let before = share(world)?;
        let batch = world.client().exchanges(Service::Http, target, EXCHANGES, 8);
        let after = share(world)?;
        batch.expect_no_failure()?;
        let got = batch.of(BEGINS_NAME) as f64 / EXCHANGES as f64;
        // Five standard deviations of this many draws.
        let chance = 5.0 * (0.25 / EXCHANGES as f64).sqrt();
        ensure!(
            got >= before - chance && got <= after + chance,
            "{got} of the flows; it was to get {before} to {after}"
        );
        ensure!(after >= before && before >= *shares.last().unwrap_or(&0.0), "{shares:?}, {before}, {after}");
        shares.extend([before, after]);
        shares.dedup();
        if shares.len() > 2
            && let Some(meanwhile) = meanwhile.take()
        {
            meanwhile(world)?;
        }
        Ok((after > 0.49).then_some(after))
    })?;
    println!("shares: {shares:?}");
    // The test may miss some of the ten steps, but must see gradual growth.
    ensure!(shares.len() >= 4, "{shares:?}, and then {full}");
    spreads(world, &world.plan.weights(), EXCHANGES)?;
    others.progress(3)?;
    others.expect_unbroken(None)
}

/// Share of new IPv4 flows that the server should get, from 0 to 1.
fn share(world: &World) -> Result<f64> {
    let status = world.status()?;
    let mut listeners = status.load_balancers.iter().flat_map(|balancer| &balancer.listeners);
    let http = listeners.find(|listener| listener.name == Service::Http.name()).context("no listener")?;
    let address = world.net.backends[BEGINS].address(Family::V4);
    let of_v4 = || http.servers.iter().filter(|server| server.address.is_ipv4());
    let all: u32 = of_v4().map(|server| server.slots).sum();
    let own: u32 = of_v4().filter(|server| server.address.ip() == address).map(|server| server.slots).sum();
    Ok(f64::from(own) / f64::from(all.max(1)))
}
