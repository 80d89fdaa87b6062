//! `rr` and `wrr`: servers take strict turns, so shares are exact.

use anyhow::{Result, ensure};
use slb_tests::{World, net::Family, scenario};

use super::{
    connections, datagrams,
    modes::{DirectMode, prepare},
};

/// New flows; a multiple of a whole round.
const FLOWS: u64 = 60;
/// The last server has weight 0.
const UNEQUAL: [u8; 4] = [10, 50, 100, 0];
const WEIGHTS: [u8; 4] = [40, 30, 20, 10];

#[test]
fn round_robin_ignores_weights() {
    scenario!(&UNEQUAL, |world| {
        world.plan.scheduler = Some("rr");
        world.start()?;
        all_share(world, FLOWS, &[FLOWS / 3, FLOWS / 3, FLOWS / 3, 0])?;

        // One server more in the rotation, then one less: a weight above 0 is enough.
        world.plan.servers[3].weight = 1;
        world.reload()?;
        all_share(world, FLOWS, &[FLOWS / 4; 4])?;
        for server in &mut world.plan.servers[1..3] {
            server.weight = 0;
        }
        world.reload()?;
        all_share(world, FLOWS, &[FLOWS / 2, 0, 0, FLOWS / 2])?;
        ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
        Ok(())
    });
}

#[test]
fn weighted_round_robin_follows_weights() {
    scenario!(&WEIGHTS, by_weight);
}

#[test]
fn weighted_round_robin_follows_weights_in_mode_dsr() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Dsr)?;
        by_weight(world)
    });
}

#[test]
fn weighted_round_robin_follows_weights_in_mode_ipip() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Ipip(Family::V4))?;
        by_weight(world)
    });
}

fn by_weight(world: &mut World) -> Result<()> {
    world.plan.scheduler = Some("wrr");
    world.start()?;
    all_share(world, 100, &[40, 30, 20, 10])?;

    for (server, weight) in world.plan.servers.iter_mut().zip([0, 50, 100, 50]) {
        server.weight = weight;
    }
    world.reload()?;
    all_share(world, 100, &[0, 25, 50, 25])?;
    ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
    Ok(())
}

/// Each listener and family has its own round-robin position.
fn all_share(world: &World, count: u64, expected: &[u64]) -> Result<()> {
    for family in Family::ALL {
        let shares = connections(world, family, usize::try_from(count)?)?;
        ensure!(shares == expected, "connections, {family}: {shares:?} in place of {expected:?}");
        let shares = datagrams(world, family, count)?;
        ensure!(shares == expected, "datagrams, {family}: {shares:?} in place of {expected:?}");
    }
    Ok(())
}
