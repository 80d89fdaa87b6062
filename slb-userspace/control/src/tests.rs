//! The control plane from configuration to data plane, without kernel, clock or sockets.

mod access_lists;
mod digests;
mod flush;
mod gc_passes;
mod limits;
mod local_addresses;
mod port_ranges;
mod quic;
mod random;
mod terminations;
mod vips;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use slb_common::abi::{
    Handle, MacPair,
    backend::{Backend, NextHop},
    ids::{BackendId, TableId},
    service::Service,
};

use super::{
    desired::{ObservedInputs, desired},
    ids::MapLimits,
    inherited_state,
    model::{Health, HealthVerdict, ServerRoute},
    reconcile::Reconciler,
    targets::{destinations, targets},
};
use crate::dataplane::{
    fake::FakeDataPlane,
    state::{FlowRecord, MapState, backend_address},
};
use crate::inputs::Target;
use slb_config::{
    model::{self, Config, ServerGroup},
    samples::forwarding,
};

const HZ: u32 = 250;

/// A TCP listener on port 80 and one on port 81 that share one group of servers `(last octet, weight)`. QUIC server IDs
/// are 100 more than the octets.
fn group(servers: &[(u8, u8)]) -> Config {
    let servers: Vec<_> = servers
        .iter()
        .map(|(n, weight)| {
            let id = u32::from(*n) + 100;
            format!("{{ address = \"10.0.0.{n}\", port = 8080, weight = {weight}, quic_server_id = {id} }}")
        })
        .collect();
    forwarding(&format!(
        r#"
        [[load_balancer]]
        name = "shop"
        addresses = ["192.0.2.10"]
        [[load_balancer.listener]]
        name = "web"
        protocol = "tcp"
        port = 80
        server_group = "web"
        [[load_balancer.listener]]
        name = "alt"
        protocol = "tcp"
        port = 81
        server_group = "web"
        [[server_group]]
        name = "web"
        table_size = 251
        servers = [{}]
        "#,
        servers.join(", ")
    ))
}

/// As [`group`], but the second listener has a group of its own.
fn two_groups(first: &[(u8, u8)], second: &[(u8, u8)]) -> Config {
    let mut config = group(first);
    let other = group(second).server_groups.remove(0);
    // Any name will do that differs from the first group's.
    let name = config.load_balancers[0].name.clone();
    config.load_balancers[0].listeners[1].target = model::ListenerTarget::ServerGroup(name.clone());
    config.server_groups.push(ServerGroup { name, ..other });
    config
}

struct World {
    reconciler: Reconciler<FakeDataPlane>,
    health: BTreeMap<Target, HealthVerdict>,
    next_hops: BTreeMap<IpAddr, Result<ServerRoute, String>>,
    now: Duration,
}

impl World {
    fn new() -> Self {
        Self {
            reconciler: Reconciler::new(FakeDataPlane::default(), limits()),
            health: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            now: Duration::from_secs(1000),
        }
        .after_first_gc_pass()
    }

    /// Runs the first GC pass, which precedes any change.
    fn after_first_gc_pass(self) -> Self {
        assert!(self.reconciler.is_gc_due());
        self.after_due_gc_pass()
    }

    /// Runs a GC pass before the next change, if one is due.
    fn after_due_gc_pass(mut self) -> Self {
        if self.reconciler.is_gc_due() {
            self.reconciler.run_gc(self.now, &BTreeSet::new()).unwrap();
        }
        self
    }

    fn all_healthy(&mut self, config: &Config) {
        for target in targets(config) {
            self.health.insert(target, HealthVerdict { health: Health::Healthy, detail: None });
        }
        for address in destinations(config) {
            self.next_hops.insert(address, Ok(reached(1)));
        }
    }

    fn set_health(&mut self, last_octet: u8, healthy: bool) {
        for (target, verdict) in &mut self.health {
            if target.address.ip() == IpAddr::from([10, 0, 0, last_octet]) {
                verdict.health = Health::of(healthy);
            }
        }
    }

    fn reconcile(&mut self, config: &Config) -> anyhow::Result<MapState> {
        let known = ObservedInputs {
            health: Some(&self.health),
            next_hops: Some(&self.next_hops),
            ..ObservedInputs::default()
        };
        Ok(Arc::unwrap_or_clone(self.reconciler.reconcile(&desired(config, known), self.now)?.state))
    }

    /// A new daemon over the data plane of the previous one.
    fn restart(self) -> Self {
        let Self { reconciler, health, next_hops, now } = self;
        let reconciler = Reconciler::new(reconciler.into_plane(), limits());
        Self { reconciler, health, next_hops, now }.after_first_gc_pass()
    }
}

fn hop(n: u8) -> NextHop {
    NextHop { ifindex: 2, mtu: 1500, macs: MacPair::new([2, 0, 0, 0, 0, n], [2, 0, 0, 0, 1, 0]) }
}

fn reached(n: u8) -> ServerRoute {
    ServerRoute { hop: hop(n), through_gateway: false }
}

fn limits() -> MapLimits {
    MapLimits { interfaces: BTreeSet::from([2]), hz: HZ, max_backends: 16_384 }
}

fn backend(state: &MapState, last_octet: u8) -> (BackendId, Backend) {
    let found = state.backends.iter().find(|(_, backend)| !lingers(backend) && is_at(backend, last_octet));
    let (id, backend) = found.expect("the server is there");
    (*id, *backend)
}

fn is_at(backend: &Backend, last_octet: u8) -> bool {
    backend_address(backend).ip() == IpAddr::from([10, 0, 0, last_octet])
}

fn lingers(backend: &Backend) -> bool {
    backend.flags & Backend::REMOVED != 0
}

/// A flow of the listener on `port`.
fn flow(state: &MapState, port: u16, backend: Handle) -> FlowRecord {
    let entry = state.index.entries.values().find(|entry| entry.port == port.to_be()).unwrap();
    FlowRecord::sample(entry.tag(), backend)
}

fn members(state: &MapState, table: u32) -> Vec<BackendId> {
    state.tables[&TableId::new(table)].spec.members.iter().map(|member| member.backend).collect()
}

#[test]
fn listeners_of_one_group_and_check_share_a_table() {
    let config = group(&[(1, 100), (2, 50)]);
    let mut world = World::new();
    world.all_healthy(&config);
    let state = world.reconcile(&config).unwrap();
    assert_eq!(state.tables.len(), 1);
    assert_eq!(state.backends.len(), 2);
    // Two listeners, and the VIP's echo replies.
    assert_eq!(state.services.len(), 3);
    assert_eq!(state.index.entries.len(), 3);
}

/// Listeners whose servers and checks become equal keep their tables, and so their flows.
#[test]
fn listeners_that_become_equal_keep_their_tables() {
    let with_checks = |second: &str| {
        forwarding(&format!(
            r#"
            [[load_balancer]]
            name = "shop"
            addresses = ["192.0.2.10", "192.0.2.11"]
            [[load_balancer.listener]]
            name = "web"
            protocol = "tcp"
            port = 80
            server_group = "web"
            [[load_balancer.listener]]
            name = "alt"
            protocol = "tcp"
            port = 81
            server_group = "web"
            health_check = {{ kind = "tcp", interval = "{second}" }}
            [[server_group]]
            name = "web"
            table_size = 251
            servers = [{{ address = "10.0.0.1", port = 80 }}, {{ address = "10.0.0.2", port = 80, weight = 3 }}]
            "#
        ))
    };
    let (differing, same) = (with_checks("3s"), with_checks("2s"));
    let mut world = World::new();
    world.all_healthy(&differing);
    world.all_healthy(&same);
    let before = world.reconcile(&differing).unwrap();
    assert_eq!((before.tables.len(), before.backends.len()), (2, 4));
    let after = world.reconcile(&same).unwrap();
    assert_eq!(after, before);
    // Also over a restart, and back.
    let mut world = world.restart();
    assert_eq!(world.reconcile(&same).unwrap(), before);
    assert_eq!(world.reconcile(&differing).unwrap(), before);
    // Without previous state they share a table.
    let mut world = World::new();
    world.all_healthy(&same);
    assert_eq!(world.reconcile(&same).unwrap().tables.len(), 1);
}

#[test]
fn server_without_result_gets_new_flows_while_no_other_is_healthy() {
    let config = group(&[(1, 100), (2, 50)]);
    let mut world = World::new();
    world.all_healthy(&config);
    world.health.retain(|target, _| target.address.ip() != IpAddr::from([10, 0, 0, 2]));
    let state = world.reconcile(&config).unwrap();
    assert_eq!(backend(&state, 2).1.flags, Backend::ALIVE);
    assert_eq!(members(&state, 0), [backend(&state, 1).0]);
    world.health.clear();
    let state = world.reconcile(&config).unwrap();
    assert_eq!(backend(&state, 2).1.flags, Backend::ALIVE | Backend::ACCEPTS_NEW);
    assert_eq!(members(&state, 0).len(), 2);
}

#[test]
fn unhealthy_server_leaves_the_table_and_keeps_its_connections() {
    let config = group(&[(1, 100), (2, 50)]);
    let mut world = World::new();
    world.all_healthy(&config);
    world.reconcile(&config).unwrap();
    world.set_health(2, false);
    let state = world.reconcile(&config).unwrap();
    assert_eq!(members(&state, 0), [backend(&state, 1).0]);
    assert_eq!(backend(&state, 2).1.flags, 0);
    world.set_health(2, true);
    let state = world.reconcile(&config).unwrap();
    assert_eq!(members(&state, 0).len(), 2);
}

#[test]
fn weight_zero_keeps_flows_and_gets_no_new_ones() {
    let mut world = World::new();
    let before = group(&[(1, 100), (2, 50)]);
    world.all_healthy(&before);
    let (id, old) = backend(&world.reconcile(&before).unwrap(), 2);
    let state = world.reconcile(&group(&[(1, 100), (2, 0)])).unwrap();
    let (same, new) = backend(&state, 2);
    assert_eq!((same, new.handle, new.flags), (id, old.handle, Backend::ALIVE));
    assert!(!members(&state, 0).contains(&id));
}

#[test]
fn restart_keeps_the_actual_state() {
    let config = group(&[(1, 100), (2, 50)]);
    let mut world = World::new();
    world.all_healthy(&config);
    let before = world.reconcile(&config).unwrap();
    let mut world = world.restart();
    assert_eq!(world.reconcile(&config).unwrap(), before);
}

#[test]
fn server_without_next_hop_gets_no_new_flows() {
    let config = group(&[(1, 100), (2, 50)]);
    let mut world = World::new();
    world.all_healthy(&config);
    world.next_hops.insert(IpAddr::from([10, 0, 0, 2]), Err("no answer".to_owned()));
    let state = world.reconcile(&config).unwrap();
    assert_eq!(members(&state, 0), [backend(&state, 1).0]);
    // Its datagrams go to another server at once. Its connections stay, without a deadline, as it may be reached again.
    let lost = backend(&state, 2).1;
    assert_eq!((lost.flags, lost.deadline, lost.next_hop), (0, 0, 0));
    world.next_hops.insert(IpAddr::from([10, 0, 0, 2]), Ok(reached(1)));
    let state = world.reconcile(&config).unwrap();
    assert_eq!(backend(&state, 2).1.flags, Backend::ALIVE | Backend::ACCEPTS_NEW);
}

#[test]
fn restart_restores_health_and_next_hops_from_the_maps() {
    let two_checks = forwarding(
        r#"
        [[load_balancer]]
        name = "shop"
        addresses = ["192.0.2.10"]
        [[load_balancer.listener]]
        name = "web"
        protocol = "tcp"
        port = 80
        server_group = "web"
        [[load_balancer.listener]]
        name = "admin"
        protocol = "tcp"
        port = 81
        server_group = "web"
        health_check = { kind = "tcp", port = 9 }
        [[load_balancer.listener]]
        name = "unchecked"
        protocol = "udp"
        port = 82
        server_group = "web"
        [[server_group]]
        name = "web"
        servers = [{ address = "10.0.0.1", port = 8080 }]
        "#,
    );
    let mut world = World::new();
    world.all_healthy(&two_checks);
    for (target, verdict) in &mut world.health {
        verdict.health = Health::of(target.address.port() != 9);
    }
    let actual = world.reconcile(&two_checks).unwrap();
    assert_eq!(inherited_state::health(&two_checks, &actual), world.health);
    assert_eq!(inherited_state::next_hops(&actual), BTreeMap::from([(IpAddr::from([10, 0, 0, 1]), hop(1))]));
    assert!(inherited_state::health(&two_checks, &MapState::default()).is_empty());
}

#[test]
fn new_pool_gets_no_table_that_a_listener_still_names() {
    // Both servers are unhealthy, so the table is empty, which a starting daemon cannot tell from no table.
    let before = group(&[(1, 100), (2, 50)]);
    let mut world = World::new();
    world.all_healthy(&before);
    world.set_health(1, false);
    world.set_health(2, false);
    let actual = world.reconcile(&before).unwrap();
    let table = actual.services.values().map(Service::table).min().unwrap();
    let mut world = world.restart();
    let other = forwarding(
        r#"
        [[load_balancer]]
        name = "other"
        addresses = ["192.0.2.11"]
        [[load_balancer.listener]]
        name = "web"
        protocol = "tcp"
        port = 80
        default_group_port = 80
        [[load_balancer.server]]
        address = "10.0.1.1"
        "#,
    );
    let after = world.reconcile(&other).unwrap();
    assert!(after.services.values().all(|service| service.table() != table));
}

#[test]
fn server_that_returns_gets_a_new_handle() {
    let mut world = World::new();
    let both = group(&[(1, 100), (2, 50)]);
    world.all_healthy(&both);
    let first = backend(&world.reconcile(&both).unwrap(), 2).1.handle;
    world.reconcile(&group(&[(1, 100)])).unwrap();
    let second = backend(&world.reconcile(&both).unwrap(), 2).1.handle;
    assert_ne!(first, second);
}

#[test]
fn listeners_that_become_equal_keep_their_connections() {
    let apart = |port| {
        let mut config = group(&[(1, 100)]);
        if let Some(check) = &mut config.load_balancers[0].listeners[1].health_check {
            check.port = port;
        }
        config
    };
    let (apart, together) = (apart(Some(9)), apart(None));
    let mut world = World::new();
    world.all_healthy(&apart);
    let before = world.reconcile(&apart).unwrap();
    assert_eq!((before.tables.len(), before.backends.len()), (2, 2));
    let after = world.reconcile(&together).unwrap();
    assert_eq!(after.tables.len(), 2, "flows name servers by their table");
    let references = |state: &MapState| -> Vec<_> { state.backends.values().map(|b| b.handle).collect() };
    assert_eq!(references(&after), references(&before));
}

#[test]
fn changed_next_hop_gets_a_new_entry() {
    let config = group(&[(1, 100)]);
    let mut world = World::new();
    world.all_healthy(&config);
    let before = backend(&world.reconcile(&config).unwrap(), 1).1.next_hop_id();
    world.next_hops.insert(IpAddr::from([10, 0, 0, 1]), Ok(reached(9)));
    let state = world.reconcile(&config).unwrap();
    let after = backend(&state, 1).1.next_hop_id();
    assert_ne!(before, after);
    assert_eq!(state.next_hops, BTreeMap::from([(after, hop(9))]));
}

#[test]
fn too_many_servers_are_refused_and_nothing_changes() {
    let servers: Vec<_> = (0..255).map(|n| (n, 100)).collect();
    let fits = group(&servers[1..]);
    let mut world = World::new();
    let before = world.reconcile(&fits).unwrap();
    let groups: String = (0..65)
        .map(|g| {
            let servers: Vec<_> =
                (1..255).map(|n| format!("{{ address = \"10.1.{g}.{n}\", port = 80 }}")).collect();
            format!("[[server_group]]\nname = \"g{g}\"\nservers = [{}]\n", servers.join(", "))
        })
        .collect();
    let balancers: String = (0..65)
        .map(|g| {
            format!(
                "[[load_balancer]]\nname = \"b{g}\"\naddresses = [\"192.0.2.{}\"]\n[[load_balancer.listener]]\n\
                 name = \"l\"\nprotocol = \"tcp\"\nport = 80\nserver_group = \"g{g}\"\n",
                g + 1
            )
        })
        .collect();
    let error = world.reconcile(&forwarding(&(balancers + &groups))).unwrap_err().to_string();
    assert!(error.contains("16384 servers"), "{error}");
    assert_eq!(world.reconciler.actual().unwrap(), &before);
}
