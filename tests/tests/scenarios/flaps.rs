//! Servers fail and come back, administrators give orders and the daemon is killed, at random and for a while: no flow notices
//! that need not.

use std::{env, time::Duration};

use anyhow::{Context as _, ensure};
use slb_tests::{flaps::wild::Wild, net::Backend, scenario};

const WEIGHTS: [u8; 5] = [50, 30, 20, 40, 30];
/// How long, unless the variable says otherwise: on a developer's machine, and where `CI` is set.
const SECONDS: u64 = 40;
const SECONDS_IN_CI: u64 = 300;
const SECONDS_VARIABLE: &str = "SLB_FLAPS_SECONDS";
/// The same every time, unless the variable says otherwise.
const SEED: u64 = 1;
const SEED_VARIABLE: &str = "SLB_FLAPS_SEED";
/// Each flow of UDP is remembered for 90 s.
const FLOWS: u32 = 1 << 20;

/// Established flows of living servers stay where they are, and new ones go to servers that can serve them: in mode `nat`
/// with TCP and UDP, and in mode `dsr` with TCP.
#[test]
fn servers_flap_and_administrators_are_busy() {
    let number = |variable: &str, default: u64| {
        env::var(variable)
            .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{variable}: a number")))
    };
    let seconds = if env::var_os("CI").is_some() { SECONDS_IN_CI } else { SECONDS };
    let length = Duration::from_secs(number(SECONDS_VARIABLE, seconds));
    let seed = number(SEED_VARIABLE, SEED);
    scenario("servers_flap_and_administrators_are_busy", &WEIGHTS, |world| {
        world.net.route_answers()?;
        world.net.backends.iter().try_for_each(Backend::hold_vips)?;
        world.plan.direct = true;
        world.plan.flow_table_entries = FLOWS;
        world.start()?;
        let (totals, changes) = Wild::new(world, seed)?
            .run(length)
            .with_context(|| format!("to repeat it, set {SEED_VARIABLE}={seed}"))?;
        println!("{length:?}, seed {seed}: {totals}; {changes:?}");
        ensure!(
            totals.began_undisturbed * 10 > totals.began,
            "hardly ever were all failures known: {totals}"
        );
        Ok(())
    });
}
