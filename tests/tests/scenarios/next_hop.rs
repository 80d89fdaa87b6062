//! Next hops that change, vanish for a moment, or are lost.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use slb_api::types::ApiHealth;
use slb_tests::{
    World,
    client::{HeartbeatResult, PATIENCE},
    config::{Group, Pair, Target},
    daemon::servers,
    net::Family,
    scenario,
    server::Service,
    traffic::spreads,
    wait::wait_for,
};

use super::modes::{DirectMode, prepare};

const EXCHANGES: u64 = 400;
/// A locally administered MAC, as the interface's own is.
const NEW_ADDRESS: &str = "02:00:5e:10:00:01";
/// The kernel sends several unicast probes to the old MAC before it broadcasts.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn changed_server_mac_updates_next_hop() {
    scenario!(&[50, 50], |world| {
        world.start()?;
        world.net.backends[0].namespace.ip(&format!("link set dev eth0 address {NEW_ADDRESS}"))?;
        let addresses = &world.plan.servers[0].addresses;
        wait_for("the new address, on every next hop", LIMIT, || {
            let status = world.status()?;
            let followed =
                servers(&status).filter(|server| addresses.contains(&server.address.ip())).all(|server| {
                    let mac = server.next_hop.as_ref().map(|next_hop| next_hop.mac.as_str());
                    mac == Some(NEW_ADDRESS) && server.health == ApiHealth::Healthy
                });
            Ok(followed.then_some(()))
        })?;
        spreads(world, &world.plan.weights(), EXCHANGES)
    });
}

/// Another MAC for the interface of the host itself.
const OWN_ADDRESS: &str = "02:00:5e:10:00:02";
/// Upper bound of a gap. It exceeds the outage of the link and neighbour resolution, and is below the interval at which
/// tables are built.
const SHORT: Duration = Duration::from_millis(600);

/// Sends datagrams to both VIPs during a disruption, until the kernel has resolved the neighbours again.
fn under_load(world: &World, blip: impl FnOnce() -> Result<()>) -> Result<Vec<HeartbeatResult>> {
    let client = world.client();
    let beats = Family::ALL.map(|family| client.beat(world.vip(family, Service::Echo)));
    // Waits until the update rate limiter is idle, so that a withdrawn next hop would show at once.
    wait_for("flows to go on for a while", PATIENCE, || {
        Ok(beats.iter().all(|beat| beat.answered() > 120).then_some(()))
    })?;
    blip()?;
    wait_for("neighbours of the server, and packets to it", PATIENCE, || {
        let known = world.net.slb.command("ip").args(["neigh", "show", "dev", "b1"]).output()?;
        let known = String::from_utf8(known.stdout)?;
        let has = |family| {
            let address = format!("{} ", world.net.backends[0].address(family));
            known.lines().any(|line| line.starts_with(&address) && line.contains("lladdr"))
        };
        Ok(Family::ALL.into_iter().all(has).then_some(()))
    })?;
    for family in Family::ALL {
        client.exchange(Service::Echo, world.vip(family, Service::Echo))?;
    }
    beats.into_iter().map(|beat| client.stop(beat)).collect()
}

/// The kernel loses no packet in such a disruption, and no check notices it. With a single server, no other could take
/// over; the secondary side must not get connections.
#[test]
fn brief_next_hop_loss_causes_no_outage() {
    scenario!(&[100, 100], |world| {
        let [primary, secondary] = [0, 1].map(|index: usize| {
            SocketAddr::new(world.net.backends[index].address(Family::V4), Service::Http.backend_port())
        });
        world.plan.pairs.push(Pair { name: "pair".to_owned(), primary, secondary });
        world.plan.listeners.entry(Service::Http).or_default().target = Some(Target::Pair("pair".to_owned()));
        let first = world.plan.servers[0].addresses.iter();
        let first = first.map(|address| (SocketAddr::new(*address, Service::Echo.backend_port()), 100));
        world.plan.groups.push(Group {
            name: Service::Echo.name().to_owned(),
            servers: first.collect(),
            ..Group::default()
        });
        world.start()?;
        let slb = &world.net.slb;
        // The kernel announces its new MAC and accepts no frames to the old one; servers learn it from there.
        slb.sysctl("net/ipv4/conf/b1/arp_notify", "1")?;
        slb.sysctl("net/ipv6/conf/b1/ndisc_notify", "1")?;
        // At a start servers may get no packets until their next hops are resolved.
        let start = world.log().len();
        for _ in 0..2 {
            for beats in under_load(world, || slb.ip("neigh flush dev b1"))? {
                ensure!(beats.lost.is_empty(), "flushed: {beats:?}");
            }
        }
        for (what, lines) in [
            ("own address", format!("link set dev b1 address {OWN_ADDRESS}")),
            // Setting the link down removes its routes; a routing daemon would restore them.
            ("own link", own_link(world)),
        ] {
            for beats in under_load(world, || slb.ip(&lines))? {
                ensure!(beats.longest_gap() < SHORT, "{what}: {beats:?}");
            }
        }
        let log = world.log();
        ensure!(log.contains(&format!("to=\"{OWN_ADDRESS}\"")), "{log}");
        for said in ["gets no packets", "failover:"] {
            ensure!(!log[start..].contains(said), "{said}");
        }
        Ok(())
    });
}

/// Sets the link to the first server down and up.
fn own_link(world: &World) -> String {
    let v6 = world.net.backends[0].address(Family::V6).to_string();
    let network = v6.trim_end_matches("a");
    format!("link set b1 down\nlink set b1 up\naddr replace {network}1/64 dev b1 nodad")
}

/// Datagrams go on with the other server, also those of existing flows. No check reports the first one as down.
fn datagrams_leave_server_without_next_hop(world: &mut World) -> Result<()> {
    world.plan.checks.insert(Service::Echo, "kind = \"none\"");
    world.start()?;
    let client = world.client();
    let target = world.vip(Family::V4, Service::Echo);
    // Each server has some of them.
    let beats: Vec<_> = (0..12).map(|_| client.beat(target)).collect();
    wait_for("both servers to have flows", PATIENCE, || {
        let echo = client.exchanges(Service::Echo, target, 20, 4);
        Ok((echo.of("b1") > 0 && echo.of("b2") > 0).then_some(()))
    })?;
    world.net.backends[0].namespace.ip("link set eth0 down")?;
    wait_for("the loss to be noticed", PATIENCE, || {
        Ok(world.log().contains("gets no packets").then_some(()))
    })?;
    // Packets in flight during a change of tables may be lost.
    wait_for("datagrams to leave it", PATIENCE, || {
        let before = world.packets("drop", Some("no_next_hop"))?;
        std::thread::sleep(Duration::from_millis(200));
        Ok((world.packets("drop", Some("no_next_hop"))? == before).then_some(()))
    })?;
    let batch = client.exchanges(Service::Echo, target, 200, 4);
    batch.expect_no_failure()?;
    ensure!(batch.of("b2") == 200, "{:?}", batch.tally);
    for beat in beats {
        let beats = client.stop(beat)?;
        ensure!(!beats.lost.contains(&(beats.sent - 1)), "not answered in the end: {beats:?}");
    }
    Ok(())
}

macro_rules! in_each_mode {
    ($($name:ident: $way:expr,)*) => {
        mod datagrams_leave_server_without_next_hop {
            use super::*;

            $(#[test]
            fn $name() {
                scenario!(&[100, 100], |world| {
                    let way: Option<DirectMode> = $way;
                    way.map_or(Ok(()), |way| prepare(world, way))?;
                    // The default, `keep`: they stay with a slot's previous backend, if it has one.
                    world.plan.unknown_datagrams = None;
                    super::datagrams_leave_server_without_next_hop(world)
                });
            })*
        }
    };
}

in_each_mode! {
    nat: None,
    dsr: Some(DirectMode::Dsr),
    ipip: Some(DirectMode::Ipip(Family::V4)),
}
