//! Reloads under traffic: without effect on established flows, or refused without any change.

mod outsiders;

use std::{collections::BTreeMap, env, time::Duration};

use anyhow::{Context as _, Result, ensure};
use slb_api::types::{ApiHealth, ApiServer, Status};
use slb_tests::{
    World,
    client::LongLived,
    config::{Ids, Listener, LoadBalancer, Names, Plan, PlannedServer, Target},
    daemon::servers,
    eligible_servers::{FlowKind, must_stay},
    net::Family,
    scenario,
    server::Service,
    traffic::{Traffic, spreads},
    wait::wait_for,
};

use self::outsiders::{Outsiders, state};

const WEIGHTS: [u8; 4] = [50, 30, 20, 40];
/// The last server is in no configuration.
const WITH_STRANGER: [u8; 5] = [50, 30, 20, 40, 50];
/// Long-lived connections per family.
const LONG_LIVED: usize = 16;
/// Exchanges for measuring the weights.
const EXCHANGES: u64 = 1_000;
/// Exchanges of each kind between two reloads.
const PROGRESS: u64 = 50;
/// Reloads of the long scenario, unless the environment variable sets another number.
const RELOADS: u32 = 50;
/// Flow-table entries of the long scenario: each UDP flow keeps its entry for 90 s.
const FLOWS: u32 = 1 << 21;
const RELOADS_VARIABLE: &str = "SLB_RELOADS";

/// The server that is added and removed. Long-lived connections begin while it is absent; its removal would end them.
const GUEST: usize = 3;

#[test]
fn servers_are_added_weighted_and_removed_under_traffic() {
    scenario!(&WEIGHTS, |world| {
        let guest = world.plan.servers.remove(GUEST);
        world.start()?;
        let watched = ReloadTraffic::start(world)?;

        world.plan.servers.push(guest.clone());
        let said = world.reload()?;
        let address = guest.addresses[0];
        ensure!(said.contains(&format!("server {address}:8080 added (weight 40)")), "{said}");
        // It was probed and its next hop resolved before the reload was applied, so it takes new flows at once.
        ensure!(part(&world.status()?, &guest)? > 0, "{:?}", world.status()?);
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        watched.undisturbed(world)?;

        for (server, weight) in world.plan.servers.iter_mut().zip([0, 60, 10, 30]) {
            server.weight = weight;
        }
        let said = world.reload()?;
        ensure!(said.contains("weight 50 -> 0"), "{said}");
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        watched.undisturbed(world)?;

        // New flows leave it first: its removal would end exchanges in progress.
        without_new_flows(world, GUEST)?;
        world.plan.servers.pop();
        world.reload()?;
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        ensure!(
            servers(&world.status()?).all(|server| server.address.ip() != address),
            "{:?}",
            world.status()?
        );
        watched.undisturbed(world)?;
        ensure!(world.reload()?.contains("no difference"), "the same file changes something");
        watched.end(world)
    });
}

/// A reload replaces all servers of a group at once by others that are just as able to serve.
#[test]
fn replacing_all_servers_never_empties_a_group() {
    scenario!(&[50, 50], |world| {
        let second = world.plan.servers.remove(1);
        world.start()?;
        let first = std::mem::replace(&mut world.plan.servers[0], second);
        world.reload()?;
        spreads(world, &[("b2", 50)], EXCHANGES / 4)?;
        ensure!(world.packets("drop", Some("no_server"))? == 0, "{:?}", world.status()?.reasons);
        world.plan.servers[0] = first;
        world.reload()?;
        spreads(world, &[("b1", 50)], EXCHANGES / 4)?;
        ensure!(world.packets("drop", Some("no_server"))? == 0, "{:?}", world.status()?.reasons);
        Ok(())
    });
}

/// A new health check without a result yet empties no group.
#[test]
fn changed_check_keeps_health_until_first_result() {
    scenario!(&[50, 50], |world| {
        world.start()?;
        let watched = ReloadTraffic::start(world)?;
        for seconds in [30, 40] {
            world.plan.check_interval = Duration::from_secs(seconds);
            let said = world.reload()?;
            ensure!(said.contains("health check: interval"), "{said}");
            ensure!(
                servers(&world.status()?).all(|server| server.health == ApiHealth::Healthy),
                "{:?}",
                world.status()?
            );
            watched.undisturbed(world)?;
        }
        watched.end(world)
    });
}

#[test]
fn renames_keep_flows_and_counters() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let watched = ReloadTraffic::start(world)?;
        let before = flows(&world.status()?);
        world.plan.names =
            Names { load_balancer: "store".to_owned(), listeners: "-l".to_owned(), groups: "-g".to_owned() };
        // With `id` it is a rename, without it another object. Flows and counters stay in both cases.
        world.plan.ids = Ids {
            load_balancer: Some("shop"),
            listeners: [(Service::Http, "http")].into(),
            groups: [(Service::Echo, "echo")].into(),
        };
        let said = world.reload()?;
        for words in [
            "load balancer shop: renamed to store",
            "listener shop/http: renamed to http-l",
            "server group echo: renamed to echo-g",
            "listener shop/lines: removed",
            "in place of lines: connections stay where VIP, port and server stay",
        ] {
            ensure!(said.contains(words), "{said}");
        }
        let status = world.status()?;
        ensure!(status.load_balancers.len() == 1 && status.load_balancers[0].name == "store", "{status:?}");
        ensure!(flows(&status) >= before, "{before} flows counted, then {}", flows(&status));
        watched.undisturbed(world)?;
        watched.end(world)
    });
}

#[test]
fn sighup_reloads_the_file() {
    scenario!(&[50, 50], |world| {
        world.start()?;
        world.plan.servers[0].weight = 0;
        world.write(&world.plan.toml())?;
        world.hang_up()?;
        world.wait_for_log("weight 50 -> 0", 0)?;
        spreads(world, &[("b1", 0), ("b2", 50)], EXCHANGES / 4)?;
        world.write("[daemon]\n")?;
        world.hang_up()?;
        world.wait_for_log("`interfaces` is missing", 0)?;
        let said = world.slb(&["status"])?;
        ensure!(said.contains("slb.toml, which the next start uses, cannot be used"), "{said}");
        spreads(world, &[("b1", 0), ("b2", 50)], EXCHANGES / 4)
    });
}

#[test]
fn a_refused_file_changes_nothing_and_says_why() {
    scenario!(&[50, 50], |world| {
        world.start()?;
        let watched = ReloadTraffic::start(world)?;
        let good = world.plan.toml();
        let before = unmoved(world)?;
        let interfaces = format!("interfaces = {:?}", world.plan.interfaces);
        let another_socket = format!("socket = \"{}/absent", world.directory().display());
        for (from, to, words) in [
            ("protocol = \"tcp\"", "protocol = \"tpc\"", &["did you mean \"tcp\"?", "slb.toml:", "^^^"][..]),
            ("weight = 50", "weight = 101", &["`weight` is out of range", "allowed: 0 to 100"]),
            (
                "flow_table_entries = 262144",
                "flow_table_entries = 1024",
                &["cannot change from 262144 to 1024", "restart slbd"],
            ),
            (
                "[daemon]",
                "[daemon]\nmax_servers = 1024",
                &["`[daemon] max_servers` cannot change", "slbd detach"],
            ),
            (
                "hash_seed = 1",
                "hash_seed = 7",
                &["`[daemon] hash_seed` cannot change from 1 to 7", "restart slbd"],
            ),
            (
                "xdp_mode = \"native\"",
                "xdp_mode = \"generic\"",
                &["`[daemon] xdp_mode` cannot change", "slbd detach"],
            ),
            ("pin_dir = \"", "pin_dir = \"/sys/fs/bpf/x", &["`[daemon] pin_dir` cannot change"]),
            ("socket = \"", &another_socket, &["`[daemon] socket` cannot change", "restart slbd"]),
            (&interfaces, "interfaces = [\"absent0\"]", &["no interface absent0; there are: "]),
        ] {
            ensure!(good.contains(from), "nothing to break: {from}");
            world.write(&good.replacen(from, to, 1))?;
            let said = world.slb_refused(&["reload"])?;
            ensure!(words.iter().all(|word| said.contains(word)), "{to}: {said}");
            let after = unmoved(world)?;
            ensure!(after == before, "{to} has changed something:\n{before}\n{after}");
        }
        world.write(&with_too_many_listeners(&world.plan).toml())?;
        let said = world.slb_refused(&["reload"])?;
        ensure!(said.contains(" services, and the maps hold 4096"), "{said}");
        ensure!(unmoved(world)? == before, "more than there is room for has changed something");
        std::fs::remove_file(world.directory().join("slb.toml"))?;
        let said = world.slb_refused(&["reload"])?;
        ensure!(said.contains("cannot be read: No such file"), "{said}");
        watched.undisturbed(world)?;
        watched.end(world)
    });
}

/// Many reloads under traffic of both protocols and families; each adds, removes, weighs or renames. A server that is
/// in neither the old nor the new configuration gets no packet.
#[test]
fn reloads_under_traffic_disturb_no_flow() {
    let reloads =
        env::var(RELOADS_VARIABLE).map_or(RELOADS, |reloads| reloads.parse().expect("a number of reloads"));
    scenario!(&WITH_STRANGER, |world| {
        world.plan.servers.truncate(WEIGHTS.len());
        let guest = world.plan.servers.remove(GUEST);
        world.plan.flow_table_entries = FLOWS;
        world.start()?;
        let watched = ReloadTraffic::start(world)?;
        let mut outsiders = Outsiders::default();
        outsiders.settled(world)?;
        for round in 0..reloads {
            let before = world.plan.clone();
            let mut one = |world: &mut World| -> Result<()> {
                match round % 7 {
                    0 => world.plan.servers.push(guest.clone()),
                    // Once with and once without the guest.
                    1 | 5 => world.plan.names = names(round),
                    2 | 6 => {
                        let weights =
                            [[10, 60, 30, 20], [50, 30, 20, 40], [0, 100, 1, 99]][round as usize / 7 % 3];
                        for (server, weight) in world.plan.servers.iter_mut().zip(weights) {
                            server.weight = weight;
                        }
                    }
                    3 => return without_new_flows(world, GUEST),
                    _ => {
                        world.plan.servers.pop();
                    }
                }
                outsiders.change(world, &before)?;
                world.reload()?;
                outsiders.settled(world)?;
                consistent(world)
            };
            one(world).with_context(|| format!("reload {}", round + 1))?;
            if round % 10 == 9 {
                watched.undisturbed(world).with_context(|| format!("after {} reloads", round + 1))?;
            }
        }
        watched.undisturbed(world)?;
        let outside = outsiders.packets(world)?;
        let (moved, broken) = watched.figures();
        let dropped = world.packets("drop", None)?;
        let batch = watched.stop();
        println!(
            "{reloads} reloads: {} exchanges succeeded, {} failed, {} datagrams sent again; {moved} flows moved, \
             {broken} connections broken, {dropped} packets dropped, {outside} outside of both configurations",
            batch.successes(),
            batch.failures.len(),
            batch.retries
        );
        ensure!((moved, broken, dropped) == (0, 0, 0) && batch.retries == 0, "{:?}", world.status()?.reasons);
        ensure!(outside == 0, "{outside} packets came to servers of neither configuration");
        batch.expect_no_failure()
    });
}

/// The running configuration equals the plan: names, and servers of each listener.
fn consistent(world: &World) -> Result<()> {
    let status = world.status()?;
    ensure!(status.load_balancers.len() == 1, "{status:?}");
    let balancer = &status.load_balancers[0];
    ensure!(balancer.name == world.plan.names.load_balancer, "{}", balancer.name);
    let planned: Vec<_> = world.plan.servers.iter().flat_map(|server| server.addresses.clone()).collect();
    for listener in &balancer.listeners {
        ensure!(listener.name.ends_with(&world.plan.names.listeners), "{}", listener.name);
        ensure!(listener.servers.len() == planned.len(), "{listener:?}");
        ensure!(listener.servers.iter().all(|server| planned.contains(&server.address.ip())), "{listener:?}");
    }
    Ok(())
}

fn names(round: u32) -> Names {
    let suffix = |word: &str| format!("-{word}{round}");
    // One kind of name changes, and the others change back.
    match round / 7 % 3 {
        0 => Names { load_balancer: format!("shop{round}"), ..Names::default() },
        1 => Names { listeners: suffix("l"), ..Names::default() },
        _ => Names { groups: suffix("g"), ..Names::default() },
    }
}

/// Sets a server's weight to 0, and waits until its exchanges in progress have ended.
pub(super) fn without_new_flows(world: &mut World, index: usize) -> Result<()> {
    world.plan.servers[index].weight = 0;
    world.reload()?;
    let server = world.plan.servers[index].clone();
    let packets = |status: &Status| -> u64 {
        let of_it = servers(status).filter(|entry| server.addresses.contains(&entry.address.ip()));
        of_it.map(|entry| entry.counters.packets_from_clients + entry.counters.packets_to_clients).sum()
    };
    let mut last = None;
    let mut quiet = 0;
    wait_for("a server without traffic", slb_tests::client::PATIENCE, || {
        let now = packets(&world.status()?);
        quiet = if last == Some(now) { quiet + 1 } else { 0 };
        last = Some(now);
        Ok((quiet == 3).then_some(()))
    })
}

/// Number of slots of a server in all server tables.
fn part(status: &Status, server: &PlannedServer) -> Result<u32> {
    let mut of_it = servers(status).filter(|entry| server.addresses.contains(&entry.address.ip())).peekable();
    ensure!(of_it.peek().is_some(), "{status:?}");
    Ok(of_it.map(|entry| entry.slots).sum())
}

fn flows(status: &Status) -> u64 {
    let listeners = status.load_balancers.iter().flat_map(|balancer| &balancer.listeners);
    listeners.map(|listener| listener.counters.total_flows).sum()
}

/// The parts of the status that traffic does not change.
fn unmoved(world: &World) -> Result<String> {
    let mut status = world.status()?;
    let daemon = status.daemon.take().context("no daemon")?;
    status.reasons.clear();
    status.flow_table = Default::default();
    for listener in status.load_balancers.iter_mut().flat_map(|balancer| &mut balancer.listeners) {
        (listener.counters, listener.current_flows) = Default::default();
        let counters = |server: &mut ApiServer| (server.counters, server.current_flows) = Default::default();
        listener.servers.iter_mut().for_each(counters);
    }
    Ok(format!("{} {status:?} {:?}", daemon.pid, world.programs()?))
}

/// A configuration with more listeners than the maps can hold.
fn with_too_many_listeners(plan: &Plan) -> Plan {
    // 10 VIPs with 50 listeners each; with echo, 510 services.
    let balancer = |number: u8| LoadBalancer {
        name: format!("more{number}"),
        addresses: (0..10).map(|vip| [203, 0, 113, 10 * number + vip].into()).collect(),
        listeners: (1..=50)
            .map(|port| Listener::new(format!("l{port}"), "tcp", port, Target::Group("http".to_owned())))
            .collect(),
    };
    Plan { additional_load_balancers: (0..9).map(balancer).collect(), ..plan.clone() }
}

/// Traffic that reloads must not affect.
struct ReloadTraffic {
    traffic: Traffic,
    placed: Vec<BTreeMap<String, usize>>,
    /// Packets dropped before the traffic began.
    dropped: u64,
}

impl ReloadTraffic {
    fn start(world: &World) -> Result<Self> {
        let traffic = Traffic::start(world, LONG_LIVED)?;
        traffic.progress(PROGRESS)?;
        let placed = traffic.connections().iter().map(LongLived::alive).collect();
        Ok(Self { traffic, placed, dropped: world.packets("drop", None)? })
    }

    /// Checks that exchanges go on without failures, and that no connection is broken or has another server.
    fn undisturbed(&self, world: &World) -> Result<()> {
        self.traffic.progress(PROGRESS)?;
        self.traffic.expect_unbroken(None)?;
        let placed: Vec<_> = self.traffic.connections().iter().map(LongLived::alive).collect();
        let servers = self.placed.iter().flat_map(BTreeMap::keys);
        let stays = |name: &String| must_stay(&[state(&world.plan, name)], FlowKind::Tcp);
        ensure!(servers.clone().all(stays), "a server with connections was removed: {:?}", self.placed);
        ensure!(placed == self.placed, "{placed:?} after {:?}", self.placed);
        let dropped = world.packets("drop", None)? - self.dropped;
        ensure!(dropped == 0, "{dropped} packets dropped: {:?}", world.status()?.reasons);
        self.traffic.so_far().expect_no_failure()
    }

    /// Connections answered by another server than their own, and connections that broke in another way.
    fn figures(&self) -> (usize, usize) {
        let breaks: Vec<_> = self.traffic.connections().iter().flat_map(LongLived::breaks).collect();
        let moved = breaks.iter().filter(|broken| broken.error.starts_with("answered by")).count();
        (moved, breaks.len() - moved)
    }

    fn stop(self) -> slb_tests::client::Batch {
        self.traffic.stop()
    }

    fn end(self, world: &World) -> Result<()> {
        self.undisturbed(world)?;
        for family in Family::ALL {
            world.client().exchange(Service::Http, world.vip(family, Service::Http))?;
        }
        self.stop().expect_no_failure()
    }
}
