//! Where health checks come from, and the mark they bear, are as configured.

use std::process::Command;

use anyhow::Result;
use slb_tests::{
    World,
    net::{Family, run},
    scenario,
    server::Service,
};
use slb_userspace::api::types::Health;

use super::{VICTIM, WEIGHTS};
use crate::modes::{Way, prepare};

#[test]
fn checks_bear_the_mark() {
    scenario("checks_bear_the_mark", &WEIGHTS, |world| {
        world.plan.daemon = "probe_mark = 0x51b\n".to_owned();
        world.start()?;
        expect(world, Health::Healthy)?;
        forbid(world, "add")?;
        expect(world, Health::Unhealthy)?;
        forbid(world, "del")?;
        expect(world, Health::Healthy)
    });
}

/// Adds or deletes a rule by which nothing that bears the mark leaves the load balancer.
fn forbid(world: &World, action: &str) -> Result<()> {
    for family in ["-4", "-6"] {
        let rule = ["rule", action, "fwmark", "0x51b", "pref", "10", "unreachable"];
        run(Command::new("ip").args(["-n", world.net.slb.name(), family]).args(rule), "")?;
    }
    Ok(())
}

#[test]
fn checks_come_from_the_source() {
    scenario("checks_come_from_the_source: nat", &WEIGHTS, from_the_source);
    for (name, way) in [("dsr", Way::Dsr), ("ipip", Way::Ipip(Family::V4))] {
        scenario(&format!("checks_come_from_the_source: {name}"), &WEIGHTS, |world| {
            prepare(world, way)?;
            from_the_source(world)
        });
    }
}

/// A server that has no way back to this one address of the load balancer does not answer.
fn from_the_source(world: &mut World) -> Result<()> {
    let sources = Family::ALL.map(|family| world.net.slb_address(family));
    world.plan.daemon = format!("probe_source = [\"{}\", \"{}\"]\n", sources[0], sources[1]);
    world.start()?;
    expect(world, Health::Healthy)?;
    let victim = &world.net.backends[VICTIM].namespace;
    for source in sources {
        victim.ip(&format!("route add blackhole {source}"))?;
    }
    expect(world, Health::Unhealthy)?;
    for source in sources {
        victim.ip(&format!("route del blackhole {source}"))?;
    }
    expect(world, Health::Healthy)
}

fn expect(world: &World, health: Health) -> Result<()> {
    for service in [Service::Http, Service::Lines] {
        world.wait_for_health_of(service, VICTIM, health)?;
    }
    Ok(())
}
