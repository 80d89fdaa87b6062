//! Servers with slow checks. The servers that they replace serve until they have a result; after a first start they
//! serve without one.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use slb_api::types::{ApiHealth, ApiPendingChange};
use slb_tests::{
    World,
    client::{Load, PATIENCE},
    daemon::servers,
    net::Family,
    scenario,
    server::Service,
    wait::wait_for,
};

/// Time until a health page answers; below the check's timeout.
const SLOW: Duration = Duration::from_secs(3);
/// The same for the first start, where a busy machine needs seconds until it forwards.
const SLOWEST: Duration = Duration::from_secs(7);
/// Concurrent exchanges.
const CONCURRENCY: usize = 2;
/// Exchanges between two changes.
const PROGRESS: u64 = 50;

#[test]
fn replaced_servers_serve_until_new_servers_are_checked() {
    scenario!(&[50, 50], |world| {
        prepare(world);
        let second = world.plan.servers.remove(1);
        first_start(world)?;
        let loads = Family::ALL.map(|family| {
            let vip = world.vip(family, Service::Http);
            world.client().load(Service::Http, vip, u64::MAX, CONCURRENCY)
        });
        progress(&loads)?;
        let dropped = world.packets("drop", None)?;

        let first = world.plan.servers[0].clone();
        let (mut other, mut back) = (world.plan.clone(), world.plan.clone());
        other.servers = vec![second];
        back.servers = vec![first];
        world.plan.servers = other.servers.clone();
        world.write(&world.plan.toml())?;
        replaced(world)?;
        progress(&loads)?;
        ensure!(world.packets("drop", None)? == dropped, "reload: {:?}", world.status()?.reasons);

        // Commit-confirmed and rolled back: the previous servers have been checked all the time.
        let path = world.write_other(&back.toml())?;
        let said = world.slb(&["apply", &path, "--confirm-within", "1s"])?;
        ensure!(said.contains("for servers that replace healthy ones: 10."), "{said}");
        world.wait_for_log("not confirmed: rolled back to the previous configuration", 0)?;
        ensure!(world.status()?.daemon.context("no daemon")?.configuration.difference.is_none());
        progress(&loads)?;
        ensure!(world.packets("drop", None)? == dropped, "apply: {:?}", world.status()?.reasons);

        // At the next start the file names other servers. A start may be ended while it waits for them.
        world.plan.servers = back.servers;
        world.terminate()?;
        waits_at_start(world)?;
        world.terminate()?;
        waits_at_start(world)?;
        wait_for("the end of the start", PATIENCE, || Ok(pending(world)?.is_none().then_some(())))?;
        progress(&loads)?;
        ensure!(world.packets("drop", None)? == dropped, "restart: {:?}", world.status()?.reasons);
        for load in loads {
            load.stop_new();
            load.finish().expect_no_failure()?;
        }
        Ok(())
    });
}

/// Health pages answer slowly, and checks wait long enough.
fn prepare(world: &mut World) {
    world.plan.checks.insert(Service::Http, "kind = \"http\", path = \"/healthz\"");
    world.plan.check_timeout = Duration::from_secs(8);
    set_delay(world, SLOWEST);
}

fn set_delay(world: &World, delay: Duration) {
    (0..2).for_each(|index| world.behaviour(index).set_delay(delay));
}

/// Servers receive traffic before the first check result.
fn first_start(world: &mut World) -> Result<()> {
    world.start_without_waiting()?;
    // On a busy machine, loading the program alone takes seconds.
    wait_for("a daemon", 3 * PATIENCE, || Ok(world.status().is_ok().then_some(())))?;
    for family in Family::ALL {
        world.client().exchange(Service::Http, world.vip(family, Service::Http))?;
    }
    let status = world.status()?;
    ensure!(
        servers(&status).any(|server| server.health == ApiHealth::Unknown),
        "served too late: {status:?}"
    );
    world.wait_for_health_of(Service::Http, 0, ApiHealth::Healthy)?;
    set_delay(world, SLOW);
    Ok(())
}

/// Two reloads of the same file are answered together, while the event loop goes on.
fn replaced(world: &World) -> Result<()> {
    thread::scope(|scope| {
        let reloads = [(); 2].map(|()| scope.spawn(|| world.slb(&["reload"])));
        let ApiPendingChange { change, at_most_seconds, .. } =
            wait_for("a reload that waits", PATIENCE, || {
                // In the first second the reload waits for everything that is new.
                Ok(pending(world)?.filter(|pending| only_http(&pending.waits_for)))
            })?;
        ensure!(change == "reload" && (1..=9).contains(&at_most_seconds), "{change} {at_most_seconds}");
        let said = world.slb(&["diff"])?;
        ensure!(said.contains("removed"), "{said}");
        let said = world.slb(&["status"])?;
        ensure!(said.contains("reload waits for "), "{said}");
        for reload in reloads {
            let said = reload.join().expect("no panic")?;
            ensure!(
                said.contains(" added") && said.contains("for servers that replace healthy ones: 10."),
                "{said}"
            );
        }
        Ok(())
    })
}

fn only_http(waits_for: &[String]) -> bool {
    !waits_for.is_empty() && waits_for.iter().all(|server| server.contains(" (http check, timeout 8s)"))
}

/// A start that waits for servers is shown in the status. Until it is complete, the state of the earlier run stays
/// active.
fn waits_at_start(world: &mut World) -> Result<()> {
    world.start_without_waiting()?;
    let status = wait_for("a daemon", 3 * PATIENCE, || Ok(world.status().ok()))?;
    let pending = status.daemon.as_ref().and_then(|daemon| daemon.configuration.pending.as_ref());
    let pending = pending.context("the start waits for nothing")?;
    ensure!(pending.change == "start" && !pending.waits_for.is_empty(), "{pending:?}");
    ensure!(servers(&status).all(|server| server.health == ApiHealth::Healthy), "{status:?}");
    Ok(())
}

fn pending(world: &World) -> Result<Option<ApiPendingChange>> {
    Ok(world.status()?.daemon.context("no daemon")?.configuration.pending)
}

fn progress(loads: &[Load]) -> Result<()> {
    let goals: Vec<_> = loads.iter().map(|load| load.done() + PROGRESS).collect();
    wait_for("progress of every load", PATIENCE, || {
        Ok(loads.iter().zip(&goals).all(|(load, goal)| load.done() >= *goal).then_some(()))
    })
}
