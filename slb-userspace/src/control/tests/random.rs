//! Random changes, failures and restarts.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{World, group, lingers, reached};
use crate::control::desired::{Verdict, targets};

#[derive(Debug, Clone)]
enum Change {
    Servers(Vec<(u8, u8)>),
    Health(u8, bool),
    Neighbour(u8, Option<u8>),
    Restart,
    Fail(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        prop::collection::btree_map(1u8..12, 0u8..=100, 1..8)
            .prop_map(|servers| Change::Servers(servers.into_iter().collect())),
        (1u8..12, any::<bool>()).prop_map(|(n, healthy)| Change::Health(n, healthy)),
        (1u8..12, prop::option::of(0u8..4)).prop_map(|(n, hop)| Change::Neighbour(n, hop)),
        Just(Change::Restart),
        (0usize..6).prop_map(Change::Fail),
    ]
}

proptest! {
    /// The fake refuses every state in which a packet would find something that is not there; a server that stays
    /// keeps its id and reference, whatever happens around it.
    #[test]
    fn any_sequence_of_changes_is_sound_at_every_step(changes in prop::collection::vec(change(), 1..40)) {
        let mut world = World::new();
        let mut config = group(&[(1, 100), (2, 50)]);
        world.all_healthy(&config);
        let mut before = world.reconcile(&config).unwrap();
        for change in changes {
            match change {
                Change::Servers(servers) => {
                    config = group(&servers);
                    for target in targets(&config) {
                        world.health.entry(target).or_insert(Verdict { healthy: true, detail: None });
                    }
                }
                Change::Health(n, healthy) => world.set_health(n, healthy),
                Change::Neighbour(n, None) => drop(world.next_hops.remove(&IpAddr::from([10, 0, 0, n]))),
                Change::Neighbour(n, Some(to)) => {
                    world.next_hops.insert(IpAddr::from([10, 0, 0, n]), Ok(reached(to)));
                }
                Change::Restart => world = world.restart(),
                Change::Fail(after) => world.reconciler.plane_mut().fail_after = Some(after),
            }
            let fails = world.reconciler.plane_mut().fail_after.is_some();
            let after = match world.reconcile(&config) {
                Ok(state) => state,
                Err(error) => {
                    prop_assert!(fails && format!("{error:#}").contains("was to fail"), "{:#}", error);
                    world.reconcile(&config).map_err(|error| TestCaseError::fail(format!("{error:#}")))?
                }
            };
            world.reconciler.plane_mut().fail_after = None;
            prop_assert_eq!(&world.reconciler.plane_mut().state, &after);
            for (id, new) in after.backends.iter().filter(|(_, new)| !lingers(new)) {
                let mut before = before.backends.iter().filter(|(_, old)| !lingers(old));
                if let Some((old_id, old)) = before.find(|(_, old)| old.address == new.address) {
                    prop_assert_eq!((old_id, old.reference), (id, new.reference));
                }
            }
            before = after;
        }
    }
}
