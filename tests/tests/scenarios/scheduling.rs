//! Schedulers other than Maglev, and session persistence: round robin, least connections, the server of the client's
//! last flow.

mod changes;
mod clients;
mod flow;
mod least_connections;
mod round_robin;

use anyhow::{Result, ensure};
use slb_tests::{World, net::Family, server::Service};

use super::modes;

/// Opens `count` connections at once; returns the number that each server gets, in the plan's order.
fn connections(world: &World, family: Family, count: usize) -> Result<Vec<u64>> {
    // While a port is open, the kernel gives it to no other connection, which would continue its flow.
    let open = world.client().long_lived(world.vip(family, Service::Lines), count)?;
    open.expect_unbroken(None)?;
    Ok(world.plan.servers.iter().map(|server| open.alive_with(&server.name) as u64).collect())
}

/// As [`connections`], with UDP flows.
fn datagrams(world: &World, family: Family, count: u64) -> Result<Vec<u64>> {
    const CONCURRENCY: usize = 4;
    let target = world.vip(family, Service::Echo);
    let batch = world.client().exchanges(Service::Echo, target, count, CONCURRENCY);
    batch.expect_no_failure()?;
    ensure!(batch.successes() == count, "{batch:?}");
    Ok(world.plan.servers.iter().map(|server| batch.of(&server.name)).collect())
}
