//! Everything at once: short exchanges and long-lived connections on both families and both protocols.

use anyhow::{Context as _, Result};

use crate::{
    World,
    client::{Batch, Load, LongLived, PATIENCE},
    net::Family,
    server::Service,
    spread::expect_by_weight,
    wait::wait_for,
};

/// The services of short exchanges, on each family.
pub const KINDS: [(Service, Family); 4] = [
    (Service::Http, Family::V4),
    (Service::Http, Family::V6),
    (Service::Echo, Family::V4),
    (Service::Echo, Family::V6),
];

/// Short exchanges one at a time per worker; this many workers per kind.
const CONCURRENCY: usize = 3;
/// The same where exchanges have an end.
const SPREAD_CONCURRENCY: usize = 16;

/// Traffic through the VIPs that goes on until it is stopped.
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

    /// Waits until each kind of exchange has been done `exchanges` times more.
    ///
    /// # Errors
    /// It takes too long.
    pub fn progress(&self, exchanges: u64) -> Result<()> {
        let goals: Vec<_> = self.loads.iter().map(|load| load.done() + exchanges).collect();
        wait_for("progress of every load", 6 * PATIENCE, || {
            Ok(self.loads.iter().zip(&goals).all(|(load, goal)| load.done() >= *goal).then_some(()))
        })
    }

    /// Workers that make short exchanges, each one at a time.
    pub fn workers(&self) -> u64 {
        (self.loads.len() * CONCURRENCY) as u64
    }

    /// The exchanges of all kinds so far.
    pub fn so_far(&self) -> Batch {
        merge(self.loads.iter().map(Load::so_far))
    }

    /// The long-lived connections, per family.
    pub fn connections(&self) -> &[LongLived] {
        &self.connections
    }

    /// Long-lived connections that are not broken, with one server.
    pub fn alive_with(&self, server: &str) -> usize {
        self.connections.iter().map(|family| family.alive_with(server)).sum()
    }

    /// Fails if a long-lived connection is stuck, or one broke that was not with the server `except`.
    ///
    /// # Errors
    /// Says how the first broke.
    pub fn expect_unbroken(&self, except: Option<&str>) -> Result<()> {
        self.connections.iter().try_for_each(|family| {
            family.progress(3)?;
            family.expect_unbroken(except)
        })
    }

    /// Begins no more exchanges, waits for the ones going on, closes the long-lived connections.
    pub fn stop(self) -> Batch {
        // All are told before any is waited for.
        self.loads.iter().for_each(Load::begin_no_more);
        merge(self.loads.into_iter().map(Load::finish))
    }
}

/// Makes `exchanges` short exchanges of each kind. All must succeed, and spread over the servers by `weights`.
///
/// # Errors
/// Says which kind, and what happened.
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
