//! Blind segments for a connection: RST, FIN, SYN and data with any sequence number and checksum.

use std::collections::BTreeMap;

use anyhow::ensure;
use slb_tests::{
    forge::{MacPair, NUMBERS, Tap},
    net::Family,
    packets::frames::flag,
    scenario,
    server::Service,
};

use super::{
    WEIGHTS, on_clients_side, report,
    victims::{self, Victim, attack},
};

/// Idle and active connections of servers that take new flows.
#[test]
fn blind_segments_neither_end_nor_move_connections() {
    scenario!(&WEIGHTS, |world| {
        victims::with_all_schedulers(world)?;
        world.start()?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let busy = world.client().long_lived(world.vip(Family::V4, Service::Lines), 2)?;
        let mut connections = victims::open_everywhere(world)?;
        let all = |mac_pair: MacPair, victim: &Victim| mac_pair.attacks(victim.local, victim.target);
        let lost = attack("blind segments, idle connections", &forger, mac_pair, &mut connections, all)?;
        let target = world.vip(Family::V4, Service::Lines);
        forger.send_all(busy.locals().flat_map(|local| mac_pair.attacks(local, target)))?;
        ensure!(lost.is_empty(), "{lost:#?}");
        busy.progress(3)?;
        busy.expect_unbroken(None)
    });
}

/// Connections stay assured under forged RSTs: none is evicted for a new flow.
#[test]
fn blind_resets_make_no_connection_evictable() {
    scenario!(&WEIGHTS, |world| {
        world.plan.flow_table_entries = 1024;
        victims::with_all_schedulers(world)?;
        world.start()?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let mut connections = victims::open_everywhere(world)?;
        let resets = |victim: &Victim| {
            let (local, target) = (victim.local, victim.target);
            NUMBERS.map(|number| mac_pair.segment(local, target, flag::RST, [number, 0]))
        };
        forger.send_all(connections.iter().flat_map(resets))?;
        let opening = |number: u32| {
            let [.., c, d] = number.to_be_bytes();
            let from = ([10, 66, c, d], 40_000).into();
            mac_pair.segment(from, world.vip(Family::V4, Service::Http), flag::SYN, [number, 0])
        };
        let flooded = forger.flood(20_000, (0..4096).map(opening))?;
        let lost = victims::lost(&mut connections);
        report(
            "blind RSTs, then SYNs four times the flow table",
            flooded,
            format!("{} of {} connections lost", lost.len(), connections.len()),
        );
        ensure!(lost.is_empty(), "{lost:#?}");
        Ok(())
    });
}

/// Distance from the next sequence number of a RST that hits the window; one in 2^18 blind RSTs does.
const OFF: u32 = 9_000;

/// What a blind attacker achieves with 2^18 RSTs or 2^17 FINs per connection. Here the numbers are read from the
/// client's link.
#[test]
fn in_window_rst_and_fin_neither_end_nor_move_connections() {
    scenario!(&WEIGHTS, |world| {
        victims::with_all_schedulers(world)?;
        world.start()?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let tap = Tap::at(&world.net.client, "eth0")?;
        for (name, flags) in [("RST", flag::RST), ("FIN", flag::FIN | flag::ACK)] {
            let mut connections = victims::open_everywhere(world)?;
            // Otherwise round robin would give the same servers again.
            connections.reverse();
            let answers = tap.seen()?.into_iter().filter_map(|seen| Some((seen.to, seen.tcp?.2)));
            let next: BTreeMap<_, _> = answers.collect();
            let hits = |mac_pair: MacPair, victim: &Victim| {
                let (local, target) = (victim.local, victim.target);
                let sequence = next[&local].wrapping_add(OFF);
                let end = mac_pair.segment(local, target, flags, [sequence, NUMBERS[0]]);
                let opening = |number| mac_pair.segment(local, target, flag::SYN, [number, 0]);
                [vec![end], NUMBERS.map(opening).to_vec()].concat()
            };
            let name = format!("a {name} within the window, then SYNs");
            let lost = attack(&name, &forger, mac_pair, &mut connections, hits)?;
            ensure!(lost.is_empty(), "{lost:#?}");
        }
        Ok(())
    });
}
