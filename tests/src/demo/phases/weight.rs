//! A server gets weight 0, and its weight back.

use anyhow::Result;

use super::{AFTER_A_CHANGE, LONG_LIVED};
use crate::{
    World,
    demo::{
        figures::{Figures, WeightZero},
        view::View,
    },
    traffic::Traffic,
};

/// Index of the server.
const SERVER: usize = 0;

pub(super) fn phase(world: &mut World, view: &mut View, figures: &mut Figures) -> Result<()> {
    let server = world.plan.servers[SERVER].name.clone();
    let weight = world.plan.servers[SERVER].weight;
    view.phase(&format!("3. Server {server} is set to weight 0, under traffic"));
    let traffic = Traffic::start(world, LONG_LIVED)?;
    traffic.progress(AFTER_A_CHANGE)?;
    let before = traffic.alive_with(&server);

    world.plan.servers[SERVER].weight = 0;
    world.restart()?;
    // Exchanges that began before the change may end after it, so they must end before counting.
    traffic.progress(AFTER_A_CHANGE)?;
    let start = traffic.so_far();
    traffic.progress(AFTER_A_CHANGE)?;
    let unbroken = traffic.expect_unbroken(None);
    let after = traffic.alive_with(&server);
    let end = traffic.stop();
    let new = end.successes() - start.successes();
    let new_with_it = end.of(&server) - start.of(&server);
    let failed = end.failures.len();
    view.line(&format!(
        "   its long-lived connections: {before} before, {after} after\n   \
         new exchanges: {new}, {new_with_it} of them with {server}; failed {failed}"
    ));
    figures.expect(before > 0, || format!("{server} had no long-lived connection"));
    figures.expect(unbroken.is_ok(), || format!("long-lived connections at weight 0: {unbroken:?}"));
    figures
        .expect(before == after, || format!("{before} long-lived connections with {server} became {after}"));
    figures.expect(new_with_it == 0, || format!("{new_with_it} new exchanges with {server} at weight 0"));
    if let Err(error) = end.expect_no_failure() {
        figures.failures.push(format!("weight 0: {error:#}"));
    }
    figures.weight_zero = Some(WeightZero {
        server,
        long_lived_before: before,
        long_lived_after: after,
        new_exchanges: new,
        new_exchanges_with_it: new_with_it,
        failed,
    });
    world.plan.servers[SERVER].weight = weight;
    world.restart().map(drop)
}
