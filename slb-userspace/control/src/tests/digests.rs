//! Digests of tables: equal if nodes choose the same servers, whatever their history.

use std::{collections::BTreeMap, time::Duration};

use super::{World, group, two_groups};
use crate::dataplane::{
    digest::{Digest, SlotSummary, all},
    state::MapState,
};
use slb_common::abi::ids::{BackendId, TableId};
use slb_config::{
    model::{Config, QuicRouting, Scheduler},
    samples::shop,
};

/// The digest of all services, and the digest of each by port.
fn digests(state: &MapState) -> (Digest, BTreeMap<u16, Digest>) {
    let services = state.services.values().filter(|service| service.table() != TableId::NONE);
    let digests: Vec<_> = services
        .map(|service| {
            let table = &state.tables[&service.table()];
            let summary = table.spec.summary();
            // The same from the slots in the map.
            let (lookup_table, _) = table.lookup_tables(TableId::NONE);
            assert_eq!(SlotSummary::read(lookup_table.current_backends(), &state.backends), *summary);
            let servers = state.backends.values();
            let servers = servers.filter(|backend| backend.table() == service.table());
            let named = state.quic_servers.iter().filter(|(key, _)| key.table == service.table());
            let named = named.map(|(key, server)| (key.server_id, &state.backends[&BackendId::of(*server)]));
            let digest = summary.of_service(service, servers, state.settings.seed);
            (service, digest.with_server_ids(service, named))
        })
        .collect();
    let by_port = digests.iter().map(|(service, digest)| (u16::from_be(service.port), *digest)).collect();
    (all(digests), by_port)
}

/// Digests of a node that had these configurations one after the other, a second apart, with healthy servers only.
fn of_node(configs: &[&Config]) -> (Digest, BTreeMap<u16, Digest>) {
    let mut world = World::new();
    let mut state = MapState::default();
    for config in configs {
        world.all_healthy(config);
        world.now += Duration::from_secs(1);
        state = world.reconcile(config).unwrap();
        world = world.after_due_gc_pass();
    }
    digests(&state)
}

#[test]
fn nodes_of_different_history_have_the_same_digests() {
    let config = two_groups(&[(1, 100), (2, 50), (3, 100)], &[(4, 100), (5, 100)]);
    let is_new = of_node(&[&config]);
    let other = two_groups(&[(9, 100), (2, 100)], &[(5, 10), (1, 100)]);
    let changed = of_node(&[&group(&[(3, 100), (2, 50)]), &other, &config]);
    assert_eq!(changed, is_new);

    let mut world = World::new();
    world.all_healthy(&config);
    world.reconcile(&other).unwrap();
    let mut world = world.after_due_gc_pass().restart();
    world.set_health(2, false);
    let unhealthy = digests(&world.reconcile(&config).unwrap());
    assert_ne!(unhealthy, is_new);
    world.set_health(2, true);
    let state = world.reconcile(&config).unwrap();
    assert!(state.tables.values().any(|table| !table.slot_migration.is_empty()), "slots migrate");
    assert_eq!(digests(&state), is_new, "healthy again after a restart");
}

#[test]
fn inputs_of_server_selection_change_the_digest() {
    let servers = [(1, 100), (2, 100), (3, 100)];
    let config = group(&servers);
    let (everything, by_port) = of_node(&[&config]);
    let differs = |what: &str, other: &Config| {
        let (other_everything, other_by_port) = of_node(&[other]);
        assert_ne!(other_everything, everything, "{what}");
        for (port, digest) in &by_port {
            assert_ne!(other_by_port[port], *digest, "{what}, port {port}");
        }
    };
    let changed = |change: &dyn Fn(&mut Config)| {
        let mut other = config.clone();
        change(&mut other);
        other
    };
    differs("hash_seed", &changed(&|config| config.daemon.hash_seed = Some(7)));
    differs(
        "table_size",
        &changed(&|config| config.server_groups[0].table_size = shop(&[]).server_groups[0].table_size),
    );
    differs("another server", &group(&[(1, 100), (2, 100), (4, 100)]));
    differs("one more server", &group(&[(1, 100), (2, 100), (3, 100), (4, 100)]));
    differs("a weight", &group(&[(1, 100), (2, 100), (3, 50)]));
    for scheduler in [Scheduler::MaglevClient, Scheduler::RoundRobin, Scheduler::WeightedLeastConnections] {
        differs(
            "scheduler",
            &changed(&|config| {
                config.load_balancers[0]
                    .listeners
                    .iter_mut()
                    .for_each(|listener| listener.scheduler = scheduler);
            }),
        );
    }
}

#[test]
fn settings_without_effect_on_server_selection_keep_the_digest() {
    let config = group(&[(1, 100), (2, 50)]);
    let mut other = config.clone();
    other.load_balancers[0].name = other.server_groups[0].name.clone();
    other.load_balancers[0].listeners.reverse();
    other.server_groups[0].servers.reverse();
    other.load_balancers[0].listeners[0].drain_timeout = Some(Duration::from_secs(60));
    assert_eq!(of_node(&[&other]), of_node(&[&config]));
    // Half the weights in the same ratio.
    assert_eq!(of_node(&[&group(&[(1, 50), (2, 25)])]), of_node(&[&config]));
}

#[test]
fn digest_includes_weights_with_least_connections() {
    let least = |servers: &[(u8, u8)]| {
        let mut config = group(servers);
        for listener in &mut config.load_balancers[0].listeners {
            listener.scheduler = Scheduler::WeightedLeastConnections;
        }
        of_node(&[&config])
    };
    assert_eq!(least(&[(1, 100), (2, 50)]), least(&[(2, 50), (1, 100)]));
    assert_ne!(least(&[(1, 100), (2, 50)]), least(&[(1, 100), (2, 100)]));
}

#[test]
fn change_of_one_group_changes_only_its_listeners_digests() {
    let second = [(4, 100), (5, 100)];
    let (before, by_port) = of_node(&[&two_groups(&[(1, 100), (2, 100)], &second)]);
    let (after, changed) = of_node(&[&two_groups(&[(1, 100), (2, 50)], &second)]);
    assert_ne!(after, before);
    assert_ne!(changed[&80], by_port[&80]);
    assert_eq!(changed[&81], by_port[&81]);
}

#[test]
fn digests_of_quic_listeners_depend_on_server_ids_and_format() {
    let config = |id: u32, quic: Option<u8>| {
        let mut config = group(&[(1, 100), (2, 100)]);
        config.server_groups[0].servers[0].quic_server_id = Some(id);
        config.load_balancers[0].listeners[0].quic =
            quic.map(|config_rotation| QuicRouting { server_id_length: 2, config_rotation });
        of_node(&[&config]).1
    };
    assert_eq!(config(7, None), config(8, None));
    let distinct =
        [config(7, None)[&80], config(7, Some(0))[&80], config(8, Some(0))[&80], config(7, Some(1))[&80]];
    for (n, digest) in distinct.iter().enumerate() {
        assert!(!distinct[..n].contains(digest), "{distinct:?}");
    }
    assert_eq!(config(7, Some(0))[&81], config(8, Some(1))[&81], "the other listener has no QUIC");
}
