//! Mixed traffic: short exchanges and long-lived connections, in both families and protocols.

use anyhow::{Context as _, Result};

use crate::{
    World,
    client::{Batch, Load, LongLived, PATIENCE},
    net::Family,
    server::Service,
    spread::expect_by_weight,
    wait::wait_for,
};

/// Services of short exchanges, in each family.
pub const KINDS: [(Service, Family); 4] = [
    (Service::Http, Family::V4),
    (Service::Http, Family::V6),
    (Service::Echo, Family::V4),
    (Service::Echo, Family::V6),
];

/// Workers per kind of exchange, each with one exchange at a time.
const CONCURRENCY: usize = 3;
/// Workers per kind, for a fixed number of exchanges.
const SPREAD_CONCURRENCY: usize = 16;

/// Traffic to the VIPs that goes on until it is stopped.
#[derive(Debug)]
pub struct Traffic {
    loads: Vec<Load>,
    connections: Vec<LongLived>,
}

impl Traffic {
    /// Opens `long_lived` connections per family, and starts short exchanges of every kind.
    ///
    /// # Errors
    /// A connection cannot be opened.
    pub fn start(world: &World, long_lived: usize) -> Result<Self> {
        let client = world.client();
        let open = |family| client.long_lived(world.vip(family, Service::Lines), long_lived);
        let connections = Family::ALL.into_iter().map(open).collect::<Result<_>>()?;
        let load =
            |(service, family)| client.load(service, world.vip(family, service), u64::MAX, CONCURRENCY);
        Ok(Self { loads: KINDS.into_iter().map(load).collect(), connections })
    }

    /// Waits until each kind has made another `exchanges` exchanges.
    ///
    /// # Errors
    /// It takes too long.
    pub fn progress(&self, exchanges: u64) -> Result<()> {
        let goals: Vec<_> = self.loads.iter().map(|load| load.done() + exchanges).collect();
        wait_for("progress of every load", 6 * PATIENCE, || {
            Ok(self.loads.iter().zip(&goals).all(|(load, goal)| load.done() >= *goal).then_some(()))
        })
    }

    /// Number of workers with short exchanges, each with one at a time.
    pub fn workers(&self) -> u64 {
        (self.loads.len() * CONCURRENCY) as u64
    }

    /// Results of all short exchanges so far.
    pub fn so_far(&self) -> Batch {
        merge(self.loads.iter().map(Load::so_far))
    }

    /// The long-lived connections, by family.
    pub fn connections(&self) -> &[LongLived] {
        &self.connections
    }

    /// Number of unbroken long-lived connections with one server.
    pub fn alive_with(&self, server: &str) -> usize {
        self.connections.iter().map(|family| family.alive_with(server)).sum()
    }

    /// Fails if a long-lived connection has stalled, or one broke whose server is not `except`.
    ///
    /// # Errors
    /// The first broken or stalled connection.
    pub fn expect_unbroken(&self, except: Option<&str>) -> Result<()> {
        self.connections.iter().try_for_each(|family| {
            family.progress(3)?;
            family.expect_unbroken(except)
        })
    }

    /// Waits for the exchanges in progress, closes the long-lived connections, and returns the results.
    pub fn stop(self) -> Batch {
        // All loads stop before the first is waited for.
        self.loads.iter().for_each(Load::stop_new);
        merge(self.loads.into_iter().map(Load::finish))
    }
}

/// Makes `exchanges` short exchanges of each kind. All must succeed and spread over the servers by `weights`.
///
/// # Errors
/// The kind of exchange, and the failure.
pub fn spreads(world: &World, weights: &[(&str, u8)], exchanges: u64) -> Result<()> {
    KINDS.into_iter().try_for_each(|(service, family)| {
        let target = world.vip(family, service);
        let batch = world.client().exchanges(service, target, exchanges, SPREAD_CONCURRENCY);
        batch
            .expect_no_failure()
            .and_then(|()| expect_by_weight(&batch.tally, weights))
            .with_context(|| format!("{}/{family}", service.name()))
    })
}

fn merge(batches: impl Iterator<Item = Batch>) -> Batch {
    let mut all = Batch::default();
    for batch in batches {
        for (server, exchanges) in batch.tally {
            *all.tally.entry(server).or_default() += exchanges;
        }
        all.failures.extend(batch.failures);
        all.retries += batch.retries;
    }
    all
}
