//! `slbd detach` removes programs, links and pins.

use anyhow::ensure;
use slb_tests::{client::PATIENCE, net::Family, scenario, server::Service, wait::wait_for};

#[test]
fn detach_leaves_nothing() {
    scenario!(&[50, 50], |world| {
        ensure!(world.programs()?.is_empty(), "a program is attached before the start");
        world.start()?;
        let target = world.vip(Family::V4, Service::Http);
        world.client().exchange(Service::Http, target)?;
        let programs = world.programs()?;
        ensure!(programs.len() == world.net.interfaces().len(), "{programs:?}");
        world.terminate()?;
        world.client().exchange(Service::Http, target)?;

        // The VIPs are addresses of `lo`, so the kernel would answer for them.
        let refused = world.slbd("detach", &world.plan.toml())?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(!refused.status.success(), "detached with VIPs on lo");
        for words in ["nothing was detached", "are addresses of this host", "ip addr del", "--force"] {
            ensure!(said.contains(words), "{words:?} is not in: {said}");
        }
        for family in [Family::V4, Family::V6] {
            ensure!(said.contains(&family.vip().to_string()), "{said}");
            world.client().exchange(Service::Http, world.vip(family, Service::Http))?;
        }
        ensure!(world.programs()? == programs, "a refusal has taken a program off");
        world.net.route_vips()?;

        world.detach()?;
        // The kernel detaches programs asynchronously.
        wait_for("interfaces without a program", PATIENCE, || {
            Ok(world.programs()?.is_empty().then_some(()))
        })?;
        ensure!(!world.plan.pin_dir.exists(), "{} still exists", world.plan.pin_dir.display());
        ensure!(world.status_from_pins().is_err(), "there is still a status");
        ensure!(world.client().exchange(Service::Http, target).is_err(), "packets are still forwarded");

        // A second detach succeeds, and a later start is like the first.
        world.detach()?;
        world.start()?;
        world.client().exchange(Service::Http, target).map(drop)
    });
}
