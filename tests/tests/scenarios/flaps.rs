//! Chaos test: servers fail and recover, operators issue commands, and the daemon is killed, all at random. No flow
//! suffers that need not.

use std::{
    env,
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use slb_tests::{flaps::chaos::ChaosDriver, net::Backend};

const WEIGHTS: [u8; 5] = [50, 30, 20, 40, 30];
/// Duration in seconds, unless the environment variable sets another: on a developer's machine, and where `CI` is set.
const SECONDS: u64 = 40;
const SECONDS_IN_CI: u64 = 300;
const SECONDS_VARIABLE: &str = "SLB_FLAPS_SECONDS";
/// Number of seeds from which each run draws one, unless the environment variable sets it.
const SEEDS: u64 = 1_000_000;
const SEED_VARIABLE: &str = "SLB_FLAPS_SEED";
/// Each UDP flow keeps its entry for 90 s.
const FLOWS: u32 = 1 << 20;

/// Established flows of working servers stay, and new ones go to servers that can serve them. Tested in mode `nat` with
/// TCP and UDP, and in mode `dsr` with TCP; with two sides, session persistence, and a drain timeout.
#[test]
fn random_failures_and_commands_disturb_no_flow() {
    let number = |variable: &str, default: u64| {
        env::var(variable)
            .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{variable}: a number")))
    };
    let fresh = RandomState::new().hash_one(()) % SEEDS;
    let seconds = if env::var_os("CI").is_some() { SECONDS_IN_CI } else { SECONDS };
    let length = Duration::from_secs(number(SECONDS_VARIABLE, seconds));
    let seed = number(SEED_VARIABLE, fresh);
    // `println` output appears only at the end, which a user who interrupts the test does not see.
    let repeat = format!("{SECONDS_VARIABLE}={} {SEED_VARIABLE}={seed}", length.as_secs());
    writeln!(io::stderr(), "to repeat the chaos test: {repeat}").expect("somewhere to write to");
    slb_tests::scenario_alone!(&WEIGHTS, |world| {
        world.net.route_answers()?;
        world.net.backends.iter().try_for_each(Backend::add_vips)?;
        ChaosDriver::prepare(world);
        world.plan.flow_table_entries = FLOWS;
        world.start()?;
        let (totals, changes) = ChaosDriver::new(world, seed)?
            .run(length)
            .with_context(|| format!("to repeat it, set {repeat}"))?;
        println!("{totals}; {changes:?}");
        ensure!(
            totals.began_undisturbed * 10 > totals.began,
            "hardly ever were all failures known: {totals}"
        );
        Ok(())
    });
}
