//! Segments with a client's source address from another MAC of the client's link: answers do not go there. When the
//! client's router is replaced, they do follow it.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    client::PATIENCE,
    forge::{CapturedFrame, FloodStats, MacPair, NUMBERS, Tap},
    net::Family,
    packets::frames::{Frame, flag},
    scenario,
    server::Service,
    wait::wait_for,
};

use super::{WEIGHTS, mac_text, on_clients_side, report, victims::Victim};

/// MAC of the attacker.
const OTHER: [u8; 6] = [2, 0, 0, 0, 0x66, 1];
/// How long the test waits for answers and for the daemon's next sampling of client paths.
const LIMIT: Duration = Duration::from_secs(30);

/// A client with a connection, and a UDP flow on which the server streams.
struct DivertedClient {
    victim: Victim,
    socket: UdpSocket,
}

impl DivertedClient {
    fn new(world: &World, family: Family) -> Result<Self> {
        let source = world.net.sources(family)[0];
        let victim = Victim::open(&world.net.client, (source, 0).into(), world.vip(family, Service::Lines))?;
        let socket = world.net.client.on_thread(|| Ok(UdpSocket::bind((source, 700))?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"stream", world.vip(family, Service::Echo))?;
        let client = Self { victim, socket };
        client.hears()?;
        Ok(client)
    }

    /// Waits for a new answer, after discarding those in the socket's buffer.
    fn hears(&self) -> Result<()> {
        self.socket.set_nonblocking(true)?;
        while self.socket.recv(&mut [0; 64]).is_ok() {}
        self.socket.set_nonblocking(false)?;
        Ok(self.socket.recv(&mut [0; 64]).map(drop)?)
    }

    /// Sends until an answer arrives.
    fn speaks(&self, target: SocketAddr) -> Result<()> {
        self.socket.set_read_timeout(Some(PATIENCE / 20))?;
        wait_for("an answer to a client that speaks", PATIENCE, || {
            self.socket.send_to(b"stream", target)?;
            Ok(self.hears().is_ok().then_some(()))
        })
    }

    /// Frames with the client's source address: segments with wrong sequence numbers, and a datagram.
    fn forged(&self, world: &World, family: Family, mac_pair: MacPair) -> Result<Vec<Frame>> {
        let (local, target) = (self.victim.local, self.victim.target);
        let mut frames = Vec::new();
        for number in NUMBERS {
            for flags in [flag::ACK, flag::SYN, flag::RST, flag::FIN | flag::ACK] {
                frames.push(mac_pair.carrying(local, target, flags, [number, number], b""));
            }
        }
        frames.push(mac_pair.datagram(
            self.socket.local_addr()?,
            world.vip(family, Service::Echo),
            b"stream",
        ));
        Ok(frames)
    }
}

#[test]
fn forged_client_mac_diverts_no_answers_and_new_router_gets_them() {
    scenario!(&WEIGHTS, |world| {
        // Without forwarding, the kernel gives the program no routes.
        world.net.kernel_forwarding(true)?;
        world.start()?;
        (0..2).for_each(|server| world.behaviour(server).set_repeats(true));
        world.net.client.sysctl("net/ipv4/conf/eth0/arp_notify", "1")?;
        world.net.client.sysctl("net/ipv6/conf/eth0/ndisc_notify", "1")?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let tap = Tap::at(&world.net.client, "eth0")?;
        let other = MacPair { sender: OTHER, ..mac_pair };
        let mut clients = Family::ALL.map(|family| (family, DivertedClient::new(world, family)));
        let mut sent = FloodStats::default();
        for (family, client) in &clients {
            let client = client.as_ref().map_err(|error| anyhow::anyhow!("{family}: {error:#}"))?;
            let mut forged = client.forged(world, *family, other)?;
            // New flows from this MAC are also answered at the MAC that the kernel knows for the client.
            let source = world.net.sources(*family)[1];
            let mac = mac_text(forger.mac);
            world.net.slb.ip(&format!("neigh replace {source} lladdr {mac} dev client0"))?;
            for service in [Service::Lines, Service::Http] {
                let to = world.vip(*family, service);
                forged.push(other.segment((source, 600).into(), to, flag::SYN, [1, 0]));
            }
            sent = sent.and(forger.send_all(forged)?);
        }
        let mut silent = Vec::new();
        for (family, client) in &clients {
            let Ok(client) = client else { continue };
            if client.hears().is_err() {
                silent.push(family.to_string());
            }
        }
        let drawn = tap.seen()?.iter().filter(|seen: &&CapturedFrame| seen.receiver == OTHER).count();
        report(
            "a client's source from another MAC address",
            sent,
            format!("{drawn} answers go there; no more answers at clients of {silent:?}"),
        );
        ensure!(
            drawn == 0 && silent.is_empty(),
            "{drawn} answers go to another MAC address, {silent:?} hear none"
        );

        // The client's MAC changes, as when a router replaces one that has died.
        let mut places = 1_u8..;
        wait_for("answers at a new hardware address", LIMIT, || {
            let place = places.next().unwrap_or_default();
            // Until the daemon has sampled all clients, some answers do not follow. A packet of the client restores
            // them.
            for (family, client) in &clients {
                let Ok(client) = client else { continue };
                client.speaks(world.vip(*family, Service::Echo)).with_context(|| format!("{family}"))?;
            }
            let mac = [2, 0, 0x5e, 0x10, 2, place];
            world.net.client.ip(&format!("link set eth0 address {}", mac_text(mac)))?;
            for (family, client) in &clients {
                let Ok(client) = client else { continue };
                forger.send_all(client.forged(world, *family, other)?)?;
                client.socket.set_read_timeout(Some(Duration::from_millis(1_500)))?;
            }
            let hear = |(_, client): &(Family, Result<DivertedClient>)| {
                client.as_ref().is_ok_and(|c| c.hears().is_ok())
            };
            Ok(clients.iter().all(hear).then_some(()))
        })?;
        for (_, client) in &mut clients {
            let Ok(client) = client else { continue };
            ensure!(client.victim.ask()? == client.victim.server, "with another server");
        }
        Ok(())
    });
}
