//! Real connections under attack, and new connections of real clients during one.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    client::PATIENCE,
    config::{Listener, Mode, Target},
    forge::{Forger, MacPair},
    net::{Family, Namespace},
    packets::frames::Frame,
    server::Service,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::TcpSocket,
    task::JoinSet,
    time::{error::Elapsed, timeout},
};

use super::report;

/// Line listeners by scheduler, and by mode if it is not `nat`: each scheduler in every mode with tracked flows. In
/// `dsr` and `ipip` the servers use the same port.
pub(super) const LISTENERS: [(&str, u16); 9] = [
    ("maglev", 7),
    ("rr", 7101),
    ("wrr", 7102),
    ("wlc", 7103),
    ("rr, dsr", 7007),
    ("wrr, dsr", 7107),
    ("wlc, dsr", 7207),
    ("rr, ipip", 7307),
    ("wlc, ipip", 7407),
];
/// Connections per listener and family.
const CONNECTIONS: usize = 4;
/// `drain_timeout`: how long connections of a removed server go on.
const DRAIN: &str = "60s";
/// How long the test waits for answers; it allows TCP a retransmission.
const LIMIT: Duration = Duration::from_secs(3);
/// How long a new connection may take; it allows a retransmission of the SYN.
const NEWCOMERS: Duration = Duration::from_millis(2_500);

/// A connection to a line server.
#[derive(Debug)]
pub(super) struct Victim {
    stream: BufReader<TcpStream>,
    /// Its server.
    pub(super) server: String,
    /// The client endpoint.
    pub(super) local: SocketAddr,
    /// VIP and port.
    pub(super) target: SocketAddr,
}

impl Victim {
    /// Connects from a client endpoint; port 0 chooses any port.
    pub(super) fn open(namespace: &Namespace, local: SocketAddr, target: SocketAddr) -> Result<Self> {
        let stream = namespace.on_thread(|| connect(local, target))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let local = stream.local_addr()?;
        let mut victim = Self { stream: BufReader::new(stream), server: String::new(), local, target };
        victim.server = victim.ask().with_context(|| format!("{local} to {target}"))?;
        Ok(victim)
    }

    /// Sends a line; returns the name of the server that answers.
    pub(super) fn ask(&mut self) -> Result<String> {
        self.say()?;
        self.hear(PATIENCE)
    }

    /// Its socket, for options.
    pub(super) fn socket(&self) -> SockRef<'_> {
        SockRef::from(self.stream.get_ref())
    }

    fn say(&mut self) -> Result<()> {
        Ok(self.stream.get_mut().write_all(b"line\n")?)
    }

    fn hear(&mut self, limit: Duration) -> Result<String> {
        self.stream.get_ref().set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.strip_suffix(" line\n").with_context(|| format!("heard {line:?}"))?.to_owned())
    }
}

/// Connects from a client endpoint, which may have been used a moment before.
pub(super) fn connect(local: SocketAddr, target: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&local.into())?;
    socket.connect_timeout(&target.into(), PATIENCE)?;
    Ok(socket.into())
}

/// Plans line listeners at all [`LISTENERS`], and has servers accept packets of all modes.
pub(super) fn with_all_schedulers(world: &mut World) -> Result<()> {
    world.net.route_answers()?;
    let own = Family::ALL.map(|family| world.net.slb_address(family));
    world.plan.tunnel_addresses = own.into();
    for (backend, index) in world.net.backends.iter().zip(0..) {
        backend.add_vips()?;
        backend.decapsulate(&own)?;
        // Servers already listen on the port of the first `dsr` listener.
        LISTENERS[5..].iter().try_for_each(|(_, port)| world.serve_lines_also(index, *port))?;
    }
    world.plan.drain_timeout = Some(DRAIN);
    for (name, own) in &LISTENERS[1..] {
        let (scheduler, mode) = match name.split_once(", ") {
            None => (*name, Mode::Nat),
            Some((scheduler, "dsr")) => (scheduler, Mode::Dsr),
            Some((scheduler, _)) => (scheduler, Mode::Ipip),
        };
        let port = if mode == Mode::Nat { Service::Lines.backend_port() } else { *own };
        world.plan.additional_listeners.push(Listener {
            mode,
            scheduler: Some(scheduler),
            drain_timeout: Some(DRAIN),
            ..Listener::new(format!("lines-{own}"), "tcp", *own, Target::DefaultGroup(port))
        });
    }
    Ok(())
}

/// Opens connections to all of these listeners, over both families.
pub(super) fn open_everywhere(world: &World) -> Result<Vec<Victim>> {
    let mut all = Vec::new();
    for (_, port) in LISTENERS {
        all.extend(open(world, port, CONNECTIONS)?);
    }
    Ok(all)
}

/// Sends the frames of `forge` for each connection, then asks each for its server. Returns a description of the lost
/// ones per listener.
pub(super) fn attack(
    name: &str,
    forger: &Forger,
    mac_pair: MacPair,
    connections: &mut [Victim],
    forge: impl Fn(MacPair, &Victim) -> Vec<Frame>,
) -> Result<Vec<String>> {
    let sent = forger.send_all(connections.iter().flat_map(|victim| forge(mac_pair, victim)))?;
    let lost = lost(connections);
    let of = |port: u16| lost.iter().filter(|lost| lost.contains(&format!(":{port} with "))).count();
    let each: Vec<_> = LISTENERS.iter().map(|(name, port)| format!("{name} {}", of(*port))).collect();
    report(
        name,
        sent,
        format!("{} of {} connections lost ({})", lost.len(), connections.len(), each.join("; ")),
    );
    Ok(lost)
}

/// Opens `count` connections to a port of the VIPs of both families, each from another client address.
pub(super) fn open(world: &World, port: u16, count: usize) -> Result<Vec<Victim>> {
    let mut all = Vec::new();
    for family in Family::ALL {
        for source in world.net.sources(family).iter().cycle().take(count) {
            let target = (family.vip(), port).into();
            all.push(Victim::open(&world.net.client, (*source, 0).into(), target)?);
        }
    }
    Ok(all)
}

/// Asks all connections concurrently. Returns a description of those that have lost their server.
pub(super) fn lost(victims: &mut [Victim]) -> Vec<String> {
    let said: Vec<_> = victims.iter_mut().map(Victim::say).collect();
    let deadline = Instant::now() + LIMIT;
    let mut lost = Vec::new();
    for (victim, said) in victims.iter_mut().zip(said) {
        let heard = said.and_then(|()| victim.hear(deadline.saturating_duration_since(Instant::now())));
        let (local, target, server) = (victim.local, victim.target, &victim.server);
        match heard {
            Ok(by) if by == *server => {}
            Ok(by) => lost.push(format!("{local} to {target} with {server}: {by} answers")),
            Err(error) => lost.push(format!("{local} to {target} with {server}: {error:#}")),
        }
    }
    lost
}

/// Fails if a connection has lost its server.
pub(super) fn expect_all(victims: &mut [Victim], when: &str) -> Result<()> {
    let lost = lost(victims);
    ensure!(lost.is_empty(), "{when}: {} of {} connections lost: {lost:#?}", lost.len(), victims.len());
    Ok(())
}

/// Opens connections concurrently, from this many ports of each address to a service. Returns how many succeed, and how
/// many were tried.
pub(super) fn newcomers(
    world: &World,
    sources: &[IpAddr],
    target: SocketAddr,
    ports: usize,
) -> Result<(usize, usize)> {
    let sources = sources.repeat(ports);
    let tried = sources.len();
    let succeed = world.net.client.block_on(async move {
        let mut tries: JoinSet<Result<std::io::Result<_>, Elapsed>> = JoinSet::new();
        for source in sources {
            tries.spawn(timeout(NEWCOMERS, async move {
                let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                socket.bind((source, 0).into())?;
                socket.connect(target).await
            }));
        }
        let ended = tries.join_all().await;
        ended.into_iter().filter(|ended| matches!(ended, Ok(Ok(_)))).count()
    });
    Ok((succeed, tried))
}

/// Opens connections to HTTP and to lines over both families, from four client addresses. Returns how many succeed, and
/// how many were tried.
pub(super) fn newcomers_everywhere(world: &World, ports: usize) -> Result<(usize, usize)> {
    let (mut succeed, mut tried) = (0, 0);
    for family in Family::ALL {
        for service in [Service::Http, Service::Lines] {
            let sources = &world.net.sources(family)[..4];
            let (more, of) = newcomers(world, sources, world.vip(family, service), ports)?;
            (succeed, tried) = (succeed + more, tried + of);
        }
    }
    Ok((succeed, tried))
}
