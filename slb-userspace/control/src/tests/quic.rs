//! QUIC server IDs from configuration to maps.

use std::collections::BTreeMap;

use slb_common::abi::{backend::Backend, ids::BackendId, quic::CidFormat, service::policy};

use super::{World, group};
use crate::dataplane::{
    fake::FailurePoint,
    state::{MapState, backend_address},
};
use slb_config::{
    model::{Config, QuicRouting},
    samples::forwarding,
};

/// Servers by ID, as packets find them: last character of the address, and flags.
fn found(state: &MapState) -> BTreeMap<u32, (char, u8)> {
    let named = state.quic_servers.iter().map(|(key, server)| {
        let backend = &state.backends[&BackendId::of(*server)];
        assert_eq!((backend.handle, backend.table()), (*server, key.table));
        let address = backend_address(backend).ip().to_string();
        (key.server_id, (address.chars().last().unwrap(), backend.flags))
    });
    named.collect()
}

fn begun(config: &Config) -> World {
    let mut world = World::new();
    world.all_healthy(config);
    world.reconcile(config).unwrap();
    world
}

#[test]
fn server_ids_lead_to_servers_and_the_listener_has_their_format() {
    let mut config = group(&[(1, 100), (2, 100)]);
    config.load_balancers[0].listeners[0].quic =
        Some(QuicRouting { server_id_length: 2, config_rotation: 5 });
    let mut world = begun(&config);
    let state = world.reconciler.actual().unwrap();
    let up = Backend::ALIVE | Backend::ACCEPTS_NEW;
    assert_eq!(found(state), BTreeMap::from([(101, ('1', up)), (102, ('2', up))]));
    let entry = |port: u16| state.index.entries.values().find(|entry| entry.port == port.to_be()).unwrap();
    assert!(entry(80).policies().has(policy::QUIC) && !entry(81).policies().has(policy::QUIC));
    assert_eq!(entry(80).cid_format(), CidFormat::new(2, 5));
    let before = state.clone();
    assert_eq!(world.restart().reconcile(&config).unwrap().quic_servers, before.quic_servers);
}

/// A removed server keeps its ID while it drains, unless another server has that one now.
#[test]
fn removed_server_keeps_its_id_while_it_drains() {
    let drain = Some(std::time::Duration::from_secs(60));
    let with_drain = |mut config: Config| {
        config.load_balancers[0].listeners.iter_mut().for_each(|listener| listener.drain_timeout = drain);
        config
    };
    let mut world = begun(&with_drain(group(&[(1, 100), (2, 100)])));
    let one = with_drain(group(&[(1, 100)]));
    let state = world.reconcile(&one).unwrap();
    let drains = Backend::ALIVE | Backend::REMOVED;
    assert_eq!(found(&state)[&102], ('2', drains));
    let mut taken = one.clone();
    taken.server_groups[0].servers[0].quic_server_id = Some(102);
    let state = world.reconcile(&taken).unwrap();
    assert_eq!(found(&state).keys().copied().collect::<Vec<_>>(), [102]);
    assert_eq!(found(&state)[&102].0, '1');
}

/// [`group`], whose listeners have QUIC, and whose servers have other IDs by `shift`.
fn with_quic(servers: &[(u8, u8)], shift: u32) -> Config {
    let mut config = group(servers);
    for listener in &mut config.load_balancers[0].listeners {
        listener.quic = Some(QuicRouting { server_id_length: 2, config_rotation: 0 });
        listener.drain_timeout = Some(std::time::Duration::from_secs(60));
    }
    let ids = config.server_groups[0].servers.iter_mut().map(|server| &mut server.quic_server_id);
    ids.for_each(|id| *id = id.map(|id| id + shift));
    config
}

/// The data plane refuses a state in which a packet may name a server whose answers are dropped.
#[test]
fn new_server_is_named_only_once_its_answers_are_recognised() {
    let mut world = begun(&with_quic(&[(1, 100)], 0));
    world.all_healthy(&with_quic(&[(1, 100), (2, 100)], 0));
    let state = world.reconcile(&with_quic(&[(1, 100), (2, 100)], 0)).unwrap();
    assert_eq!(found(&state).len(), 2);
}

/// A failed change leaves old and new IDs in the map. A draining server keeps both.
#[test]
fn removed_server_keeps_all_ids_that_a_failed_change_has_left() {
    let both = |shift| with_quic(&[(1, 100), (2, 100)], shift);
    for after in 0.. {
        let mut world = begun(&both(0));
        let plane = world.reconciler.plane_mut();
        (plane.fail_after, plane.fails) = (Some(after), FailurePoint::After);
        world.reconcile(&both(50)).expect_err("no operation has written both IDs and failed");
        if world.reconciler.plane_mut().state.quic_servers.len() < 4 {
            continue;
        }
        let mut world = world.restart();
        world.all_healthy(&both(0));
        let state = world.reconcile(&with_quic(&[(1, 100)], 0)).unwrap();
        let of_removed: Vec<_> =
            found(&state).into_iter().filter(|(_, (server, _))| *server == '2').collect();
        assert_eq!(of_removed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [102, 152]);
        return;
    }
}

/// The map has room for two IDs for each server, also when each change fails and another one follows.
#[test]
fn failed_changes_do_not_fill_the_map() {
    let config = |shift| with_quic(&[(1, 100), (2, 100), (3, 100)], shift);
    for after in 0..8 {
        let mut world = begun(&config(0));
        for shift in (10..100).step_by(10) {
            let plane = world.reconciler.plane_mut();
            (plane.fail_after, plane.fails) = (Some(after), FailurePoint::After);
            let _ = world.reconcile(&config(shift));
            let state = &world.reconciler.plane_mut().state;
            assert!(state.quic_servers.len() <= 2 * state.backends.len(), "{:?}", state.quic_servers);
            world = world.restart();
            world.all_healthy(&config(0));
        }
        world.reconciler.plane_mut().fail_after = None;
        assert_eq!(
            found(&world.reconcile(&config(5)).unwrap()).into_keys().collect::<Vec<_>>(),
            [106, 107, 108]
        );
    }
}

/// An IPv4 and an IPv6 server with one ID are one machine, which is reached by the one that takes new flows, or is alive.
#[test]
fn id_of_two_families_leads_to_the_server_that_serves_best() {
    let config = |weight: u8| {
        let servers = format!(
            r#"
              {{ address = "10.0.0.1", port = 443, quic_server_id = 7, weight = {weight} }},
              {{ address = "2001:db8::2", port = 443, quic_server_id = 7 }},
            "#
        );
        let text = r#"
            [[load_balancer]]
            name = "shop"
            addresses = ["192.0.2.10"]
            [[load_balancer.listener]]
            name = "quic"
            protocol = "udp"
            port = 443
            mode = "dsr"
            quic = {}
            server_group = "quic"
            health_check = { kind = "icmp" }
            [[server_group]]
            name = "quic"
            servers = [SERVERS]
            "#;
        forwarding(&text.replace("SERVERS", &servers))
    };
    let both = config(100);
    let mut world = begun(&both);
    assert_eq!(found(world.reconciler.actual().unwrap())[&7].0, '1');
    world.set_health(1, false);
    assert_eq!(found(&world.reconcile(&both).unwrap())[&7].0, '2');
    world.set_health(1, true);
    assert_eq!(found(&world.reconcile(&both).unwrap())[&7].0, '1');
    assert_eq!(found(&world.reconcile(&config(0)).unwrap())[&7].0, '2', "the other one takes no new flows");
}
