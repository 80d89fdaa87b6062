//! Messages of the daemon to systemd.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::{
        signal::{Signal, kill},
        time::TimeValLike as _,
    },
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use slb_tests::{World, net::Family, scenario, server::Service, world::ServiceManager};

const WEIGHTS: [u8; 2] = [50, 50];
/// Interval of the watchdog.
const WATCHDOG: Duration = Duration::from_secs(4);

#[test]
fn service_manager_receives_each_message() {
    scenario!(&WEIGHTS, |world| {
        world.run_unprivileged(&["bpf", "net_admin", "perfmon", "net_raw"])?;
        let manager = world.service_manager(WATCHDOG)?;
        world.start()?;
        let status = manager.wait_for("STATUS=")?;
        ensure!(status.starts_with("STATUS=listeners: "), "{status}");
        manager.wait_for("READY=1")?;

        reloads(world, &manager, "`slb reload`", |world| world.reload().map(drop))?;
        reloads(world, &manager, "SIGHUP", World::hang_up)?;
        world.write("[daemon]\n")?;
        reloads(world, &manager, "a refused file, SIGHUP", World::hang_up)?;
        ensure!(world.slb_refused(&["reload"]).is_ok(), "an empty file was applied");

        let backend = world.plan.servers.len() - 1;
        world.kill_servers(backend);
        let status = manager.wait_for("STATUS=")?;
        ensure!(status.contains("servers that receive new connections: "), "{status}");

        world.terminate()?;
        manager.wait_for("STOPPING=1").map(drop)
    });
}

/// Checks that RELOADING=1 with the time, and READY=1 follow a reload.
fn reloads(
    world: &mut World,
    manager: &ServiceManager,
    what: &str,
    reload: impl FnOnce(&World) -> Result<()>,
) -> Result<()> {
    let before = monotonic()?;
    reload(world).context(what.to_owned())?;
    let reloading = manager.wait_for("RELOADING=1").context(what.to_owned())?;
    let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    let time: i64 = time.with_context(|| format!("{what}: no time in {reloading}"))?.parse()?;
    ensure!((before..=monotonic()?).contains(&time), "{what}: {time} µs, before: {before} µs");
    manager.wait_for("READY=1").context(what.to_owned()).map(drop)
}

/// The monotonic clock, in microseconds.
fn monotonic() -> Result<i64> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.num_microseconds())
}

#[test]
fn watchdog_messages_come_while_the_event_loop_runs() {
    scenario!(&WEIGHTS, |world| {
        let manager = world.service_manager(WATCHDOG)?;
        world.start()?;
        manager.wait_for("READY=1")?;
        for _ in 0..3 {
            let begun = Instant::now();
            manager.wait_for("WATCHDOG=1")?;
            ensure!(begun.elapsed() < WATCHDOG, "{:?} without a message", begun.elapsed());
        }
        let pid = Pid::from_raw(world.daemon_pid().context("no daemon")?.try_into()?);
        kill(pid, Signal::SIGSTOP)?;
        manager.drain()?;
        ensure!(manager.next(WATCHDOG).is_err(), "a stopped daemon is alive");
        kill(pid, Signal::SIGCONT)?;
        manager.wait_for("WATCHDOG=1")?;
        world.terminate()
    });
}

/// A daemon whose socket does not exist says so once, and runs.
#[test]
fn missing_service_manager_stops_nothing() {
    scenario!(&WEIGHTS, |world| {
        drop(world.service_manager(WATCHDOG)?);
        world.start()?;
        world.wait_for_log("the service manager cannot be notified", 0)?;
        world.slb(&["reload"])?;
        let told = world.log().matches("the service manager cannot be notified").count();
        ensure!(told == 1, "told {told} times");
        world.terminate()
    });
}

/// The socket takes few messages that are not read. Then a sender blocks.
#[test]
fn service_manager_that_does_not_read_stops_nothing() {
    scenario!(&WEIGHTS, |world| {
        let manager = world.service_manager(Duration::from_millis(40))?;
        world.start()?;
        for round in 0..10 {
            world.plan.servers[0].weight = 1 + round;
            world.reload()?;
        }
        world.client().exchange(Service::Http, world.vip(Family::V4, Service::Http))?;
        world.terminate()?;
        ensure!(manager.drain()?.len() < 20, "all messages fit: the socket did not block");
        Ok(())
    });
}
