//! `slbd detach` takes everything away.

use anyhow::ensure;
use slb_tests::{client::PATIENCE, net::Family, scenario, server::Service, wait::wait_for};

#[test]
fn detach_leaves_nothing() {
    scenario("detach_leaves_nothing", &[50, 50], |world| {
        ensure!(world.programs()?.is_empty(), "a program is attached before the start");
        world.start()?;
        let target = world.vip(Family::V4, Service::Http);
        world.client().exchange(Service::Http, target)?;
        let programs = world.programs()?;
        ensure!(programs.len() == world.net.interfaces().len(), "{programs:?}");
        world.terminate()?;
        world.client().exchange(Service::Http, target)?;

        world.detach()?;
        // The kernel takes them off when it comes to it.
        wait_for("interfaces without a program", PATIENCE, || {
            Ok(world.programs()?.is_empty().then_some(()))
        })?;
        ensure!(!world.plan.pin_dir.exists(), "{} still exists", world.plan.pin_dir.display());
        ensure!(world.status_from_pins().is_err(), "there is still a status");
        ensure!(world.client().exchange(Service::Http, target).is_err(), "somebody still forwards");

        // Once more is no error, and a start after it is like the first.
        world.detach()?;
        world.start()?;
        world.client().exchange(Service::Http, target).map(drop)
    });
}
