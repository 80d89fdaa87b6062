//! Floods of connections that are never used, or never were, and of datagrams: established flows do not notice.

use std::time::Duration;

use super::{
    play::{Counts, Play},
    servers::Setting,
    wire::{self, Kind, Went},
};
use crate::packets::frames::flag;

/// Slots for flows.
const SLOTS: u32 = 1024;
/// Flows that are established.
const FLOWS: u32 = 100;

/// Floods a table ten times its size, before a change, after it, and once it is over. Returns how much has happened
/// besides, and the packets of the flood.
pub fn run(setting: Setting, seed: u64) -> (Counts, u64) {
    let mut play = Play::new(setting, seed, SLOTS, 4);
    let mut flooded = 0;
    establish(&mut play, 0..FLOWS);
    let before = play.plane.flow_words();
    flooded += flood(&mut play);
    if setting.is_stateless() && before != play.plane.flow_words() {
        play.fail("3: a flood was remembered in steady state");
    }
    play.all_go_on();
    play.wanted[0].weight = 0;
    play.wanted[1].healthy = Some(false);
    play.put_in_force();
    // Some flows are heard of before the flood, some are not.
    for number in (0..FLOWS).step_by(2) {
        play.go_on(number, flag::ACK);
    }
    establish(&mut play, FLOWS..2 * FLOWS);
    flooded += flood(&mut play);
    for _ in 0..5 {
        play.all_go_on();
        play.pass(Duration::from_secs(250));
    }
    flooded += flood(&mut play);
    play.all_go_on();
    play.sweep();
    flooded += flood(&mut play);
    play.all_go_on();
    if play.streams.len() as u32 != 2 * FLOWS {
        play.fail("a flow was lost");
    }
    (play.counts, flooded)
}

fn establish(play: &mut Play, numbers: std::ops::Range<u32>) {
    for number in numbers {
        play.open(number);
        // More than once: a server that is slow to answer has done so by then.
        for _ in 0..4 {
            play.go_on(number, flag::ACK);
        }
    }
}

fn flood(play: &mut Play) -> u64 {
    let kinds = [Kind::Tcp(flag::SYN), Kind::Tcp(flag::ACK), Kind::Udp];
    let count = 10 * SLOTS;
    for kind in kinds {
        for _ in 0..count {
            let number = 0x1_0000 + play.dice.below(1 << 20) as u32;
            if !matches!(wire::to_server(&play.plane, number, kind), Went::To(_)) {
                play.fail("4: a packet of a flood was dropped");
            }
        }
    }
    u64::from(count) * kinds.len() as u64
}
