//! Failover between primary and secondary, pools without a healthy server, and stopped listeners.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use slb_api::types::{ApiHealth, ApiRunState, ApiServer};
use slb_tests::{
    World,
    client::PATIENCE,
    config::{Group, ListenerSettings, Pair, Target},
    net::Family,
    scenario,
    server::Service,
    wait::wait_for,
};

/// The IPv4 address and HTTP port of a backend.
fn server(world: &World, index: usize) -> SocketAddr {
    SocketAddr::new(world.net.backends[index].address(Family::V4), Service::Http.backend_port())
}

/// Waits until a new connection reaches this server.
fn serves(world: &World, name: &str) -> Result<()> {
    wait_for(&format!("{name} to serve"), PATIENCE, || {
        let reached = world.client().exchange(Service::Http, world.vip(Family::V4, Service::Http));
        Ok(reached.is_ok_and(|reached| reached == name).then_some(()))
    })
}

/// Fails unless new connections reach all of these servers and no other.
fn serve(world: &World, names: &[&str]) -> Result<()> {
    let target = world.vip(Family::V4, Service::Http);
    let batch = world.client().exchanges(Service::Http, target, 100, 4);
    batch.expect_no_failure()?;
    let reached: Vec<&str> = batch.tally.keys().map(String::as_str).collect();
    ensure!(reached == names, "{:?} in place of {names:?}", batch.tally);
    Ok(())
}

/// Settings of the HTTP listener.
fn http(world: &mut World) -> &mut ListenerSettings {
    world.plan.listeners.entry(Service::Http).or_default()
}

/// A server of the HTTP listener in the daemon's status.
fn reported(world: &World, index: usize) -> Result<ApiServer> {
    let address = world.net.backends[index].address(Family::V4);
    let status = world.status()?;
    let listeners = status.load_balancers.into_iter().flat_map(|balancer| balancer.listeners);
    let http = listeners.filter(|listener| listener.name == Service::Http.name());
    let mut servers = http.flat_map(|listener| listener.servers).filter(|s| s.address.ip() == address);
    Ok(servers.next().expect("the server is reported"))
}

#[test]
fn secondary_takes_over_and_primary_returns() {
    scenario!(&[100, 100], |world| {
        let (primary, secondary) = (server(world, 0), server(world, 1));
        world.plan.pairs.push(Pair { name: "pair".to_owned(), primary, secondary });
        http(world).target = Some(Target::Pair("pair".to_owned()));
        world.start()?;
        serve(world, &["b1"])?;
        ensure!(
            reported(world, 0)?.health == ApiHealth::Healthy
                && reported(world, 1)?.health == ApiHealth::Standby
        );
        world.kill_servers(0);
        serves(world, "b2")?;
        serve(world, &["b2"])?;
        ensure!(reported(world, 0)?.health == ApiHealth::Unhealthy);
        ensure!(reported(world, 1)?.health == ApiHealth::Unchecked, "the secondary is not checked");
        let users = [
            "load_balancer=\"shop\"",
            "listener=\"http\"",
            "server_group=\"pair\"",
            "check=\"tcp\"",
            "lasted=",
        ];
        world.wait_for_line(&[&["failover: the secondary gets the traffic"], &users[..]].concat())?;
        // The next daemon knows which side has the traffic.
        world.kill()?;
        world.start()?;
        serve(world, &["b2"])?;
        world.start_servers(0)?;
        serves(world, "b1")?;
        serve(world, &["b1"])
    });
}

#[test]
fn a_primary_group_fails_over_at_its_threshold() {
    scenario!(&[100, 100, 100], |world| {
        let [a, b, c] = [0, 1, 2].map(|index| server(world, index));
        http(world).target = Some(Target::Groups {
            primary: "first".to_owned(),
            secondary: "second".to_owned(),
            threshold: 2,
            failback_after: Some("1s"),
        });
        for (name, servers) in [("first", vec![(a, 100), (b, 100)]), ("second", vec![(c, 100)])] {
            world.plan.groups.push(Group { name: name.to_owned(), servers, ..Group::default() });
        }
        world.start()?;
        serve(world, &["b1", "b2"])?;
        ensure!(reported(world, 2)?.health == ApiHealth::Standby);
        world.kill_servers(0);
        wait_for("b1 to be left out", PATIENCE, || {
            Ok((reported(world, 0)?.health == ApiHealth::Unhealthy).then_some(()))
        })?;
        serve(world, &["b2"])?;
        world.kill_servers(1);
        serves(world, "b3")?;
        serve(world, &["b3"])?;
        world.start_servers(0)?;
        serves(world, "b1")?;
        serve(world, &["b1"])
    });
}

/// The check uses a port without a server: all servers serve, and none is healthy.
fn without_healthy_servers(world: &mut World, on_no_healthy: &'static str) -> Result<()> {
    http(world).on_no_healthy = Some(on_no_healthy);
    world.plan.checks.insert(Service::Http, "kind = \"tcp\", port = 9");
    world.start()?;
    wait_for("no server to be healthy", PATIENCE, || {
        let unhealthy =
            |index| Ok::<_, anyhow::Error>(reported(world, index)?.health == ApiHealth::Unhealthy);
        Ok((unhealthy(0)? && unhealthy(1)?).then_some(()))
    })
}

#[test]
fn all_servers_serve_when_none_is_healthy_and_fail_open() {
    scenario!(&[100, 100, 0], |world| {
        without_healthy_servers(world, "all")?;
        serve(world, &["b1", "b2"])
    });
}

#[test]
fn no_server_serves_when_none_is_healthy_and_fail_closed() {
    scenario!(&[100, 100], |world| {
        without_healthy_servers(world, "drop")?;
        let refused = world.packets("drop", Some("no_server"))?;
        let target = world.vip(Family::V4, Service::Http);
        ensure!(world.client().exchange(Service::Http, target).is_err(), "a server answered");
        ensure!(world.packets("drop", Some("no_server"))? > refused, "{:?}", world.status()?.reasons);
        Ok(())
    });
}

/// Names of listeners that are shown as stopped and without servers.
fn stopped(world: &World) -> Result<Vec<String>> {
    let listeners = world.status()?.load_balancers.into_iter().flat_map(|balancer| balancer.listeners);
    let stopped =
        listeners.filter(|listener| listener.state == ApiRunState::Stopped && listener.servers.is_empty());
    Ok(stopped.map(|listener| listener.name).collect())
}

#[test]
fn stopped_listeners_and_load_balancers_forward_nothing() {
    scenario!(&[100], |world| {
        http(world).state = Some("stopped");
        world.start()?;
        let (web, dns) = (world.vip(Family::V4, Service::Http), world.vip(Family::V4, Service::Echo));
        let client = world.client();
        ensure!(client.exchange(Service::Http, web).is_err(), "a stopped listener served");
        ensure!(stopped(world)? == ["http"], "{:?}", world.status()?);
        let said = world.slb(&["status"])?;
        ensure!(
            said.lines().any(|line| line.starts_with("shop/http tcp") && line.ends_with(": stopped")),
            "{said}"
        );
        client.exchange(Service::Echo, dns)?;
        ensure!(client.ping(web.ip(), PATIENCE)?.is_some(), "the other listeners' VIP does not answer");
        world.plan.state = Some("stopped");
        world.terminate()?;
        // A stopped load balancer reports no servers to wait for.
        world.start_without_waiting()?;
        wait_for("the load balancer to stop", PATIENCE, || {
            Ok(client.exchange(Service::Echo, dns).is_err().then_some(()))
        })?;
        ensure!(stopped(world)?.len() == Service::ALL.len(), "{:?}", world.status()?);
        world.plan.state = None;
        http(world).state = None;
        world.restart()?;
        client.exchange(Service::Http, web)?;
        Ok(())
    });
}
