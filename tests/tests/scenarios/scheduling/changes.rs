//! The scheduler changes under traffic; established flows stay.

use anyhow::{Context as _, Result, ensure};
use slb_tests::{World, net::Family, scenario, traffic::Traffic};

use super::{
    flow::{SERVICES, ScheduledFlow, clients},
    modes::{DirectMode, prepare},
};

const WEIGHTS: [u8; 3] = [50, 30, 20];
/// Long-lived connections per family.
const LONG_LIVED: usize = 16;
/// Exchanges of each kind between two changes.
const PROGRESS: u64 = 50;
const ROUNDS: usize = 2;
/// Schedulers and session persistence, applied in this order and then from the start.
const CHANGES: [(&str, &str); 8] = [
    ("rr", "off"),
    ("wlc", "off"),
    ("maglev", "1m"),
    ("wrr", "1m"),
    ("maglev", "off"),
    ("wlc", "5m"),
    ("maglev-client", "off"),
    ("maglev", "off"),
];

#[test]
fn scheduler_change_disturbs_no_flow() {
    scenario!(&WEIGHTS, changes);
}

#[test]
fn scheduler_change_disturbs_no_flow_in_mode_ipip() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Ipip(Family::V4))?;
        world.plan.unknown_datagrams = None;
        changes(world)
    });
}

fn changes(world: &mut World) -> Result<()> {
    world.plan.scheduler = Some("maglev");
    world.plan.session_persistence = Some("off");
    world.start()?;
    let traffic = Traffic::start(world, LONG_LIVED)?;
    let mut flows = begin(world)?;
    traffic.progress(PROGRESS)?;
    let dropped = world.packets("drop", None)?;
    for (number, (scheduler, persistence)) in CHANGES.iter().cycle().take(ROUNDS * CHANGES.len()).enumerate()
    {
        let before = world.plan.scheduler.replace(scheduler);
        world.plan.session_persistence = Some(persistence);
        let mut one = || {
            let said = world.reload()?;
            if let Some(before) = before.filter(|before| before != scheduler) {
                ensure!(said.contains(&format!("scheduler {before} -> {scheduler}")), "{said}");
            }
            traffic.progress(PROGRESS)?;
            flows.iter_mut().try_for_each(ScheduledFlow::exchange)?;
            // Flows that began with this scheduler must survive the next changes.
            flows.extend(begin(world)?);
            traffic.expect_unbroken(None)?;
            let so_far = traffic.so_far();
            so_far.expect_no_failure()?;
            ensure!(so_far.retries == 0, "{} datagrams lost", so_far.retries);
            let dropped = world.packets("drop", None)? - dropped;
            ensure!(dropped == 0, "{dropped} packets dropped: {:?}", world.status()?.reasons);
            Ok(())
        };
        one().with_context(|| {
            format!("change {}, {before:?} -> {scheduler}, persistence {persistence}", number + 1)
        })?;
    }
    flows.iter_mut().try_for_each(ScheduledFlow::exchange)?;
    let batch = traffic.stop();
    ensure!(batch.retries == 0, "{} datagrams lost", batch.retries);
    batch.expect_no_failure()
}

/// Begins a flow of each client to each service.
fn begin(world: &World) -> Result<Vec<ScheduledFlow>> {
    let flow =
        |service| clients(world).into_iter().map(move |client| ScheduledFlow::begin(world, service, client));
    SERVICES.into_iter().flat_map(flow).collect()
}
