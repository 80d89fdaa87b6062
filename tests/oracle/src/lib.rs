//! The oracle: what the packet path must do with any packet, in any configuration, after any history.
//!
//! Invariants:
//!
//! - It depends on no crate of the product. Its parser is `etherparse`, its state plain maps.
//! - A checksum that was right stays right, and one that was wrong stays as wrong.
//! - Which slot a flow's hash selects is the product's affair, and comes in by [`Slots`]. Whether the slot's server may
//!   have the packet is the reference's.

pub mod choices;
pub mod decode;
pub mod generator;
pub mod outcome;
pub mod packet;
pub mod reference;
pub mod soundness;
pub mod world;

mod answers;
mod bytes;
mod checksum;
mod embedded;
mod flow;
mod quic;
mod rewrite;
mod toa;
mod tunnel;
mod vlan;

pub use self::{
    generator::{Arrival, Step},
    outcome::{Action, Expected, Group, Reason, Verdict},
    reference::{Reference, Slots},
    world::World,
};
