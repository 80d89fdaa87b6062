//! The most common mistake in mode `nat`: a server whose route to the clients bypasses SLB. Its check passes.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use slb_api::types::ApiHealth;
use slb_tests::{World, net::Family, scenario, server::Service, wait::wait_for};

const VICTIM: usize = 0;
/// Connections tried between two requests of the status.
const TRIES: usize = 8;
/// Connections count for 30 s, and a GC pass runs every ten.
const LIMIT: Duration = Duration::from_secs(60);

const WARNING: &str = "the server passes its check, and its answers do not return through SLB";

/// Log message about a server without a check.
const UNCHECKED: &str = "no answer to new connections of the server passes through SLB";

#[test]
fn server_without_return_route_is_reported() {
    scenario!(&[50, 50], |world| {
        let namespace = |world: &World, lines: &str| world.net.backends[VICTIM].namespace.ip(lines);
        let gateway = namespace_gateway(world);
        namespace(world, "route del default")?;
        // These servers have no check that could tell anything about them.
        world.plan.checks.insert(Service::Lines, "kind = \"none\"");
        world.start()?;
        wait_for("the server to be named", LIMIT, || {
            world.try_connections(Service::Http, 2 * TRIES)?;
            world.try_connections(Service::Lines, 2 * TRIES)?;
            Ok((world.log().contains(WARNING) && world.log().contains(UNCHECKED)).then_some(()))
        })?;
        let unchecked = format!(
            "server={}:{}",
            world.net.backends[VICTIM].address(Family::V4),
            Service::Lines.backend_port()
        );
        let listener = "listener=\"lines\"";
        world.wait_for_line(&[UNCHECKED, "WARN", &unchecked, listener, "unanswered=", "within=30s"])?;
        expect_only(world, UNCHECKED, &unchecked)?;
        let victim = format!("server={}", world.net.backends[VICTIM].address(Family::V4));
        let users = ["load_balancer=\"shop\"", "listener=\"http\"", "server_group=\"http\"", "check=\"tcp\""];
        world.wait_for_line(
            &[&[WARNING, "WARN", &victim, "default route", "unanswered="], &users[..]].concat(),
        )?;
        expect_only(world, WARNING, &victim)?;
        let status = world.slb(&["status"])?;
        ensure!(status.contains("answers do not return through SLB"), "{status}");
        let healthy = world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Healthy)?;
        // The routes of the other family lead back.
        ensure!(healthy.iter().filter(|server| server.detail.is_some()).count() == 1, "{healthy:?}");

        namespace(world, &format!("route add default via {gateway}"))?;
        wait_for("answers to be noticed", LIMIT, || {
            world.try_connections(Service::Http, 2 * TRIES)?;
            world.try_connections(Service::Lines, 2 * TRIES)?;
            Ok((world.log().matches("the server's answers return through SLB").count() >= 2).then_some(()))
        })?;
        wait_for("the detail to go", LIMIT, || {
            let servers = world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Healthy)?;
            Ok(servers.iter().all(|server| server.detail.is_none()).then_some(()))
        })
    });
}

/// Fails if a log line with this message names another server. A check that fails for a moment repeats the message.
fn expect_only(world: &World, said: &str, server: &str) -> Result<()> {
    let log = world.log();
    let mut others = log.lines().filter(|line| line.contains(said) && !line.contains(server));
    others.next().map_or(Ok(()), |line| bail!("another server is named: {line}"))
}

/// SLB's address on the victim's link.
fn namespace_gateway(world: &World) -> String {
    let address = world.net.backends[VICTIM].address(Family::V4).to_string();
    format!("{}.1", address.rsplit_once('.').map_or("", |(network, _)| network))
}
