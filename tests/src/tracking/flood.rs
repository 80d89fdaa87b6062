//! Floods of TCP segments and datagrams from forged client endpoints, which established flows must survive.

use std::time::Duration;

use super::{
    model_test::{Counts, ModelTest},
    servers::Setting,
    wire::{self, Outcome, PacketKind},
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
    let mut model = ModelTest::new(setting, seed, SLOTS, 4);
    let mut flooded = 0;
    establish(&mut model, numbers(0));
    let before = model.plane.flow_words();
    flooded += flood(&mut model);
    if setting.is_stateless() && before != model.plane.flow_words() {
        model.fail("3: a flood was tracked in steady state");
    }
    model.continue_all();
    model.desired[0].weight = 0;
    model.desired[1].healthy = Some(false);
    model.activate();
    // Half of the flows send a packet before the flood, half do not.
    for number in numbers(0).step_by(2) {
        model.continue_flow(number, flag::ACK);
    }
    establish(&mut model, numbers(1));
    flooded += flood(&mut model);
    for _ in 0..5 {
        model.continue_all();
        model.pass(Duration::from_secs(250));
    }
    flooded += flood(&mut model);
    model.continue_all();
    model.gc_pass();
    flooded += flood(&mut model);
    model.continue_all();
    flooded += feign(&mut model);
    for _ in 0..5 {
        model.continue_all();
        model.pass(Duration::from_secs(250));
    }
    model.continue_all();
    if model.streams.len() as u32 != 2 * FLOWS {
        model.fail("a flow was lost");
    }
    (model.counts, flooded)
}

/// The even or the odd client endpoints; each client address has endpoints of both kinds.
fn numbers(first: u32) -> impl Iterator<Item = u32> {
    (first..2 * FLOWS).step_by(2)
}

fn establish(model: &mut ModelTest, numbers: impl Iterator<Item = u32>) {
    for number in numbers {
        model.open(number);
        let server = model.streams[&number].server;
        let is_seen = model.setting.mode == "nat";
        if is_seen && !wire::to_client(&model.plane, server, number, PacketKind::Tcp(flag::SYN)) {
            model.fail("a connection was not accepted");
        }
        if let Some(flow) = model.streams.get_mut(&number) {
            flow.is_answered |= is_seen;
        }
        model.continue_flow(number, flag::ACK);
    }
    // After the GC pass, a flood no longer decides which affinity entries remain.
    model.gc_pass();
}

/// A client endpoint that no other flow uses.
fn forged(model: &mut ModelTest) -> u32 {
    0x1_0000 + model.rng.below(1 << 20) as u32
}

fn flood(model: &mut ModelTest) -> u64 {
    let kinds = [PacketKind::Tcp(flag::SYN), PacketKind::Tcp(flag::ACK), PacketKind::Udp];
    for kind in kinds {
        for _ in 0..FLOOD {
            let number = forged(model);
            if !matches!(wire::to_server(&model.plane, number, kind), Outcome::Forwarded(_)) {
                model.fail("4: a packet of a flood was dropped");
            }
        }
    }
    u64::from(FLOOD) * kinds.len() as u64
}

/// Connections that send an ACK after the SYN. Where SLB sees no answers, they look established and may fill the flow
/// table, and new ones are then dropped.
fn feign(model: &mut ModelTest) -> u64 {
    for _ in 0..FLOOD {
        let number = forged(model);
        for flags in [flag::SYN, flag::ACK] {
            if wire::to_server(&model.plane, number, PacketKind::Tcp(flags)) == Outcome::Reset {
                model.fail("a packet of a flood was answered");
            }
        }
    }
    2 * u64::from(FLOOD)
}
