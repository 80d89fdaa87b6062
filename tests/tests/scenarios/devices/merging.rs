//! GRO is off on the ports of a bridge with generic XDP while SLB forwards there, and on again afterwards.

use std::{fs, net::IpAddr};

use anyhow::{Result, ensure};
use slb_tests::{
    World,
    client::{Direction, PATIENCE},
    config::PlannedServer,
    net::{Family, run},
    scenario,
    server::Service,
    wait::wait_for,
};

use super::{GUEST, WEIGHTS, automatic, behind_a_bridge, works};

const BYTES: u64 = 8 * 1024 * 1024 + 7;

/// SLB switches it off at the start and whenever it is switched on. A detach restores it, also after a restart.
#[test]
fn gro_is_off_on_bridge_ports_while_slb_forwards() {
    scenario!(&WEIGHTS, |world| {
        merging_below_a_bridge(world)?;
        world.start()?;
        ensure!(is_off(world)?, "frames are merged");
        let said = world.slb(&["status"])?;
        ensure!(
            said.contains("interface br0: XDP generic") && said.contains("merging switched off: b2 (rx-gro)"),
            "{said}"
        );
        gro(world, "on")?;
        wait_for("frames that are not merged", PATIENCE, || Ok(is_off(world)?.then_some(())))?;
        for direction in [Direction::Upload, Direction::Download] {
            world.client().bulk(world.vip(Family::V4, Service::Bulk), direction, BYTES, 4)?;
        }
        world.restart()?;
        works(world)?;
        let said = world.slb(&["status"])?;
        ensure!(said.contains("merging switched off: b2 (rx-gro)"), "a restart forgets it: {said}");
        // The interface temporarily has another name.
        world.net.slb.ip("link set b2 name w2")?;
        wait_for("the new name in the status", PATIENCE, || {
            Ok(world.slb(&["status"])?.contains("merging switched off: w2 (rx-gro)").then_some(()))
        })?;
        world.net.slb.ip("link set w2 name b2")?;
        // The interface temporarily leaves the bridge.
        world.net.slb.ip("link set b2 nomaster")?;
        on_again(world, "the interface has left the bridge")?;
        world.net.slb.ip("link set b2 master br0")?;
        wait_for("frames that are not merged", PATIENCE, || Ok(is_off(world)?.then_some(())))?;
        world.terminate()?;
        // With VIPs on `lo`, `slbd detach` refuses.
        world.net.slb.ip("addr flush dev lo")?;
        world.detach()?;
        ensure!(!is_off(world)?, "SLB has switched it off");
        Ok(())
    });
}

#[test]
fn aborted_first_start_restores_gro() {
    scenario!(&WEIGHTS, |world| {
        merging_below_a_bridge(world)?;
        // A start waits for the next hop of a server that does not exist.
        let absent = IpAddr::from([10, 90, 1, 99]);
        world.plan.servers.push(PlannedServer { name: "b9".to_owned(), addresses: vec![absent], weight: 50 });
        let good = world.plan.state_dir.clone();
        let instead = "ethtool -K b2 rx-gro on";
        for (state_dir, says, says_not) in [
            (good.clone(), "`slbd detach` switches it on again", instead),
            // A regular file cannot contain a directory.
            (world.plan.socket.with_extension("file").join("state"), instead, "`slbd detach` switches"),
        ] {
            fs::write(world.plan.socket.with_extension("file"), "")?;
            let before = world.log().len();
            world.plan.state_dir = state_dir;
            world.start_without_waiting()?;
            wait_for("merging that is off", PATIENCE, || Ok(is_off(world)?.then_some(())))?;
            world.terminate()?;
            let log = world.log().split_off(before);
            ensure!(log.contains("stopped before the start was complete"), "{log}");
            ensure!(!world.plan.pin_dir.exists(), "a start that ended early left its pins");
            ensure!(!is_off(world)?, "merging stays off: {log}");
            ensure!(log.contains(says) && !log.contains(says_not), "{log}");
            ensure!(log.contains("b2: switched on again: rx-gro"), "{log}");
        }
        ensure!(!good.join("interfaces.json").exists(), "a start that ended early left its record");
        Ok(())
    });
}

#[test]
fn removing_an_interface_restores_gro() {
    scenario!(&WEIGHTS, |world| {
        merging_below_a_bridge(world)?;
        world.start()?;
        let (all, with_bridge) = (world.plan.toml(), world.write_other(&world.plan.toml())?);
        world.plan.interfaces.retain(|name| name != "br0");
        world.plan.servers.truncate(GUEST);
        ensure!(is_off(world)?, "frames are merged");
        world.reload()?;
        on_again(world, "a reload without the interface")?;

        // Commit-confirmed with the bridge, and rolled back; 8 s suffice for a check in between.
        world.slb(&["apply", &with_bridge, "--confirm-within", "8s"])?;
        ensure!(is_off(world)?, "frames are merged");
        world.wait_for_log("not confirmed: rolled back to the previous configuration", 0)?;
        on_again(world, "a roll back to a configuration without the interface")?;

        // The pins vanish with their directory, so there is nothing to detach.
        world.write(&all)?;
        world.slb(&["reload"])?;
        ensure!(is_off(world)?, "frames are merged");
        world.terminate()?;
        fs::remove_dir_all(&world.plan.pin_dir)?;
        world.slbd("detach", &all)?;
        on_again(world, "`slbd detach` without pins")
    });
}

fn merging_below_a_bridge(world: &mut World) -> Result<()> {
    automatic(world);
    behind_a_bridge(world)?;
    gro(world, "on")
}

fn gro(world: &World, value: &str) -> Result<()> {
    run(world.net.slb.command("ethtool").args(["-K", "b2", "gro", value]), "").map(drop)
}

fn is_off(world: &World) -> Result<bool> {
    let features = run(world.net.slb.command("ethtool").args(["-k", "b2"]), "")?;
    Ok(features.contains("generic-receive-offload: off"))
}

fn on_again(world: &World, after: &str) -> Result<()> {
    let on = wait_for("merging that is on again", PATIENCE, || Ok((!is_off(world)?).then_some(())));
    ensure!(on.is_ok(), "merging stays off after {after}");
    Ok(())
}
