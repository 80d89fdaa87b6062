//! Traffic for no listener passes to the kernel, and SLB answers pings of a VIP.

use std::time::Duration;

use anyhow::{Result, ensure};
use slb_tests::{
    World,
    client::PATIENCE,
    net::Family,
    scenario,
    server::{Servers, Service},
};

const EXCHANGES: u64 = 50;

#[test]
fn packets_without_listener_pass_to_the_kernel() {
    scenario!(&[50, 50], |world| {
        // The load balancer's host has servers of its own, on ports without a listener.
        let own = Servers::start(&world.net.slb, "slb")?;
        world.start()?;
        for family in Family::ALL {
            let own_address = world.net.slb_address(family);
            for (address, service) in
                [(own_address, Service::Http), (own_address, Service::Echo), (family.vip(), Service::Http)]
            {
                let target = (address, service.backend_port()).into();
                let batch = world.client().exchanges(service, target, EXCHANGES, 4);
                batch.expect_no_failure()?;
                ensure!(batch.of("slb") == EXCHANGES, "{target}: {:?}", batch.tally);
            }
            ensure!(
                world.client().ping(own_address, PATIENCE)?.is_some(),
                "{own_address}: no answer to a ping"
            );
        }
        own.kill();
        Ok(())
    });
}

#[test]
fn pings_of_vip_are_answered_by_xdp() {
    scenario!(&[50], |world| {
        world.start()?;
        // From here on the kernel answers no pings, so replies come from XDP.
        world.net.slb.sysctl("net/ipv4/icmp_echo_ignore_all", "1")?;
        world.net.slb.sysctl("net/ipv6/icmp/echo_ignore_all", "1")?;
        let answered = answers(world)?;
        for family in Family::ALL {
            let own_address = world.net.slb_address(family);
            let answer = world.client().ping(own_address, Duration::from_millis(300))?;
            ensure!(answer.is_none(), "{own_address}: the kernel answers pings");
            ensure!(world.client().ping(family.vip(), PATIENCE)?.is_some(), "{family}: no answer");
        }
        ensure!(answers(world)? == answered + 2, "{} answers counted, then {}", answered, answers(world)?);
        Ok(())
    });
}

fn answers(world: &World) -> Result<u64> {
    let reasons = world.status()?.reasons;
    Ok(reasons.iter().filter(|reason| reason.verdict == "answer").map(|reason| reason.packets).sum())
}
