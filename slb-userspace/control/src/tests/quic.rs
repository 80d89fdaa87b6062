//! QUIC server IDs from configuration to maps.

use std::collections::BTreeMap;

use slb_common::abi::{backend::Backend, ids::BackendId, quic::CidFormat, service::policy};

use super::{World, group};
use crate::dataplane::state::{MapState, backend_address};
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

/// An IPv4 and an IPv6 server with one ID are one machine, which is reached by the one that is alive.
#[test]
fn id_of_two_families_leads_to_the_server_that_is_alive() {
    let config = forwarding(
        r#"
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
        servers = [
          { address = "10.0.0.1", port = 443, quic_server_id = 7 },
          { address = "2001:db8::2", port = 443, quic_server_id = 7 },
        ]
        "#,
    );
    let mut world = begun(&config);
    let first = found(world.reconciler.actual().unwrap())[&7].0;
    assert_eq!(first, '1');
    world.set_health(1, false);
    assert_eq!(found(&world.reconcile(&config).unwrap())[&7].0, '2');
}
