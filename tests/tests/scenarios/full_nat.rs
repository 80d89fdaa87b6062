//! Mode `full-nat`: servers know nothing of SLB and have no route to the clients.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use slb_api::types::ApiHealth;
use slb_tests::{
    World,
    client::{LongLived, PATIENCE},
    config::Mode,
    net::Family,
    scenario,
    server::Service,
    traffic::{Traffic, spreads},
    wait::wait_for,
};

use super::{failure, restart};

const WEIGHTS: [u8; 3] = failure::WEIGHTS;
const EXCHANGES: u64 = 1_500;
/// Long-lived connections per family.
const LONG_LIVED: usize = 16;
/// Exchanges of each kind required after each step.
const PROGRESS: u64 = 100;
/// Time without an answer after which a flow counts as refused: answers take less than a millisecond.
const REFUSAL: Duration = Duration::from_millis(100);
/// First port from which `slb` takes ports for its own connections.
const OWN_PORTS_FROM: u16 = 30_000;

/// Servers have routes to the local addresses alone, which are of no link's subnet.
pub(super) fn prepare(world: &mut World) -> Result<()> {
    for backend in &world.net.backends {
        backend.remove_default_routes()?;
    }
    world.plan.mode = Mode::FullNat;
    use_locals(world, &[1])
}

/// Plans these local addresses, of both families, and makes servers reach them.
pub(super) fn use_locals(world: &mut World, numbers: &[u8]) -> Result<()> {
    let numbered = |number: &u8| Family::ALL.map(|family| family.local_address(*number));
    let locals: Vec<IpAddr> = numbers.iter().flat_map(numbered).collect();
    for local in &locals {
        if !world.plan.local_addresses.contains(local) {
            world.net.add_local_address(*local)?;
        }
        for backend in &world.net.backends {
            backend.route_to(*local)?;
        }
    }
    world.plan.local_addresses = locals;
    Ok(())
}

fn long_lived(world: &World) -> Result<Vec<LongLived>> {
    let client = world.client();
    Family::ALL
        .into_iter()
        .map(|family| client.long_lived(world.vip(family, Service::Lines), LONG_LIVED))
        .collect()
}

/// The other ends of connections, as all servers see them.
fn peers(world: &World) -> Result<Vec<SocketAddr>> {
    let backends = world.net.backends.iter();
    let peers =
        backends.map(|backend| backend.peers(Service::Lines.backend_port())).collect::<Result<Vec<_>>>()?;
    Ok(peers.concat())
}

#[test]
fn servers_without_a_route_to_clients_answer_through_the_local_addresses() {
    scenario!(&WEIGHTS, |world| {
        prepare(world)?;
        world.plan.mode = Mode::Nat;
        world.start()?;
        let target = world.vip(Family::V4, Service::Echo);
        ensure!(world.client().exchange(Service::Echo, target).is_err(), "answers return in mode nat");
        world.plan.mode = Mode::FullNat;
        world.reload()?;
        let dropped = world.packets("drop", None)?;
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        let status = world.status()?;
        for service in [Service::Http, Service::Echo] {
            let mut listeners = status.load_balancers.iter().flat_map(|balancer| &balancer.listeners);
            let listener =
                listeners.find(|listener| listener.name == service.name()).context("no listener")?;
            ensure!(listener.mode == "full-nat", "{}", listener.mode);
            let (counters, flows) = (listener.counters, EXCHANGES * Family::ALL.len() as u64);
            ensure!(counters.packets_to_clients >= flows, "{counters:?}, {flows} flows");
        }
        ensure!(world.packets("drop", None)? == dropped, "{:?}", status.reasons);
        ensure!(world.slb(&["status"])?.contains("(full-nat)"), "{}", world.slb(&["status"])?);
        Ok(())
    });
}

/// A client keeps its port where it is free at the local address.
#[test]
fn servers_see_the_local_address_and_mostly_the_clients_port() {
    scenario!(&WEIGHTS, |world| {
        prepare(world)?;
        world.start()?;
        let connections = long_lived(world)?;
        let seen = peers(world)?;
        let locals: BTreeSet<_> = world.plan.local_addresses.iter().copied().collect();
        ensure!(seen.len() == Family::ALL.len() * LONG_LIVED, "{seen:?}");
        ensure!(seen.iter().all(|peer| locals.contains(&peer.ip())), "{seen:?}");
        let ports: BTreeSet<_> = seen.iter().map(SocketAddr::port).collect();
        let own = connections.iter().flat_map(LongLived::locals);
        let kept = own.filter(|local| ports.contains(&local.port())).count();
        ensure!(kept >= LONG_LIVED, "{kept} of {} connections kept their port: {seen:?}", seen.len());
        connections.iter().try_for_each(|family| family.progress(3))?;
        wait_for("the used ports in the status", PATIENCE, || {
            let text = world.slb(&["status"])?;
            Ok(text.contains("source ports: at most").then_some(()))
        })
    });
}

/// The local address is SLB's own on the server's link. Health checks come from there, too, and keep their ports.
#[test]
fn own_address_serves_with_ports_that_the_host_does_not_use() {
    scenario!(&[1], |world| {
        world.net.backends[0].remove_default_routes()?;
        world.net.slb.sysctl("net/ipv4/ip_local_port_range", &format!("{OWN_PORTS_FROM} 60999"))?;
        world.plan.mode = Mode::FullNat;
        world.plan.local_addresses = Family::ALL.map(|family| world.net.slb_address_at(0, family)).into();
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        traffic.progress(PROGRESS)?;
        let seen = peers(world)?;
        let locals = &world.plan.local_addresses;
        let (of_flows, others): (Vec<SocketAddr>, Vec<_>) =
            seen.iter().copied().partition(|peer| peer.port() < OWN_PORTS_FROM && peer.port() >= 1024);
        ensure!(of_flows.iter().all(|peer| locals.contains(&peer.ip())), "{seen:?}");
        // At most a health check of each family is open at this moment.
        ensure!(of_flows.len() >= Family::ALL.len() * LONG_LIVED && others.len() <= 2, "{seen:?}");
        world.wait_for_health(0, ApiHealth::Healthy)?;
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()
    });
}

/// Flows beyond the free ports are dropped for a reason of their own, and others go on. Another local address helps.
#[test]
fn exhausted_ports_are_shown_and_disturb_no_established_flow() {
    /// The fewest ports that SLB shares with its host.
    const PORTS: u16 = 1024;
    const BEYOND: u16 = 64;
    scenario!(&[1], |world| {
        world.net.backends[0].remove_default_routes()?;
        let own_ports = format!("{} 60999", 1024 + PORTS);
        world.net.slb.sysctl("net/ipv4/ip_local_port_range", &own_ports)?;
        world.plan.mode = Mode::FullNat;
        world.plan.local_addresses = Family::ALL.map(|family| world.net.slb_address_at(0, family)).into();
        world.start()?;
        let is_answered = |world: &World, flow: u16, limit: Duration| {
            let (from, to) =
                ((world.net.sources(Family::V4)[0], 40_000 + flow), world.vip(Family::V4, Service::Echo));
            let socket = world.net.client.on_thread(|| Ok(UdpSocket::bind(from)?))?;
            socket.set_read_timeout(Some(limit))?;
            socket.send_to(b"?", to)?;
            anyhow::Ok(socket.recv(&mut [0; 64]).is_ok())
        };
        let refused = (0..PORTS + BEYOND)
            .filter_map(|flow| match is_answered(world, flow, REFUSAL) {
                Ok(true) => None,
                Ok(false) => Some(Ok(flow)),
                Err(error) => Some(Err(error)),
            })
            .collect::<Result<Vec<_>>>()?;
        // A new flow tries 512 ports: it may miss the last free ones, which a later flow finds.
        let most = BEYOND + PORTS / 10;
        ensure!((usize::from(BEYOND)..=most.into()).contains(&refused.len()), "{refused:?}");
        ensure!(world.packets("drop", Some("no_source_port"))? > 0, "{:?}", world.status()?.reasons);
        world.wait_for_line(&["few free ports", "server=", &format!("ports={PORTS}")])?;
        wait_for("the used ports in the status", PATIENCE, || {
            let text = world.slb(&["status"])?;
            Ok(text.contains(&format!("at most {PORTS} of {PORTS} used (100.0 %)")).then_some(()))
        })?;
        for flow in (0..PORTS).filter(|flow| !refused.contains(flow)).take(BEYOND.into()) {
            ensure!(is_answered(world, flow, PATIENCE)?, "flow {flow} is no longer answered");
        }
        let own = world.plan.local_addresses.clone();
        use_locals(world, &[1])?;
        world.plan.local_addresses.extend(own);
        world.reload()?;
        for flow in refused {
            ensure!(is_answered(world, flow, PATIENCE)?, "flow {flow} gets no port of the added address");
        }
        Ok(())
    });
}

#[test]
fn restart_of_the_daemon_disturbs_no_full_nat_flow() {
    scenario!(&WEIGHTS, |world| {
        prepare(world)?;
        restart::unnoticed(world, 1, World::terminate)?;
        Ok(())
    });
}

#[test]
fn sigkill_of_the_daemon_disturbs_no_full_nat_flow() {
    scenario!(&WEIGHTS, |world| {
        prepare(world)?;
        restart::unnoticed(world, 2, World::kill)
    });
}

#[test]
fn killed_server_loses_new_full_nat_flows_until_it_recovers() {
    scenario!(&WEIGHTS, |world| {
        prepare(world)?;
        failure::killed(world)
    });
}

/// Established flows keep a removed local address, and new ones take an added one. A restart changes nothing about it.
#[test]
fn reload_of_local_addresses_keeps_established_flows() {
    scenario!(&WEIGHTS, |world| {
        prepare(world)?;
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        traffic.progress(PROGRESS)?;
        let before: BTreeSet<_> = peers(world)?.into_iter().collect();

        use_locals(world, &[1, 2, 3])?;
        world.reload()?;
        traffic.progress(PROGRESS)?;
        use_locals(world, &[2, 3])?;
        let diff = world.slb(&["diff", &world.write_other(&world.plan.toml())?])?;
        let removed = Family::V4.local_address(1).to_string();
        ensure!(diff.contains("local address") && diff.contains(&removed), "{diff}");
        world.reload()?;
        traffic.progress(PROGRESS)?;
        let connections = long_lived(world)?;
        let now: BTreeSet<_> = peers(world)?.into_iter().collect();
        ensure!(before.is_subset(&now), "{before:?} are not all in {now:?}");
        let new: Vec<_> = now.difference(&before).collect();
        let allowed = &world.plan.local_addresses;
        ensure!(new.len() == Family::ALL.len() * LONG_LIVED, "{new:?}");
        ensure!(new.iter().all(|peer| allowed.contains(&peer.ip())), "{new:?}");

        world.restart()?;
        traffic.progress(PROGRESS)?;
        traffic.expect_unbroken(None)?;
        connections.iter().try_for_each(|family| family.progress(3))?;
        traffic.stop().expect_no_failure()
    });
}

/// Words of the source table lead to other slots in a flow table of another size.
#[test]
fn flow_table_resize_keeps_full_nat_flows() {
    scenario!(&WEIGHTS, |world| {
        prepare(world)?;
        world.plan.flow_table_entries = 1 << 16;
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        traffic.progress(PROGRESS)?;
        for entries in [1 << 18, 1 << 15] {
            world.plan.flow_table_entries = entries;
            world.restart()?;
            wait_for("another size", PATIENCE, || {
                Ok((world.status()?.flow_table.entries == u64::from(entries)).then_some(()))
            })?;
            traffic.progress(PROGRESS)?;
            traffic.expect_unbroken(None)?;
        }
        traffic.stop().expect_no_failure()
    });
}
