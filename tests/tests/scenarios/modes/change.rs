//! Changes of the table: connections that nobody remembers stay with their server.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use slb_tests::{
    World, client::LongLived, net::Family, scenario, server::Service, spread::expect_by_weight,
    traffic::Traffic,
};

use super::{super::restart::MILESTONES, *};

/// Long-lived connections per family.
const LONG_LIVED: usize = 24;
/// Exchanges of each kind that must be done between two changes.
const PROGRESS: u64 = 100;
/// One after the other: a server that is to get nothing new, other shares, the first ones.
const CHANGES: [[u8; 3]; 3] = [[0, 30, 20], [10, 60, 30], WEIGHTS];

in_each_way!(changed_weights_move_no_connection);
in_each_way!(a_change_interrupted_by_sigkill_moves_no_connection);

fn changed_weights_move_no_connection(world: &mut World) -> Result<()> {
    // Without, datagrams go where they went before, until the idle time is over.
    world.plan.unknown_datagrams = Some("follow");
    world.start()?;
    let mut watched = vec![Watched::open(world)?];
    for weights in CHANGES {
        weigh(world, weights);
        world.restart()?;
        spread(world)?;
        watched.push(Watched::open(world)?);
        watched.iter().try_for_each(Watched::undisturbed)?;
    }
    ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
    Ok(())
}

fn a_change_interrupted_by_sigkill_moves_no_connection(world: &mut World) -> Result<()> {
    world.start()?;
    let traffic = Traffic::start(world, LONG_LIVED)?;
    let watched = Watched::open(world)?;
    for weights in CHANGES {
        weigh(world, weights);
        world.terminate()?;
        for (milestone, times) in MILESTONES {
            let before = world.log().matches(milestone).count();
            world.start_without_waiting()?;
            world.wait_for_log(milestone, before + times - 1)?;
            world.kill()?;
        }
        world.start()?;
        traffic.progress(PROGRESS)?;
        world.kill()?;
        traffic.progress(PROGRESS)?;
        world.start()?;
        watched.undisturbed()?;
        traffic.expect_unbroken(None)?;
    }
    ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
    traffic.stop().expect_no_failure()
}

/// By default, datagrams of a client endpoint that has not been heard of since the change may belong to an old flow.
#[test]
fn unknown_datagrams_go_where_they_went_before() {
    scenario("unknown_datagrams_go_where_they_went_before", &WEIGHTS, |world| {
        prepare(world, Way::Dsr)?;
        world.start()?;
        let before: Vec<_> =
            WEIGHTS.iter().zip(["b1", "b2", "b3"]).map(|(weight, name)| (name, *weight)).collect();
        weigh(world, CHANGES[0]);
        world.restart()?;
        for family in Family::ALL {
            let target = world.vip(family, Service::Echo);
            let batch = world.client().exchanges(Service::Echo, target, EXCHANGES, CONCURRENCY);
            batch.expect_no_failure()?;
            expect_by_weight(&batch.tally, &before)?;
        }
        Ok(())
    });
}

fn weigh(world: &mut World, weights: [u8; 3]) {
    for (server, weight) in world.plan.servers.iter_mut().zip(weights) {
        server.weight = weight;
    }
}

/// Long-lived connections of each family, and how many each server had at first.
struct Watched(Vec<(LongLived, BTreeMap<String, usize>)>);

impl Watched {
    fn open(world: &World) -> Result<Self> {
        let open = |family| {
            let connections = world.client().long_lived(world.vip(family, Service::Lines), LONG_LIVED)?;
            let placed = connections.alive();
            ensure!(placed.len() > 1, "all with one server: {placed:?}");
            Ok((connections, placed))
        };
        Family::ALL.into_iter().map(open).collect::<Result<_>>().map(Self)
    }

    fn undisturbed(&self) -> Result<()> {
        for (connections, placed) in &self.0 {
            connections.progress(5)?;
            connections.expect_unbroken(None)?;
            ensure!(connections.alive() == *placed, "{:?} after {placed:?}", connections.alive());
        }
        Ok(())
    }
}
