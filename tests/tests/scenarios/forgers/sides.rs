//! Frames on the wrong side: a client's source address on the servers' side, and a server's on the clients' side.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    forge::{CapturedFrame, FloodStats, NUMBERS, Tap},
    net::Family,
    packets::frames::flag,
    scenario,
    server::Service,
};

use super::{WEIGHTS, at, on_clients_side, report, victims::Victim};

/// How long the test waits for answers.
const LIMIT: Duration = Duration::from_secs(5);
/// Index of the server whose machine forges.
const FORGES: usize = 1;
/// Payload of forged frames.
const MARK: &[u8] = b"forged";

/// A datagram through SLB and its answer: frames sent before it have then been processed.
fn round_trip(socket: &UdpSocket, target: SocketAddr) -> Result<String> {
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send_to(b"after", target)?;
    let mut buffer = [0; 128];
    loop {
        let length = socket.recv(&mut buffer).with_context(|| format!("no answer of {target}"))?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if let Some(server) = text.strip_suffix(" after") {
            return Ok(server.to_owned());
        }
    }
}

fn shown(seen: &[CapturedFrame]) -> String {
    let each = |seen: &CapturedFrame| {
        format!("{} to {}, {:?}", seen.from, seen.to, seen.tcp.map(|(flags, ..)| flags))
    };
    seen.iter().map(each).collect::<Vec<_>>().join("; ")
}

/// Runs an attack with interfaces in the role `both`, and again after a reload with specific roles.
fn without_and_with_roles(world: &mut World, attack: fn(&World, &str) -> Result<()>) -> Result<()> {
    world.start()?;
    attack(world, "")?;
    let role = |name: &String| (name.clone(), if name == "client0" { "client" } else { "server" });
    world.plan.roles = world.plan.interfaces.iter().map(role).collect();
    world.reload()?;
    attack(world, ", with roles")
}

/// A compromised server sends with a client's source address: new flows, and segments of existing ones. Answers of the
/// other server go only to the client.
#[test]
fn forged_client_source_at_server_diverts_no_answers() {
    scenario!(&WEIGHTS, |world| {
        // Without forwarding, the kernel gives the program no routes.
        world.net.kernel_forwarding(true)?;
        without_and_with_roles(world, draws)
    });
}

fn draws(world: &World, roles: &str) -> Result<()> {
    let (forger, mac_pair) =
        at(world, &world.net.backends[FORGES].namespace, &world.net.backends[FORGES].name)?;
    let tap = Tap::at(&world.net.backends[FORGES].namespace, "eth0")?;
    let (mut sent, mut drawn, mut unheard) = (FloodStats::default(), Vec::new(), Vec::new());
    for family in Family::ALL {
        let source = world.net.sources(family)[0];
        let [lines, echo] = [Service::Lines, Service::Echo].map(|service| world.vip(family, service));
        let mut connections = Vec::new();
        while connections.len() < 2 {
            let victim = Victim::open(&world.net.client, (source, 0).into(), lines)?;
            connections.extend((victim.server == "b1").then_some(victim));
        }
        let socket = world.net.client.on_thread(|| Ok(UdpSocket::bind((source, 700))?))?;
        round_trip(&socket, echo)?;
        tap.seen()?;
        let mut forged = Vec::new();
        for victim in &connections {
            for number in NUMBERS {
                forged.push(mac_pair.carrying(victim.local, lines, flag::ACK, [number, number], MARK));
                forged.push(mac_pair.segment(victim.local, lines, flag::SYN, [number, 0]));
            }
        }
        for port in 800..816 {
            forged.push(mac_pair.segment((source, port).into(), lines, flag::SYN, [NUMBERS[0], 0]));
            forged.push(mac_pair.datagram((source, port).into(), echo, MARK));
        }
        forged.push(mac_pair.datagram((source, 700).into(), echo, MARK));
        sent = sent.and(forger.send_all(forged)?);
        let heard = round_trip(&socket, echo);
        for victim in &mut connections {
            ensure!(victim.ask()? == victim.server, "{} is with another server", victim.local);
        }
        // Packets of the client itself to this server arrive here too.
        drawn.extend(tap.seen()?.into_iter().filter(|seen| seen.to.ip() == source));
        unheard.extend(heard.err());
    }
    report(
        format!("a client's source on the servers' side{roles}"),
        sent,
        format!("{} answers drawn", drawn.len()),
    );
    ensure!(drawn.is_empty() && unheard.is_empty(), "answers drawn{roles}: {}, {unheard:?}", shown(&drawn));
    Ok(())
}

/// A frame from the clients' side with a server's source address is not translated.
#[test]
fn server_source_on_the_clients_side_is_not_forwarded() {
    scenario!(&WEIGHTS, |world| { without_and_with_roles(world, injects) });
}

fn injects(world: &World, roles: &str) -> Result<()> {
    let (forger, mac_pair) = on_clients_side(world)?;
    let tap = Tap::at(&world.net.client, "eth0")?;
    let (mut sent, mut injected) = (FloodStats::default(), Vec::new());
    for family in Family::ALL {
        let source = world.net.sources(family)[0];
        let [lines, echo] = [Service::Lines, Service::Echo].map(|service| world.vip(family, service));
        let mut victim = Victim::open(&world.net.client, (source, 0).into(), lines)?;
        let socket = world.net.client.on_thread(|| Ok(UdpSocket::bind((source, 700))?))?;
        let server = round_trip(&socket, echo)?;
        for backend in &world.net.backends {
            let from = |service: Service| (backend.address(family), service.backend_port()).into();
            let forged = NUMBERS.map(|number| {
                [
                    mac_pair.carrying(from(Service::Lines), victim.local, flag::ACK, [number, number], MARK),
                    mac_pair.segment(from(Service::Lines), victim.local, flag::RST, [number, 0]),
                    mac_pair.datagram(from(Service::Echo), (source, 700).into(), MARK),
                ]
            });
            sent = sent.and(forger.send_all(forged.into_iter().flatten())?);
        }
        ensure!(round_trip(&socket, echo)? == server, "{source}:700 is with another server");
        ensure!(victim.ask()? == victim.server, "{} is with another server", victim.local);
        let is_reset = |seen: &CapturedFrame| seen.tcp.is_some_and(|(flags, ..)| flags & flag::RST != 0);
        let is_forged = |seen: &CapturedFrame| seen.payload == MARK || is_reset(seen);
        injected.extend(tap.seen()?.into_iter().filter(is_forged));
    }
    report(
        format!("a server's source on the clients' side{roles}"),
        sent,
        format!("{} frames leave", injected.len()),
    );
    ensure!(injected.is_empty(), "left as from{roles}: {}", shown(&injected));
    Ok(())
}
