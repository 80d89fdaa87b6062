//! `session_persistence`: new flows of a client address go to the server of its last flow.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{World, net::Family, scenario, server::Service, wait::wait_for};

use super::{
    flow::{SERVICES, ScheduledFlow, clients, servers},
    modes::{DirectMode, prepare},
};

/// The first two are equal, so that it is unlikely that all clients have the same server.
const WEIGHTS: [u8; 4] = [50, 50, 20, 40];
/// Servers in the first configuration; the others are added later.
const FIRST: usize = 2;
/// Longer than any scenario lasts.
const LONG: &str = "1h";
/// A short persistence, and its text in the configuration; two GC passes fit into it.
const SHORT: Duration = Duration::from_secs(4);
const SHORT_WORDS: &str = "4s";

type ServersOfClients = BTreeMap<(IpAddr, Service), String>;

#[test]
fn persistent_clients_keep_their_server_with_maglev() {
    scenario!(&WEIGHTS, |world| { clients_stay(world, "maglev") });
}

#[test]
fn persistent_clients_keep_their_server_with_round_robin() {
    scenario!(&WEIGHTS, |world| { clients_stay(world, "rr") });
}

#[test]
fn persistent_clients_keep_their_server_in_mode_ipip() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Ipip(Family::V4))?;
        clients_stay(world, "maglev")
    });
}

fn clients_stay(world: &mut World, scheduler: &'static str) -> Result<()> {
    world.plan.scheduler = Some(scheduler);
    world.plan.session_persistence = Some(LONG);
    let late = world.plan.servers.split_off(FIRST);
    world.start()?;
    let (early, strangers): (Vec<_>, Vec<_>) =
        clients(world).into_iter().enumerate().partition(|(n, _)| !n.is_multiple_of(4));
    let [early, strangers]: [Vec<IpAddr>; 2] =
        [early, strangers].map(|clients| clients.into_iter().map(|(_, client)| client).collect());
    let kept = servers(world, &early)?;
    ensure!(of_all(&kept).len() == FIRST, "all have the same: {kept:?}");

    world.plan.servers.extend(late);
    world.reload()?;
    unmoved(world, &kept).context("after servers were added")?;
    for weights in [[1, 99, 50, 50], [99, 1, 0, 100], [5, 5, 100, 100]] {
        for (server, weight) in world.plan.servers.iter_mut().zip(weights) {
            server.weight = weight;
        }
        world.reload()?;
        unmoved(world, &kept).with_context(|| format!("with weights {weights:?}"))?;
    }
    // New clients are scheduled by the current table.
    let of_strangers = servers(world, &strangers)?;
    ensure!(of_all(&of_strangers).iter().any(|server| ["b3", "b4"].contains(server)), "{of_strangers:?}");
    unmoved(world, &of_strangers)?;

    // The packet path uses affinity entries without a daemon, and the next daemon keeps them.
    world.kill()?;
    unmoved(world, &kept).context("without a daemon")?;
    world.start()?;
    unmoved(world, &kept).context("after the daemon's return")?;
    unmoved(world, &of_strangers)?;
    for scheduler in ["wlc", "wrr", "maglev-client", "rr", "maglev"] {
        world.plan.scheduler = Some(scheduler);
        world.reload()?;
        unmoved(world, &kept).with_context(|| format!("with the scheduler {scheduler}"))?;
    }
    ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
    Ok(())
}

/// A server without new flows gets none by persistence either. A client that it loses does not return to it.
#[test]
fn weight_zero_and_disabling_override_persistence_at_once() {
    scenario!(&WEIGHTS, |world| {
        world.plan.scheduler = Some("rr");
        world.plan.session_persistence = Some(LONG);
        world.start()?;
        let mut kept = servers(world, &clients(world))?;
        for (index, set, back) in [
            (0, &["set", "--weight", "0"][..], &["reset"][..]),
            (1, &["disable"], &["enable"]),
            (2, &["drain"], &["enable"]),
        ] {
            let left = world.plan.servers[index].name.clone();
            let with_it = |kept: &ServersOfClients| kept.values().filter(|server| **server == left).count();
            ensure!(with_it(&kept) > 0, "no client is with {left}: {kept:?}");
            let mut connections = Vec::new();
            for ((client, service), server) in &kept {
                if *server == left && *service == Service::Lines {
                    connections.push(ScheduledFlow::begin(world, *service, *client)?);
                }
            }
            ensure!(connections.iter().all(|flow| flow.server == left), "{connections:?}");

            order(world, set, index)?;
            let now = servers(world, &clients(world))?;
            ensure!(with_it(&now) == 0, "{left} has new flows after {set:?}: {now:?}");
            for (key, server) in kept.iter().filter(|(_, server)| **server != left) {
                ensure!(now[key] == *server, "{key:?} has left {server} after {set:?}");
            }
            connections
                .iter_mut()
                .try_for_each(ScheduledFlow::exchange)
                .with_context(|| format!("after {set:?}"))?;

            order(world, back, index)?;
            unmoved(world, &now).with_context(|| format!("after {back:?}"))?;
            connections.iter_mut().try_for_each(ScheduledFlow::exchange)?;
            kept = now;
        }
        ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
        Ok(())
    });
}

/// `slb server` names a server of a group with its port, and one of a default group without.
fn order(world: &World, words: &[&str], index: usize) -> Result<()> {
    let addresses = &world.plan.servers[index].addresses;
    let port = Service::Echo.backend_port();
    let with_port = addresses.iter().map(|address| std::net::SocketAddr::new(*address, port).to_string());
    let alone = addresses.iter().map(ToString::to_string);
    let groups =
        [(&["echo"][..], with_port.collect::<Vec<_>>()), (&["--default-group", "shop"], alone.collect())];
    for (group, servers) in groups {
        let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
        world.slb(&[&["server"], words, group, &servers].concat())?;
    }
    Ok(())
}

/// A client's affinity entry lasts while a connection is open, even an idle one, and for the configured time after. The
/// test must wait by the clock: a new flow as a probe would extend the entry.
#[test]
fn affinity_lasts_while_connected_and_then_expires() {
    scenario!(&WEIGHTS[..3], |world| {
        world.plan.scheduler = Some("rr");
        world.plan.session_persistence = Some(SHORT_WORDS);
        world.start()?;
        let clients = world.net.sources(Family::V4);
        ensure!(clients.len() % WEIGHTS[..3].len() != 0, "each would have the turn that it had");
        let begin = |client: &IpAddr| ScheduledFlow::begin(world, Service::Lines, *client);
        let mut first = clients.iter().map(begin).collect::<Result<Vec<_>>>()?;
        ensure!(first.iter().map(|flow| &flow.server).collect::<BTreeSet<_>>().len() == 3, "{first:?}");

        pass(2 * SHORT + SHORT / 2)?;
        let mut second = clients.iter().map(begin).collect::<Result<Vec<_>>>()?;
        for (first, second) in first.iter().zip(&second) {
            ensure!(first.server == second.server, "{second:?} beside {first:?}");
        }
        first.iter_mut().chain(&mut second).try_for_each(ScheduledFlow::exchange)?;

        first.into_iter().chain(second).try_for_each(ScheduledFlow::close)?;
        let before = clients.iter().map(begin).collect::<Result<Vec<_>>>()?;
        let servers: Vec<_> = before.iter().map(|flow| flow.server.clone()).collect();
        before.into_iter().try_for_each(ScheduledFlow::close)?;
        // A GC pass may have extended the affinity entry just before the connection's end.
        pass(SHORT + SHORT / 2 + SHORT / 2)?;
        for (client, server) in clients.iter().zip(servers) {
            let flow = begin(client)?;
            ensure!(flow.server != server, "{client} is still kept to {server}");
        }
        Ok(())
    });
}

/// Without persistence each flow is scheduled on its own, also for clients that had an affinity entry.
#[test]
fn persistence_switched_off_ignores_affinity_entries() {
    scenario!(&WEIGHTS[..2], |world| {
        world.plan.scheduler = Some("rr");
        world.plan.session_persistence = Some(LONG);
        world.start()?;
        servers(world, &clients(world))?;
        world.plan.session_persistence = Some("off");
        let said = world.reload()?;
        ensure!(said.contains("session persistence 3600s -> off"), "{said}");
        for service in SERVICES {
            for client in clients(world) {
                let flow = |_| Ok(ScheduledFlow::begin(world, service, client)?.server);
                let all = (0..2).map(flow).collect::<Result<BTreeSet<_>>>()?;
                ensure!(all.len() == 2, "{service:?} of {client} is with {all:?}");
            }
        }
        Ok(())
    });
}

/// Checks that new flows go to the servers of their clients' earlier flows.
fn unmoved(world: &World, kept: &ServersOfClients) -> Result<()> {
    let clients: BTreeSet<IpAddr> = kept.keys().map(|(client, _)| *client).collect();
    let now = servers(world, &clients.into_iter().collect::<Vec<_>>())?;
    ensure!(now == *kept, "{now:?} after {kept:?}");
    Ok(())
}

fn of_all(kept: &ServersOfClients) -> BTreeSet<&str> {
    kept.values().map(String::as_str).collect()
}

/// Waits until this much time has passed.
fn pass(time: Duration) -> Result<()> {
    let begin = Instant::now();
    wait_for("the clock", 2 * time, || Ok((begin.elapsed() >= time).then_some(())))
}
