//! Random changes, failures and restarts.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use proptest::prelude::*;
use slb_common::abi::{backend::Backend, ids::BackendId};

use super::{World, flow, group, lingers, reached, two_groups};
use crate::{
    dataplane::{
        fake::FailurePoint,
        state::{FlowRecord, MapState, ServerTable},
    },
    gc_job::{GcFindings, GcJob},
    model::{Health, HealthVerdict},
    reconcile::PendingMigrations,
    slot_migration::SlotMigration,
    targets::targets,
};

/// The table of the listener on `port`.
fn table(state: &MapState, port: u16) -> u32 {
    state.index.entries.values().find(|entry| entry.port == port.to_be()).unwrap().lookup_table
}

/// What a daemon can read of the state. The maps do not tell when slots were reassigned.
fn known(state: &MapState) -> MapState {
    let mut state = state.clone();
    for table in state.tables.values_mut() {
        let previous_backends: Vec<_> = table.slot_migration.previous_backends().collect();
        *table = ServerTable {
            slot_migration: SlotMigration::from_maps(previous_backends, Duration::ZERO),
            ..table.without_current_backends()
        };
    }
    state
}

#[derive(Debug, Clone)]
enum Change {
    /// Servers of the first listener's group.
    Servers(Vec<(u8, u8)>),
    /// Servers of the second listener's group. Without this change it has the first one's.
    Second(Vec<(u8, u8)>),
    /// A flow of the first or second (`true`) listener to one of its servers.
    Flow(bool, usize),
    /// A GC pass begins; one that has begun scans the flow table.
    ContinueGc,
    /// The GC pass that runs ends, or a whole one.
    EndGc,
    Later(u64),
    Health(u8, bool),
    Neighbour(u8, Option<u8>),
    Restart,
    /// The data plane fails after this many operations. `true` restarts the daemon then.
    Fail(usize, FailurePoint, bool),
}

fn servers() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::btree_map(1u8..12, 0u8..=100, 1..8).prop_map(|servers| servers.into_iter().collect())
}

fn fails() -> impl Strategy<Value = FailurePoint> {
    prop_oneof![Just(FailurePoint::Before), Just(FailurePoint::Halfway), Just(FailurePoint::After)]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        servers().prop_map(Change::Servers),
        servers().prop_map(Change::Second),
        (any::<bool>(), any::<usize>()).prop_map(|(second, n)| Change::Flow(second, n)),
        Just(Change::ContinueGc),
        Just(Change::EndGc),
        (0u64..100).prop_map(Change::Later),
        // Slot migrations are due then.
        Just(Change::Later(920)),
        (1u8..12, any::<bool>()).prop_map(|(n, healthy)| Change::Health(n, healthy)),
        (1u8..12, prop::option::of(0u8..4)).prop_map(|(n, hop)| Change::Neighbour(n, hop)),
        Just(Change::Restart),
        (0usize..6, fails(), any::<bool>()).prop_map(|(after, fails, ends)| Change::Fail(after, fails, ends)),
    ]
}

proptest! {
    /// The fake refuses every state with a dangling id. A server that stays keeps its id and handle, whatever else
    /// changes. A GC pass rehomes every flow to its listener's own table.
    #[test]
    fn any_sequence_of_changes_is_sound_at_every_step(
        changes in prop::collection::vec(change(), 1..40),
        drains in any::<[bool; 2]>(),
    ) {
        let mut world = World::new();
        let (mut first, mut second) = (vec![(1, 100), (2, 50)], None);
        let mut config = group(&first);
        world.all_healthy(&config);
        let mut before = world.reconcile(&config).unwrap();
        let mut running = None;
        for change in changes {
            let mut ends_then = false;
            match change {
                Change::Servers(servers) => first = servers,
                Change::Second(servers) => second = Some(servers),
                Change::Flow(is_second, n) => {
                    let port = if is_second { 81 } else { 80 };
                    let table = table(&before, port);
                    let servers: Vec<_> = before.backends.values().filter(|b| b.lookup_table == table).collect();
                    let with = servers[n % servers.len()];
                    let flow = flow(&before, port, with.handle);
                    world.reconciler.plane_mut().flows.push(flow);
                }
                Change::ContinueGc => running = Some(continue_gc(&mut world, running)),
                Change::EndGc if let Some(begun) = running.take() => end_gc(&mut world, begun),
                Change::EndGc => {
                    world.reconciler.run_gc(world.now, &BTreeSet::new()).map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
                    for flow in &world.reconciler.plane_mut().flows.clone() {
                        let at = |port| flow.service == self::flow(&before, port, flow.backend).service;
                        let table = table(&before, if at(81) { 81 } else { 80 });
                        let servers = before.backends.values();
                        let with = servers.clone().find(|server| server.handle == flow.backend);
                        // Otherwise the flow is finished, or its server is gone.
                        if let Some(with) = with.filter(|_| !flow.is_finished) {
                            let is_there = |s: &Backend| s.lookup_table == table && s.address == with.address;
                            prop_assert!(with.lookup_table == table || !servers.clone().any(is_there), "{:?}", flow);
                        }
                    }
                }
                Change::Later(seconds) => world.now += Duration::from_secs(seconds),
                Change::Health(n, healthy) => world.set_health(n, healthy),
                Change::Neighbour(n, None) => drop(world.next_hops.remove(&IpAddr::from([10, 0, 0, n]))),
                Change::Neighbour(n, Some(to)) => {
                    world.next_hops.insert(IpAddr::from([10, 0, 0, n]), Ok(reached(to)));
                }
                Change::Restart => (world, running) = (world.restart(), None),
                Change::Fail(after, fails, ends) => {
                    ends_then = ends;
                    let plane = world.reconciler.plane_mut();
                    (plane.fail_after, plane.fails) = (Some(after), fails);
                }
            }
            config = match &second {
                Some(second) => two_groups(&first, second),
                None => group(&first),
            };
            for (listener, drains) in config.load_balancers[0].listeners.iter_mut().zip(drains) {
                listener.drain_timeout = drains.then_some(Duration::from_secs(60));
            }
            for target in targets(&config) {
                world.health.entry(target).or_insert(HealthVerdict { health: Health::Healthy, detail: None });
            }
            let fails = world.reconciler.plane_mut().fail_after.is_some();
            let after = match world.reconcile(&config) {
                Ok(state) => state,
                Err(error) => {
                    prop_assert!(fails && format!("{error:#}").contains("was to fail"), "{:#}", error);
                    if ends_then {
                        (world, running) = (world.restart(), None);
                    }
                    world.reconcile(&config).map_err(|error| TestCaseError::fail(format!("{error:#}")))?
                }
            };
            world.reconciler.plane_mut().fail_after = None;
            let actual = known(&world.reconciler.plane_mut().state);
            prop_assert!(actual == known(&after), "the data plane differs from the state it reports");
            for (id, new) in after.backends.iter().filter(|(_, new)| !lingers(new)) {
                let mut before = before.backends.iter().filter(|(_, old)| !lingers(old));
                if let Some((old_id, old)) = before.find(|(_, old)| (old.lookup_table, old.address) == (new.lookup_table, new.address)) {
                    prop_assert_eq!((old_id, old.handle), (id, new.handle));
                }
            }
            for flow in world.reconciler.plane_mut().flows.iter().filter(|flow| !flow.is_finished) {
                prop_assert!(!loses_server(flow, &before, &after), "{:?}", flow);
            }
            before = after;
        }
    }
}

/// A GC pass that takes some changes long.
enum RunningGc {
    Begun(GcJob),
    Scanned(Box<GcFindings>),
    Ending(PendingMigrations),
    Ended,
}

fn continue_gc(world: &mut World, running: Option<RunningGc>) -> RunningGc {
    match running {
        None => RunningGc::Begun(world.reconciler.begin_gc(world.now, BTreeSet::new()).unwrap()),
        Some(RunningGc::Begun(job)) => {
            RunningGc::Scanned(Box::new(job.run(world.reconciler.plane_mut(), &mut || {}).unwrap()))
        }
        Some(RunningGc::Scanned(found)) => match world.reconciler.process_findings(*found, world.now) {
            Ok((_, migrations)) => RunningGc::Ending(migrations),
            Err(_) => {
                world.reconciler.abort_gc();
                RunningGc::Ended
            }
        },
        // Some slot migrations end.
        Some(RunningGc::Ending(mut migrations)) => match world.reconciler.end_migrations(&mut migrations) {
            Ok(true) => RunningGc::Ending(migrations),
            Ok(false) | Err(_) => RunningGc::Ended,
        },
        Some(RunningGc::Ended) => RunningGc::Ended,
    }
}

/// Ends the pass. An operation of it may fail.
fn end_gc(world: &mut World, mut running: RunningGc) {
    while !matches!(running, RunningGc::Ended) {
        running = continue_gc(world, Some(running));
    }
}

/// Whether a change takes the server from a flow of a listener that goes on to have this server.
fn loses_server(flow: &FlowRecord, before: &MapState, after: &MapState) -> bool {
    let serves = |state: &MapState| {
        let server =
            state.backends.get(&BackendId::of(flow.backend)).filter(|it| it.handle == flow.backend)?;
        (server.flags & Backend::TERMINATING == 0).then_some(server.address)
    };
    let Some(address) = serves(before) else { return false };
    let Some(entry) = after.index.entries.values().find(|entry| entry.tag() == flow.service) else {
        return false;
    };
    let mut configured = after.backends.values().filter(|it| it.flags & Backend::REMOVED == 0);
    let stays = configured.any(|it| {
        let serves = it.flags & Backend::TERMINATING == 0;
        it.table() == entry.table() && it.address == address && serves
    });
    stays && serves(after).is_none()
}
