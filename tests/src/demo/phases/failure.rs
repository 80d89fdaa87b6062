//! A server is killed under traffic, and recovers.

use std::time::{Duration, Instant};

use anyhow::Result;
use slb_api::types::ApiHealth;

use super::{AFTER_A_CHANGE, LONG_LIVED};
use crate::{
    World,
    client::{Batch, LongLived},
    config::{CHECK_INTERVAL, CHECK_TIMEOUT, UNHEALTHY_THRESHOLD},
    demo::{
        figures::{Figures, KilledServer},
        seconds,
        view::View,
    },
    traffic::Traffic,
};

/// Index of the server.
const VICTIM: usize = 1;

/// Connections are refused at once, so detection should take only this many probes.
const GOAL: Duration = CHECK_INTERVAL.saturating_mul(UNHEALTHY_THRESHOLD);
/// Upper bound, however busy the machine is. It is the detection window for any kind of failure: all timeouts, and the
/// intervals between them. It adds one interval, one second of the update rate limiter, and one second for applying and
/// asking.
const LIMIT: Duration = CHECK_TIMEOUT
    .saturating_mul(UNHEALTHY_THRESHOLD)
    .saturating_add(CHECK_INTERVAL.saturating_mul(UNHEALTHY_THRESHOLD))
    .saturating_add(Duration::from_secs(2));

pub(super) fn phase(world: &mut World, view: &mut View, figures: &mut Figures) -> Result<()> {
    let victim = world.plan.servers[VICTIM].name.clone();
    view.phase(&format!("2. The processes of server {victim} are killed under traffic, and started again"));
    let traffic = Traffic::start(world, LONG_LIVED)?;
    traffic.progress(AFTER_A_CHANGE)?;
    let with_victim = traffic.alive_with(&victim);
    let with_others = 2 * LONG_LIVED - with_victim;

    world.kill_servers(VICTIM);
    let detection = world.wait_for_health(VICTIM, ApiHealth::Unhealthy)?;
    let detected = Instant::now();
    let at_detection = traffic.so_far().successes();
    traffic.progress(AFTER_A_CHANGE)?;
    let after = traffic.so_far();
    let failed_after = after.failures_since(detected).count();
    view.line(&format!(
        "   detected after {:.2} s (goal {:.2} s: {UNHEALTHY_THRESHOLD} probes, one every {CHECK_INTERVAL:?}); \
         until then {} exchanges failed\n   \
         after detection: {} exchanges, {failed_after} failed",
        detection.as_secs_f64(),
        GOAL.as_secs_f64(),
        after.failures.len() - failed_after,
        after.successes() - at_detection,
    ));
    figures.expect(detection <= LIMIT, || format!("{victim} was detected only after {detection:?}"));

    let unbroken = traffic.expect_unbroken(Some(&victim));
    let breaks = traffic.connections().iter().flat_map(LongLived::breaks);
    let broken = breaks.filter(|broken| broken.server != victim).count();
    view.line(&format!("   long-lived connections with the other servers: {with_others}, broken {broken}"));
    figures.expect(unbroken.is_ok(), || format!("long-lived connections with other servers: {unbroken:?}"));

    world.start_servers(VICTIM)?;
    let recovery = world.wait_for_health(VICTIM, ApiHealth::Healthy)?;
    let recovered = Instant::now();
    let before = traffic.so_far();
    traffic.progress(AFTER_A_CHANGE)?;
    let end = traffic.stop();
    let share = percent(end.of(&victim) - before.of(&victim), end.successes() - before.successes());
    view.line(&format!(
        "   back after {:.2} s; its share of new flows since then {share:.1} %, failed {}",
        recovery.as_secs_f64(),
        end.failures_since(recovered).count()
    ));
    figures.expect(share > 0.0, || format!("{victim} gets nothing after its return"));
    // Counted again from the detection on: exchanges that hung have ended only now.
    note_failures(figures, "after the detection", &end, detected);
    figures.killed_server = Some(KilledServer {
        server: victim,
        detection_seconds: seconds(detection),
        detection_goal_seconds: seconds(GOAL),
        detection_limit_seconds: seconds(LIMIT),
        failed_before_detection: after.failures.len() - failed_after,
        exchanges_after_detection: after.successes() - at_detection,
        failed_after_detection: failed_after,
        long_lived_with_others: with_others,
        long_lived_with_others_broken: broken,
        recovery_seconds: seconds(recovery),
        share_after_recovery_percent: share,
    });
    Ok(())
}

fn note_failures(figures: &mut Figures, when: &str, batch: &Batch, since: Instant) {
    if let Err(error) = batch.expect_no_failure_since(since) {
        figures.failures.push(format!("{when}: {error:#}"));
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}
