//! Interfaces are added, removed, deleted and recreated without an effect on the others.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use slb_api::types::ApiHealth;
use slb_tests::{
    World,
    client::PATIENCE,
    daemon::servers,
    scenario,
    traffic::{Traffic, spreads},
    wait::wait_for,
};

use crate::reload::without_new_flows;

const WEIGHTS: [u8; 3] = [50, 30, 20];
const EXCHANGES: u64 = 600;
const LONG_LIVED: usize = 12;
const PROGRESS: u64 = 50;
/// The backend whose interface is removed; no watched connection uses it.
const GUEST: usize = 2;
/// Time within which a recreated interface runs the program.
const BACK: Duration = Duration::from_secs(1);

/// A renamed interface keeps index, program and addresses in the kernel. The configuration may use an alternative name.
#[test]
fn renamed_interface_keeps_forwarding_and_altnames_are_accepted() {
    scenario!(&[50, 50], |world| {
        world.start()?;
        let slb = world.net.slb.clone();
        for (from, to) in [("client0", "uplink"), ("b1", "srv1")] {
            slb.ip(&format!("link set dev {from} name {to}"))?;
            world.wait_for_log(&format!("now=\"{to}\""), 0)?;
        }
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        let status = world.status()?;
        ensure!(status.daemon.is_some_and(|daemon| daemon.interfaces_without.is_empty()), "none is missing");
        ensure!(
            status.interfaces.iter().any(|interface| interface.name == "srv1"),
            "{:?}",
            status.interfaces
        );

        // The configuration still has the old names; `srv1` is renamed once more while no daemon runs.
        let (kept, traffic) = (world.programs()?.len(), Traffic::start(world, LONG_LIVED)?);
        world.terminate()?;
        slb.ip("link set dev srv1 name srv9")?;
        let status = world.start()?;
        ensure!(world.programs()?.len() == kept, "{:?}", world.programs()?);
        ensure!(status.daemon.is_some_and(|daemon| daemon.interfaces_without.is_empty()), "none is missing");
        let log = world.log();
        ensure!(log.contains("interface=\"b1\" now=\"srv9\"") && log.contains("altname b1"), "{log}");
        let said = world.reload()?;
        ensure!(!said.contains("there is no interface"), "{said}");
        traffic.progress(PROGRESS)?;
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()?;
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        slb.ip("link set dev srv9 name srv1")?;

        slb.ip("link property add dev uplink altname a0\nlink property add dev srv1 altname z0")?;
        for (from, to) in [("client0", "a0"), ("b1", "z0")] {
            for name in &mut world.plan.interfaces {
                if name == from {
                    to.clone_into(name);
                }
            }
        }
        let programs = world.programs()?;
        let said = world.reload()?;
        ensure!(said.contains("interface a0 added") && said.contains("interface b1 removed"), "{said}");
        ensure!(!said.contains("warning"), "{said}");
        ensure!(world.programs()? == programs, "{:?} after {programs:?}", world.programs()?);
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        world.restart()?;
        spreads(world, &world.plan.weights(), EXCHANGES)
    });
}

#[test]
fn interfaces_are_added_and_removed_by_a_reload() {
    scenario!(&WEIGHTS, |world| {
        let guest = world.plan.servers.remove(GUEST);
        let interface = world.plan.interfaces.pop().expect("there are interfaces");
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        let programs = world.programs()?;
        ensure!(!programs.contains_key(&interface), "{programs:?}");
        for _ in 0..2 {
            world.plan.servers.push(guest.clone());
            world.plan.interfaces.push(interface.clone());
            let said = world.reload()?;
            ensure!(said.contains(&format!("daemon: interface {interface} added")), "{said}");
            let mut now = world.programs()?;
            ensure!(now.remove(&interface).is_some() && now == programs, "{now:?} after {programs:?}");
            serves(world)?;

            without_new_flows(world, GUEST)?;
            world.plan.servers.pop();
            world.plan.interfaces.pop();
            let said = world.reload()?;
            ensure!(said.contains(&format!("daemon: interface {interface} removed")), "{said}");
            wait_for("an interface without the program", PATIENCE, || {
                Ok((world.programs()? == programs).then_some(()))
            })?;
            spreads(world, &world.plan.weights(), EXCHANGES)?;
        }
        // The status names a server whose interface is not configured.
        world.plan.servers.push(guest.clone());
        world.reload()?;
        let why = format!(
            "gets no packets: it is reached through {interface}, which is not in [daemon] interfaces"
        );
        ensure!(world.slb(&["status"])?.contains(&why), "{}", world.slb(&["status"])?);
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()
    });
}

#[test]
fn recreated_interface_is_attached_again() {
    slb_tests::scenario_alone!(&WEIGHTS, |world| {
        let guest = world.plan.servers.remove(GUEST);
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        world.plan.servers.push(guest.clone());
        world.reload()?;
        let programs = world.programs()?;
        for _ in 0..3 {
            gone(world)?;
            let started = Instant::now();
            traffic.progress(PROGRESS)?;
            traffic
                .so_far()
                .failures_since(started)
                .next()
                .map_or(Ok(()), |failure| Err(anyhow::anyhow!("{failure}: after the interface was gone")))?;
            world.net.plug(GUEST)?;
            let back = Instant::now();
            wait_for("the program on the interface", PATIENCE, || {
                Ok(world.programs()?.contains_key(&guest.name).then_some(()))
            })?;
            println!("attached {} ms after the interface was ready", back.elapsed().as_millis());
            ensure!(back.elapsed() <= BACK, "attached only after {:?}", back.elapsed());
            serves(world)?;
            let mut now = world.programs()?;
            ensure!(now.insert(guest.name.clone(), programs[&guest.name]).is_some(), "{now:?}");
            ensure!(now == programs, "{now:?} after {programs:?}");
        }
        traffic.expect_unbroken(None)?;
        drop(traffic.stop());
        Ok(())
    });
}

#[test]
fn recreated_interface_is_attached_once_other_program_leaves() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        gone(world)?;
        let occupant = world.net.plug_occupied(GUEST)?;
        world.wait_for_log("another XDP program is on the interface", 0)?;
        ensure!(world.log().contains("cannot attach to b3 (it runs program "), "{}", world.log());
        wait_for("a reason", PATIENCE, || {
            Ok(world.slb(&["status"])?.contains("which does not forward: cannot attach to b3").then_some(()))
        })?;
        drop(occupant);
        let free = Instant::now();
        attached(world, "b3")?;
        println!("attached {} ms after the interface was free", free.elapsed().as_millis());
        serves(world)
    });
}

#[test]
fn interface_with_another_program_does_not_block_rollback() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let mut without = world.plan.clone();
        without.interfaces.retain(|name| name != "b3");
        without.servers.remove(GUEST);
        let without = world.write_other(&without.toml())?;
        world.slb(&["apply", &without, "--confirm-within", "6s"])?;
        world.net.unplug(GUEST)?;
        let occupant = world.net.plug_occupied(GUEST)?;
        world.wait_for_log("not confirmed: rolled back to the previous configuration", 0)?;
        wait_for("a reason", PATIENCE, || {
            Ok(world.slb(&["status"])?.contains("which does not forward: cannot attach to b3").then_some(()))
        })?;
        drop(occupant);
        attached(world, "b3")?;
        serves(world)
    });
}

/// Interfaces may appear after the daemon has started.
#[test]
fn interface_missing_at_start_is_attached_when_it_appears() {
    scenario!(&WEIGHTS, |world| {
        world.net.unplug(GUEST)?;
        world.start_without_waiting()?;
        world.wait_for_log("there is no such interface yet: attached when it appears", 0)?;
        for index in 0..GUEST {
            wait_for("a daemon", PATIENCE, || Ok(world.status().is_ok().then_some(())))?;
            world.wait_for_health(index, ApiHealth::Healthy)?;
        }
        let status = world.slb(&["status"])?;
        ensure!(status.contains("interface b3: missing; attached when it appears"), "{status}");
        // The other servers serve meanwhile.
        let others = world.plan.weights();
        spreads(world, &others[..GUEST], EXCHANGES)?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        world.net.plug(GUEST)?;
        attached(world, "b3")?;
        serves(world)?;
        ensure!(!world.slb(&["status"])?.contains("missing"), "{}", world.slb(&["status"])?);
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()
    });
}

/// A reload too may name an interface that does not exist yet.
#[test]
fn interface_missing_at_reload_is_attached_when_it_appears() {
    scenario!(&WEIGHTS, |world| {
        let guest = world.plan.servers.remove(GUEST);
        let interface = world.plan.interfaces.pop().expect("there are interfaces");
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        world.net.unplug(GUEST)?;
        world.plan.servers.push(guest);
        world.plan.interfaces.push(interface.clone());
        world.write(&world.plan.toml())?;
        let warning = format!("warning: there is no interface {interface} yet: attached when it appears");
        for command in ["diff", "reload", "reload"] {
            let said = world.slb_warns(&[command])?;
            ensure!(said.contains(&warning), "{command}: {said}");
        }
        world.wait_for_log("there is no such interface yet: attached when it appears", 0)?;
        let status = world.slb(&["status"])?;
        let missing = format!("interface {interface}: missing; attached when it appears");
        ensure!(status.contains(&missing), "{status}");
        let others = world.plan.weights();
        spreads(world, &others[..GUEST], EXCHANGES)?;
        world.net.plug(GUEST)?;
        attached(world, &interface)?;
        serves(world)?;
        ensure!(!world.slb(&["status"])?.contains("missing"), "{}", world.slb(&["status"])?);
        ensure!(!world.slb_warns(&["reload"])?.contains("warning"), "a warning of what is there");
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()
    });
}

/// While all interfaces are missing, other settings may change. The interfaces may not be replaced by other missing
/// ones.
#[test]
fn reload_requires_an_interface_only_if_interfaces_change() {
    scenario!(&WEIGHTS, |world| {
        let all = world.plan.interfaces.clone();
        let interface = all.last().expect("there are interfaces").clone();
        world.plan.interfaces = vec![interface.clone()];
        world.plan.servers = vec![world.plan.servers[GUEST].clone()];
        world.start()?;
        world.net.unplug(GUEST)?;
        wait_for("an interface that is gone", PATIENCE, || {
            Ok(world.status()?.interfaces.is_empty().then_some(()))
        })?;
        world.plan.servers[0].weight = 1;
        let said = world.reload()?;
        ensure!(said.contains("-> 1"), "{said}");
        world.plan.interfaces = vec!["absent0".to_owned(), interface];
        world.write(&world.plan.toml())?;
        let said = world.slb_refused(&["reload"])?;
        ensure!(said.contains("no interface absent0; there are: "), "{said}");
        world.plan.interfaces = all;
        let said = world.reload()?;
        ensure!(said.contains("daemon: interface b1 added"), "{said}");
        Ok(())
    });
}

/// Deletes the guest's interface, and waits until its servers have lost their next hops.
fn gone(world: &World) -> Result<()> {
    world.net.unplug(GUEST)?;
    let guest = &world.plan.servers[GUEST];
    wait_for("a server without a next hop", PATIENCE, || {
        let status = world.status()?;
        let mut of_it = servers(&status).filter(|server| guest.addresses.contains(&server.address.ip()));
        let lost =
            of_it.all(|server| server.next_hop.is_none() && server.detail.is_some() && server.slots == 0);
        Ok((lost && status.interfaces.iter().all(|interface| interface.name != guest.name)).then_some(()))
    })
}

fn attached(world: &World, interface: &str) -> Result<()> {
    wait_for("the program on the interface", PATIENCE, || {
        let status = world.status()?;
        Ok(status.interfaces.iter().any(|attached| attached.name == interface).then_some(()))
    })
}

/// Waits until the guest serves its share again.
fn serves(world: &World) -> Result<()> {
    world.wait_for_health(GUEST, ApiHealth::Healthy)?;
    let guest = &world.plan.servers[GUEST];
    wait_for("a next hop for each server", PATIENCE, || {
        let status = world.status()?;
        let mut of_it = servers(&status).filter(|server| guest.addresses.contains(&server.address.ip()));
        Ok(of_it.all(|server| server.next_hop.is_some() && server.slots > 0).then_some(()))
    })?;
    spreads(world, &world.plan.weights(), EXCHANGES)
}
