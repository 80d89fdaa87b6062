//! QUIC: clients change their addresses, and their connections stay at their servers. Client and servers are those of a
//! QUIC library; the servers write their IDs into connection IDs.

mod endpoints;

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    config::{Listener, Mode, Target},
    net::Family,
    scenario,
};
use tokio::runtime::{self, Runtime};

use self::endpoints::{Answer, Identity, QuicClient, serve};
use super::modes::{DirectMode, prepare};

/// Port of the listener and of its servers, which no other server uses.
const PORT: u16 = 7400;
const WEIGHTS: [u8; 4] = [1; 4];
/// Connections of each family. Without routing by connection ID, one in four would reach its server again by chance.
const CONNECTIONS: usize = 8;
const SETTINGS: &str = "{ server_id_length = 2, config_rotation = 3 }";
/// Server ID of the first server.
const FIRST_ID: u32 = 0x0107;

/// QUIC servers in a world, and the runtime of all endpoints.
struct Servers {
    runtime: Runtime,
    identity: Identity,
}

impl Servers {
    /// Starts a server on each backend.
    fn start(world: &World) -> Result<Self> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let identity = Identity::new()?;
        for (backend, id) in world.net.backends.iter().zip(FIRST_ID..) {
            let socket = backend.namespace.on_thread(|| Ok(UdpSocket::bind(("::", PORT))?))?;
            serve(&runtime, socket, &identity, id, &backend.name)?;
        }
        Ok(Self { runtime, identity })
    }

    /// Opens connections from the client's addresses of a family, each from a socket of its own.
    fn connect(&self, world: &World, family: Family, count: usize) -> Result<Vec<QuicClient>> {
        let sources = world.net.sources(family);
        let target = SocketAddr::new(family.vip(), PORT);
        let connect = |source: &IpAddr| {
            let socket = bind(world, *source)?;
            self.runtime.block_on(QuicClient::connect(socket, target, &self.identity))
        };
        sources.iter().cycle().take(count).map(connect).collect()
    }

    /// Moves clients to other addresses, and asks all servers at once. `None` stands for no answer.
    fn moved(&self, world: &World, clients: &[QuicClient]) -> Result<Vec<Option<Answer>>> {
        for client in clients {
            let sources = world.net.sources(if client.source.is_ipv4() { Family::V4 } else { Family::V6 });
            let now = sources.iter().position(|source| *source == client.source).context("a source")?;
            let next = sources[(now + sources.len() / 2) % sources.len()];
            let socket = bind(world, next)?;
            let _guard = self.runtime.enter();
            client.rebind(socket)?;
        }
        let asked: Vec<_> = clients.iter().map(|client| self.runtime.spawn(client.ask())).collect();
        asked.into_iter().map(|answer| Ok(self.runtime.block_on(answer)?.ok())).collect()
    }
}

fn bind(world: &World, source: IpAddr) -> Result<UdpSocket> {
    world.net.client.on_thread(|| Ok(UdpSocket::bind((source, 0))?))
}

/// Plans a listener over all servers.
fn plan(world: &mut World, mode: Mode, quic: bool) {
    let mut group = world.plan.group("quic", PORT);
    // The entries of a backend for both families follow each other: it has one server ID.
    let ids = (FIRST_ID..).flat_map(|id| [id; Family::ALL.len()]);
    group.quic_server_ids = ids.take(group.servers.len()).collect();
    world.plan.put_group(group);
    let listener = Listener::new("quic", "udp", PORT, Target::Group("quic".to_owned()));
    let quic = quic.then_some(SETTINGS);
    // Packets that begin connections go to the current backends at once.
    let unknown_datagrams = (mode == Mode::Dsr).then_some("follow");
    world.plan.additional_listeners =
        vec![Listener { mode, check: None, unknown_datagrams, quic, ..listener }];
}

/// A world whose servers answer in this mode.
fn begin(world: &mut World, mode: Mode, quic: bool) -> Result<Servers> {
    if mode == Mode::Dsr {
        prepare(world, DirectMode::Dsr)?;
    }
    plan(world, mode, quic);
    world.start()?;
    Servers::start(world)
}

/// Connections whose client moved, and how many of them go on at their server.
fn kept(world: &World, servers: &Servers, family: Family) -> Result<usize> {
    let clients = servers.connect(world, family, CONNECTIONS)?;
    let names: Vec<_> = clients.iter().map(|client| client.answer.server.clone()).collect();
    ensure!(names.iter().any(|name| *name != names[0]), "all connections are at one server: {names:?}");
    let answers = servers.moved(world, &clients)?;
    let mut kept = 0;
    for (client, answer) in clients.iter().zip(answers) {
        let Some(answer) = answer else { continue };
        ensure!(answer.server == client.answer.server, "{answer:?} in place of {:?}", client.answer);
        ensure!(answer.client != client.answer.client, "{answer:?}: the client has not moved");
        kept += 1;
    }
    Ok(kept)
}

/// Runs a test in both modes.
macro_rules! in_each_mode {
    ($body:ident) => {
        mod $body {
            use super::*;

            #[test]
            fn nat() {
                scenario!(&WEIGHTS, |world| super::$body(world, Mode::Nat));
            }

            #[test]
            fn dsr() {
                scenario!(&WEIGHTS, |world| super::$body(world, Mode::Dsr));
            }
        }
    };
}

in_each_mode!(connections_stay_at_their_servers_when_clients_move);
in_each_mode!(draining_server_keeps_its_connections_when_clients_move);

/// Without routing by connection ID most connections end; a reload turns it on.
fn connections_stay_at_their_servers_when_clients_move(world: &mut World, mode: Mode) -> Result<()> {
    let servers = begin(world, mode, false)?;
    for family in Family::ALL {
        let kept = kept(world, &servers, family)?;
        ensure!(kept < CONNECTIONS, "{family}: all connections go on without QUIC");
    }
    plan(world, mode, true);
    world.reload()?;
    for family in Family::ALL {
        let kept = kept(world, &servers, family)?;
        ensure!(kept == CONNECTIONS, "{family}: {kept} of {CONNECTIONS} connections go on");
    }
    // The maps hold the IDs, whether a daemon runs or not.
    world.kill()?;
    ensure!(kept(world, &servers, Family::V4)? == CONNECTIONS, "without a daemon");
    world.start()?;
    ensure!(kept(world, &servers, Family::V6)? == CONNECTIONS, "after a restart");
    let status = world.slb(&["status"])?;
    ensure!(status.contains("quic: server IDs of 2 octets, config rotation 3"), "{status}");
    ensure!(status.contains(&format!("(QUIC server ID {FIRST_ID})")), "{status}");
    Ok(())
}

fn draining_server_keeps_its_connections_when_clients_move(world: &mut World, mode: Mode) -> Result<()> {
    let servers = begin(world, mode, true)?;
    let clients = servers.connect(world, Family::V4, CONNECTIONS)?;
    let drained = clients[0].answer.server.clone();
    let index = world.plan.servers.iter().position(|server| server.name == drained);
    world.plan.servers[index.context("a planned server")?].weight = 0;
    plan(world, mode, true);
    world.reload()?;
    for (client, answer) in clients.iter().zip(servers.moved(world, &clients)?) {
        let answer = answer.with_context(|| format!("no answer of {}", client.answer.server))?;
        ensure!(answer.server == client.answer.server, "{answer:?} in place of {:?}", client.answer);
    }
    for client in servers.connect(world, Family::V4, CONNECTIONS)? {
        ensure!(client.answer.server != drained, "a new connection at the draining server");
    }
    Ok(())
}
