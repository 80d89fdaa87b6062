//! Limits of listeners from configuration to maps.

use slb_common::abi::{
    ids::ServiceId,
    service::{Service, policy},
};

use super::{World, group};
use crate::{
    dataplane::state::{MapState, Operation},
    diff::diff,
};
use slb_config::model::{Bandwidth, Config};

const LIMITS: u32 = policy::LIMIT_BANDWIDTH | policy::LIMIT_NEW_CONNECTIONS;

/// The listener on port 80 has these limits, and the listener on port 81 has none. Both have a VIP of each family.
fn limited(megabits: Option<u32>, new_connections: Option<u32>) -> Config {
    let mut config = group(&[(1, 100)]);
    let balancer = &mut config.load_balancers[0];
    balancer.addresses = vec!["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()];
    balancer.listeners[0].bandwidth = megabits.map(|megabits| Bandwidth::of_kilobits(1000 * megabits));
    balancer.listeners[0].new_connections = new_connections;
    config
}

fn services(state: &MapState, port: u16) -> Vec<(ServiceId, Service)> {
    let services = state.services.iter().filter(|(_, service)| service.port == port.to_be());
    services.map(|(id, service)| (*id, *service)).collect()
}

fn begun(config: &Config) -> World {
    let mut world = World::new();
    world.all_healthy(config);
    world.reconcile(config).unwrap();
    world
}

#[test]
fn services_of_a_listener_have_its_limits_and_share_its_buckets() {
    let mut world = begun(&limited(Some(100), Some(1000)));
    let state = world.reconciler.actual().unwrap();
    let limited = services(state, 80);
    let [(first, _), (second, _)] = limited[..] else { panic!("{limited:?}") };
    assert!(first < second);
    for (id, service) in limited {
        let shown = (service.policy & LIMITS, service.bandwidth, service.new_connections);
        assert_eq!(shown, (LIMITS, 100_000, 1000));
        assert_eq!(u32::from(service.token_buckets), first.index());
        assert_eq!(state.index.entries[&id].policy, service.policy, "as packets find it");
    }
    for (_, service) in services(state, 81) {
        assert_eq!((service.policy & LIMITS, service.bandwidth, service.new_connections), (0, 0, 0));
    }
}

#[test]
fn each_limit_has_its_policy() {
    for (config, expected) in [
        (limited(Some(1), None), policy::LIMIT_BANDWIDTH),
        (limited(None, Some(1)), policy::LIMIT_NEW_CONNECTIONS),
        (limited(None, None), 0),
    ] {
        let mut world = begun(&config);
        let services = services(world.reconciler.actual().unwrap(), 80);
        assert!(services.iter().all(|(_, service)| service.policy & LIMITS == expected), "{services:?}");
    }
}

/// A new service would lose its counters, and a new index costs a grace period.
#[test]
fn changed_rate_changes_the_service_alone() {
    let mut world = begun(&limited(Some(100), Some(1000)));
    let before = world.reconciler.actual().unwrap().clone();
    let mut world = world.restart();
    world.reconcile(&limited(Some(200), Some(500))).unwrap();
    let after = world.reconciler.actual().unwrap();
    let operations = diff(&before, after);
    let is_rate = |operation: &Operation| {
        let Operation::PutService { id, service, is_new: false } = operation else { return false };
        let old = before.services[id];
        let (bandwidth, new_connections) = (200_000, 500);
        **service == Service { bandwidth, new_connections, ..old }
    };
    let (rates, others): (Vec<_>, Vec<_>) = operations.iter().partition(|operation| is_rate(operation));
    assert_eq!(rates.len(), 2, "{operations:?}");
    assert!(others.iter().all(|other| matches!(other, Operation::GracePeriod)), "{others:?}");
}

#[test]
fn removed_limit_leaves_nothing_in_the_maps() {
    let unlimited = limited(None, None);
    let expected = begun(&unlimited).reconciler.actual().unwrap().services.clone();
    let mut world = begun(&limited(Some(100), Some(1000)));
    assert_eq!(world.reconcile(&unlimited).unwrap().services, expected);
}

#[test]
fn rate_above_which_cookies_answer_reaches_the_packet_path() {
    let with = |rate| {
        let mut config = limited(None, None);
        config.load_balancers[0].listeners[0].syn_cookies = rate;
        config
    };
    let mut world = begun(&with(Some(10_000)));
    let state = world.reconciler.actual().unwrap();
    assert!(state.has_syn_cookies());
    let services = services(state, 80);
    let first = services[0].0.index();
    for (id, service) in services {
        assert_eq!((service.syn_cookies, service.token_buckets), (100, first as u16));
        let entry = state.index.entries[&id];
        assert_eq!((entry.syn_cookies, entry.policy & policy::SYN_COOKIES), (10_000, policy::SYN_COOKIES));
        assert_eq!(service.policies(), entry.policies());
    }
    let without = world.reconcile(&with(None)).unwrap();
    assert!(!without.has_syn_cookies());
    assert!(without.index.entries.values().all(|entry| entry.syn_cookies == 0));
}
