//! Clients on the servers' link in mode `nat`: the server would answer them past SLB. With local addresses SLB translates
//! the source of these flows alone.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    client::{Client, PATIENCE},
    config::Mode,
    net::Family,
    scenario,
    server::Service,
    traffic::Traffic,
};

use super::full_nat::use_locals;

const EXCHANGES: u64 = 300;
/// UDP flows of each family.
const DATAGRAMS: usize = 32;
const LONG_LIVED: usize = 8;
/// Exchanges of each kind required after each step.
const PROGRESS: u64 = 50;

#[test]
fn server_reaches_its_own_vip_in_mode_nat() {
    scenario!(&[1], |world| {
        let own = Family::ALL.map(|family| world.net.backends[0].address(family));
        is_served(world, own)
    });
}

/// The client has an address of its own in the server's subnet, at the same port of the switch.
#[test]
fn client_in_the_servers_subnet_is_served_in_mode_nat() {
    scenario!(&[1], |world| {
        let beside = Family::ALL.map(|family| world.net.backends[0].address_beside(family));
        for address in beside {
            world.net.backends[0].add_address(address)?;
        }
        is_served(world, beside)
    });
}

/// Clients at these addresses of the only server, beside ordinary clients whose address the server sees.
fn is_served(world: &mut World, [v4, v6]: [IpAddr; 2]) -> Result<()> {
    world.plan.mode = Mode::Nat;
    use_locals(world, &[1])?;
    world.start()?;
    let ordinary = Traffic::start(world, LONG_LIVED)?;
    let client = Client::on_backend(&world.net.backends[0], v4, v6);
    let mut connections = Vec::new();
    for family in Family::ALL {
        client
            .exchanges(Service::Http, world.vip(family, Service::Http), EXCHANGES, 8)
            .expect_no_failure()?;
        let address = if family == Family::V4 { v4 } else { v6 };
        for _ in 0..DATAGRAMS {
            ask(world, address, world.vip(family, Service::Echo))?;
        }
        connections.push(client.long_lived(world.vip(family, Service::Lines), LONG_LIVED)?);
    }
    let locals = world.plan.local_addresses.clone();
    let peers = world.net.backends[0].peers(Service::Lines.backend_port())?;
    let (translated, kept): (Vec<SocketAddr>, Vec<_>) =
        peers.iter().copied().partition(|peer| locals.contains(&peer.ip()));
    ensure!(translated.len() == Family::ALL.len() * LONG_LIVED, "{peers:?}");
    let clients = Family::ALL.map(|family| world.net.sources(family)).concat();
    ensure!(kept.iter().any(|peer| clients.contains(&peer.ip())), "{peers:?}");
    ensure!(kept.iter().all(|peer| ![v4, v6].contains(&peer.ip())), "{peers:?}");

    world.restart()?;
    for family in &connections {
        family.progress(3)?;
        family.expect_unbroken(None)?;
    }
    ordinary.progress(PROGRESS)?;
    ordinary.expect_unbroken(None)?;
    ordinary.stop().expect_no_failure()
}

/// Sends a datagram from a port that the server's kernel chooses, since the server has ports of its own, and waits for the
/// answer.
fn ask(world: &World, from: IpAddr, to: SocketAddr) -> Result<()> {
    let socket = world.net.backends[0].namespace.on_thread(|| Ok(UdpSocket::bind((from, 0))?))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    socket.recv(&mut [0; 64]).with_context(|| format!("no answer of {to} to {from}"))?;
    Ok(())
}
