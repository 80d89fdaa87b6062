//! `wlc`: the server with the least connections for its weight gets the next flow.

use anyhow::{Result, ensure};
use slb_tests::{World, client::LongLived, net::Family, scenario, server::Service};

use super::{
    datagrams,
    modes::{DirectMode, prepare},
};

const WEIGHTS: [u8; 4] = [25, 25, 50, 0];
/// Divides evenly into shares of 10, 10 and 20.
const CONNECTIONS: usize = 40;
const EXPECTED: [usize; 4] = [10, 10, 20, 0];
/// Tolerance of a share: a flow that begins during a GC pass is not counted for some seconds.
const OFF: usize = 2;

#[test]
fn server_with_fewest_connections_is_next() {
    scenario!(&WEIGHTS, refilled);
}

#[test]
fn server_with_fewest_connections_is_next_in_mode_dsr() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Dsr)?;
        refilled(world)
    });
}

fn refilled(world: &mut World) -> Result<()> {
    world.plan.scheduler = Some("wlc");
    if world.plan.mode != slb_tests::config::Mode::Nat {
        // One address per server, so that the connections of both families have one counter.
        world.plan.servers.iter_mut().for_each(|server| server.addresses.truncate(1));
    }
    world.start()?;
    for family in Family::ALL {
        let target = world.vip(family, Service::Lines);
        let mut sets = vec![world.client().long_lived(target, CONNECTIONS)?];
        is_even(world, &sets)?;
        for (server, share) in ["b1", "b3", "b2"].into_iter().zip([10, 20, 10]) {
            let closed = sets.iter_mut().map(|set| set.close_with(server)).sum::<Result<usize>>()?;
            ensure!(closed.abs_diff(share) <= OFF, "{closed} connections with {server}");
            ensure!(of(&sets, server) == 0, "{server} has connections left");
            // All of them go to the server without connections.
            sets.push(world.client().long_lived(target, closed)?);
            is_even(world, &sets)?;
        }
        sets.iter().try_for_each(|set| set.expect_unbroken(None))?;
        // UDP flows count too, until their idle timeout.
        let shares = datagrams(world, family, CONNECTIONS as u64)?;
        expected(&shares.into_iter().map(usize::try_from).collect::<Result<Vec<_>, _>>()?)?;
        // Connections of the first family must not distort the counts of the other.
        for server in ["b1", "b2", "b3"] {
            sets.iter_mut().try_for_each(|set| set.close_with(server).map(drop))?;
        }
    }
    ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
    Ok(())
}

/// Existing connections count from the change of scheduler on.
#[test]
fn least_connections_counts_flows_of_earlier_scheduler() {
    scenario!(&[50, 50], |world| {
        world.plan.scheduler = Some("rr");
        world.plan.servers[1].weight = 0;
        world.start()?;
        let target = world.vip(Family::V4, Service::Lines);
        let first = world.client().long_lived(target, CONNECTIONS)?;
        ensure!(first.alive_with("b1") == CONNECTIONS, "{:?}", first.alive());
        world.plan.servers[1].weight = 50;
        world.plan.scheduler = Some("wlc");
        world.reload()?;
        // Opens connections one by one until the daemon's GC has counted the existing ones, which takes seconds.
        let mut new = Vec::new();
        slb_tests::wait::wait_for(
            "new connections with the server that has fewer",
            2 * slb_tests::client::PATIENCE,
            || {
                let next = world.client().long_lived(target, 2)?;
                Ok((next.alive_with("b2") == 2).then(|| new.push(next)))
            },
        )?;
        new.push(world.client().long_lived(target, CONNECTIONS / 2)?);
        ensure!(of(&new, "b2") == CONNECTIONS / 2 + 2, "{:?}", new.last().map(LongLived::alive));
        first.expect_unbroken(None)
    });
}

fn is_even(world: &World, sets: &[LongLived]) -> Result<()> {
    let shares: Vec<usize> = world.plan.servers.iter().map(|server| of(sets, &server.name)).collect();
    expected(&shares)
}

fn expected(shares: &[usize]) -> Result<()> {
    let is_near = |(share, expected): (&usize, &usize)| share.abs_diff(*expected) <= OFF;
    ensure!(shares.iter().zip(&EXPECTED).all(is_near), "{shares:?} in place of {EXPECTED:?}");
    ensure!(shares[3] == 0, "a server of weight 0 has {}", shares[3]);
    Ok(())
}

fn of(sets: &[LongLived], server: &str) -> usize {
    sets.iter().map(|set| set.alive_with(server)).sum()
}
