//! Drain deadlines and idle timeouts: connections are reset at both ends in time, and no others.

use std::time::Duration;

use anyhow::{Result, ensure};
use slb_api::types::ApiHealth;
use slb_tests::{
    World,
    client::{BrokenConnection, LongLived},
    config::{Group, Listener, Plan, Target},
    net::Family,
    scenario,
    server::Service,
    wait::wait_for,
};

const WEIGHTS: [u8; 3] = [50, 30, 20];
/// Connections per family, idle and active ones each.
const CONNECTIONS: usize = 24;
/// The server that drains.
const DRAINED: &str = "b1";
/// Drain time; deadlines are in whole seconds.
const DRAIN: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
/// How long it may take after the deadline until both ends have received a RST.
const RST_TIMEOUT: Duration = Duration::from_secs(20);

/// Port of the servers of long-lived connections.
const PORT: u16 = Service::Lines.backend_port();
/// Port of the second listener with the same servers.
const TWIN: u16 = 7998;
/// The group that one of the two listeners gets, and the weight of each of its servers.
const MOVED: &str = "moved";
const MOVED_WEIGHT: u8 = 100;

/// Fields of a log line about a server of the long-lived connections' listener.
const OF_LINES: [&str; 3] = ["load_balancer=\"shop\"", "listener=\"lines\"", "check=\"http\""];

#[test]
fn removal_without_drain_resets_connections_at_both_ends() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let watched = DrainedConnections::open(world, true)?;
        world.plan.servers.remove(0);
        world.restart()?;
        watched.end_at_both_ends(world, 0)
    });
}

#[test]
fn drain_of_removed_server_resets_both_ends_at_deadline() {
    scenario!(&WEIGHTS, |world| {
        world.plan.drain_timeout = Some("10s");
        drains(world, true, |world| {
            world.plan.servers.remove(0);
            Ok(())
        })
    });
}

#[test]
fn drain_of_weight_zero_server_resets_both_ends_at_deadline() {
    scenario!(&WEIGHTS, |world| {
        world.plan.drain_timeout = Some("10s");
        drains(world, true, |world| {
            world.plan.servers[0].weight = 0;
            Ok(())
        })
    });
}

#[test]
fn drain_of_disabled_server_resets_both_ends_at_deadline() {
    scenario!(&WEIGHTS, |world| {
        world.plan.drain_timeout = Some("10s");
        drains(world, true, |world| {
            let addresses = world.plan.servers[0].addresses.iter().map(ToString::to_string);
            let addresses = addresses.collect::<Vec<_>>();
            let order = ["server", "disable", "--default-group", "shop"];
            let arguments: Vec<_> = order.into_iter().chain(addresses.iter().map(String::as_str)).collect();
            world.slb(&arguments).map(drop)
        })
    });
}

/// The server fails its check, and its connections go on until the deadline.
#[test]
fn drain_of_unhealthy_server_resets_both_ends_at_deadline() {
    scenario!(&WEIGHTS, |world| {
        world.plan.drain_timeout = Some("10s");
        world.plan.checks.insert(Service::Lines, "kind = \"http\", port = 8080, path = \"/healthz\"");
        drains(world, true, |world| {
            world.behaviour(0).set_status(503);
            world.wait_for_health_of(Service::Lines, 0, ApiHealth::Unhealthy)?;
            world.wait_for_line(
                &[&["drain: the server receives no new connections", "left=10s"], &OF_LINES[..]].concat(),
            )
        })?;
        world
            .wait_for_line(&[&["drain is over: connections that are left are reset"], &OF_LINES[..]].concat())
    });
}

#[test]
fn drain_ended_before_deadline_keeps_connections() {
    scenario!(&WEIGHTS, |world| {
        world.plan.drain_timeout = Some("10s");
        world.start()?;
        let watched = DrainedConnections::open(world, true)?;
        let begun = watched.talking[0].age();
        world.plan.servers[0].weight = 0;
        world.restart()?;
        world.plan.servers[0].weight = WEIGHTS[0];
        world.restart()?;
        wait_for("the time that it would have drained", 3 * DRAIN, || {
            Ok((watched.talking[0].age() > begun + DRAIN + 2 * SECOND).then_some(()))
        })?;
        watched.all().try_for_each(|connections| connections.expect_unbroken(None))
    });
}

/// Adds a listener with the same server table before the long-lived connections' one.
fn add_twin(plan: &mut Plan) {
    let lines = plan.service_listener(Service::Lines);
    plan.additional_listeners = vec![Listener { name: "twin".to_owned(), port: TWIN, ..lines }];
}

/// Adds a server group `moved` with all servers except the first `without` ones. Returns it as a target.
fn add_moved_group(plan: &mut Plan, without: usize) -> Target {
    let servers = plan.servers[without..].iter().flat_map(|server| server.entries(PORT));
    let servers = servers.map(|(at, _)| (at, MOVED_WEIGHT)).collect();
    plan.groups.push(Group { name: MOVED.to_owned(), servers, ..Group::default() });
    Target::Group(MOVED.to_owned())
}

/// Two listeners share a server table. One gets another group, and thereby its own table; its connections move with it.
#[test]
fn connections_drain_with_new_group_after_table_split() {
    scenario!(&WEIGHTS, |world| {
        world.plan.drain_timeout = Some("10s");
        add_twin(&mut world.plan);
        world.start()?;
        let watched = DrainedConnections::open(world, true)?;
        let moved = add_moved_group(&mut world.plan, 0);
        world.plan.listeners.entry(Service::Lines).or_default().target = Some(moved);
        world.reload()?;
        watched.talking.iter().try_for_each(|talking| talking.progress(5))?;
        let leaves: Vec<_> = world.plan.servers[0].entries(PORT).map(|(at, _)| at.to_string()).collect();
        let arguments: Vec<_> =
            ["server", "drain", MOVED].into_iter().chain(leaves.iter().map(String::as_str)).collect();
        world.slb(&arguments)?;
        watched.end_at_both_ends(world, 0)
    });
}

/// The first of two listeners with a shared table gets a group without one of the servers, and no drain. It keeps the
/// table, and that server's connections through the other listener go on.
#[test]
fn removing_server_from_listener_keeps_connections_of_others() {
    scenario!(&WEIGHTS, |world| {
        add_twin(&mut world.plan);
        world.start()?;
        let watched = DrainedConnections::open(world, true)?;
        let moved = add_moved_group(&mut world.plan, 1);
        world.plan.additional_listeners[0].target = moved;
        let said = world.reload()?;
        ensure!(said.contains("twin"), "{said}");
        let begun = watched.talking[0].age();
        wait_for("the time after which no end receives a RST", 3 * DRAIN + RST_TIMEOUT, || {
            Ok((watched.talking[0].age() > begun + DRAIN + RST_TIMEOUT).then_some(()))
        })?;
        watched.talking.iter().try_for_each(|talking| talking.progress(5))?;
        watched.all().try_for_each(|connections| connections.expect_unbroken(None))
    });
}

#[test]
fn idle_timeout_resets_connections_at_both_ends() {
    scenario!(&WEIGHTS, |world| {
        world.plan.established_timeout = Some("10s");
        world.start()?;
        let watched = DrainedConnections::open(world, true)?;
        wait_for("the end of silent connections", DRAIN + RST_TIMEOUT, || {
            Ok(watched.silent.iter().all(|silent| silent.alive().is_empty()).then_some(()))
        })?;
        for silent in &watched.silent {
            silent.breaks().iter().try_for_each(|broken| is_reset(broken, DRAIN))?;
        }
        let silent = 2 * CONNECTIONS;
        wait_for("the servers' end of silent connections", RST_TIMEOUT, || {
            Ok(((0..WEIGHTS.len()).map(|server| world.resets(server)).sum::<usize>() == silent).then_some(()))
        })?;
        watched.talking.iter().try_for_each(|talking| talking.expect_unbroken(None))
    });
}

/// Another daemon takes over during the drain. `silent`: whether idle connections must receive RSTs too.
pub(super) fn drains(world: &mut World, silent: bool, leave: fn(&mut World) -> Result<()>) -> Result<()> {
    world.start()?;
    let watched = DrainedConnections::open(world, silent)?;
    let begun: Vec<_> = watched.all().map(LongLived::age).collect();
    leave(world)?;
    world.restart()?;
    watched.talking.iter().try_for_each(|talking| talking.progress(5))?;
    world.restart()?;
    watched.end_at_both_ends(world, 0)?;
    for (connections, begun) in watched.all().zip(begun) {
        let breaks = connections.breaks();
        breaks.iter().try_for_each(|broken| is_reset(broken, begun + DRAIN - SECOND))?;
    }
    Ok(())
}

/// A broken connection was reset, and not before this age.
fn is_reset(broken: &BrokenConnection, not_before: Duration) -> Result<()> {
    ensure!(broken.error.contains("reset by peer"), "{broken}");
    ensure!(broken.at_ms >= not_before.as_millis(), "{broken}, and not after {not_before:?}");
    Ok(())
}

/// Connections of both families.
struct DrainedConnections {
    talking: Vec<LongLived>,
    silent: Vec<LongLived>,
}

impl DrainedConnections {
    fn open(world: &World, silent: bool) -> Result<Self> {
        let open = |silent: bool| {
            let open = |family| {
                let target = world.vip(family, Service::Lines);
                let client = world.client();
                if silent {
                    client.silent(target, CONNECTIONS)
                } else {
                    client.long_lived(target, CONNECTIONS)
                }
            };
            Family::ALL.into_iter().map(open).collect::<Result<Vec<_>>>()
        };
        let watched = Self { talking: open(false)?, silent: if silent { open(true)? } else { Vec::new() } };
        ensure!(
            watched.all().all(|connections| connections.alive_with(DRAINED) > 0),
            "no connection to watch"
        );
        Ok(watched)
    }

    fn all(&self) -> impl Iterator<Item = &LongLived> {
        self.talking.iter().chain(&self.silent)
    }

    /// Checks that all connections of server `index` are reset at both ends, and no others.
    fn end_at_both_ends(&self, world: &World, index: usize) -> Result<()> {
        wait_for("the end of its connections", DRAIN + RST_TIMEOUT, || {
            Ok(self.all().all(|connections| connections.alive_with(DRAINED) == 0).then_some(()))
        })?;
        for connections in self.all() {
            connections.expect_unbroken(Some(DRAINED))?;
            connections.breaks().iter().try_for_each(|broken| is_reset(broken, Duration::ZERO))?;
        }
        let broken: usize = self.all().map(|connections| connections.breaks().len()).sum();
        wait_for("the server's end of its connections", RST_TIMEOUT, || {
            Ok((world.resets(index) == broken).then_some(()))
        })
    }
}
