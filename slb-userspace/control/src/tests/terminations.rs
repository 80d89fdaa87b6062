//! Servers that are removed or added: drain, termination, slow start.

use std::{collections::BTreeSet, mem, time::Duration};

use slb_common::abi::{backend::Backend, ids::TableId};

use super::{World, backend, flow, group, members, two_groups};
use crate::{
    dataplane::state::{FlowRecord, MapState},
    desired::{ObservedInputs, desired},
    finished_flows::MAX_TERMINATED,
};
use slb_config::model::Config;

/// As [`group`], with a `drain_timeout` of one minute.
fn drained(servers: &[(u8, u8)]) -> Config {
    let mut config = group(servers);
    drain(&mut config);
    config
}

fn drain(config: &mut Config) {
    for listener in &mut config.load_balancers[0].listeners {
        listener.drain_timeout = Some(Duration::from_secs(60));
    }
}

#[test]
fn removed_server_drains_terminates_and_leaves_the_maps() {
    let (before, after) = (drained(&[(1, 100), (2, 50)]), drained(&[(1, 100)]));
    let mut world = World::new();
    world.all_healthy(&before);
    let (id, old) = backend(&world.reconcile(&before).unwrap(), 2);
    let at = |world: &mut World, seconds: u64| {
        world.now = Duration::from_secs(1000 + seconds);
        let state = world.reconcile(&after).unwrap();
        assert!(!members(&state, 0).contains(&id));
        state.backends.get(&id).map(|backend| (backend.handle == old.handle, backend.flags, backend.deadline))
    };
    let draining = Some((true, Backend::ALIVE | Backend::REMOVED, 1060));
    assert_eq!(at(&mut world, 0), draining);
    let mut world = world.restart();
    assert_eq!(at(&mut world, 59), draining, "another daemon goes on");
    assert_eq!(at(&mut world, 60), Some((true, Backend::TERMINATING | Backend::REMOVED, 1060)));
    assert!(world.reconciler.is_gc_due());
    world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
    assert!(!world.reconciler.is_gc_due());
    assert_eq!(at(&mut world, 80), None);
}

/// A connection that began with the current backend at another node may arrive at this one.
#[test]
fn slots_leave_a_terminating_server_before_it_goes() {
    let servers = [(1, 100), (2, 100), (3, 100)];
    for (before, after, cut) in [
        (group(&servers), group(&servers[..2]), 0),
        (drained(&servers), drained(&servers[..2]), 60),
        (drained(&servers), drained(&[(1, 100), (2, 100), (3, 0)]), 60),
    ] {
        let mut world = World::new();
        world.all_healthy(&before);
        let (id, _) = backend(&world.reconcile(&before).unwrap(), 3);
        let mut slots_at = |seconds: u64| {
            world.now = Duration::from_secs(1000 + seconds);
            let state = world.reconcile(&after).unwrap();
            assert!(state.backends.contains_key(&id));
            let moved = state.tables[&TableId::new(0)].slot_migration.len();
            (
                state.tables[&TableId::new(0)]
                    .slot_migration
                    .previous_backends()
                    .filter(|(_, previous_backend)| *previous_backend == id)
                    .count(),
                moved,
            )
        };
        let (kept, moved) = slots_at(0);
        assert!(kept > 50, "{kept} of {moved}");
        assert_eq!(slots_at(cut), (kept, moved), "an end that sends a packet receives a RST");
        assert_eq!(slots_at(cut + 2), (kept, moved));
        assert_eq!(slots_at(cut + 3), (0, moved), "the slots still migrate, and have no previous backend");
    }
}

/// No other server could receive the packets: they are reset.
#[test]
fn slots_without_another_server_stay_with_a_terminating_one() {
    let mut world = World::new();
    let config = group(&[(1, 100)]);
    world.all_healthy(&config);
    let (id, _) = backend(&world.reconcile(&config).unwrap(), 1);
    world.reconcile(&group(&[(2, 0)])).unwrap();
    world.now += Duration::from_secs(10);
    let state = world.reconcile(&group(&[(2, 0)])).unwrap();
    assert!(
        state.tables[&TableId::new(0)]
            .slot_migration
            .previous_backends()
            .all(|(_, previous_backend)| previous_backend == id)
    );
    assert_eq!(state.tables[&TableId::new(0)].slot_migration.len(), 251);
}

/// The table of a flow's own listener decides about it, whichever table it began in.
#[test]
fn gc_pass_rehomes_flows_to_their_listeners_table() {
    follow(|world| {
        assert!(world.reconciler.is_gc_due());
        world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
    });
}

/// A daemon dies between the change and the GC pass that follows.
#[test]
fn next_daemon_rehomes_flows_of_an_interrupted_change() {
    follow(|world| *world = mem::replace(world, World::new()).restart());
}

fn follow(look: fn(&mut World)) {
    let apart = |second: &[(u8, u8)]| {
        let mut config = two_groups(&[(1, 100), (2, 50)], second);
        drain(&mut config);
        config
    };
    let mut world = World::new();
    let before = drained(&[(1, 100), (2, 50)]);
    world.all_healthy(&before);
    let state = world.reconcile(&before).unwrap();
    let [one, two] = [1, 2].map(|n| backend(&state, n).1.handle);
    let flows = [(80, one), (80, two), (81, one), (81, two)].map(|(port, server)| flow(&state, port, server));
    world.reconciler.plane_mut().flows = flows.to_vec();

    // Server 1 is in both groups. Server 2 has left the second listener's group.
    let config = apart(&[(1, 100)]);
    world.all_healthy(&config);
    let state = world.reconcile(&config).unwrap();
    look(&mut world);
    let servers = |world: &mut World, state: &MapState| -> Vec<(bool, u8, u32)> {
        let flows = world.reconciler.plane_mut().flows.clone();
        let of = |flow: &FlowRecord| {
            let server = state.backends.values().find(|server| server.handle == flow.backend).unwrap();
            (flow.is_finished, server.flags, server.deadline)
        };
        flows.iter().map(of).collect()
    };
    let serves = (false, Backend::ALIVE | Backend::ACCEPTS_NEW, 0);
    let lingers = (false, Backend::ALIVE | Backend::REMOVED, 1060);
    assert_eq!(servers(&mut world, &state), [serves, serves, serves, lingers]);
    assert!(world.reconciler.plane_mut().flows[2].backend != one, "it is in the other table now");

    // The server drains in the second group only.
    world.now += Duration::from_secs(10);
    let state = world.reconcile(&apart(&[(1, 0)])).unwrap();
    let drains = (false, Backend::ALIVE, 1070);
    assert_eq!(servers(&mut world, &state), [serves, serves, drains, lingers]);
    world.now += Duration::from_secs(61);
    let state = world.reconcile(&apart(&[(1, 0)])).unwrap();
    let ended = world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap().1;
    assert_eq!(ended.len(), 2, "{ended:?}");
    let over = |flags| move |(_, flags_now, _): &(bool, u8, u32)| *flags_now == flags;
    let now = servers(&mut world, &state);
    assert_eq!(now[..2], [serves, serves]);
    assert!(now[2].0 && over(Backend::TERMINATING)(&now[2]), "{now:?}");
    assert!(now[3].0 && over(Backend::TERMINATING | Backend::REMOVED)(&now[3]), "{now:?}");
}

/// Until the GC pass, flows of a listener with a new table name server entries of the old one.
#[test]
fn table_split_resets_no_connection_of_the_other_listener() {
    let mut world = World::new();
    let before = group(&[(1, 100), (2, 50)]);
    world.all_healthy(&before);
    let state = world.reconcile(&before).unwrap();
    let two = backend(&state, 2).1.handle;
    world.reconciler.plane_mut().flows = vec![flow(&state, 81, two)];
    // The first listener loses server 2. No listener has `drain_timeout`.
    let config = two_groups(&[(1, 100)], &[(1, 100), (2, 50)]);
    world.all_healthy(&config);
    let state = world.reconcile(&config).unwrap();
    let actual = state.backends.values().find(|server| server.handle == two).unwrap();
    assert!(actual.is_alive() && !actual.is_terminating(), "{actual:?}");
    world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
    let followed = world.reconciler.plane_mut().flows[0];
    assert!(followed.backend != two && !followed.is_finished);
    world.now += Duration::from_secs(6);
    let state = world.reconcile(&config).unwrap();
    let of = |handle| state.backends.values().find(|server| server.handle == handle).unwrap();
    assert!(of(two).is_terminating() && of(followed.backend).is_alive());
}

/// The change fails at each of its steps. Then another daemon continues, or the same one.
#[test]
fn interrupted_change_resets_no_connection() {
    for goes_on in [|world: World| world.restart(), World::after_due_gc_pass] {
        for step in 0.. {
            let mut world = World::new();
            let before = group(&[(1, 100), (2, 50)]);
            world.all_healthy(&before);
            let state = world.reconcile(&before).unwrap();
            let plane = world.reconciler.plane_mut();
            plane.flows = vec![flow(&state, 81, backend(&state, 2).1.handle)];
            plane.fail_after = Some(step);
            let config = two_groups(&[(1, 100)], &[(1, 100), (2, 50)]);
            world.all_healthy(&config);
            let is_broken_off = world.reconcile(&config).is_err();
            world.reconciler.plane_mut().fail_after = None;
            world = goes_on(world);
            let state = world.reconcile(&config).unwrap();
            let server = |world: &mut World| {
                let handle = world.reconciler.plane_mut().flows[0].backend;
                *state.backends.values().find(|server| server.handle == handle).unwrap()
            };
            assert!(!server(&mut world).is_terminating(), "step {step}");
            if world.reconciler.is_gc_due() {
                world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
            }
            let entry = state.index.entries.values().find(|entry| entry.port == 81_u16.to_be()).unwrap();
            assert_eq!(server(&mut world).table(), entry.table(), "step {step}");
            if !is_broken_off {
                assert!(step > 3, "{step} steps");
                break;
            }
        }
    }
}

/// A GC pass marks the connections that it ends, and later passes do not report them.
#[test]
fn ended_connections_are_reported_once_although_the_pass_fails_later() {
    let mut world = World::new();
    let before = group(&[(1, 100), (2, 50), (3, 100)]);
    world.all_healthy(&before);
    let state = world.reconcile(&before).unwrap();
    let flow = flow(&state, 80, backend(&state, 3).1.handle);
    let after = group(&[(1, 100), (3, 50)]);
    world.reconcile(&after).unwrap();
    world.now += Duration::from_secs(910);
    world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
    world.now += Duration::from_secs(910);
    // A terminating server requires a GC pass.
    world.reconcile(&group(&[(1, 100)])).unwrap();
    assert!(world.reconciler.is_gc_due());
    let plane = world.reconciler.plane_mut();
    plane.flows = vec![flow];
    plane.fail_after = Some(0);
    let job = world.reconciler.begin_gc(world.now, BTreeSet::new()).unwrap();
    let found = job.run(world.reconciler.plane_mut(), &mut || {}).unwrap();
    assert_eq!(found.ended.len(), 1);
    world.reconciler.end_gc(found, world.now).unwrap_err();
    world.reconciler.abort_gc();
    assert!(world.reconciler.plane_mut().flows[0].is_finished && world.reconciler.is_gc_due());
    assert_eq!(world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap().1.len(), 0, "a RST once");
    assert!(!world.reconciler.is_gc_due());
}

/// One GC pass ends a limited number of connections.
#[test]
fn removed_server_leaves_the_maps_after_its_last_connection_ends() {
    const FLOWS: usize = 30 * MAX_TERMINATED;
    let (before, after) = (group(&[(1, 100), (2, 50)]), group(&[(1, 100)]));
    let mut world = World::new();
    world.all_healthy(&before);
    let state = world.reconcile(&before).unwrap();
    let (id, server) = backend(&state, 2);
    let flow = flow(&state, 80, server.handle);
    world.reconciler.plane_mut().flows = vec![flow; FLOWS];
    world.reconcile(&after).unwrap();
    let mut ended = 0;
    while ended < FLOWS {
        assert!(
            world.reconcile(&after).unwrap().backends.contains_key(&id),
            "{ended} of {FLOWS} have received a RST"
        );
        let (gc, ended_now) = world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
        assert!(ended_now.len() <= MAX_TERMINATED && gc.next <= Duration::from_secs(20));
        ended += ended_now.len();
        world.now += gc.next;
    }
    assert!(world.now > Duration::from_secs(1025), "it does not go for the time alone");
    assert!(
        world.reconcile(&after).unwrap().backends.contains_key(&id),
        "the last ones may be slow to answer"
    );
    assert_eq!(world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap().1, []);
    assert!(!world.reconcile(&after).unwrap().backends.contains_key(&id));
}

#[test]
fn slow_start_raises_a_server_to_its_weight_in_steps() {
    let slow = |servers: &[(u8, u8)]| {
        let mut config = group(servers);
        config.server_groups[0].slow_start = Some(Duration::from_secs(30));
        config
    };
    let (one, two) = (slow(&[(1, 100)]), slow(&[(1, 100), (2, 50)]));
    let mut world = World::new();
    world.all_healthy(&two);
    let weights = |world: &mut World, config: &Config, seconds: u64| {
        world.now = Duration::from_secs(1000 + seconds);
        let known = ObservedInputs {
            health: Some(&world.health),
            next_hops: Some(&world.next_hops),
            ..ObservedInputs::default()
        };
        let reconciled = world.reconciler.reconcile(&desired(config, known), world.now).unwrap();
        let weights: Vec<_> =
            reconciled.state.tables[&TableId::new(0)].spec.members.iter().map(|m| m.weight).collect();
        (weights, reconciled.next.map(|next| next.as_secs()))
    };
    assert_eq!(weights(&mut world, &one, 0), (vec![100], None), "the first start");
    assert_eq!(weights(&mut world, &two, 10), (vec![100, 5], Some(1013)), "added");
    let mut world = world.restart();
    assert_eq!(weights(&mut world, &two, 13), (vec![100, 10], Some(1016)), "another daemon goes on");
    assert_eq!(weights(&mut world, &two, 37), (vec![100, 50], None));
    world.set_health(1, false);
    assert_eq!(weights(&mut world, &two, 50), (vec![50], None));
    world.set_health(1, true);
    assert_eq!(weights(&mut world, &two, 60), (vec![10, 50], Some(1063)), "healthy again");
}

#[test]
fn removed_server_that_returns_before_deadline_keeps_connections() {
    let (both, one) = (drained(&[(1, 100), (2, 50)]), drained(&[(1, 100)]));
    let mut world = World::new();
    world.all_healthy(&both);
    let before = backend(&world.reconcile(&both).unwrap(), 2);
    world.reconcile(&one).unwrap();
    world.now += Duration::from_secs(30);
    assert_eq!(backend(&world.reconcile(&both).unwrap(), 2), before);
}

#[test]
fn configured_server_stays_terminating_until_it_takes_new_flows() {
    let mut world = World::new();
    world.all_healthy(&drained(&[(1, 100), (2, 50)]));
    let before = backend(&world.reconcile(&drained(&[(1, 100), (2, 50)])).unwrap(), 2);
    let leaving = drained(&[(1, 100), (2, 0)]);
    let mut at = |seconds: u64| {
        world.now = Duration::from_secs(1000 + seconds);
        let reconciled = {
            let known = ObservedInputs {
                health: Some(&world.health),
                next_hops: Some(&world.next_hops),
                ..ObservedInputs::default()
            };
            world.reconciler.reconcile(&desired(&leaving, known), world.now).unwrap()
        };
        let server = backend(&reconciled.state, 2).1;
        (server.flags, server.deadline, reconciled.next.map(|next| next.as_secs()))
    };
    assert_eq!(at(0), (Backend::ALIVE, 1060, Some(1060)));
    assert_eq!(at(30), (Backend::ALIVE, 1060, Some(1060)));
    assert_eq!(at(60), (Backend::TERMINATING, 1060, Some(1063)));
    assert_eq!(at(9000), (Backend::TERMINATING, 1060, None));
    assert_eq!(backend(&world.reconcile(&drained(&[(1, 100), (2, 50)])).unwrap(), 2), before);
}
