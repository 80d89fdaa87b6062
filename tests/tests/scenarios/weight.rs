//! Weight 0: a server gets no new flows, and its established ones go on.

use anyhow::{Result, ensure};
use slb_tests::{client::LongLived, net::Family, scenario, server::Service, traffic::spreads};

const WEIGHTS: [u8; 3] = [50, 30, 20];
const EXCHANGES: u64 = 1_000;
/// Long-lived connections per family.
const LONG_LIVED: usize = 24;

#[test]
fn server_of_weight_zero_keeps_flows_and_gets_no_new_ones() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let connections = Family::ALL
            .into_iter()
            .map(|family| world.client().long_lived(world.vip(family, Service::Lines), LONG_LIVED))
            .collect::<Result<Vec<_>>>()?;
        let with_b1: Vec<_> = connections.iter().map(|family| family.alive_with("b1")).collect();
        ensure!(with_b1.iter().all(|count| *count > 0), "no connection to watch: {with_b1:?}");

        world.plan.servers[0].weight = 0;
        world.restart()?;
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        undisturbed(&connections, &with_b1)?;

        world.plan.servers[0].weight = WEIGHTS[0];
        world.restart()?;
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        undisturbed(&connections, &with_b1)
    });
}

/// Removing a server disturbs no flow of another.
#[test]
fn removed_server_disturbs_no_flow_of_others() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let target = world.vip(Family::V4, Service::Lines);
        let connections = world.client().long_lived(target, LONG_LIVED)?;
        world.plan.servers.remove(0);
        world.restart()?;
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        connections.progress(5)?;
        connections.expect_unbroken(Some("b1"))
    });
}

fn undisturbed(connections: &[LongLived], with_b1: &[usize]) -> Result<()> {
    for (family, expected) in connections.iter().zip(with_b1) {
        family.progress(5)?;
        family.expect_unbroken(None)?;
        ensure!(family.alive_with("b1") == *expected, "{:?}", family.alive());
    }
    Ok(())
}
