//! Mid-stream segments without a connection: the servers' RSTs do not count as passive signals.

use anyhow::ensure;
use slb_api::types::ApiHealth;
use slb_tests::{
    client::PATIENCE,
    forge::{FloodStats, NUMBERS},
    net::{Family, run},
    packets::frames::flag,
    scenario,
    server::Service,
    wait::wait_for,
};

use super::{WEIGHTS, on_clients_side, report};

/// Forged clients, spread over all servers.
const STRAYS: u8 = 40;
const REFUSES: usize = 1;

/// Each stray ACK is answered with a RST. Meanwhile another listener's server, which does refuse connections, is
/// ejected by the same GC passes.
#[test]
fn stray_acks_eject_no_quiet_server() {
    scenario!(&WEIGHTS, |world| {
        let check = "kind = \"tcp\", port = 9009, passive = { failures = 3, within = \"5s\" }";
        world.plan.checks.extend([(Service::Http, check), (Service::Lines, check)]);
        world.start()?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let mut sent = FloodStats::default();
        for family in Family::ALL {
            let (sources, to) = (world.net.sources(family), world.vip(family, Service::Http));
            let stray = |(number, sequence): (u8, u32)| {
                let from = (sources[usize::from(number) % sources.len()], 500 + u16::from(number)).into();
                mac_pair.segment(from, to, flag::ACK, [sequence, sequence])
            };
            let numbers = (0..STRAYS).zip(NUMBERS.into_iter().cycle());
            sent = sent.and(forger.send_all(numbers.map(stray))?);
        }
        let rule = "table inet broken {\n  chain input {\n    type filter hook input priority 0;\n    tcp dport 7007 reject with tcp reset\n  }\n}\n";
        run(world.net.backends[REFUSES].namespace.command("nft").args(["-f", "-"]), rule)?;
        let mut ejected = 0;
        wait_for("a server that refuses to be ejected", 2 * PATIENCE, || {
            world.try_connections(Service::Lines, 16)?;
            let status = world.status()?;
            let listeners = status.load_balancers.iter().flat_map(|balancer| &balancer.listeners);
            let unhealthy = |name: &str| {
                let of = listeners.clone().filter(|listener| listener.name == name);
                of.flat_map(|listener| &listener.servers).filter(|s| s.health == ApiHealth::Unhealthy).count()
            };
            ejected = ejected.max(unhealthy("http"));
            Ok((unhealthy("lines") == 2).then_some(()))
        })?;
        report("stray ACKs", sent, format!("{ejected} of 4 quiet servers ejected"));
        ensure!(ejected == 0, "{ejected} quiet servers ejected: {}", world.slb(&["status"])?);
        Ok(())
    });
}
