//! Interference with SLB's programs, links and pins is detected, logged and repaired; programs of others stay.

use std::{fs, process::Command, time::Duration};

use anyhow::{Result, ensure};
use slb_tests::{
    World,
    client::PATIENCE,
    net::{Family, run},
    scenario,
    server::Service,
    traffic::Traffic,
    wait::wait_for,
};

const WEIGHTS: [u8; 2] = [50, 50];
const EXCHANGES: u64 = 50;
const LONG_LIVED: usize = 6;
/// Time within which it is detected: one second, plus the delay of a loaded machine.
const DETECTION_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn detached_program_is_attached_again() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let programs = world.programs()?;
        for round in 0..2 {
            world.net.slb.on_thread(|| slb_tests::net::detach_link(&link(world, "b2")?))?;
            wait_for("the program on the interface", DETECTION_LIMIT, || {
                Ok((world.programs()? == programs).then_some(()))
            })?;
            world.wait_for_log("SLB's program was detached from the interface: attaching it again", round)?;
            works(world)?;
        }
        Ok(())
    });
}

/// A foreign program that has replaced SLB's stays until its owner removes it.
#[test]
fn foreign_program_in_place_of_slbs_is_reported_and_kept() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let programs = world.programs()?;
        let pin = link(world, "b2")?;
        let other = world.net.slb.on_thread(|| slb_tests::net::replace_with_pass(&pin, "b2"))?;
        let theirs = world.programs()?.get("b2").copied();
        ensure!(theirs.is_some() && theirs != programs.get("b2").copied(), "{theirs:?}");
        wait_for("a reason", DETECTION_LIMIT, || {
            let why = "interface b2: does not forward: cannot attach to b2 (it runs program ";
            Ok(world.slb(&["status"])?.contains(why).then_some(()))
        })?;
        world.wait_for_log("another XDP program is on the interface", 0)?;
        wait_for("a server without a next hop", PATIENCE, || {
            Ok(world.slb(&["status"])?.contains("gets no packets: it is reached through b2").then_some(()))
        })?;
        works(world)?;
        ensure!(world.programs()?.get("b2").copied() == theirs, "their program was taken off");
        drop(other);
        wait_for("the program on the interface", DETECTION_LIMIT, || {
            Ok((world.programs()? == programs).then_some(()))
        })?;
        works(world)
    });
}

#[test]
fn removed_pins_are_recreated() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        let programs = world.programs()?;
        let maps = link(world, "b2")?.with_file_name("../maps");
        for pin in [link(world, "b2")?, maps.join("FLOWS"), maps.join("CONTROL")] {
            fs::remove_file(&pin)?;
            wait_for("a pin", DETECTION_LIMIT, || Ok(pin.exists().then_some(())))?;
        }
        ensure!(world.log().contains("pins were gone: pinned again"));
        world.restart()?;
        ensure!(world.programs()?.keys().eq(programs.keys()), "{:?}", world.programs()?);
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()
    });
}

/// A lazily unmounted BPF file system lasts as long as the daemon; when it is mounted again, the daemon pins anew.
#[test]
fn pins_are_recreated_after_bpf_file_system_is_remounted() {
    scenario!(&WEIGHTS, |world| {
        let mount = world.mount_bpf()?;
        world.plan.pin_dir = mount.path().join("slb");
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        run(Command::new("umount").arg("-l").arg(mount.path()), "")?;
        wait_for("a reason", DETECTION_LIMIT, || {
            let said = world.slb(&["status"])?;
            Ok(said.contains("pins are missing, and forwarding ends with the daemon: ").then_some(()))
        })?;
        world.wait_for_log("pins are gone and cannot be made again: forwarding ends with the daemon", 0)?;
        mount.again()?;
        wait_for("the pins", DETECTION_LIMIT, || Ok(world.status_from_pins().is_ok().then_some(())))?;
        wait_for("no reason", DETECTION_LIMIT, || {
            Ok((!world.slb(&["status"])?.contains("pins are missing")).then_some(()))
        })?;
        world.restart()?;
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()
    });
}

/// Pin of the link to an interface.
fn link(world: &World, interface: &str) -> Result<std::path::PathBuf> {
    let status = world.status()?;
    let index =
        status.interfaces.iter().find(|attached| attached.name == interface).map(|attached| attached.index);
    let index = index.ok_or_else(|| anyhow::anyhow!("{interface} is not attached"))?;
    Ok(world.pins().join("links").join(index.to_string()))
}

fn works(world: &World) -> Result<()> {
    let target = world.vip(Family::V4, Service::Http);
    world.client().exchanges(Service::Http, target, EXCHANGES, 4).expect_no_failure()
}
