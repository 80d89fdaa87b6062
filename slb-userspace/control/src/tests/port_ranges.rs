//! Port ranges from configuration to maps.

use std::{net::IpAddr, time::Duration};

use slb_common::abi::{Handle, ids::ServiceTag, ports::Ports, service::Service};

use super::{World, group};
use crate::{
    dataplane::state::{FlowRecord, MapState, backend_address},
    desired::{ObservedInputs, desired},
    flush::FlushFilter,
    inherited_state,
    model::Health,
    outages::OutageTracker,
    warm_up::{HealthyWeights, warm_up},
};
use slb_config::model::Config;

fn range(first: u16, last: u16) -> Ports {
    Ports::range(first, last).unwrap()
}

/// The first listener has these ports, the second one others. Servers have no ports.
fn ranged(ports: Ports, others: Ports) -> Config {
    let mut config = group(&[(1, 100), (2, 100)]);
    config.server_groups[0].servers.iter_mut().for_each(|server| server.port = 0);
    let listeners = &mut config.load_balancers[0].listeners;
    for (listener, ports) in listeners.iter_mut().zip([ports, others]) {
        listener.port = ports;
        listener.health_check = None;
    }
    config
}

/// As [`ranged`], with a health check.
fn checked(ports: Ports) -> Config {
    let mut config = ranged(ports, range(100, 199));
    let mut check = group(&[(1, 100)]).load_balancers[0].listeners[0].health_check.clone().unwrap();
    check.port = Some(80);
    config.load_balancers[0].listeners[0].health_check = Some(check);
    config
}

fn service(state: &MapState, ports: Ports) -> Option<&Service> {
    state.services.values().find(|service| service.ports() == ports && service.lookup_table != u32::MAX)
}

fn handles(state: &MapState, ports: Ports) -> (Handle, u32) {
    let service = service(state, ports).unwrap();
    (service.handle, service.lookup_table)
}

fn found(state: &MapState, port: u16) -> Option<Handle> {
    let index = state.index.build().unwrap();
    let vip = service(state, Ports::single(port)).or_else(|| state.services.values().next())?.address;
    let slot = index.listener_slot(&vip, port.to_be(), 6);
    let entry = index.entry(slot)?;
    state.services.values().map(|service| service.handle).find(|handle| handle.tag() == entry.service)
}

#[test]
fn packets_find_the_narrowest_listener() {
    let mut world = World::new();
    let (inner, any) = (range(8000, 8999), Ports::ANY);
    world.reconcile(&ranged(any, inner)).unwrap();
    let state = world.reconciler.actual().unwrap();
    let [inner, any] = [inner, any].map(|ports| handles(state, ports).0);
    for (port, handle) in [(7999, any), (8000, inner), (8999, inner), (9000, any), (1, any), (65_535, any)] {
        assert_eq!(found(state, port), Some(handle), "{port}");
    }
    assert_eq!(found(state, 0), None);
    world.reconcile(&ranged(Ports::single(8500), range(8000, 8999))).unwrap();
    let state = world.reconciler.actual().unwrap();
    assert_eq!(found(state, 8500), Some(handles(state, Ports::single(8500)).0));
    assert_eq!(found(state, 8501), Some(handles(state, range(8000, 8999)).0));
    assert_eq!(found(state, 7999), None);
}

#[test]
fn range_keeps_its_service_and_table_when_either_end_moves() {
    let mut world = World::new();
    let others = range(100, 199);
    world.reconcile(&ranged(range(8000, 8999), others)).unwrap();
    let before = handles(world.reconciler.actual().unwrap(), range(8000, 8999));
    for ports in [range(8000, 9999), range(7000, 9999), range(7500, 8000), Ports::ANY, range(8000, 8999)] {
        world.reconcile(&ranged(ports, others)).unwrap();
        let state = world.reconciler.actual().unwrap();
        assert_eq!(handles(state, ports), before, "{ports}");
        let salts: Vec<_> = state.index.entries.values().filter(|entry| entry.is_range()).collect();
        assert!(salts.windows(2).all(|pair| pair[0].salt == pair[1].salt), "{salts:?}");
    }
    // A range of another listener that overlaps no longer is another service.
    world.reconcile(&ranged(Ports::single(80), others)).unwrap();
    world.reconcile(&ranged(range(8000, 8999), others)).unwrap();
    assert_ne!(handles(world.reconciler.actual().unwrap(), range(8000, 8999)).0, before.0);
}

#[test]
fn split_range_keeps_its_service() {
    for kept in [range(8500, 8999), Ports::ANY] {
        let mut world = World::new();
        world.reconcile(&ranged(range(8000, 8999), Ports::single(80))).unwrap();
        let before = handles(world.reconciler.actual().unwrap(), range(8000, 8999));
        let added = if kept.is_any() { range(8000, 8999) } else { range(8000, 8499) };
        world.reconcile(&ranged(kept, added)).unwrap();
        let state = world.reconciler.actual().unwrap();
        assert_eq!(handles(state, kept), before, "{kept}");
        assert_ne!(handles(state, added).0, before.0, "{added}");
    }
}

#[test]
fn health_at_a_restart_is_that_of_the_range_before() {
    let at = |first, last| {
        let mut config = checked(range(first, last));
        config.load_balancers[0].listeners.truncate(1);
        config
    };
    let mut world = World::new();
    world.all_healthy(&at(8000, 8999));
    let failed = world.health.values_mut().next().unwrap();
    failed.health = Health::Unhealthy;
    let state = world.reconcile(&at(8000, 8999)).unwrap();
    assert_eq!(world.health.len(), 2);
    for (first, last) in [(8000, 8999), (8500, 8999), (7000, 9999)] {
        assert_eq!(inherited_state::health(&at(first, last), &state), world.health, "{first}-{last}");
    }
    assert!(inherited_state::health(&checked(Ports::single(80)), &state).is_empty(), "no range");
}

#[test]
fn warm_up_compares_with_the_range_before() {
    let mut world = World::new();
    let before = checked(range(8000, 8999));
    world.all_healthy(&before);
    let state = world.reconcile(&before).unwrap();
    for first in [8000, 8500, 7000] {
        let mut after = checked(range(first, 8999));
        for (n, server) in (3..).zip(&mut after.server_groups[0].servers) {
            server.address = IpAddr::from([10, 0, 0, n]);
        }
        let known = ObservedInputs { health: Some(&world.health), ..ObservedInputs::default() };
        let waits = warm_up(&HealthyWeights::actual(&state), &after, &desired(&after, known));
        assert_eq!(waits.targets.len(), 2, "{first}");
    }
}

#[test]
fn outage_goes_on_when_a_range_moves() {
    let at = |first| desired(&ranged(range(first, 8999), range(100, 199)), ObservedInputs::default());
    let mut outages = OutageTracker::default();
    assert_eq!(outages.follow(&at(8000), Duration::from_secs(1)).len(), 2, "no server has a next hop");
    assert_eq!(outages.follow(&at(8500), Duration::from_secs(2)), []);
    assert!(outages.all().all(|(_, _, since)| since == Duration::from_secs(1)));
    assert_eq!(outages.follow(&at(7000), Duration::from_secs(3)), []);
}

#[test]
fn two_ranges_that_trade_their_ports_keep_to_their_listeners() {
    let mut world = World::new();
    let (low, high) = (range(1000, 1999), range(2000, 2999));
    world.reconcile(&ranged(low, high)).unwrap();
    let state = world.reconciler.actual().unwrap();
    let before = [handles(state, low).0, handles(state, high).0];
    let (longer, shorter) = (range(1500, 2499), range(2500, 2999));
    world.reconcile(&ranged(longer, shorter)).unwrap();
    let state = world.reconciler.actual().unwrap();
    assert_eq!([handles(state, longer).0, handles(state, shorter).0], before);
}

#[test]
fn flush_chooses_the_flows_of_one_port_of_a_range() {
    let mut world = World::new();
    let ports = range(8000, 8999);
    world.reconcile(&ranged(ports, range(100, 199))).unwrap();
    let state = world.reconciler.actual().unwrap();
    let tag = ServiceTag::of(service(state, ports).unwrap().handle);
    let backend = state.backends.values().next().unwrap();
    let flow = |port: u16| FlowRecord { range_port: port.to_be(), ..FlowRecord::sample(tag, backend.handle) };
    let server = backend_address(backend).ip();
    for (vip, server) in [(Some("192.0.2.10:8080".to_owned()), None), (None, Some(format!("{server}:8080")))]
    {
        let end = |text: Option<String>| text.map(|text| text.parse().unwrap());
        let filter = FlushFilter { vip: end(vip), server: end(server), ..FlushFilter::default() };
        let resolved = filter.resolve(state).unwrap();
        assert!(resolved.matches(&flow(8080)) && !resolved.matches(&flow(8081)), "{filter}");
    }
    let outside = FlushFilter { vip: Some("192.0.2.10:9000".parse().unwrap()), ..FlushFilter::default() };
    let refused = outside.resolve(state).unwrap_err();
    assert!(refused.contains("shop/web at 192.0.2.10:8000-8999"), "{refused}");
}
