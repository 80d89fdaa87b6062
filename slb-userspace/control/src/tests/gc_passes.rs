//! Flow-table GC passes.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::{World, backend, flow, group};
use crate::dataplane::state::TABLE_BATCH;
use slb_common::abi::ids::TableId;
use slb_config::{model::Config, samples::forwarding};

/// Groups of two servers, each behind its own listener.
fn groups(number: usize) -> Config {
    let listeners: String = (0..number)
        .map(|n| {
            format!(
                "[[load_balancer]]\nname = \"b{n}\"\naddresses = [\"192.0.2.{n}\"]\n[[load_balancer.listener]]\n\
                 name = \"l\"\nprotocol = \"tcp\"\nport = 80\nmode = \"dsr\"\nserver_group = \"g{n}\"\n"
            )
        })
        .collect();
    let groups: String = (0..number)
        .map(|n| {
            format!(
                "[[server_group]]\nname = \"g{n}\"\ntable_size = 251\nservers = [\
                 {{ address = \"10.0.0.1\", port = 80 }}, {{ address = \"10.0.0.2\", port = 80 }}]\n"
            )
        })
        .collect();
    forwarding(&(listeners + &groups))
}

#[test]
fn gc_pass_takes_tables_in_batches_and_waits_for_unread_entries() {
    let config = groups(TABLE_BATCH + 1);
    let mut world = World::new();
    world.all_healthy(&config);
    world.reconcile(&config).unwrap();
    assert!(!world.reconciler.has_migrating_slots());
    world.reconciler.plane_mut().gc_passes = 0;
    world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
    assert_eq!(
        world.reconciler.plane_mut().gc_passes,
        1,
        "a GC pass reads flows, whichever slots are reassigned"
    );
    world.set_health(2, false);
    let state = world.reconcile(&config).unwrap();
    assert!(state.tables.values().all(|table| table.current_backends.is_none()), "they take too much room");
    let moved = world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap().0.moved;
    assert!(moved > TABLE_BATCH);
    assert_eq!(world.reconciler.plane_mut().gc_passes, 2, "nothing is due: one pass");

    world.now += Duration::from_secs(800);
    world.reconciler.plane_mut().evictions += 1;
    world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
    world.now += Duration::from_secs(905);
    assert_eq!(
        world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap().0.moved,
        moved,
        "expired flows may return"
    );
    world.now += Duration::from_secs(10);
    let mut gc_pass = |unread| {
        world.reconciler.plane_mut().unread = unread;
        world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap().0.moved
    };
    assert_eq!(gc_pass(1), moved, "any slot may have the flow that could not be read");
    assert_eq!(gc_pass(0), moved, "current backends become previous ones first");
    assert_eq!(gc_pass(1), moved, "any slot may have the flow that could not be read");
    let left: Vec<_> = (0..4).map(|_| gc_pass(0)).collect();
    assert!(left.is_sorted_by(|a, b| a >= b) && left[3] == 0, "{left:?}");
    assert!(left[0] > 0, "{left:?}: a pass takes one batch");
    let actual = world.reconciler.actual().unwrap().clone();
    assert_eq!(world.reconciler.plane_mut().state, actual);
}

/// A failed resize leaves a table whose size differs from the configured one.
#[test]
fn gc_pass_counts_entries_of_the_active_flow_table() {
    let config = group(&[(1, 100)]);
    let mut world = World::new();
    world.all_healthy(&config);
    let state = world.reconcile(&config).unwrap();
    world.reconciler.plane_mut().flows = vec![flow(&state, 80, backend(&state, 1).1.handle); 3];
    assert_ne!(config.daemon.flow_table_entries, 3);
    assert_eq!(world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap().0.entries, 3);
}

/// The event loop reconciles while a pass runs.
#[test]
fn slots_reassigned_while_a_gc_pass_runs_go_on_migrating() {
    let config = groups(1);
    let mut world = World::new();
    world.all_healthy(&config);
    world.reconcile(&config).unwrap();
    world.set_health(2, false);
    world.reconcile(&config).unwrap();
    let gc_pass = |world: &mut World, meanwhile: &dyn Fn(&mut World)| {
        let job = world.reconciler.begin_gc(world.now, BTreeSet::new()).unwrap();
        meanwhile(world);
        let found = job.run(world.reconciler.plane_mut(), &mut || {}).unwrap();
        world.reconciler.end_gc(found, world.now).unwrap().moved
    };
    let moved = gc_pass(&mut world, &|_| {});
    world.now += Duration::from_secs(920);
    let returns = |world: &mut World| {
        world.set_health(2, true);
        world.reconcile(&config).unwrap();
    };
    assert_eq!(gc_pass(&mut world, &returns), moved);
    world.now += Duration::from_secs(800);
    assert_eq!(gc_pass(&mut world, &|_| {}), moved, "the slots were reassigned 800 s ago");
    world.now += Duration::from_secs(120);
    gc_pass(&mut world, &|_| {});
    assert_eq!(gc_pass(&mut world, &|_| {}), 0);
}

/// The event loop reconciles between two steps.
#[test]
fn tables_that_change_between_steps_go_on_migrating() {
    const TABLES: usize = 10;
    let config = groups(TABLES);
    let mut world = World::new();
    world.all_healthy(&config);
    world.reconcile(&config).unwrap();
    world.set_health(2, false);
    world.reconcile(&config).unwrap();
    world.now += Duration::from_secs(920);
    // Current backends become previous ones first.
    world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
    let job = world.reconciler.begin_gc(world.now, BTreeSet::new()).unwrap();
    let found = job.run(world.reconciler.plane_mut(), &mut || {}).unwrap();
    let (_, mut migrations) = world.reconciler.process_findings(found, world.now).unwrap();
    let migrating = |world: &mut World| -> BTreeSet<TableId> {
        let tables = &world.reconciler.actual().unwrap().tables;
        tables.iter().filter(|(_, table)| !table.slot_migration.is_empty()).map(|(id, _)| *id).collect()
    };
    assert_eq!(migrating(&mut world).len(), TABLES);
    assert!(world.reconciler.end_migrations(&mut migrations).unwrap());
    let left = migrating(&mut world);
    assert!((1..TABLES).contains(&left.len()), "{left:?}");
    // Of those that are left, one table gets another server, and the idle timeout of another one changes.
    let mut config = config;
    let state = world.reconciler.actual().unwrap().clone();
    let group_of = |id: &TableId| {
        let entry = state.index.entries.values().find(|entry| entry.table() == *id).unwrap();
        usize::from(entry.address.v4_bytes()[3])
    };
    let mut ids = left.iter();
    let (reassigned, other_timeout) = (*ids.next().unwrap(), *ids.next().unwrap());
    let servers = &mut config.server_groups[group_of(&reassigned)].servers;
    let mut added = servers[0].clone();
    added.address = IpAddr::from([10, 0, 0, 3]);
    servers.push(added);
    world.all_healthy(&config);
    world.set_health(2, false);
    let listener = &mut config.load_balancers[group_of(&other_timeout)].listeners[0];
    listener.idle_timeout -= Duration::from_secs(4);
    world.reconcile(&config).unwrap();
    while world.reconciler.end_migrations(&mut migrations).unwrap() {}
    let left = migrating(&mut world);
    assert_eq!(left, BTreeSet::from([reassigned, other_timeout]));
    let actual = world.reconciler.actual().unwrap().clone();
    assert_eq!(world.reconciler.plane_mut().state, actual);
}

#[test]
fn echo_service_of_a_vip_is_no_nat_service() {
    for (config, expected) in [(groups(1), false), (group(&[(1, 100)]), true)] {
        let mut world = World::new();
        world.all_healthy(&config);
        world.reconcile(&config).unwrap();
        assert_eq!(world.reconciler.has_nat_service(), expected);
    }
}
