//! Server groups: a server in several groups, a server several times in one, and a group of several listeners.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    config::{Group, Listener, Target},
    net::Family,
    scenario,
    server::Service,
    spread::expect_by_weight,
};

const WEIGHTS: [u8; 2] = [50, 50];
const EXCHANGES: u64 = 600;
/// Ports of listeners in addition to the plan's.
const SHARED: u16 = 8000;
const OTHER: u16 = 8001;
/// Additional port of the first server, and its name there.
const SECOND: u16 = 8181;
const SECOND_NAME: &str = "b1 again";

#[test]
fn server_serves_in_several_groups_and_on_several_ports() {
    scenario!(&WEIGHTS, |world| {
        world.serve_also(0, SECOND_NAME, SECOND)?;
        let [b1, b2] = [0, 1].map(|index| world.net.backends[index].address(Family::V4));
        let http = Service::Http.backend_port();
        // The same server twice in one group; two of its servers in another group with other weights; and one group for
        // two listeners of the same mode.
        let [first, second, third] = [(b1, http), (b1, SECOND), (b2, http)].map(SocketAddr::from);
        let mut group = world.plan.service_group(Service::Http);
        group.servers.retain(|(at, _)| *at != first);
        group.servers.extend([(first, 30), (second, 20)]);
        let other =
            Group { name: "other".to_owned(), servers: vec![(second, 10), (third, 90)], ..Group::default() };
        world.plan.groups = vec![group, other];
        for (name, port, group) in [("shared", SHARED, "http"), ("other", OTHER, "other")] {
            let listener = Listener::new(name, "tcp", port, Target::Group(group.to_owned()));
            world.plan.additional_listeners.push(listener);
        }
        world.start()?;
        let shared = [("b1", 30), (SECOND_NAME, 20), ("b2", 50)];
        spreads(world, Service::Http.vip_port(), &shared)?;
        spreads(world, SHARED, &shared)?;
        spreads(world, OTHER, &[(SECOND_NAME, 10), ("b2", 90), ("b1", 0)])?;

        // Each entry has its own health, weight and counters.
        let second = SocketAddr::new(b1, SECOND).to_string();
        world.slb(&["server", "disable", "http", &second])?;
        let without = [("b1", 30), (SECOND_NAME, 0), ("b2", 50)];
        spreads(world, Service::Http.vip_port(), &without)?;
        spreads(world, SHARED, &without)?;
        spreads(world, OTHER, &[(SECOND_NAME, 10), ("b2", 90), ("b1", 0)])
    });
}

fn spreads(world: &World, port: u16, weights: &[(&str, u8)]) -> Result<()> {
    let target = (Family::V4.vip(), port).into();
    let batch = world.client().exchanges(Service::Http, target, EXCHANGES, 8);
    batch.expect_no_failure()?;
    for (server, weight) in weights {
        ensure!((batch.of(server) == 0) == (*weight == 0), "port {port}: {:?}", batch.tally);
    }
    expect_by_weight(&batch.tally, weights).with_context(|| format!("port {port}"))
}
