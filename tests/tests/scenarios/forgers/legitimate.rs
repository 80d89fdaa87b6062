//! Legitimate behaviour of clients that a defence against forged segments could mistake for an attack.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use slb_api::types::ApiHealth;
use slb_tests::{
    World,
    client::PATIENCE,
    forge::{Peer, Tap, ports},
    net::{Backend, Family, run},
    scenario,
    server::Service,
    wait::wait_for,
};
use socket2::{SockRef, TcpKeepalive};

use super::{
    WEIGHTS, mac_text, on_clients_side,
    victims::{self, Victim, connect},
};

/// Successive connections from one client endpoint.
const REUSES: usize = 6;
/// Bytes that the client receives after it has closed its side.
const DOWNLOAD: u64 = 4 << 20;
/// Concurrent users behind one address.
const USERS: usize = 2_500;
/// Idle timeout, and the interval of keepalive probes.
const IDLE: &str = "10s";
const PROBES: Duration = Duration::from_secs(2);
/// How long it may take until an idle connection ends.
const ENDED: Duration = Duration::from_secs(45);

/// nftables rules of a machine that hangs. It runs `slb-decap`, so no other XDP program can drop its packets.
const HANGS: &str =
    "table inet hangs {\n  chain input {\n    type filter hook input priority 0; policy drop;\n  }\n}\n";

/// How a client ends a connection.
#[derive(Debug, Clone, Copy)]
enum ConnectionEnd {
    /// The server closes first, and has the TIME_WAIT state.
    Server,
    /// The client closes first, and has the TIME_WAIT state.
    Client,
    /// The client resets it.
    Reset,
}

/// A connection that the client resets in the middle of an upload. The RST's sequence number is far beyond the
/// acknowledged data.
fn aborted(world: &World, local: SocketAddr, target: SocketAddr) -> Result<()> {
    again(world, || {
        let mut stream = connect(local, target)?;
        stream.write_all(b"upload 100000000\n")?;
        stream.write_all(&vec![b'x'; 1 << 20])?;
        Ok(SockRef::from(&stream).set_linger(Some(Duration::ZERO))?)
    })
}

/// One connection from this client endpoint to an HTTP server.
fn once(world: &World, local: SocketAddr, target: SocketAddr, end: ConnectionEnd) -> Result<()> {
    let exchange = || {
        let mut stream = connect(local, target)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let close = if matches!(end, ConnectionEnd::Server) { "close" } else { "keep-alive" };
        write!(stream, "GET / HTTP/1.1\r\nHost: a\r\nConnection: {close}\r\n\r\n")?;
        let mut answer = [0; 512];
        let length = stream.read(&mut answer)?;
        ensure!(answer[..length].starts_with(b"HTTP/1.1 200 "), "no answer");
        match end {
            ConnectionEnd::Server => drop(stream.read_to_end(&mut Vec::new())?),
            ConnectionEnd::Client => stream.shutdown(Shutdown::Write)?,
            ConnectionEnd::Reset => SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        }
        Ok(())
    };
    again(world, exchange).with_context(|| format!("{local} to {target}, {end:?} ends"))
}

/// Runs an exchange on the client as soon as its kernel lets it use the endpoint again: it waits for a second after it
/// has closed first.
fn again(world: &World, exchange: impl Fn() -> Result<()> + Send + Sync) -> Result<()> {
    wait_for("an endpoint that may be used again", PATIENCE, || match world.net.client.on_thread(&exchange) {
        Err(error) if is_in_use(&error) => Ok(None),
        ended => ended.map(Some),
    })
}

fn is_in_use(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable};
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind.is_some_and(|kind| [AddrInUse, AddrNotAvailable].contains(&kind))
}

/// A client receives after it has closed its side.
fn half_closed(world: &World, target: SocketAddr) -> Result<()> {
    let download = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("download {DOWNLOAD} 7\n").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let length = std::io::copy(&mut stream, &mut std::io::sink())?;
        ensure!(length == DOWNLOAD, "{length} of {DOWNLOAD} bytes arrive");
        Ok(())
    };
    let local = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    world
        .net
        .client
        .on_thread(|| download(connect(local, target)?))
        .with_context(|| format!("half closed, {target}"))
}

/// One client endpoint is reused after each kind of end, and half-closed connections go on. In mode `nat` with each
/// scheduler, and in `dsr`.
#[test]
fn reused_client_endpoints_and_half_closed_connections_work() {
    scenario!(&WEIGHTS, |world| {
        world.net.route_answers()?;
        world.net.backends.iter().try_for_each(Backend::add_vips)?;
        world.plan.direct = true;
        world.net.client.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        for scheduler in ["maglev", "rr"] {
            world.plan.scheduler = Some(scheduler);
            if world.daemon_pid().is_none() {
                world.start()?;
            } else {
                world.reload()?;
            }
            for family in Family::ALL {
                let source = world.net.sources(family)[0];
                for (port, service) in (600..).zip([Service::Http.vip_port(), Service::Http.backend_port()]) {
                    let target = (family.vip(), service).into();
                    for end in [ConnectionEnd::Server, ConnectionEnd::Reset] {
                        for _ in 0..REUSES {
                            once(world, (source, port).into(), target, end).context(scheduler)?;
                        }
                    }
                    for _ in 0..2 {
                        once(world, (source, port).into(), target, ConnectionEnd::Client)
                            .context(scheduler)?;
                    }
                }
                for port in [Service::Bulk.vip_port(), Service::Bulk.backend_port()] {
                    let target = (family.vip(), port).into();
                    half_closed(world, target).context(scheduler)?;
                    for _ in 0..3 {
                        aborted(world, (source, 700).into(), target).context(scheduler)?;
                    }
                }
            }
        }
        Ok(())
    });
}

/// Keepalive probes keep a connection alive beyond the idle timeout; connections without them end. A client may connect
/// by a simultaneous open.
#[test]
fn keepalive_probes_outlast_idle_timeout_and_simultaneous_opens_work() {
    scenario!(&WEIGHTS, |world| {
        victims::with_all_schedulers(world)?;
        world.plan.established_timeout = Some(IDLE);
        world.start()?;
        let mut connections = victims::open_everywhere(world)?;
        for victim in &connections {
            let keepalive = TcpKeepalive::new().with_time(PROBES).with_interval(PROBES);
            victim.socket().set_tcp_keepalive(&keepalive)?;
        }
        let silent = world.client().silent(world.vip(Family::V4, Service::Lines), 4)?;
        simultaneous(world)?;
        wait_for("the end of connections without probes", ENDED, || {
            Ok(silent.alive().is_empty().then_some(()))
        })?;
        victims::expect_all(&mut connections, "by keepalive probes alone")
    });
}

fn simultaneous(world: &World) -> Result<()> {
    let (forger, mac_pair) = on_clients_side(world)?;
    let tap = Tap::at(&world.net.client, "eth0")?;
    let peer = Peer { forger: &forger, tap: &tap, mac_pair };
    let addresses: [IpAddr; 2] = [[10, 90, 0, 200].into(), [0xfd90, 0, 0, 0, 0, 0, 0, 0x200].into()];
    for (family, address) in Family::ALL.into_iter().zip(addresses) {
        let mac = mac_text(forger.mac);
        world.net.slb.ip(&format!("neigh replace {address} lladdr {mac} dev client0 nud permanent"))?;
        for port in 0..4 {
            let target = world.vip(family, Service::Lines);
            let answer = peer.open_simultaneously((address, 20_000 + port).into(), target, "both\n")?;
            ensure!(answer.ends_with(" both\n"), "{target}: {answer:?}");
        }
    }
    Ok(())
}

/// Mid-stream pickup without any entries, as at another node that takes over: segments reach their servers.
#[test]
fn mid_stream_pickup_keeps_connections_with_empty_flow_table() {
    scenario!(&WEIGHTS, |world| {
        // While no program runs, the kernel would reset connections to addresses of its own.
        world.net.route_vips()?;
        world.start()?;
        let mut connections = victims::open(world, Service::Lines.vip_port(), 16)?;
        let [mut first, mut second]: [Vec<Victim>; 2] = {
            let second = connections.split_off(16);
            [connections, second]
        };
        world.terminate()?;
        world.detach()?;
        world.start()?;
        victims::expect_all(&mut first, "after a start with an empty flow table")?;
        world.kill()?;
        world.detach()?;
        world.start()?;
        first.append(&mut second);
        victims::expect_all(&mut first, "after another one")
    });
}

/// Packets of the client arrive on one interface, and the kernel's routes to the client lead through another.
#[test]
fn asymmetric_routes_carry_connections() {
    scenario!(&WEIGHTS, |world| {
        let _second = world.net.second_client_link()?;
        world.plan.interfaces.push("client1".to_owned());
        // A host answers neighbour solicitations only for addresses of the interface on which they arrive.
        let mac = mac_text(world.net.client.mac("eth1")?);
        for source in world.net.sources(Family::V6) {
            world.net.slb.ip(&format!("neigh add {source} lladdr {mac} dev client1"))?;
        }
        for family in Family::ALL {
            // By the second link to the second half of the client's addresses; their requests arrive by the first link.
            for source in &world.net.sources(family)[4..] {
                world.net.slb.ip(&format!("route add {source} dev client1"))?;
            }
        }
        world.start()?;
        let mut connections = victims::open(world, Service::Lines.vip_port(), 8)?;
        for service in [Service::Http, Service::Echo] {
            for family in Family::ALL {
                world.client().exchanges(service, world.vip(family, service), 64, 8).expect_no_failure()?;
            }
        }
        victims::expect_all(&mut connections, "on asymmetric routes")?;
        // The routes change during the connections.
        for family in Family::ALL {
            for source in &world.net.sources(family)[4..] {
                world.net.slb.ip(&format!("route del {source} dev client1"))?;
            }
            for source in &world.net.sources(family)[..4] {
                world.net.slb.ip(&format!("route add {source} dev client1"))?;
            }
        }
        victims::expect_all(&mut connections, "after the routes have changed")
    });
}

/// All users behind a NAT gateway share one address.
#[test]
fn thousands_of_users_behind_one_address_stay_connected() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let source = world.net.sources(Family::V4)[0];
        let target = world.vip(Family::V4, Service::Lines);
        let mut users = Vec::new();
        for user in 0..USERS {
            let opened = Victim::open(&world.net.client, (source, 0).into(), target);
            users.push(opened.with_context(|| format!("user {user}"))?);
        }
        victims::expect_all(&mut users, "of thousands behind one address")?;
        let http = world.vip(Family::V4, Service::Http);
        let (succeed, tried) = victims::newcomers(world, &[source], http, USERS / 5)?;
        ensure!(succeed == tried, "{succeed} of {tried} more connections succeed");
        victims::expect_all(&mut users, "of thousands behind one address, and more to another listener")
    });
}

/// A NAT gateway reuses a client endpoint whose last connection was with a server that is now dead. The earlier client
/// disappeared silently.
#[test]
fn reused_client_endpoint_of_dead_server_reaches_another() {
    scenario!(&[100, 0], |world| {
        victims::with_all_schedulers(world)?;
        world.start()?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let tap = Tap::at(&world.net.client, "eth0")?;
        let peer = Peer { forger: &forger, tap: &tap, mac_pair };
        let address: IpAddr = [10, 90, 0, 200].into();
        let mac = mac_text(forger.mac);
        world.net.slb.ip(&format!("neigh replace {address} lladdr {mac} dev client0 nud permanent"))?;
        let all = || victims::LISTENERS.into_iter().zip((20_000..).step_by(100));
        for ((_, port), first) in all() {
            let (accepted, _) = peer.connect(ports(address, first, 8), (Family::V4.vip(), port).into())?;
            ensure!(accepted == 8, "{accepted} of 8 connections are accepted");
        }
        world.plan.servers[1].weight = 100;
        world.reload()?;
        run(world.net.backends[0].namespace.command("nft").args(["-f", "-"]), HANGS)?;
        world.wait_for_health(0, ApiHealth::Unhealthy)?;
        for ((scheduler, port), first) in all() {
            let (accepted, _) = peer.connect(ports(address, first, 8), (Family::V4.vip(), port).into())?;
            ensure!(accepted == 8, "{scheduler}: {accepted} of 8 new connections are accepted");
        }
        Ok(())
    });
}
