//! Local addresses over changes of the configuration, restarts and GC passes.

use std::{collections::BTreeSet, net::IpAddr};

use slb_common::abi::{
    ids::TableId,
    local_address::{LocalAddress, LocalAddresses},
    protocol::IpProtocol,
    service::mode,
    source::Source,
};

use super::{World, backend, flow};
use crate::{
    dataplane::DataPlane as _,
    dataplane::state::{FlowRecord, MapState, to_address},
    source_usage::SourcePorts,
};
use slb_config::{model::Config, samples::forwarding};

/// A listener in mode `full-nat` with one server and these local addresses.
fn full_nat(locals: &[&str]) -> Config {
    let locals: Vec<_> = locals.iter().map(|local| format!("\"{local}\"")).collect();
    forwarding(&format!(
        r#"
        local_addresses = [{}]
        [[load_balancer]]
        name = "shop"
        addresses = ["192.0.2.10"]
        [[load_balancer.listener]]
        name = "web"
        protocol = "tcp"
        port = 80
        mode = "full-nat"
        server_group = "web"
        [[server_group]]
        name = "web"
        table_size = 251
        servers = [{{ address = "10.0.0.1", port = 8080 }}]
        "#,
        locals.join(", ")
    ))
}

/// The slot in which packets find an address, and whether new flows choose it.
fn slot(state: &MapState, local: &str) -> Option<(u8, bool)> {
    let mut table = LocalAddresses::EMPTY;
    state.index.locals.write(&mut table);
    let slot = table.find(&to_address(local.parse().unwrap()))?;
    Some((slot, state.index.locals.candidates.contains(&slot)))
}

#[test]
fn full_nat_listener_has_local_addresses_and_its_servers_answer_through_slb() {
    let config = full_nat(&["192.0.2.20", "192.0.2.21"]);
    let mut world = World::new();
    world.all_healthy(&config);
    let state = world.reconcile(&config).unwrap();
    let entries: Vec<_> =
        state.index.entries.values().filter(|entry| entry.table() != TableId::NONE).collect();
    assert_eq!(entries[0].mode, mode::FULL_NAT);
    assert!(state.index.servers.has(&backend(&state, 1).1) && world.reconciler.has_nat_service());
    for local in ["192.0.2.20", "192.0.2.21"] {
        let (slot, is_candidate) = slot(&state, local).unwrap();
        assert!(is_candidate);
        let LocalAddress { first_port, last_port, .. } = state.index.locals.slots[&slot];
        assert_eq!((first_port, last_port), (1024, 32_767), "the host may use the address itself");
    }
    assert_eq!(world.reconciler.plane_mut().observe().unwrap().index, state.index, "the maps hold it");
}

#[test]
fn removed_local_address_stays_until_no_flow_has_it() {
    let (both, one) = (full_nat(&["192.0.2.20", "192.0.2.21"]), full_nat(&["192.0.2.21"]));
    let mut world = World::new();
    world.all_healthy(&both);
    let state = world.reconcile(&both).unwrap();
    let (first, second) = (slot(&state, "192.0.2.20").unwrap().0, slot(&state, "192.0.2.21").unwrap().0);
    let source = Source::candidate(first, 7).allocated();
    let server = backend(&state, 1).1.handle;
    let with_flow = FlowRecord { source, ..flow(&state, 80, server) };
    world.reconciler.plane_mut().flows.push(with_flow);

    let removed = |state: &MapState| slot(state, "192.0.2.20");
    assert_eq!(removed(&world.reconcile(&one).unwrap()), Some((first, false)));
    let found = world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap().0.sources;
    let key = (("10.0.0.1:8080".parse().unwrap(), IpProtocol::Tcp), IpAddr::from([192, 0, 2, 20]));
    assert_eq!(found.get(&key), Some(&SourcePorts { used: 1, ports: 0 }));
    let mut world = world.restart();
    let state = world.reconcile(&one).unwrap();
    assert_eq!((removed(&state), slot(&state, "192.0.2.21")), (Some((first, false)), Some((second, true))));

    world.reconciler.plane_mut().flows.clear();
    world.reconciler.plane_mut().unread = 1;
    world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
    assert_eq!(removed(&world.reconcile(&one).unwrap()), Some((first, false)), "an unread entry may have it");
    world.reconciler.plane_mut().unread = 0;
    world.reconciler.run_gc(world.now, &BTreeSet::new()).unwrap();
    assert_eq!(removed(&world.reconcile(&one).unwrap()), None);
}

#[test]
fn local_address_that_was_a_choice_since_the_gc_pass_is_not_freed() {
    let (both, one) = (full_nat(&["192.0.2.20", "192.0.2.21"]), full_nat(&["192.0.2.21"]));
    let mut world = World::new();
    world.all_healthy(&both);
    world.reconcile(&both).unwrap();
    let removed = world.reconcile(&one).unwrap();
    let first = slot(&removed, "192.0.2.20").unwrap().0;
    let job = world.reconciler.begin_gc(world.now, BTreeSet::new()).unwrap();
    let found = job.run(world.reconciler.plane_mut(), &mut || ()).unwrap();
    // Added and removed again while the pass ran: a new flow may have the address.
    world.reconcile(&both).unwrap();
    world.reconcile(&one).unwrap();
    world.reconciler.process_findings(found, world.now).unwrap();
    assert_eq!(slot(&world.reconcile(&one).unwrap(), "192.0.2.20"), Some((first, false)));
}
