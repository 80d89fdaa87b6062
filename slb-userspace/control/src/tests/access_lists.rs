//! Access lists from configuration to maps: a service has its whole old list or its whole new one at every step.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use proptest::prelude::*;
use slb_common::abi::{access_list::AccessKey, ids::AccessListId, service::policy};

use super::{World, group};
use crate::dataplane::{
    access_list::{Networks, client_key, key, of_key},
    fake::FailurePoint,
    state::MapState,
};
use slb_config::model::{AccessList, AccessListKind, Config, ListenerAccess};

fn networks(texts: &[&str]) -> Networks {
    Arc::new(texts.iter().map(|text| text.parse().unwrap()).collect())
}

/// The listener on port 80 has this list, and the listener on port 81 has none.
fn with_list(networks: &Networks, kind: AccessListKind) -> Config {
    let mut config = group(&[(1, 100)]);
    // Any name will do.
    let list = config.server_groups[0].name.clone();
    config.access_lists = vec![AccessList { name: list.clone(), networks: networks.clone() }];
    config.load_balancers[0].listeners[0].access = Some(ListenerAccess { list, kind });
    config
}

/// Policies and networks of the listener on `port`, as packets find them. `None` without a list.
fn found(state: &MapState, port: u16) -> Option<(u32, Networks)> {
    let entry = state.index.entries.values().find(|entry| entry.port == port.to_be()).unwrap();
    entry.has_access_list().then(|| {
        let kind = entry.policy & (policy::ALLOW_LISTED | policy::DENY_LISTED);
        (kind, state.access_lists.get(&entry.access_list_id()).cloned().unwrap_or_default())
    })
}

fn begun(config: &Config) -> World {
    let mut world = World::new();
    world.all_healthy(config);
    world.reconcile(config).unwrap();
    world
}

#[test]
fn service_has_the_list_of_its_listener() {
    let office = networks(&["192.0.2.0/24", "2001:db8::/32"]);
    for (kind, bit) in
        [(AccessListKind::White, policy::ALLOW_LISTED), (AccessListKind::Black, policy::DENY_LISTED)]
    {
        let mut world = begun(&with_list(&office, kind));
        let state = world.reconciler.actual().unwrap();
        assert_eq!(found(state, 80), Some((bit, office.clone())));
        assert_eq!(found(state, 81), None);
    }
}

#[test]
fn empty_list_is_in_no_map_and_a_white_one_denies() {
    let mut world = begun(&with_list(&Networks::default(), AccessListKind::White));
    let state = world.reconciler.actual().unwrap();
    assert_eq!(found(state, 80), Some((policy::ALLOW_LISTED, Networks::default())));
    assert!(state.access_lists.is_empty());
    let entry = state.index.entries.values().find(|entry| entry.has_access_list()).unwrap();
    assert!(entry.denies(false), "no client is on the list");
}

#[test]
fn equal_lists_share_an_id_and_an_unchanged_list_is_not_written_again() {
    let office = networks(&["192.0.2.0/24"]);
    let mut config = with_list(&office, AccessListKind::White);
    config.load_balancers[0].listeners[1].access = config.load_balancers[0].listeners[0].access.clone();
    let mut world = begun(&config);
    let before = world.reconciler.actual().unwrap().clone();
    assert_eq!(before.access_lists.len(), 1);
    let mut world = world.restart();
    assert_eq!(world.reconcile(&config).unwrap(), before);
    assert_eq!(world.reconcile(&group(&[(1, 100)])).unwrap().access_lists.len(), 0);
}

/// Every operation of every change fails in every way. A packet then finds the old list or the new one, and the next
/// daemon ends with the new one alone.
#[test]
fn change_that_fails_anywhere_leaves_the_old_list_or_the_new_one() {
    let lists = [
        networks(&[]),
        networks(&["192.0.2.0/24"]),
        networks(&["192.0.2.0/24", "192.0.2.0/25", "2001:db8::/32"]),
        networks(&["192.0.2.0/25", "198.51.100.0/24", "::/0"]),
    ];
    let kinds = [AccessListKind::White, AccessListKind::Black];
    let settings = lists.iter().flat_map(|list| kinds.map(|kind| with_list(list, kind)));
    let settings: Vec<_> = settings.chain([group(&[(1, 100)])]).collect();
    let mut failures = 0;
    for old in &settings {
        for new in &settings {
            let expected: Vec<_> =
                [old, new].map(|config| found(begun(config).reconciler.actual().unwrap(), 80)).into();
            for fails in [FailurePoint::Before, FailurePoint::Halfway, FailurePoint::After] {
                for after in 0.. {
                    let mut world = begun(old);
                    let plane = world.reconciler.plane_mut();
                    (plane.fail_after, plane.fails) = (Some(after), fails);
                    if world.reconcile(new).is_ok() {
                        break;
                    }
                    failures += 1;
                    assert!(expected.contains(&found(&world.reconciler.plane_mut().state, 80)));
                    let mut world = world.restart();
                    let state = world.reconcile(new).unwrap();
                    assert_eq!(found(&state, 80), expected[1]);
                    let kept = expected[1].iter().filter(|(_, networks)| !networks.is_empty()).count();
                    assert_eq!(world.reconciler.plane_mut().state.access_lists.len(), kept);
                }
            }
        }
    }
    assert!(failures > 500, "{failures}");
}

fn network() -> impl Strategy<Value = IpNet> {
    // Few different upper bits, so that networks cover each other and clients.
    let four = (0_u32..4, any::<u32>(), 0_u8..=32).prop_map(|(high, low, length)| {
        let address = (high << 30) | (low & 0xff);
        IpNet::new(IpAddr::V4(address.into()), length).unwrap().trunc()
    });
    let six = (0_u128..4, any::<u8>(), 0_u8..=128).prop_map(|(high, low, length)| {
        // Beside the mapped IPv4 addresses, which are no IPv6 networks.
        let address = (high << 126) | 0xfffe_0000_0000 | u128::from(low);
        IpNet::new(IpAddr::V6(address.into()), length).unwrap().trunc()
    });
    prop_oneof![four, six]
}

/// The longest-prefix match of the kernel's trie (`struct bpf_lpm_trie_key`): the length of the longest key whose first
/// bits are those of `client`.
fn longest_match<'k>(keys: impl Iterator<Item = &'k AccessKey>, client: &AccessKey) -> Option<u32> {
    let bytes = |key: &AccessKey| -> Vec<u8> {
        let words = [key.list].into_iter().chain(key.address);
        words.flat_map(u32::to_ne_bytes).collect()
    };
    let bit = |bytes: &[u8], n: u32| bytes[n as usize / 8] >> (7 - n % 8) & 1;
    let client = bytes(client);
    let matching = keys.filter(|key| {
        let key_bytes = bytes(key);
        (0..key.prefix).all(|n| bit(&key_bytes, n) == bit(&client, n))
    });
    matching.map(|key| key.prefix).max()
}

proptest! {
    #[test]
    fn trie_finds_a_client_if_and_only_if_a_network_of_its_list_has_it(
        lists in prop::collection::vec(prop::collection::btree_set(network(), 0..8), 1..4),
        clients in prop::collection::vec(network(), 1..8),
    ) {
        let id = |n: usize| AccessListId::new(n as u32 + 1);
        let keys: Vec<_> =
            lists.iter().enumerate().flat_map(|(n, list)| list.iter().map(move |network| key(id(n), network))).collect();
        for (n, list) in lists.iter().enumerate() {
            for client in clients.iter().map(IpNet::addr) {
                let found = longest_match(keys.iter(), &client_key(id(n), client)).is_some();
                prop_assert_eq!(found, list.iter().any(|network| network.contains(&client)), "{}", client);
            }
        }
    }

    #[test]
    fn list_is_read_back_from_its_keys(list in prop::collection::btree_set(network(), 0..20)) {
        let id = AccessListId::new(2048);
        let read: Option<BTreeSet<_>> = list.iter().map(|network| of_key(&key(id, network))).collect();
        prop_assert_eq!(read, Some(list.iter().map(|network| (id, *network)).collect()));
    }
}
