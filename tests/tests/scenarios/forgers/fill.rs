//! Blind fills of the flow table: each forged client sends a SYN, then an ACK with arbitrary numbers. Most ACKs have
//! wrong checksums, since a server would reset the connection for a wrong number.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    World,
    forge::{FloodStats, Forger, MacPair, wrong_checksum},
    net::Family,
    packets::frames::{Frame, flag},
    scenario,
    server::Service,
};

use super::{WEIGHTS, on_clients_side, report, victims};

/// Entries of the flow table, unless the environment variable sets another number. The daemon's default is 262,144.
const ENTRIES: u32 = 4096;
const ENTRIES_VARIABLE: &str = "SLB_FORGERS_ENTRIES";
/// Frames per second while the table fills, and afterwards.
const FILL: u32 = 17_500;
const AFTERWARDS: u32 = 600;
/// Numbers of the forged clients afterwards: 3 s of them, and none of the earlier ones.
const AFTERWARDS_CLIENTS: Range<u32> = 1 << 20..(1 << 20) + 900;
/// Segments between SYN and ACK of a forged client; enough that the server has answered.
const LAG: u32 = 64;
/// Established connections per family.
const ESTABLISHED: usize = 8;
/// New connections per client address, listener and family, in each round.
const NEWCOMERS: usize = 5;

/// A forged client: even numbers have an IPv4 address of their own, odd ones an IPv6 network.
fn client(number: u32) -> SocketAddr {
    let [_, b, c, d] = number.to_be_bytes();
    let address: IpAddr = if number.is_multiple_of(2) {
        Ipv4Addr::new(10, 160 | b & 15, c, d).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0x4000 | u16::from(b), u16::from_be_bytes([c, d]), 0, 0, 0, 1).into()
    };
    (address, 40_000).into()
}

/// The SYN of a forged client, and the ACK of an earlier one that has been answered.
fn pair(world: &World, mac_pair: MacPair, number: u32) -> Vec<Frame> {
    let segment = |number: u32, flags| {
        let from = client(number);
        let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
        let numbers = [number.wrapping_mul(0x9e37_79b9), number.rotate_left(13)];
        mac_pair.segment(from, world.vip(family, Service::Lines), flags, numbers)
    };
    let answered = number.checked_sub(LAG).map(|number| {
        let ack = segment(number, flag::ACK);
        if number.is_multiple_of(32) { ack } else { wrong_checksum(ack) }
    });
    [segment(number, flag::SYN)].into_iter().chain(answered).collect()
}

#[test]
fn blind_fill_of_flow_table_blocks_no_client() {
    let entries =
        env::var(ENTRIES_VARIABLE).map_or(ENTRIES, |entries| entries.parse().expect("a number of entries"));
    scenario!(&WEIGHTS, |world| {
        world.plan.flow_table_entries = entries;
        world.start()?;
        let mut established = victims::open(world, Service::Lines.vip_port(), ESTABLISHED)?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let before = victims::newcomers_everywhere(world, NEWCOMERS)?;
        ensure!(before.0 == before.1, "without an attack {} of {} succeed", before.0, before.1);

        let (filled, during) = beside(world, &forger, mac_pair, FILL, 0..entries * 3 / 2)?;
        report("blind SYN and ACK, fill", filled, says(during));
        let (kept, after) = beside(world, &forger, mac_pair, AFTERWARDS, AFTERWARDS_CLIENTS)?;
        report("blind SYN and ACK, afterwards", kept, says(after));
        let lost = victims::lost(&mut established);
        ensure!(lost.is_empty(), "established connections: {lost:#?}");
        for (when, (succeed, tried)) in [("during", during), ("after", after)] {
            ensure!(succeed == tried, "{when} a blind fill {succeed} of {tried} new connections succeed");
        }
        Ok(())
    });
}

fn says((succeed, tried): (usize, usize)) -> String {
    format!("{succeed} of {tried} new connections succeed")
}

/// Opens new connections of real clients while these forged clients send.
fn beside(
    world: &World,
    forger: &Forger,
    mac_pair: MacPair,
    rate: u32,
    numbers: Range<u32>,
) -> Result<(FloodStats, (usize, usize))> {
    thread::scope(|scope| {
        let frames = numbers.flat_map(|number| pair(world, mac_pair, number));
        let flood = scope.spawn(move || forger.flood(rate, frames));
        let mut newcomers = (0, 0);
        while newcomers.1 == 0 || !flood.is_finished() {
            let (succeed, tried) = victims::newcomers_everywhere(world, NEWCOMERS)?;
            newcomers = (newcomers.0 + succeed, newcomers.1 + tried);
        }
        let flooded = flood.join().ok().context("the flood panicked")??;
        Ok((flooded, newcomers))
    })
}
