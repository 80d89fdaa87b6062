//! Floods of single segments, and segments of evicted flows.

use anyhow::ensure;
use slb_tests::{
    forge::{NUMBERS, wrong_checksum},
    net::Family,
    packets::frames::flag,
    scenario,
    server::Service,
};

use super::{WEIGHTS, on_clients_side, report, victims};

/// Entries of the flow table.
const ENTRIES: u32 = 1024;
/// Frames of the flood, sent at as many per second.
const FRAMES: u32 = 8 * ENTRIES;
const RATE: u32 = 20_000;
/// New connections per client address, listener and family.
const NEWCOMERS: usize = 5;

/// A SYN flood of eight times the table's size; every second SYN has a wrong checksum.
#[test]
fn syn_flood_evicts_no_connection_and_blocks_no_client() {
    scenario!(&WEIGHTS, |world| {
        world.plan.flow_table_entries = ENTRIES;
        victims::with_all_schedulers(world)?;
        world.start()?;
        let mut connections = victims::open_everywhere(world)?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let to = world.vip(Family::V4, Service::Lines);
        let opening = |number: u32| {
            let [.., c, d] = number.to_be_bytes();
            let frame = mac_pair.segment(([10, 66, c, d], 40_000).into(), to, flag::SYN, [number, 0]);
            if number.is_multiple_of(2) { wrong_checksum(frame) } else { frame }
        };
        let sent = forger.flood(RATE, (0..FRAMES).map(opening))?;
        let (succeed, tried) = victims::newcomers_everywhere(world, NEWCOMERS)?;
        report("SYN flood", sent, format!("{succeed} of {tried} new connections succeed"));
        ensure!(succeed == tried, "{succeed} of {tried} new connections succeed");
        victims::expect_all(&mut connections, "after a SYN flood")
    });
}

/// The hash leads evicted connections back to their server, whatever state a forged segment has left in SLB.
#[test]
fn blind_segments_end_no_connection_of_maglev_listener() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let mut connections = victims::open(world, Service::Lines.vip_port(), NUMBERS.len())?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let all = |mac_pair: slb_tests::forge::MacPair, victim: &victims::Victim| {
            mac_pair.attacks(victim.local, victim.target)
        };
        let lost = victims::attack("blind segments, by the hash", &forger, mac_pair, &mut connections, all)?;
        ensure!(lost.is_empty(), "{lost:#?}");
        Ok(())
    });
}
