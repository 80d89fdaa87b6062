//! Changes of the server table: untracked connections stay with their servers.

use std::{collections::BTreeMap, net::UdpSocket};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    client::{LongLived, PATIENCE},
    net::Family,
    scenario,
    server::Service,
    traffic::Traffic,
};

use super::*;

/// Long-lived connections per family.
const LONG_LIVED: usize = 40;
/// Exchanges of each kind required between two changes.
const PROGRESS: u64 = 100;
/// Weights, applied in order: a server without new flows, other shares, the first weights.
const CHANGES: [[u8; 3]; 3] = [[0, 30, 20], [10, 60, 30], WEIGHTS];

in_each_mode!(changed_weights_move_no_connection);
in_each_mode!(weight_change_interrupted_by_sigkill_moves_no_connection);
in_each_mode!(reloads_move_no_connection);

fn changed_weights_move_no_connection(world: &mut World) -> Result<()> {
    world.start()?;
    let mut watched = vec![ModeConnections::open(world)?];
    for weights in CHANGES {
        set_weights(world, weights);
        world.restart()?;
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        watched.push(ModeConnections::open(world)?);
        watched.iter().try_for_each(ModeConnections::undisturbed)?;
    }
    ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
    Ok(())
}

fn weight_change_interrupted_by_sigkill_moves_no_connection(world: &mut World) -> Result<()> {
    world.plan.unknown_datagrams = None;
    world.start()?;
    let traffic = Traffic::start(world, LONG_LIVED)?;
    let watched = ModeConnections::open(world)?;
    for weights in CHANGES {
        set_weights(world, weights);
        world.terminate()?;
        world.kill_on_its_way_up()?;
        world.start()?;
        traffic.progress(PROGRESS)?;
        world.kill()?;
        traffic.progress(PROGRESS)?;
        world.start()?;
        watched.undisturbed()?;
        traffic.expect_unbroken(None)?;
    }
    ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
    traffic.stop().expect_no_failure()
}

fn reloads_move_no_connection(world: &mut World) -> Result<()> {
    world.plan.unknown_datagrams = None;
    world.start()?;
    let traffic = Traffic::start(world, LONG_LIVED)?;
    let mut watched = vec![ModeConnections::open(world)?];
    for (round, weights) in (0..).zip(CHANGES.iter().chain(&CHANGES)) {
        set_weights(world, *weights);
        world.plan.names.listeners = format!("-{round}");
        world.plan.names.groups = format!("-{}", round / 2);
        world.reload()?;
        traffic.progress(PROGRESS)?;
        watched.push(ModeConnections::open(world)?);
        watched.iter().try_for_each(ModeConnections::undisturbed)?;
        traffic.expect_unbroken(None)?;
    }
    ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
    traffic.stop().expect_no_failure()
}

/// By default an untracked datagram may belong to a flow as old as the idle timeout: it goes to that flow's server.
#[test]
fn untracked_datagrams_stay_with_their_server_by_default() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Dsr)?;
        world.plan.unknown_datagrams = None;
        world.start()?;
        for family in Family::ALL {
            set_weights(world, WEIGHTS);
            world.restart()?;
            let sockets = sockets(world, family)?;
            let before = answering(world, family, &sockets)?;
            ensure!(before.iter().any(|server| server == "b1"), "{before:?}");
            set_weights(world, CHANGES[0]);
            world.restart()?;
            let after = answering(world, family, &sockets)?;
            ensure!(before == after, "{before:?}, then {after:?}");
        }
        Ok(())
    });
}

/// UDP sockets of one family at the client.
fn sockets(world: &World, family: Family) -> Result<Vec<UdpSocket>> {
    let any = (world.net.sources(family)[0], 0);
    world.net.client.on_thread(|| (0..LONG_LIVED).map(|_| Ok(UdpSocket::bind(any)?)).collect())
}

/// The server that answers each socket.
fn answering(world: &World, family: Family, sockets: &[UdpSocket]) -> Result<Vec<String>> {
    let target = world.vip(family, Service::Echo);
    let ask = |socket: &UdpSocket| {
        let mut buffer = [0; 64];
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"?", target)?;
        let (length, from) = socket.recv_from(&mut buffer).context("no answer")?;
        ensure!(from == target, "{from} answered");
        let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Ok(answer.strip_suffix(" ?").context(answer.clone())?.to_owned())
    };
    sockets.iter().map(ask).collect()
}

fn set_weights(world: &mut World, weights: [u8; 3]) {
    for (server, weight) in world.plan.servers.iter_mut().zip(weights) {
        server.weight = weight;
    }
}

/// Long-lived connections of each family, and the number per server at the start.
struct ModeConnections(Vec<(LongLived, BTreeMap<String, usize>)>);

impl ModeConnections {
    fn open(world: &World) -> Result<Self> {
        let open = |family| {
            let connections = world.client().long_lived(world.vip(family, Service::Lines), LONG_LIVED)?;
            let placed = connections.alive();
            ensure!(placed.len() > 1, "all with one server: {placed:?}");
            Ok((connections, placed))
        };
        Family::ALL.into_iter().map(open).collect::<Result<_>>().map(Self)
    }

    fn undisturbed(&self) -> Result<()> {
        for (connections, placed) in &self.0 {
            connections.progress(5)?;
            connections.expect_unbroken(None)?;
            ensure!(connections.alive() == *placed, "{:?} after {placed:?}", connections.alive());
        }
        Ok(())
    }
}
