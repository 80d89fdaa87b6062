//! Compares the packet path with the oracle, over sequences of packets.
//!
//! Invariants:
//! - The oracle gets the configuration and the slots of hashes as plain data, and nothing else of the product but the
//!   flow label of a frame that it sent.
//! - A seed determines configuration and sequence, whatever ran before.

mod comparison;
mod disagreement;
mod run;
mod slots;
mod state;
mod tally;

use slb_oracle::{
    Step, World,
    choices::Seeded,
    generator::{self, Extent},
};

pub use self::{
    comparison::{Comparison, Second},
    disagreement::Disagreement,
    run::{Failure, Plan, SecondOf, on_the_host, one_world},
    state::state,
    tally::Tally,
};

/// Sequences of one configuration: to build the tables takes as long as many sequences.
pub const SEQUENCES: u64 = 200;

/// Steps of one sequence.
pub const STEPS: usize = 100;

/// The configuration with this number.
pub fn world(seed: u64, number: u64) -> World {
    generator::world(&mut Seeded::new(mixed(seed, number)))
}

/// A sequence of the configuration with this number.
pub fn sequence(seed: u64, number: u64, sequence: u64, world: &World, extent: Extent) -> Vec<Step> {
    let mut choices = Seeded::new(mixed(mixed(seed, number), 1 + sequence));
    generator::sequence(&mut choices, world, extent, STEPS)
}

/// A seed made of two numbers.
const fn mixed(seed: u64, number: u64) -> u64 {
    // The increment of SplitMix64.
    seed.wrapping_add((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(23)
}
