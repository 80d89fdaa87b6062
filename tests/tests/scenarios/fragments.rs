//! Datagrams larger than the MTU, in both directions: all fragments of one reach one server, or its client.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use slb_common::abi::fragment::MAX_FRAGMENTED;
use slb_tests::{
    World,
    client::PATIENCE,
    forge::{FloodStats, Forger, MacPair},
    net::Family,
    packets::fragments::{Fragment, cut},
    scenario,
    server::Service,
};

use super::{
    failure::WEIGHTS,
    modes::{DirectMode, prepare},
};

/// Sizes of datagrams, in bytes.
const SIZES: [usize; 2] = [8_192, 60_000];
/// Datagrams of each size and family, each by a flow of its own.
const DATAGRAMS: u16 = 24;
/// MTU of the client's link.
const MTU: u16 = 1_500;
/// MTU of the links to servers behind tunnels: a full fragment fits with its outer headers.
const ROOM: u16 = 1_548;

#[test]
fn nat() {
    scenario!(&WEIGHTS, |world| datagrams_arrive_whole(world, None));
}

#[test]
fn dsr() {
    scenario!(&WEIGHTS, |world| datagrams_arrive_whole(world, Some(DirectMode::Dsr)));
}

#[test]
fn ipip_over_ipv4() {
    scenario!(&WEIGHTS, |world| datagrams_arrive_whole(world, Some(DirectMode::Ipip(Family::V4))));
}

#[test]
fn ipip_over_ipv6() {
    scenario!(&WEIGHTS, |world| datagrams_arrive_whole(world, Some(DirectMode::Ipip(Family::V6))));
}

#[test]
fn gue_over_ipv4() {
    scenario!(&WEIGHTS, |world| datagrams_arrive_whole(world, Some(DirectMode::Gue(Family::V4))));
}

#[test]
fn gue_over_ipv6() {
    scenario!(&WEIGHTS, |world| datagrams_arrive_whole(world, Some(DirectMode::Gue(Family::V6))));
}

/// Frames of the flood in each family: more than the table has records.
const FORGED: u32 = 20_000;
/// Forged frames per second.
const RATE: u32 = 20_000;
const _: () = assert!(FORGED as usize > MAX_FRAGMENTED);
/// How long a lost datagram is waited for during the flood.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// Forged first fragments fill the table with records. Whole packets need none.
#[test]
fn flood_of_first_fragments_harms_no_whole_packet() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        for backend in &world.net.backends {
            // The servers keep the forged fragments for 30 seconds: about one kilobyte each.
            for setting in ["net/ipv4/ipfrag_high_thresh", "net/ipv6/ip6frag_high_thresh"] {
                backend.namespace.sysctl(setting, "134217728")?;
            }
        }
        for family in Family::ALL {
            flooded(world, family)?;
        }
        let forwarded = world.packets("forward", Some("to_server"))?;
        ensure!(forwarded > 2 * u64::from(FORGED), "{forwarded} packets: the flood did not pass SLB");
        let lost = world.packets("drop", Some("fragment"))?;
        ensure!(world.packets("drop", None)? == lost, "{:?}", world.status()?.reasons);
        Ok(())
    });
}

fn flooded(world: &World, family: Family) -> Result<()> {
    let vip = world.vip(family, Service::Echo);
    let sources = world.net.sources(family);
    let (is_over, client) = (AtomicBool::new(false), world.client());
    let (sent, whole, fragmented) = thread::scope(|scope| {
        let whole = scope.spawn(|| {
            let mut batches = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                batches.push(client.exchanges(Service::Echo, vip, 50, 2));
                batches.push(client.exchanges(Service::Http, world.vip(family, Service::Http), 20, 2));
            }
            batches
        });
        let fragmented = scope.spawn(|| world.net.client.on_thread(|| arrivals(sources[0], vip, &is_over)));
        let sent = forge(world, SocketAddr::new(sources[1], 9), vip);
        is_over.store(true, Ordering::Relaxed);
        (sent, whole.join().expect("no panic"), fragmented.join().expect("no panic"))
    });
    let (sent, (arrived, tried)) = (sent?, fragmented?);
    let exchanges: u64 = whole.iter().flat_map(|batch| batch.tally.values()).sum();
    println!(
        "{family}: {} forged fragments, {} a second; {exchanges} exchanges; {arrived} of {tried} datagrams",
        sent.frames,
        sent.rate()
    );
    for batch in &whole {
        ensure!(batch.failures.is_empty() && batch.retries == 0, "{family}: {batch:?}");
    }
    ensure!(exchanges >= 50, "{family}: {exchanges} exchanges during the flood");
    ensure!(tried >= 10 && arrived * 10 >= tried * 9, "{family}: {arrived} of {tried} datagrams");
    Ok(())
}

/// First fragments of one flow, each of another datagram.
fn forge(world: &World, from: SocketAddr, vip: SocketAddr) -> Result<FloodStats> {
    let forger = Forger::at(&world.net.client, "eth0")?;
    let macs = MacPair { sender: forger.mac, receiver: world.net.slb.mac("client0")? };
    let whole = cut(macs.datagram(from, vip, &[0x5a; 64]), 0, 32)[0];
    forger.flood(RATE, (0..FORGED).map(|id| Fragment { id, ..whole }.frame()))
}

/// How many datagrams of 8 KB return until the flood is over, and how many are sent.
fn arrivals(source: IpAddr, vip: SocketAddr, is_over: &AtomicBool) -> Result<(u32, u32)> {
    let (mut arrived, mut tried) = (0, 0);
    let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
    socket.connect(vip)?;
    socket.set_read_timeout(Some(LOST_AFTER))?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    while !is_over.load(Ordering::Relaxed) {
        socket.send(&vec![tried as u8; SIZES[0]])?;
        tried += 1;
        arrived += u32::from(socket.recv(&mut answer).is_ok_and(|length| length > SIZES[0]));
    }
    Ok((arrived, tried))
}

fn datagrams_arrive_whole(world: &mut World, mode: Option<DirectMode>) -> Result<()> {
    if let Some(mode) = mode {
        if mode.tunnel().is_some() {
            for backend in &world.net.backends {
                backend.set_mtu(&world.net.slb, ROOM, MTU)?;
            }
        }
        prepare(world, mode)?;
    }
    world.start()?;
    for family in Family::ALL {
        let (source, vip) = (world.net.sources(family)[0], world.vip(family, Service::Echo));
        for size in SIZES {
            let servers = world.net.client.on_thread(|| exchange(source, vip, size))?;
            // Several flows, and no datagram in two parts: the servers compare its content.
            ensure!(servers.len() > 1, "{family}, {size} bytes: servers {servers:?}");
        }
    }
    ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
    Ok(())
}

/// Sends datagrams, and compares the answers. Returns the servers that answered.
fn exchange(source: IpAddr, vip: SocketAddr, size: usize) -> Result<BTreeSet<String>> {
    let mut servers = BTreeSet::new();
    for number in 0..DATAGRAMS {
        let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
        socket.connect(vip)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let sent: Vec<u8> = (0..size).map(|at| (at * 31 + at / 251 + usize::from(number)) as u8).collect();
        socket.send(&sent)?;
        let mut answer = vec![0; usize::from(u16::MAX)];
        let length = socket
            .recv(&mut answer)
            .with_context(|| format!("datagram {number} of {size} bytes to {vip}"))?;
        let (server, echoed) = answer[..length].split_at(length.saturating_sub(size));
        ensure!(echoed == sent, "{vip} sent {} of {size} bytes back, others than it got", echoed.len());
        servers.insert(String::from_utf8_lossy(server).trim().to_owned());
    }
    Ok(servers)
}
