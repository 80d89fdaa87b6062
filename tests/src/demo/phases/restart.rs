//! The daemon is killed with SIGKILL under traffic and restarted, in several rounds.

use anyhow::Result;

use super::{AFTER_A_CHANGE, LONG_LIVED};
use crate::{
    World,
    demo::{
        figures::{Figures, Sigkill},
        view::View,
    },
    traffic::Traffic,
};

/// Exchanges of each kind while the daemon is down, and again after its restart, per round.
const PER_ROUND: u64 = 100;

pub(super) fn phase(world: &mut World, rounds: u32, view: &mut View, figures: &mut Figures) -> Result<()> {
    view.phase(&format!(
        "4. The daemon is killed with SIGKILL under traffic and started again, {rounds} times"
    ));
    let traffic = Traffic::start(world, LONG_LIVED)?;
    traffic.progress(AFTER_A_CHANGE)?;
    let mut while_down = 0;
    for round in 1..=rounds {
        world.kill()?;
        let killed = traffic.so_far().successes();
        traffic.progress(PER_ROUND)?;
        while_down += traffic.so_far().successes() - killed;
        world.start()?;
        traffic.progress(PER_ROUND)?;
        let so_far = traffic.so_far();
        view.live(&format!(
            "   round {round} of {rounds}: {} exchanges, failed {}",
            so_far.successes(),
            so_far.failures.len()
        ));
    }
    let unbroken = traffic.expect_unbroken(None);
    let broken: usize = traffic.connections().iter().map(|family| family.breaks().len()).sum();
    let end = traffic.stop();
    view.line(&format!(
        "   exchanges: {}, {while_down} of them while no daemon ran; failed {}\n   \
         long-lived connections: {}, broken {broken}",
        end.successes(),
        end.failures.len(),
        2 * LONG_LIVED
    ));
    if let Err(error) = end.expect_no_failure() {
        figures.failures.push(format!("SIGKILL: {error:#}"));
    }
    figures.expect(unbroken.is_ok(), || format!("long-lived connections over SIGKILL: {unbroken:?}"));
    figures.sigkill = Some(Sigkill {
        rounds,
        exchanges: end.successes(),
        exchanges_while_down: while_down,
        failed: end.failures.len(),
        udp_datagrams_sent_again: end.retries,
        long_lived: 2 * LONG_LIVED,
        long_lived_broken: broken,
    });
    Ok(())
}
