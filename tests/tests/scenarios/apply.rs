//! `slb apply`: configurations other than the daemon's file, with and without commit-confirmed.

use anyhow::{Context as _, Result, ensure};
use slb_api::types::ConfigurationStatus;
use slb_tests::{
    World,
    client::PATIENCE,
    config::Plan,
    net::Family,
    scenario,
    server::Service,
    traffic::{Traffic, spreads},
    wait::wait_for,
};

const WEIGHTS: [u8; 2] = [50, 50];
const EXCHANGES: u64 = 400;
const LONG_LIVED: usize = 8;
const PROGRESS: u64 = 50;

#[test]
fn unconfirmed_apply_rolls_back() {
    slb_tests::scenario_alone!(&WEIGHTS, |world| {
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        let other = without_b1(world)?;
        let said = world.slb(&["apply", &other, "--confirm-within", "8s"])?;
        ensure!(said.contains("weight 50 -> 0") && said.contains("rolls back in 8 s"), "{said}");
        spreads(world, &[("b1", 0), ("b2", 50)], EXCHANGES / 4)?;
        let configuration = configuration(world)?;
        ensure!(configuration.confirm_within_seconds.is_some_and(|left| left < 8), "{configuration:?}");
        ensure!(configuration.difference.as_deref() == Some("differs"), "{configuration:?}");
        for arguments in [&["reload"][..], &["apply", &other]] {
            let said = world.slb_refused(arguments)?;
            ensure!(
                said.contains("waits for `slb confirm`, for") && said.contains("roll back; then"),
                "{said}"
            );
        }
        wait_for("the way back", 2 * PATIENCE, || {
            let configuration = self::configuration(world)?;
            let back = configuration.confirm_within_seconds.is_none() && configuration.difference.is_none();
            Ok(back.then_some(()))
        })?;
        world.wait_for_log("not confirmed: rolled back to the previous configuration", 0)?;
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        let said = world.slb_refused(&["confirm"])?;
        ensure!(said.contains("nothing waits to be confirmed"), "{said}");
        traffic.progress(PROGRESS)?;
        traffic.expect_unbroken(None)?;
        ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
        traffic.stop().expect_no_failure()
    });
}

#[test]
fn confirmed_apply_stays_until_next_start() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let other = without_b1(world)?;
        world.slb(&["apply", &other, "--confirm-within", "60s"])?;
        let said = world.slb(&["status"])?;
        ensure!(said.contains("active configuration rolls back in"), "{said}");
        world.slb(&["confirm"])?;
        let said = world.slb(&["status"])?;
        ensure!(!said.contains("rolls back") && said.contains("active configuration differs from"), "{said}");
        let said = world.slb(&["diff"])?;
        ensure!(said.contains("weight 0 -> 50"), "{said}");
        spreads(world, &[("b1", 0), ("b2", 50)], EXCHANGES / 4)?;
        world.restart()?;
        ensure!(configuration(world)?.difference.is_none(), "{:?}", configuration(world)?);
        spreads(world, &world.plan.weights(), EXCHANGES)
    });
}

/// A daemon that ends before `slb confirm` starts with its file.
#[test]
fn daemon_restarted_before_confirm_uses_its_file() {
    scenario!(&WEIGHTS, |world| {
        for end in [World::terminate as fn(&mut World) -> Result<()>, World::kill] {
            world.start()?;
            let other = without_b1(world)?;
            world.slb(&["apply", &other, "--confirm-within", "60s"])?;
            end(world)?;
            world.start()?;
            spreads(world, &world.plan.weights(), EXCHANGES)?;
            world.terminate()?;
        }
        Ok(())
    });
}

#[test]
fn apply_without_confirm_limit_stays_until_reload() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let other = without_b1(world)?;
        let said = world.slb(&["diff", &other])?;
        ensure!(said.contains("weight 50 -> 0"), "{said}");
        ensure!(configuration(world)?.difference.is_none(), "diff has changed something");
        world.slb(&["apply", &other])?;
        spreads(world, &[("b1", 0), ("b2", 50)], EXCHANGES / 4)?;
        let said = world.slb(&["reload"])?;
        ensure!(said.contains("weight 0 -> 50"), "{said}");
        ensure!(world.slb(&["diff"])?.contains("no difference"));

        let wrong = world.write_other(&world.plan.toml().replacen("weight = 50", "weight = 500", 1))?;
        for command in ["apply", "diff"] {
            let said = world.slb_refused(&[command, &wrong])?;
            ensure!(said.contains("other.toml:") && said.contains("allowed: 0 to 100"), "{said}");
        }
        let fixed = world.write_other(&Plan { hash_seed: Some(9), ..world.plan.clone() }.toml())?;
        let said = world.slb_refused(&["diff", &fixed])?;
        ensure!(said.contains("cannot change from 1 to 9") && said.contains("would be refused"), "{said}");
        for limit in ["0s", "25h", "1500ms"] {
            let said = world.slb_refused(&["apply", &fixed, "--confirm-within", limit])?;
            ensure!(said.contains("--confirm-within"), "{said}");
        }
        world.client().exchange(Service::Http, world.vip(Family::V4, Service::Http)).map(drop)
    });
}

/// A configuration with weight 0 for the first server.
fn without_b1(world: &World) -> Result<String> {
    let mut plan = world.plan.clone();
    plan.servers[0].weight = 0;
    world.write_other(&plan.toml())
}

fn configuration(world: &World) -> Result<ConfigurationStatus> {
    Ok(world.status()?.daemon.context("no daemon answers")?.configuration)
}
