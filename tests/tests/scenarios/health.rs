//! Health checks of every kind. A server that fails in the way that its check detects gets no new flows, until it
//! recovers.

mod passive;
mod settings;
mod tls;
mod vip_path;

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use slb_api::types::ApiHealth;
use slb_common::abi::ports::EndpointText;
use slb_tests::{
    World, client::PATIENCE, function_name, net::Family, scenario, server::Service, wait::wait_for,
};

const WEIGHTS: [u8; 2] = [50, 50];
/// Index and name of the server that fails.
const VICTIM: usize = 0;
const VICTIM_NAME: &str = "b1";
/// Exchanges after a change. They almost certainly reach a server that has half of the table.
const EXCHANGES: u64 = 100;

/// A way for a server to fail, and the expected detail of the check.
struct CheckCase {
    /// The service whose check fails.
    service: Service,
    check: &'static str,
    breaks: fn(&mut World) -> Result<()>,
    /// Expected detail: one of these.
    details: &'static [&'static str],
    mends: fn(&mut World) -> Result<()>,
}

#[test]
fn http_check_detects_unexpected_status() {
    let case = CheckCase {
        service: Service::Http,
        check: "kind = \"http\", path = \"/healthz\"",
        breaks: |world| {
            world.behaviour(VICTIM).set_status(503);
            Ok(())
        },
        details: &["status 503, expected 2xx"],
        mends: |world| {
            world.behaviour(VICTIM).set_status(204);
            Ok(())
        },
    };
    case.run(function_name!());
}

#[test]
fn http_check_accepts_only_configured_statuses() {
    let case = CheckCase {
        service: Service::Http,
        check: "kind = \"http\", method = \"GET\", path = \"/healthz\", host = \"shop.example\", expect = [200, \"4xx\"]",
        breaks: |world| {
            world.behaviour(VICTIM).set_status(204);
            Ok(())
        },
        details: &["status 204, expected 200, 4xx"],
        mends: |world| {
            world.behaviour(VICTIM).set_status(404);
            Ok(())
        },
    };
    case.run(function_name!());
}

#[test]
fn http_check_detects_closed_port() {
    let case = CheckCase {
        service: Service::Http,
        check: "kind = \"http\", path = \"/healthz\"",
        breaks: kill,
        details: &["connection refused"],
        mends: revive,
    };
    case.run(function_name!());
}

#[test]
fn udp_check_detects_wrong_answer() {
    let case = CheckCase {
        service: Service::Echo,
        check: "kind = \"udp\", request = \"hex:70696e67\", expect = \"ping\"",
        breaks: |world| {
            world.behaviour(VICTIM).set_garbles(true);
            Ok(())
        },
        details: &["the answer is not the expected one: \"b1 ?\""],
        mends: |world| {
            world.behaviour(VICTIM).set_garbles(false);
            Ok(())
        },
    };
    case.run(function_name!());
}

#[test]
fn udp_check_detects_closed_port() {
    let case = CheckCase {
        service: Service::Echo,
        check: "kind = \"udp\"",
        breaks: kill,
        details: &["port unreachable"],
        mends: revive,
    };
    case.run(function_name!());
}

#[test]
fn icmp_check_detects_unreachable_host() {
    let case = CheckCase {
        service: Service::Echo,
        check: "kind = \"icmp\"",
        breaks: |world| world.net.backends[VICTIM].go_silent(),
        details: &["no answer within 1s", "host unreachable"],
        mends: |world| world.net.backends[VICTIM].speak_again(),
    };
    case.run(function_name!());
}

/// A UDP check without an expected answer accepts silence, but not from a host that is down.
#[test]
fn udp_check_detects_unreachable_host() {
    let case = CheckCase {
        service: Service::Echo,
        check: "kind = \"udp\"",
        breaks: |world| world.net.backends[VICTIM].go_silent(),
        details: &[
            "cannot be reached: 10.90.1.10 does not answer on b1",
            "cannot be reached: fd90:1::a does not answer on b1",
            "host unreachable",
        ],
        mends: |world| world.net.backends[VICTIM].speak_again(),
    };
    case.run(function_name!());
}

/// The check does not depend on services: the host answers pings while its services are down.
#[test]
fn icmp_check_ignores_state_of_services() {
    scenario!(&WEIGHTS, |world| {
        world.plan.checks.insert(Service::Bulk, "kind = \"icmp\"");
        world.start()?;
        world.kill_servers(VICTIM);
        world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Unhealthy)?;
        world.wait_for_health_of(Service::Bulk, VICTIM, ApiHealth::Healthy).map(drop)
    });
}

/// A server without new flows is still checked and shown.
#[test]
fn a_server_of_weight_0_is_checked_and_shown() {
    scenario!(&[0, 50], |world| {
        world.start()?;
        world.wait_for_health(VICTIM, ApiHealth::Healthy)?;
        used(world, Service::Http, false)?;
        world.kill_servers(VICTIM);
        world.wait_for_health(VICTIM, ApiHealth::Unhealthy)?;
        world.start_servers(VICTIM)?;
        let servers = world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Healthy)?;
        ensure!(servers.iter().all(|server| server.weight == 0 && server.slots == 0), "{servers:?}");
        Ok(())
    });
}

fn kill(world: &mut World) -> Result<()> {
    world.kill_servers(VICTIM);
    Ok(())
}

fn revive(world: &mut World) -> Result<()> {
    world.start_servers(VICTIM)
}

impl CheckCase {
    fn run(&self, name: &str) {
        scenario(name, &WEIGHTS, |world| {
            world.plan.checks.insert(self.service, self.check);
            world.start()?;
            self.run_in_world(world)
        });
    }

    /// The server gets flows, loses them while it fails, and gets them again.
    fn run_in_world(&self, world: &mut World) -> Result<()> {
        used(world, self.service, true)?;
        (self.breaks)(world)?;
        for server in world.wait_for_health_of(self.service, VICTIM, ApiHealth::Unhealthy)? {
            let detail = server.detail.unwrap_or_default();
            ensure!(self.details.contains(&detail.as_str()), "{detail:?}, not one of {:?}", self.details);
        }
        self.expect_line(world)?;
        used(world, self.service, false)?;
        (self.mends)(world)?;
        able_again(world, self.service)?;
        used(world, self.service, true)
    }
}

impl CheckCase {
    /// The log line names the failure, the server, the listener, and how long the server was healthy.
    fn expect_line(&self, world: &World) -> Result<()> {
        let (service, check) = (self.service.name(), self.check.split('"').nth(1).unwrap_or_default());
        let fields = ["load_balancer", "listener", "server_group", "check"];
        let fields = fields.iter().zip(["shop", service, service, check]);
        let fields: Vec<_> = fields.map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        for address in &world.plan.servers[VICTIM].addresses {
            let server = format!("server={}", EndpointText(SocketAddr::new(*address, self.probed_port())));
            let pieces = [" unhealthy ", &server, "lasted=", "detail="];
            world.wait_for_line(
                &pieces.into_iter().chain(fields.iter().map(String::as_str)).collect::<Vec<_>>(),
            )?;
        }
        Ok(())
    }

    /// ICMP checks have no port.
    fn probed_port(&self) -> u16 {
        if self.check.contains("icmp") { 0 } else { self.service.backend_port() }
    }
}

/// Waits until the victim is healthy and its next hop is resolved; either may come first.
fn able_again(world: &World, service: Service) -> Result<()> {
    wait_for("a way to a healthy server", PATIENCE, || {
        let servers = world.wait_for_health_of(service, VICTIM, ApiHealth::Healthy)?;
        Ok(servers.iter().all(|server| server.next_hop.is_some()).then_some(()))
    })
}

/// Checks whether new flows go to the victim; none may fail.
fn used(world: &World, service: Service, expected: bool) -> Result<()> {
    for family in Family::ALL {
        let batch = world.client().exchanges(service, world.vip(family, service), EXCHANGES, 8);
        batch.expect_no_failure()?;
        ensure!((batch.of(VICTIM_NAME) > 0) == expected, "{family}: {:?}", batch.tally);
    }
    Ok(())
}
