//! Port ranges from configuration to maps.

use slb_common::abi::{Handle, ids::ServiceTag, ports::Ports, service::Service};

use super::{World, group};
use crate::{
    dataplane::state::{FlowRecord, MapState, backend_address},
    flush::FlushFilter,
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
