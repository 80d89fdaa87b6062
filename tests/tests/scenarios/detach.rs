//! `slbd detach` takes everything away.

use std::process::Command;

use anyhow::{Result, ensure};
use slb_tests::{
    World,
    net::{Family, run},
    scenario,
    server::Service,
};

#[test]
fn detach_leaves_nothing() {
    scenario("detach_leaves_nothing", &[50, 50], |world| {
        ensure!(programs(world)? == 0, "a program is attached before the start");
        world.start()?;
        let target = world.vip(Family::V4, Service::Http);
        world.client().exchange(Service::Http, target)?;
        ensure!(programs(world)? == world.net.interfaces().len(), "{} programs", programs(world)?);
        world.terminate()?;
        world.client().exchange(Service::Http, target)?;

        world.detach()?;
        ensure!(programs(world)? == 0, "a program is still attached");
        ensure!(!world.plan.pin_dir.exists(), "{} still exists", world.plan.pin_dir.display());
        ensure!(world.status_from_pins().is_err(), "there is still a status");
        ensure!(world.client().exchange(Service::Http, target).is_err(), "somebody still forwards");

        // Once more is no error, and a start after it is like the first.
        world.detach()?;
        world.start()?;
        world.client().exchange(Service::Http, target).map(drop)
    });
}

/// Interfaces of the load balancer with an XDP program in the driver.
fn programs(world: &World) -> Result<usize> {
    let output = run(Command::new("ip").args(["-n", world.net.slb.name(), "-json", "link", "show"]), "")?;
    let links: Vec<serde_json::Value> = serde_json::from_str(&output)?;
    let modes: Vec<_> = links.iter().filter_map(|link| link.pointer("/xdp/mode")?.as_u64()).collect();
    // `ip` calls driver mode 1, generic mode 2; 0 is none.
    ensure!(modes.iter().all(|mode| *mode <= 1), "not in the driver: {output}");
    Ok(modes.iter().filter(|mode| **mode == 1).count())
}
