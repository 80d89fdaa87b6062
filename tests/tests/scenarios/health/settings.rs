//! Source address and mark of health checks are as configured.

use std::process::Command;

use anyhow::{Result, ensure};
use slb_api::types::{ApiHealth, ApiServer};
use slb_tests::{
    World,
    client::PATIENCE,
    net::{Family, run},
    scenario,
    server::Service,
    wait::wait_for,
};

use super::{VICTIM, VICTIM_NAME, WEIGHTS};
use crate::modes::{DirectMode, prepare};

/// An address that the load balancer has temporarily.
const SOURCE: &str = "10.123.0.1";

#[test]
fn probes_carry_the_configured_mark() {
    scenario!(&WEIGHTS, |world| {
        world.plan.daemon = "probe_mark = 0x51b\n".to_owned();
        world.start()?;
        expect(world, ApiHealth::Healthy)?;
        forbid(world, "add")?;
        expect(world, ApiHealth::Unhealthy)?;
        forbid(world, "del")?;
        expect(world, ApiHealth::Healthy)
    });
}

/// Adds or deletes a rule that rejects marked packets of the load balancer.
fn forbid(world: &World, action: &str) -> Result<()> {
    for family in ["-4", "-6"] {
        let rule = ["rule", action, "fwmark", "0x51b", "pref", "10", "unreachable"];
        run(Command::new("ip").args(["-n", world.net.slb.name(), family]).args(rule), "")?;
    }
    Ok(())
}

#[test]
fn probes_use_the_configured_source() {
    scenario!("nat"; &WEIGHTS, from_the_source);
    for (name, direct_mode) in [("dsr", DirectMode::Dsr), ("ipip", DirectMode::Ipip(Family::V4))] {
        scenario!(name; &WEIGHTS, |world| {
            prepare(world, direct_mode)?;
            from_the_source(world)
        });
    }
}

/// A server without a route to this source address does not answer.
fn from_the_source(world: &mut World) -> Result<()> {
    let sources = Family::ALL.map(|family| world.net.slb_address(family));
    world.plan.daemon = format!("probe_source = [\"{}\", \"{}\"]\n", sources[0], sources[1]);
    world.start()?;
    expect(world, ApiHealth::Healthy)?;
    let victim = &world.net.backends[VICTIM].namespace;
    for source in sources {
        victim.ip(&format!("route add blackhole {source}"))?;
    }
    expect(world, ApiHealth::Unhealthy)?;
    for source in sources {
        victim.ip(&format!("route del blackhole {source}"))?;
    }
    expect(world, ApiHealth::Healthy)
}

/// While the host lacks the configured source address, servers keep their health, and the daemon reports it.
#[test]
fn missing_probe_source_keeps_health_until_it_appears() {
    scenario!("nat"; &WEIGHTS, without_the_source);
    for (name, direct_mode) in [("dsr", DirectMode::Dsr), ("ipip", DirectMode::Ipip(Family::V4))] {
        scenario!(name; &WEIGHTS, |world| {
            prepare(world, direct_mode)?;
            world.plan.checks.insert(Service::Lines, "kind = \"icmp\"");
            without_the_source(world)
        });
    }
}

fn without_the_source(world: &mut World) -> Result<()> {
    let not_probed =
        format!("not probed: this machine has no address {SOURCE}, which is [daemon] probe_source");
    let slb = world.net.slb.clone();
    let source = |action: &str| slb.ip(&format!("addr {action} {SOURCE}/32 dev lo"));
    world.plan.daemon = format!("probe_source = [\"{SOURCE}\"]\n");
    world.start_without_waiting()?;
    world.wait_for_log("there is no such address yet: servers of its family are not probed", 0)?;
    wait_for("a daemon", PATIENCE, || Ok(world.status().is_ok().then_some(())))?;
    said(world, ApiHealth::Unknown, Some(&not_probed))?;
    source("add")?;
    said(world, ApiHealth::Healthy, None)?;

    source("del")?;
    said(world, ApiHealth::Healthy, Some(&not_probed))?;
    let warning = format!("warning: there is no address {SOURCE} yet, a probe_source: ");
    for command in ["diff", "reload"] {
        let warned = world.slb_warns(&[command])?;
        ensure!(warned.contains(&warning), "{command}: {warned}");
    }
    world.net.backends[VICTIM].namespace.ip(&format!("route add blackhole {SOURCE}"))?;
    source("add")?;
    ensure!(!world.slb_warns(&["reload"])?.contains("warning"), "a warning of what is there");
    for service in [Service::Http, Service::Lines] {
        wait_for("a victim that is found out", PATIENCE, || {
            let entries = entries(world, service)?;
            Ok(entries.iter().all(|entry| entry.health == ApiHealth::Unhealthy).then_some(()))
        })?;
    }
    Ok(())
}

/// The VIP and the servers have different families, and the host has no address of the VIP's family towards the victim.
#[test]
fn probe_without_usable_source_is_reported() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Ipip(Family::V4))?;
        let v6 = Family::V6.vip();
        world.plan.vips = vec![v6];
        let flush = ["-6", "addr", "flush", "dev", VICTIM_NAME, "scope", "global"];
        run(Command::new("ip").args(["-n", world.net.slb.name()]).args(flush), "")?;
        world.start_without_waiting()?;
        wait_for("a daemon", PATIENCE, || Ok(world.status().is_ok().then_some(())))?;
        let why =
            format!("not probed: {VICTIM_NAME} has no IPv6 address that a probe of {v6} could come from: ");
        for service in [Service::Http, Service::Lines] {
            wait_for(&why, PATIENCE, || {
                let detail = |entry: &ApiServer| entry.detail.clone().unwrap_or_default();
                let is_said =
                    |entry: &ApiServer| entry.health == ApiHealth::Unknown && detail(entry).starts_with(&why);
                Ok(entries(world, service)?.iter().all(is_said).then_some(()))
            })?;
        }
        Ok(())
    });
}

/// Waits until every IPv4 entry of the victim has this health and detail.
fn said(world: &World, health: ApiHealth, detail: Option<&str>) -> Result<()> {
    for service in [Service::Http, Service::Lines] {
        wait_for(&format!("{health:?}, {detail:?}"), PATIENCE, || {
            let entries = entries(world, service)?;
            let is_said = |entry: &ApiServer| entry.health == health && entry.detail.as_deref() == detail;
            Ok(entries.iter().all(is_said).then_some(()))
        })?;
    }
    Ok(())
}

/// The victim's IPv4 entries behind a service.
fn entries(world: &World, service: Service) -> Result<Vec<ApiServer>> {
    let addresses = &world.plan.servers[VICTIM].addresses;
    let status = world.status()?;
    let listeners = status.load_balancers.into_iter().flat_map(|balancer| balancer.listeners);
    let servers =
        listeners.filter(|listener| listener.name == service.name()).flat_map(|listener| listener.servers);
    let is_meant = |server: &ApiServer| server.address.is_ipv4() && addresses.contains(&server.address.ip());
    let entries: Vec<_> = servers.filter(is_meant).collect();
    ensure!(!entries.is_empty(), "{} has no IPv4 server of the victim", service.name());
    Ok(entries)
}

fn expect(world: &World, health: ApiHealth) -> Result<()> {
    for service in [Service::Http, Service::Lines] {
        world.wait_for_health_of(service, VICTIM, health)?;
    }
    Ok(())
}
