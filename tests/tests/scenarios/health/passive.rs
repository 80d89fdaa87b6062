//! Passive signals: a server whose check passes and whose traffic fails is ejected, and returns when it works again.

use anyhow::{Result, ensure};
use slb_api::types::{ApiHealth, ApiServer};
use slb_tests::{
    World, client::PATIENCE, function_name, net::run, scenario, server::Service, wait::wait_for,
};

use super::{VICTIM, WEIGHTS, used};

/// Connections tried between two requests of the status.
const TRIES: usize = 8;

#[test]
fn silent_server_is_ejected() {
    // Every SYN is lost, as with a full accept queue or a wrong firewall rule.
    run_in_world(function_name!(), "drop", "unanswered in 3 s");
}

#[test]
fn refusing_server_is_ejected() {
    run_in_world(function_name!(), "reject with tcp reset", "refused");
}

fn run_in_world(name: &str, verdict: &str, how: &str) {
    scenario(name, &WEIGHTS, |world| {
        // The checked port belongs to another service, which goes on.
        let check = "kind = \"tcp\", port = 7007, passive = { failures = 3, within = \"5s\" }";
        ensure!(Service::Lines.backend_port() == 7007 && Service::Http.backend_port() == 8080);
        world.plan.checks.insert(Service::Http, check);
        world.start()?;
        used(world, Service::Http, true)?;

        let rule = format!(
            "table inet broken {{\n  chain input {{\n    type filter hook input priority 0;\n    \
             tcp dport 8080 {verdict}\n  }}\n}}\n"
        );
        run(world.net.backends[VICTIM].namespace.command("nft").args(["-f", "-"]), &rule)?;
        let servers = wait_for("an ejected server", 2 * PATIENCE, || {
            world.try_connections(Service::Http, 2 * TRIES)?;
            let servers = of_victim(world)?;
            Ok(servers.iter().all(|server| server.health == ApiHealth::Unhealthy).then_some(servers))
        })?;
        for ApiServer { detail, address, .. } in servers {
            let detail = detail.unwrap_or_default();
            let said = detail.strip_prefix("passive: ").is_some_and(|detail| detail.ends_with(how));
            ensure!(said, "{address}: {detail:?}");
        }
        used(world, Service::Http, false)?;
        // Its check has passed all the time, as has that of its other services.
        world.wait_for_health_of(Service::Lines, VICTIM, ApiHealth::Healthy)?;

        run(world.net.backends[VICTIM].namespace.command("nft").args(["flush", "ruleset"]), "")?;
        world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Healthy)?;
        used(world, Service::Http, true)
    });
}

fn of_victim(world: &World) -> Result<Vec<ApiServer>> {
    let addresses = &world.plan.servers[VICTIM].addresses;
    let listeners = world.status()?.load_balancers.into_iter().flat_map(|balancer| balancer.listeners);
    let http = listeners.filter(|listener| listener.name == Service::Http.name());
    let mut servers: Vec<_> = http.flat_map(|listener| listener.servers).collect();
    servers.retain(|server| addresses.contains(&server.address.ip()));
    ensure!(!servers.is_empty(), "no server");
    Ok(servers)
}
