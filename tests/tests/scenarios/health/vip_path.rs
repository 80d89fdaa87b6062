//! VIP path: probes take the path of the traffic. A server that answers at its own address but does not accept its
//! traffic is detected.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use slb_api::types::{ApiHealth, ApiServer};
use slb_tests::{
    World,
    client::PATIENCE,
    net::{Family, run},
    scenario,
    server::Service,
    wait::wait_for,
};

use super::{VICTIM, WEIGHTS, able_again, used};
use crate::modes::{DirectMode, prepare};

const DIRECT_MODES: [(&str, DirectMode); 5] = [
    ("dsr", DirectMode::Dsr),
    ("ipip over IPv4", DirectMode::Ipip(Family::V4)),
    ("ipip over IPv6", DirectMode::Ipip(Family::V6)),
    ("gue over IPv4", DirectMode::Gue(Family::V4)),
    ("gue over IPv6", DirectMode::Gue(Family::V6)),
];

/// Probes to wait for; several rounds of checks.
const PROBES: u64 = 20;
/// Upper bound of answers that arrive after their probe has ended, on a machine that stalls.
const LATE: u64 = 4;

#[test]
fn check_detects_server_without_vip() {
    for (name, direct_mode) in DIRECT_MODES {
        scenario!(name; &WEIGHTS, |world| {
            prepare(world, direct_mode)?;
            let before = settings_of_the_host(world)?;
            world.start()?;
            all_healthy(world)?;
            ensure!(settings_of_the_host(world)? == before, "{before}\n{}", settings_of_the_host(world)?);
            used(world, Service::Http, true)?;

            world.net.backends[VICTIM].remove_vips()?;
            unhealthy(
                world,
                Service::Http,
                &["no answer within 1s at ", "the server answers at its own address: "],
            )?;
            used(world, Service::Http, false)?;

            world.net.backends[VICTIM].add_vips()?;
            world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Healthy)?;
            used(world, Service::Http, true)?;
            world.terminate()?;
            ensure!(settings_of_the_host(world)? == before, "{before}\n{}", settings_of_the_host(world)?);
            Ok(())
        });
    }
}

#[test]
fn check_detects_server_without_decapsulation() {
    for family in Family::ALL {
        scenario!(family; &WEIGHTS, |world| {
            prepare(world, DirectMode::Ipip(family))?;
            world.start()?;
            all_healthy(world)?;
            // The backend now accepts tunnel packets from another source only.
            world.net.backends[VICTIM].decapsulate(&[world.net.sources(family)[0]])?;
            let words = [
                "no answer within 1s at ",
                " through the tunnel; the server answers at its own address: does it take packets out of tunnels",
            ];
            unhealthy(world, Service::Lines, &words)?;
            used(world, Service::Http, false)?;
            let own = Family::ALL.map(|family| world.net.slb_address(family));
            world.net.backends[VICTIM].decapsulate(&own)?;
            world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Healthy)?;
            used(world, Service::Http, true)
        });
    }
}

#[test]
fn every_check_kind_takes_the_vip_path() {
    for (name, direct_mode) in DIRECT_MODES {
        scenario!(name; &WEIGHTS, |world| {
            prepare(world, direct_mode)?;
            world.plan.checks.insert(Service::Http, "kind = \"http\", path = \"/healthz\"");
            world.plan.checks.insert(Service::Echo, "kind = \"udp\", request = \"ping\", expect = \"ping\"");
            world.plan.checks.insert(Service::Bulk, "kind = \"icmp\"");
            world.start()?;
            all_healthy(world)?;
            leaves_no_connections(world)?;

            world.behaviour(VICTIM).set_status(503);
            unhealthy(
                world,
                Service::Http,
                &["status 503, expected 2xx at ", "; at its own address: status 503"],
            )?;
            world.behaviour(VICTIM).set_status(200);
            world.behaviour(VICTIM).set_garbles(true);
            unhealthy(world, Service::Echo, &["the answer is not the expected one: \"b1 ?\" at "])?;
            world.behaviour(VICTIM).set_garbles(false);
            all_healthy(world)?;

            world.kill_servers(VICTIM);
            unhealthy(
                world,
                Service::Http,
                &["connection refused at ", "; at its own address: connection refused"],
            )?;
            unhealthy(
                world,
                Service::Echo,
                &["port unreachable at ", "; at its own address: port unreachable"],
            )?;
            world.wait_for_health_of(Service::Bulk, VICTIM, ApiHealth::Healthy)?;
            world.start_servers(VICTIM)?;
            all_healthy(world)?;

            world.net.backends[VICTIM].remove_vips()?;
            unhealthy(
                world,
                Service::Bulk,
                &["no answer within 1s at ", "the server answers at its own address"],
            )?;
            Ok(())
        });
    }
}

/// Without a resolved hardware address no probe is sent, so silence does not count as health.
#[test]
fn udp_check_on_vip_path_detects_unreachable_host() {
    for (name, direct_mode) in DIRECT_MODES {
        scenario!(name; &WEIGHTS, |world| {
            prepare(world, direct_mode)?;
            world.plan.checks.insert(Service::Echo, "kind = \"udp\"");
            world.start()?;
            all_healthy(world)?;
            // Drops everything at the interface, also ARP and neighbour solicitations; the addresses remain.
            let nothing_comes = "table netdev nothing {\n  chain comes {\n    \
                                 type filter hook ingress device eth0 priority 0; policy drop;\n  }\n}\n";
            run(world.net.backends[VICTIM].namespace.command("nft").args(["-f", "-"]), nothing_comes)?;
            unhealthy(world, Service::Echo, &["cannot be reached: ", " does not answer on b1"])?;
            used(world, Service::Echo, false)?;
            run(world.net.backends[VICTIM].namespace.command("nft").args(["flush", "ruleset"]), "")?;
            able_again(world, Service::Echo)?;
            used(world, Service::Echo, true)
        });
    }
}

/// Packets that the host's own firewall or queues drop say nothing about a server: neither failure nor, for UDP,
/// health.
#[test]
fn locally_dropped_probes_change_no_health() {
    const EGRESS: &str = "table netdev own {\n  chain leaves {\n    \
                          type filter hook egress device b1 priority 0;\n    meta l4proto { tcp, udp } counter drop\n  }\n}\n";
    const OUTPUT: &str = "table inet own {\n  chain leaves {\n    type filter hook output priority 0;\n    meta l4proto { 4, 41 } counter drop\n  }\n}\n";
    for ((name, direct_mode), (drops, why)) in
        DIRECT_MODES[..2].iter().zip([(EGRESS, "No buffer space"), (OUTPUT, "Operation not permitted")])
    {
        scenario!(name; &WEIGHTS, |world| {
            prepare(world, *direct_mode)?;
            world.plan.checks.insert(Service::Echo, "kind = \"udp\"");
            world.start()?;
            all_healthy(world)?;
            run(world.net.slb.command("nft").args(["-f", "-"]), drops)?;
            for service in [Service::Http, Service::Echo] {
                wait_for("servers that are not probed", PATIENCE, || {
                    let of_service = world.wait_for_health_of(service, VICTIM, ApiHealth::Healthy)?;
                    let is_said = |server: &ApiServer| {
                        let detail = server.detail.as_deref().unwrap_or_default();
                        detail.contains("not probed: ") && detail.contains(why)
                    };
                    Ok(of_service.iter().all(is_said).then_some(()))
                })?;
            }
            // More probes than the unhealthy threshold.
            wait_for("more probes", PATIENCE, || Ok((dropped(world)? >= 2 * PROBES).then_some(())))?;
            all_healthy(world)?;
            used(world, Service::Http, true)?;
            run(world.net.slb.command("nft").args(["flush", "ruleset"]), "")?;
            wait_for("servers that are probed", PATIENCE, || {
                let is_said = |server: &ApiServer| server.detail.is_some();
                let servers = world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Healthy)?;
                Ok((!servers.iter().any(is_said)).then_some(()))
            })
        });
    }
}

/// Without TUN devices, checks go to the servers' own addresses, and the daemon logs it.
#[test]
fn checks_without_tun_device_use_server_addresses() {
    for (name, direct_mode) in &DIRECT_MODES[..2] {
        scenario!(name; &WEIGHTS, |world| {
            prepare(world, *direct_mode)?;
            world.hide("/dev/net");
            world.start()?;
            world.wait_for_log("go to the servers' own addresses, not along the path of the traffic", 0)?;
            all_healthy(world)?;
            used(world, Service::Http, true)?;

            world.kill_servers(VICTIM);
            for server in world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Unhealthy)? {
                let detail = server.detail.unwrap_or_default();
                ensure!(detail == "connection refused", "{}: {detail:?}", server.address);
            }
            used(world, Service::Http, false)?;
            world.start_servers(VICTIM)?;
            world.wait_for_health_of(Service::Http, VICTIM, ApiHealth::Healthy)?;
            used(world, Service::Http, true)
        });
    }
}

/// A host without the VIPs would reject answers to its probes; it must not.
#[test]
fn host_without_vips_rejects_no_probe_answers() {
    for (name, direct_mode) in DIRECT_MODES {
        scenario!(name; &WEIGHTS, |world| {
            prepare(world, direct_mode)?;
            world.plan.checks.insert(Service::Echo, "kind = \"udp\", request = \"ping\", expect = \"ping\"");
            world.net.route_vips()?;
            world.start()?;
            // Until then the host resets connections of probes to the servers' own addresses.
            all_healthy(world)?;
            // An answer after the end of its probe is refused. If the host rejected answers, all would be.
            let mut refused: Vec<[u64; 3]> = Vec::new();
            while refused.last() != Some(&[0; 3]) {
                let all: u64 = refused.iter().flatten().sum();
                ensure!(all <= LATE, "the host answered in the place of probes: {refused:?}");
                let (before, probed) = (refusals(world)?, opened(world)?);
                wait_for("more probes", PATIENCE, || Ok((opened(world)? >= probed + PROBES).then_some(())))?;
                let after = refusals(world)?;
                refused.push([0, 1, 2].map(|kind| after[kind] - before[kind]));
            }
            used(world, Service::Http, true)
        });
    }
}

fn all_healthy(world: &World) -> Result<()> {
    for service in Service::ALL {
        for index in 0..WEIGHTS.len() {
            world.wait_for_health_of(service, index, ApiHealth::Healthy)?;
        }
    }
    Ok(())
}

/// Packets dropped by the only rule of the load balancer's firewall.
fn dropped(world: &World) -> Result<u64> {
    let rules = run(world.net.slb.command("nft").args(["list", "ruleset"]), "")?;
    let count = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    Ok(count.context("no counter")?.parse()?)
}

/// Waits until every entry of the victim is unhealthy and its detail contains all these words. The diagnosis follows
/// the verdict.
fn unhealthy(world: &World, service: Service, words: &[&str]) -> Result<()> {
    let mut details = Vec::new();
    let said = wait_for("what is wrong with each entry", PATIENCE, || {
        let entries = world.wait_for_health_of(service, VICTIM, ApiHealth::Unhealthy)?;
        details = entries.into_iter().map(|server| server.detail.unwrap_or_default()).collect();
        Ok(details.iter().all(|detail| words.iter().all(|word| detail.contains(word))).then_some(()))
    });
    said.with_context(|| format!("{words:?} are not all in each of {details:?}"))
}

/// Links, rules, routes and addresses of the load balancer.
fn settings_of_the_host(world: &World) -> Result<String> {
    let mut all = String::new();
    for question in [
        &["-br", "link"][..],
        &["rule"],
        &["-6", "rule"],
        &["route", "show", "table", "all"],
        &["-br", "address"],
    ] {
        all += &run(Command::new("ip").args(["-n", world.net.slb.name()]).args(question), "")?;
    }
    Ok(all)
}

/// A check resets its connection: the line server, which never closes one itself, has none left.
fn leaves_no_connections(world: &World) -> Result<()> {
    let namespace = &world.net.backends[VICTIM].namespace;
    let port = format!(":{:04X} ", Service::Lines.backend_port());
    wait_for("the end of a check's connection", PATIENCE, || {
        let table = namespace.on_thread(|| Ok(fs::read_to_string("/proc/thread-self/net/tcp6")?))?;
        // Fields: local address, remote address, state; 0A is a listening socket.
        let open = table.lines().filter(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.get(1).is_some_and(|local| format!("{local} ").ends_with(&port))
                && fields.get(3) != Some(&"0A")
        });
        Ok((open.count() == 0).then_some(()))
    })
}

/// RSTs and "port unreachable" errors that the load balancer's kernel has sent.
fn refusals(world: &World) -> Result<[u64; 3]> {
    let slb = &world.net.slb;
    Ok([
        slb.counter("Tcp:", "OutRsts")?,
        slb.counter("Icmp:", "OutDestUnreachs")?,
        slb.on_thread(|| {
            let all = fs::read_to_string("/proc/thread-self/net/snmp6")?;
            let line = all.lines().find_map(|line| line.strip_prefix("Icmp6OutDestUnreachs"));
            Ok(line.context("no count of ICMPv6")?.trim().parse()?)
        })?,
    ])
}

/// Connections that the victim has accepted.
fn opened(world: &World) -> Result<u64> {
    world.net.backends[VICTIM].namespace.counter("Tcp:", "PassiveOpens")
}
