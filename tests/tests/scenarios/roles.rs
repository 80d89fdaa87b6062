//! Interface roles: interfaces for clients only, or for servers only.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use slb_tests::{World, net::Family, scenario, server::Service, traffic::spreads};

const EXCHANGES: u64 = 20;

/// Roles of the interfaces towards clients and servers.
fn roles(clients: &'static str, servers: &'static str) -> BTreeMap<String, &'static str> {
    [("client0".to_owned(), clients), ("b1".to_owned(), servers)].into()
}

/// Number of packets that arrived on an interface with the wrong role while `sent` ran.
fn wrong(world: &World, sent: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = world.packets("drop", Some("wrong_interface"))?;
    sent()?;
    Ok(world.packets("drop", Some("wrong_interface"))? - before)
}

#[test]
fn vip_packets_are_accepted_on_client_interfaces_only() {
    scenario!(&[100], |world| {
        world.plan.roles = roles("client", "server");
        world.start()?;
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        let shown = world.slb(&["status"])?;
        ensure!(
            shown.contains("interface client0: XDP native, role client")
                && shown.contains("interface b1: XDP native, role server"),
            "{shown}"
        );
        let from_server = wrong(world, || {
            world.net.backends[0].namespace.on_thread(|| {
                for family in Family::ALL {
                    let any = if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = std::net::UdpSocket::bind(any)?;
                    socket.send_to(b"hello", world.vip(family, Service::Echo))?;
                }
                Ok(())
            })
        })?;
        ensure!(from_server == 2, "{from_server} packets of a server");

        // A reload swaps the roles under traffic.
        world.plan.roles = roles("server", "client");
        world.write(&world.plan.toml())?;
        let said = world.reload()?;
        ensure!(said.contains("interface client0: role client -> server"), "{said}");
        let from_client = wrong(world, || world.try_connections(Service::Http, 4))?;
        ensure!(from_client >= 4, "{from_client} packets of the client");
        world.plan.roles.clear();
        world.write(&world.plan.toml())?;
        world.reload()?;
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        let shown = world.slb(&["status"])?;
        ensure!(!shown.contains("role "), "{shown}");
        Ok(())
    });
}
