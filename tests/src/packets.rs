//! Packet cases: frames with written-out expectations, run by the packet path on the host and by the program in the
//! kernel.
//!
//! Invariants:
//! - Expectations are written out and never computed by the code they test.
//! - Host and kernel start from the same state and process the same frames in the same order.
//! - They must agree on every byte and every counter.

pub mod answers;
pub mod check;
pub mod cookies;
pub mod decap;
mod expected;
pub mod fragments;
pub mod frames;
pub mod fuzz;
pub mod host;
pub mod icmp;
pub mod kernel;
pub mod losses;
pub mod reset;
pub mod scenario;
pub mod table;
pub mod toa;
pub mod tunnel;
pub mod world;
