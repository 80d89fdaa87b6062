//! Where new flows go that no hash decides about: servers in turn, the one with the fewest flows, the one of the client.

mod changes;
mod clients;
mod flow;
mod least_connections;
mod round_robin;

use anyhow::{Result, ensure};
use slb_tests::{World, net::Family, server::Service};

use super::modes;

/// How many of so many new connections each server gets, in the order of the plan; they are open at the same time.
fn connections(world: &World, family: Family, count: usize) -> Result<Vec<u64>> {
    // A port that is still in use is given to no other connection, which would be the same flow again.
    let open = world.client().long_lived(world.vip(family, Service::Lines), count)?;
    open.expect_unbroken(None)?;
    Ok(world.plan.servers.iter().map(|server| open.alive_with(&server.name) as u64).collect())
}

/// The same of flows of datagrams.
fn datagrams(world: &World, family: Family, count: u64) -> Result<Vec<u64>> {
    const CONCURRENCY: usize = 4;
    let target = world.vip(family, Service::Echo);
    let batch = world.client().exchanges(Service::Echo, target, count, CONCURRENCY);
    batch.expect_no_failure()?;
    ensure!(batch.successes() == count, "{batch:?}");
    Ok(world.plan.servers.iter().map(|server| batch.of(&server.name)).collect())
}
