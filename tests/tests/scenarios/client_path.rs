//! Answers to idle clients while the client path changes.

use std::{
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    net::{Family, Namespace},
    scenario,
    server::Service,
    wait::wait_for,
};

/// Time within which the daemon learns client paths; it samples them every ten seconds.
const SAMPLED: Duration = Duration::from_secs(30);
/// Time within which answers take a new path.
const LIMIT: Duration = Duration::from_secs(2);
/// Consecutive answers that show that the flow has recovered.
const RUN: usize = 10;

/// An address behind the client's namespace, which is its router.
fn distant(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.99.0.1",
        Family::V6 => "fd99::1",
    }
}

/// Adds the address to a machine, usable at once.
fn give(namespace: &Namespace, family: Family) -> Result<()> {
    let nodad = if family == Family::V6 { "nodad" } else { "" };
    namespace.ip(&format!("addr add {} dev lo {nodad}", distant(family)))
}

/// Receives answers until [`RUN`] of them have arrived without a pause.
fn hears(socket: &UdpSocket) -> Result<()> {
    let (begun, mut buffer) = (Instant::now(), [0; 64]);
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    // Answers that arrived before wait in the buffer.
    socket.set_nonblocking(true)?;
    while socket.recv(&mut buffer).is_ok() {}
    socket.set_nonblocking(false)?;
    let mut run = 0;
    while run < RUN {
        run = if socket.recv(&mut buffer).is_ok() { run + 1 } else { 0 };
        ensure!(begun.elapsed() < LIMIT, "no answers for {LIMIT:?}");
    }
    Ok(())
}

fn bound(namespace: &Namespace, address: IpAddr, port: u16) -> Result<UdpSocket> {
    namespace.on_thread(|| Ok(UdpSocket::bind((address, port))?))
}

/// Has the server stream to a client at this address, which sends nothing more.
fn stream(world: &World, family: Family, source: IpAddr) -> Result<UdpSocket> {
    let socket = bound(&world.net.client, source, 0)?;
    socket.send_to(b"go", world.vip(family, Service::Echo))?;
    hears(&socket).with_context(|| format!("{source} hears nothing to begin with"))?;
    Ok(socket)
}

fn behind_the_client(world: &World) -> Result<()> {
    let net = &world.net;
    net.client.sysctl("net/ipv4/conf/eth0/arp_notify", "1")?;
    net.client.sysctl("net/ipv6/conf/eth0/ndisc_notify", "1")?;
    for family in Family::ALL {
        let (distant, router) = (distant(family), net.sources(family)[0]);
        give(&net.client, family)?;
        net.slb.ip(&format!("route add {distant} via {router}"))?;
    }
    Ok(())
}

/// A router or a client's interface is replaced, and the kernel learns the new MAC from its announcement. Then the
/// route moves to another router, through which the client never sent packets.
#[test]
fn answers_to_idle_clients_follow_router_changes() {
    scenario!(&[100, 100], |world| {
        world.start()?;
        behind_the_client(world)?;
        (0..2).for_each(|server| world.behaviour(server).set_repeats(true));
        let mut streams = Vec::new();
        for family in Family::ALL {
            for source in [distant(family).parse()?, world.net.sources(family)[1]] {
                streams.push((family, source, stream(world, family, source)?));
            }
        }
        // Until the daemon has sampled all clients, some answers do not follow. A packet of the client restores them.
        let mut addresses = 0_u8..;
        wait_for("answers at a new hardware address", SAMPLED, || {
            let address = addresses.next().context("too many addresses")?;
            for (family, _, socket) in &streams {
                socket.send_to(b"go", world.vip(*family, Service::Echo))?;
                hears(socket)?;
            }
            world.net.client.ip(&format!("link set eth0 address 02:00:5e:10:01:{address:02x}"))?;
            let all_hear = streams.iter().all(|(_, _, socket)| hears(socket).is_ok());
            Ok(all_hear.then_some(()))
        })?;

        // The second server's machine becomes the router.
        let other = &world.net.backends[1];
        for (family, source, socket) in
            streams.iter().filter(|(family, source, _)| source.to_string() == distant(*family))
        {
            let distant = distant(*family);
            give(&other.namespace, *family)?;
            let moved = bound(&other.namespace, *source, socket.local_addr()?.port())?;
            world.net.slb.ip(&format!("route replace {distant} via {}", other.address(*family)))?;
            hears(&moved).with_context(|| format!("{source}, behind another router"))?;
        }
        Ok(())
    });
}
