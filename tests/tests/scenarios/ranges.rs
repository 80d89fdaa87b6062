//! Listeners with a port range or any port: servers receive packets at the port that the client used.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    client::{Direction, PATIENCE},
    config::{HealthCheck, Listener, Mode, Target},
    net::Family,
    scenario,
    server::Service,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{full_nat, modes};

const WEIGHTS: [u8; 2] = [50, 50];
const RANGE: &str = "9100-9199";
const WIDER: &str = "9050-9299";
const GROUP: &str = "ranged";
/// Ports of the range with an HTTP server.
const HTTP: [u16; 3] = [9100, 9150, 9199];
/// Ports of the range with an echo server.
const ECHO: [u16; 2] = [9100, 9160];
/// Ports of the range with a line server.
const LINES: [u16; 2] = [9120, 9121];
const EXCHANGES: u64 = 200;

/// Servers on several ports, and listeners of both protocols on a range.
fn prepare(world: &mut World, mode: Mode, range: &'static str) -> Result<()> {
    for index in 0..WEIGHTS.len() {
        let name = world.net.backends[index].name.clone();
        for port in HTTP {
            world.serve_also(index, &name, port)?;
        }
        for port in ECHO {
            world.echo_also(index, port)?;
        }
        for port in LINES {
            world.serve_lines_also(index, port)?;
        }
    }
    world.plan.groups.push(world.plan.group(GROUP, 0));
    for (name, protocol) in [("range-tcp", "tcp"), ("range-udp", "udp")] {
        let check = HealthCheck::new(format!("kind = \"tcp\", port = {}", HTTP[0]));
        world.plan.additional_listeners.push(Listener {
            range: Some(range),
            mode,
            check: Some(check),
            ..Listener::new(name, protocol, 0, Target::Group(GROUP.to_owned()))
        });
    }
    Ok(())
}

fn vip(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.vip(), port)
}

/// Both servers answer at each port of the range that they listen on.
fn all_ports_reach_both_servers(world: &World) -> Result<()> {
    for family in Family::ALL {
        let http = HTTP.map(|port| (Service::Http, port));
        for (service, port) in http.into_iter().chain(ECHO.map(|port| (Service::Echo, port))) {
            let batch = world.client().exchanges(service, vip(family, port), EXCHANGES, 8);
            batch.expect_no_failure().with_context(|| format!("{family} port {port}"))?;
            ensure!(["b1", "b2"].iter().all(|server| batch.of(server) > 0), "{port}: {:?}", batch.tally);
        }
    }
    Ok(())
}

mod all_ports_of_a_range_reach_the_servers {
    use super::*;

    #[test]
    fn nat() {
        scenario!(&WEIGHTS, |world| reach(world, Mode::Nat));
    }

    #[test]
    fn full_nat() {
        scenario!(&WEIGHTS, |world| {
            full_nat::prepare(world)?;
            reach(world, Mode::FullNat)
        });
    }

    #[test]
    fn dsr() {
        scenario!(&WEIGHTS, |world| {
            modes::prepare(world, modes::DirectMode::Dsr)?;
            reach(world, Mode::Dsr)
        });
    }

    #[test]
    fn ipip() {
        scenario!(&WEIGHTS, |world| {
            modes::prepare(world, modes::DirectMode::Ipip(Family::V4))?;
            reach(world, Mode::Ipip)
        });
    }

    #[test]
    fn gue() {
        scenario!(&WEIGHTS, |world| {
            modes::prepare(world, modes::DirectMode::Gue(Family::V4))?;
            reach(world, Mode::Gue)
        });
    }

    fn reach(world: &mut World, mode: Mode) -> Result<()> {
        prepare(world, mode, RANGE)?;
        world.start()?;
        all_ports_reach_both_servers(world)?;
        two_connections_of_one_client_port(world)?;
        let status = world.slb(&["status"])?;
        ensure!(status.contains(&format!("{}:{RANGE}", Family::V4.vip())), "{status}");
        ensure!(status.contains(&format!("[{}]:{RANGE}", Family::V6.vip())), "{status}");
        Ok(())
    }
}

/// Two connections from one client port to two ports of a range exchange lines alternately. Each reaches its own port, and
/// each answer its own connection.
fn two_connections_of_one_client_port(world: &World) -> Result<()> {
    for family in Family::ALL {
        let client = &world.net.client;
        client.on_thread(|| {
            let first = connect(vip(family, LINES[0]), 0)?;
            let second = connect(vip(family, LINES[1]), first.local_addr()?.port())?;
            ensure!(first.local_addr()? == second.local_addr()?, "two client endpoints");
            let mut streams = [BufReader::new(first), BufReader::new(second)];
            for round in 0..3 {
                for (number, stream) in streams.iter_mut().enumerate() {
                    let sent = format!("{round} {number}\n");
                    stream.get_mut().write_all(sent.as_bytes())?;
                    let mut line = String::new();
                    stream.read_line(&mut line)?;
                    ensure!(line.ends_with(&sent), "{family}: {line:?} after {sent:?}");
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A connection from this port of the client; 0 for any.
fn connect(target: SocketAddr, port: u16) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    let own = SocketAddr::new(if target.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() }, port);
    socket.bind(&own.into())?;
    socket.connect_timeout(&target.into(), PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

#[test]
fn reload_that_moves_both_ends_of_a_range_keeps_connections() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, Mode::Nat, RANGE)?;
        world.start()?;
        let connections = Family::ALL.map(|family| world.client().long_lived(vip(family, LINES[0]), 16));
        let connections = connections.into_iter().collect::<Result<Vec<_>>>()?;
        for range in [WIDER, RANGE, "any", "9110-9130"] {
            for listener in &mut world.plan.additional_listeners {
                listener.range = Some(range);
            }
            let said = world.reload()?;
            ensure!(said.contains(&format!("-> {range}")), "{said}");
            for family in &connections {
                family.progress(3)?;
                family.expect_unbroken(None)?;
            }
        }
        let refused = world.client().exchange(Service::Http, vip(Family::V4, HTTP[1]));
        ensure!(refused.is_err(), "a port that left the range: {refused:?}");
        Ok(())
    });
}

/// The single port has one server alone, and the range both.
#[test]
fn listener_of_a_single_port_takes_it_out_of_a_range() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, Mode::Nat, "any")?;
        let mut single = world.plan.group("single", HTTP[1]);
        let first = world.net.backends[0].address(Family::V4);
        single.servers.retain(|(at, _)| at.ip() == first);
        world.plan.groups.push(single);
        world.plan.additional_listeners.push(Listener::new(
            "single",
            "tcp",
            HTTP[1],
            Target::Group("single".to_owned()),
        ));
        world.start()?;
        let batch = world.client().exchanges(Service::Http, vip(Family::V4, HTTP[1]), EXCHANGES, 8);
        batch.expect_no_failure()?;
        ensure!(batch.of("b1") == EXCHANGES, "{:?}", batch.tally);
        let batch = world.client().exchanges(Service::Http, vip(Family::V4, HTTP[2]), EXCHANGES, 8);
        batch.expect_no_failure()?;
        ensure!(batch.of("b1") > 0 && batch.of("b2") > 0, "{:?}", batch.tally);
        Ok(())
    });
}

/// Control and data connections of a protocol like FTP: with session persistence all ports lead a client to one server.
#[test]
fn session_persistence_leads_all_ports_to_one_server() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, Mode::Nat, RANGE)?;
        for listener in &mut world.plan.additional_listeners {
            listener.session_persistence = Some("60s");
        }
        world.start()?;
        let (address, _) =
            world.client().addresses().map(|address| (address, ())).next().context("no client")?;
        let client = world.client().with_addresses(|own| *own == address || own.is_ipv6());
        let mut servers = std::collections::BTreeSet::new();
        for port in HTTP {
            let batch = client.exchanges(Service::Http, vip(Family::V4, port), 20, 4);
            batch.expect_no_failure()?;
            servers.extend(batch.tally.into_keys());
        }
        ensure!(servers.len() == 1, "{servers:?}");
        Ok(())
    });
}

/// Links with a smaller MTU before and behind SLB: ICMP errors about packets of the listener find their flows.
#[test]
fn path_mtu_is_discovered_through_a_listener_of_any_port() {
    for (side, direction) in [(0, Direction::Download), (1, Direction::Upload)] {
        scenario!(&[50], |world| {
            let router = world.net.insert_router(&world.id.prefix(), side, 1_340)?;
            world.plan.groups.push(world.plan.group(GROUP, 0));
            world.plan.additional_listeners.push(Listener {
                range: Some("any"),
                check: Some(HealthCheck::new("kind = \"icmp\"")),
                ..Listener::new("any", "tcp", 0, Target::Group(GROUP.to_owned()))
            });
            world.start()?;
            for family in Family::ALL {
                let refused = || match family {
                    Family::V4 => router.namespace.counter("Ip:", "FragFails"),
                    Family::V6 => router.namespace.counter6("Ip6FragFails"),
                };
                let before = refused()?;
                let target = vip(family, Service::Bulk.backend_port());
                world.client().bulk(target, direction, 300_007, 4)?;
                ensure!(refused()? > before, "no packet was too big for the router, {family}, {direction:?}");
            }
            Ok(())
        });
    }
}
