//! The daemon ends and starts again under traffic, without a lost connection.

use std::{env, fs};

use anyhow::{Context, Result, ensure};
use slb_api::types::Status;
use slb_tests::{World, config::Plan, scenario, traffic::Traffic};

const WEIGHTS: [u8; 3] = [50, 30, 20];
/// Long-lived connections per family.
const LONG_LIVED: usize = 16;
/// Exchanges of each kind required while the daemon is down, and again after its restart.
const EXCHANGES: u64 = 200;
/// Rounds of SIGKILL, unless the environment variable sets another number.
const ROUNDS: u32 = 5;
const ROUNDS_VARIABLE: &str = "SLB_SIGKILL_ROUNDS";

#[test]
fn sigterm_and_restart_disturb_no_flow() {
    scenario!(&WEIGHTS, |world| unnoticed(world, 1, World::terminate));
}

#[test]
fn sigkill_and_restart_disturb_no_flow() {
    let rounds =
        env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    scenario!(&WEIGHTS, |world| unnoticed(world, rounds, World::kill));
}

/// A daemon killed at any point of a start leaves forwarding active, and the next start completes.
#[test]
fn sigkill_during_start_disturbs_no_flow() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        let dropped = world.packets("drop", None)?;
        world.kill()?;
        world.kill_on_its_way_up()?;
        world.start()?;
        traffic.progress(EXCHANGES)?;
        ensure!(world.packets("drop", None)? == dropped, "dropped: {:?}", world.status()?.reasons);
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()
    });
}

/// A daemon killed at any point of its first start leaves nothing that prevents the next one.
#[test]
fn sigkill_during_first_start_is_repaired_by_the_next() {
    scenario!(&WEIGHTS, |world| {
        world.kill_on_its_way_up()?;
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        traffic.progress(EXCHANGES)?;
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()
    });
}

pub(super) fn unnoticed(world: &mut World, rounds: u32, end: fn(&mut World) -> Result<()>) -> Result<()> {
    world.start()?;
    let traffic = Traffic::start(world, LONG_LIVED)?;
    traffic.progress(EXCHANGES)?;
    let digest = world.status()?.digest;
    for round in 1..=rounds {
        let one = |world: &mut World| {
            let dropped = world.packets("drop", None)?;
            let programs = world.programs()?;
            end(world)?;
            ensure!(world.programs()? == programs, "the program went with the daemon");
            traffic.progress(EXCHANGES)?;
            let status = world.status_from_pins().context("status from the pins")?;
            ensure!(status.daemon.is_none(), "a daemon answers: {:?}", status.daemon);
            ensure!(status.digest == digest, "digest {:?} from the pins, {digest:?} before", status.digest);
            ensure!(status.interfaces.len() == WEIGHTS.len() + 1, "{:?}", status.interfaces);
            ensure!(status.reasons.iter().any(|reason| reason.verdict == "forward" && reason.packets > 0));
            world.start()?;
            traffic.progress(EXCHANGES)?;
            let restarted = world.status()?.digest;
            ensure!(restarted == digest, "digest {restarted:?} after a restart, {digest:?} before");
            // On every interface, the program of the new daemon has replaced the old one.
            let replaced = world.programs()?;
            ensure!(replaced.keys().eq(programs.keys()), "{replaced:?} after {programs:?}");
            ensure!(
                replaced.iter().all(|(name, id)| programs[name] != *id),
                "{replaced:?} after {programs:?}"
            );
            // Clients retransmit lost packets, so only the counters show that none was lost.
            let dropped = world.packets("drop", None)? - dropped;
            ensure!(dropped == 0, "{dropped} packets dropped: {:?}", world.status()?.reasons);
            traffic.expect_unbroken(None)?;
            traffic.so_far().expect_no_failure()
        };
        one(world).with_context(|| format!("round {round}"))?;
    }
    let batch = traffic.stop();
    println!("{rounds} rounds: {} exchanges succeeded, {} failed", batch.successes(), batch.failures.len());
    batch.expect_no_failure()
}

/// Without `hash_seed` the first start chooses one. It survives the loss of the state directory while it is in the
/// maps.
#[test]
fn hash_seed_is_generated_once_and_kept() {
    scenario!(&[1], |world| {
        world.plan.hash_seed = None;
        let first = world.start()?;
        let seed = first.hash_seed.context("no hash seed")?;
        ensure!(seed > 1, "hash seed {seed}");
        let shown = world.slb(&["status"])?;
        ensure!(shown.contains(&format!("hash seed {seed}\n")), "{shown}");
        let same = |status: &Status, when: &str| {
            let digests = (&status.digest, &first.digest);
            ensure!(
                status.hash_seed == Some(seed) && digests.0 == digests.1,
                "{when}: {:?}",
                status.hash_seed
            );
            Ok(())
        };
        world.terminate()?;
        fs::remove_dir_all(&world.plan.state_dir)?;
        same(&world.start()?, "without its state directory")?;
        // An administrator copies the shown seed to another node.
        let written = world.write_other(&Plan { hash_seed: Some(seed), ..world.plan.clone() }.toml())?;
        let difference = world.slb(&["diff", &written])?;
        ensure!(difference.contains("no difference"), "{difference}");
        Ok(())
    });
}
