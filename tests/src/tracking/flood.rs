//! Floods of TCP segments and datagrams from forged client endpoints, which established flows must survive.

use std::time::Duration;

use super::{
    model_test::{Counts, ModelTest},
    servers::Setting,
    wire::{self, Kind, Went},
};
use crate::packets::frames::flag;

/// Slots of the flow table.
const SLOTS: u32 = 1024;
/// Flows established before the first change; after it, as many more from the same client addresses.
const FLOWS: u32 = 100;
/// Packets of each kind in a flood; they would fill the flow table several times.
const FLOOD: u32 = 3 * SLOTS;

/// Floods the flow table before a change, after it, and once it has ended. Returns the counts of the model test, and
/// the packets of the flood.
pub fn run(setting: Setting, seed: u64) -> (Counts, u64) {
    let mut play = ModelTest::new(setting, seed, SLOTS, 4);
    let mut flooded = 0;
    establish(&mut play, numbers(0));
    let before = play.plane.flow_words();
    flooded += flood(&mut play);
    if setting.is_stateless() && before != play.plane.flow_words() {
        play.fail("3: a flood was remembered in steady state");
    }
    play.all_go_on();
    play.wanted[0].weight = 0;
    play.wanted[1].healthy = Some(false);
    play.put_in_force();
    // Half of the flows send a packet before the flood, half do not.
    for number in numbers(0).step_by(2) {
        play.go_on(number, flag::ACK);
    }
    establish(&mut play, numbers(1));
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
    flooded += feign(&mut play);
    for _ in 0..5 {
        play.all_go_on();
        play.pass(Duration::from_secs(250));
    }
    play.all_go_on();
    if play.streams.len() as u32 != 2 * FLOWS {
        play.fail("a flow was lost");
    }
    (play.counts, flooded)
}

/// The even or the odd client endpoints; each client address has endpoints of both kinds.
fn numbers(first: u32) -> impl Iterator<Item = u32> {
    (first..2 * FLOWS).step_by(2)
}

fn establish(play: &mut ModelTest, numbers: impl Iterator<Item = u32>) {
    for number in numbers {
        play.open(number);
        let server = play.streams[&number].server;
        let is_seen = play.setting.mode == "nat";
        if is_seen && !wire::to_client(&play.plane, server, number, Kind::Tcp(flag::SYN)) {
            play.fail("a connection was not accepted");
        }
        if let Some(flow) = play.streams.get_mut(&number) {
            flow.is_answered |= is_seen;
        }
        play.go_on(number, flag::ACK);
    }
    // After the GC pass, a flood no longer decides which affinity entries remain.
    play.sweep();
}

/// A client endpoint that no other flow uses.
fn forged(play: &mut ModelTest) -> u32 {
    0x1_0000 + play.rng.below(1 << 20) as u32
}

fn flood(play: &mut ModelTest) -> u64 {
    let kinds = [Kind::Tcp(flag::SYN), Kind::Tcp(flag::ACK), Kind::Udp];
    for kind in kinds {
        for _ in 0..FLOOD {
            let number = forged(play);
            if !matches!(wire::to_server(&play.plane, number, kind), Went::To(_)) {
                play.fail("4: a packet of a flood was dropped");
            }
        }
    }
    u64::from(FLOOD) * kinds.len() as u64
}

/// Connections that send an ACK after the SYN. Where SLB sees no answers, they look established and may fill the flow
/// table, and new ones are then dropped.
fn feign(play: &mut ModelTest) -> u64 {
    for _ in 0..FLOOD {
        let number = forged(play);
        for flags in [flag::SYN, flag::ACK] {
            if wire::to_server(&play.plane, number, Kind::Tcp(flags)) == Went::Ended {
                play.fail("a packet of a flood was answered");
            }
        }
    }
    2 * u64::from(FLOOD)
}
