//! `slb flows flush`.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use slb_common::datapath::flow_gc::FlushResult;

use super::{World, backend, flow, group};
use crate::{
    dataplane::state::{FlowRecord, MapState, to_address},
    flush::FlushFilter,
};
use slb_config::model::Scheduler;

/// Flows of both listeners (ports 80 and 81) to servers 1 and 2, with alternating client families. Every second flow is
/// not assured. The last entry is the affinity entry of the first flow's client.
fn flows(state: &MapState) -> Vec<FlowRecord> {
    let [one, two] = [1, 2].map(|n| backend(state, n).1.handle);
    let from =
        |address: &str, flow| FlowRecord { client: to_address(address.parse::<IpAddr>().unwrap()), ..flow };
    let not_assured = |flow| FlowRecord { is_assured: false, ..flow };
    let affinity = FlowRecord { is_affinity: true, ..flow(state, 80, one) };
    vec![
        from("203.0.113.7", flow(state, 80, one)),
        not_assured(from("2001:db8::7", flow(state, 80, two))),
        from("203.0.113.8", flow(state, 81, one)),
        not_assured(from("2001:db8:1::7", flow(state, 81, two))),
        from("203.0.113.7", affinity),
    ]
}

fn world() -> (World, MapState) {
    let config = group(&[(1, 100), (2, 50)]);
    let mut world = World::new();
    world.all_healthy(&config);
    let state = world.reconcile(&config).unwrap();
    world.reconciler.plane_mut().flows = flows(&state);
    (world, state)
}

/// The slots that a flush erases.
fn erased(filter: &FlushFilter) -> Vec<usize> {
    let (mut world, state) = world();
    let choice = filter.resolve(&state).unwrap();
    let mut count = |erases| world.reconciler.flush(&choice, erases, world.now).unwrap().erased;
    let would_be = count(false);
    assert_eq!(count(true), would_be, "{filter}");
    let erased_slots: Vec<_> = world.reconciler.plane_mut().erased_slots.iter().copied().collect();
    assert_eq!(erased_slots.len(), would_be, "{filter}: a dry run erases nothing");
    erased_slots
}

#[test]
fn flush_erases_entries_that_pass_all_filters() {
    let all = FlushFilter::default();
    let client = |prefix: &str| FlushFilter { client: Some(prefix.parse().unwrap()), ..all.clone() };
    let vip = |end: &str| FlushFilter { vip: Some(end.parse().unwrap()), ..all.clone() };
    let server = |end: &str| FlushFilter { server: Some(end.parse().unwrap()), ..all.clone() };
    let listener = |name: &str| FlushFilter { listener: Some(name.to_owned()), ..all.clone() };
    for (filter, slots) in [
        (all.clone(), &[0, 1, 2, 3, 4][..]),
        (client("203.0.113.7/32"), &[0, 4]),
        (client("203.0.113.0/24"), &[0, 2, 4]),
        (client("0.0.0.0/0"), &[0, 2, 4]),
        (client("2001:db8::/64"), &[1]),
        (client("::/0"), &[1, 3]),
        (vip("192.0.2.10"), &[0, 1, 2, 3, 4]),
        (vip("192.0.2.10:81"), &[2, 3]),
        (listener("shop/web"), &[0, 1, 4]),
        (server("10.0.0.2"), &[1, 3]),
        (server("10.0.0.1:8080"), &[0, 2, 4]),
        (FlushFilter { not_assured: true, ..all.clone() }, &[1, 3]),
        (FlushFilter { not_assured: true, ..vip("192.0.2.10:80") }, &[1]),
        (FlushFilter { server: server("10.0.0.2").server, ..client("203.0.113.0/24") }, &[]),
    ] {
        assert_eq!(erased(&filter), slots, "{filter}");
    }
}

#[test]
fn flush_by_unknown_vip_or_listener_is_refused() {
    let (_, state) = world();
    let all = FlushFilter::default();
    for (filter, said) in [
        (
            FlushFilter { vip: Some("192.0.2.11".parse().unwrap()), ..all.clone() },
            "no running listener is VIP 192.0.2.11; there are: shop/alt at 192.0.2.10:81, shop/web at 192.0.2.10:80",
        ),
        (
            FlushFilter { listener: Some("shop/nil".to_owned()), ..all.clone() },
            "no running listener is listener shop/nil; ",
        ),
        (
            FlushFilter { server: Some("10.0.0.1:80".parse().unwrap()), ..all },
            "there is no server 10.0.0.1:80; there are: 10.0.0.1:8080, 10.0.0.2:8080",
        ),
    ] {
        let refused = filter.resolve(&state).unwrap_err();
        assert!(refused.starts_with(said), "{refused}");
    }
}

/// A flow without an entry is served by the previous backend of its slot.
#[test]
fn slots_migrate_while_erased_flows_may_return() {
    let (mut world, _) = world();
    let config = group(&[(1, 100), (2, 50)]);
    world.set_health(2, false);
    let state = world.reconcile(&config).unwrap();
    assert!(world.reconciler.has_migrating_slots());
    world.reconciler.plane_mut().flows = flows(&state);
    world.now += Duration::from_secs(800);
    let choice = FlushFilter::default().resolve(&state).unwrap();
    let flushed = world.reconciler.flush(&choice, true, world.now).unwrap();
    assert_eq!(flushed, FlushResult { erased: 5, locked: 0 });
    let mut moved_after = |seconds| {
        world.now += Duration::from_secs(seconds);
        for _ in 0..3 {
            world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
        }
        world.reconciler.has_migrating_slots()
    };
    assert!(moved_after(905), "the idle time since they were erased has not passed");
    moved_after(10);
    assert!(!moved_after(1000));
}

#[test]
fn erased_flows_are_subtracted_from_connection_counts() {
    let mut config = group(&[(1, 100), (2, 50)]);
    for listener in &mut config.load_balancers[0].listeners {
        listener.scheduler = Scheduler::WeightedLeastConnections;
    }
    let mut world = World::new();
    world.all_healthy(&config);
    let state = world.reconcile(&config).unwrap();
    world.reconciler.plane_mut().flows = flows(&state);
    let mut connection_counts = || {
        world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
        let connection_counts =
            world.reconciler.plane_mut().connection_counts.values().copied().collect::<Vec<_>>();
        (connection_counts, world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap().0.flows)
    };
    assert_eq!(connection_counts(), (vec![2, 2], 5));
    let choice = FlushFilter { not_assured: true, ..FlushFilter::default() }.resolve(&state).unwrap();
    world.reconciler.flush(&choice, true, world.now).unwrap();
    let mut connection_counts = || {
        world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
        world.reconciler.plane_mut().connection_counts.values().copied().collect::<Vec<_>>()
    };
    assert_eq!(connection_counts(), [2, 0]);
}
