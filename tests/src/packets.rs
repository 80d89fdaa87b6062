//! Packet cases: what must become of a frame, asked of the packet path on the host and of the program in the kernel.
//!
//! Invariants: expectations are written out and never computed by the code they test; both halves start from the same
//! state, see the same frames in the same order, and must agree on every byte and every counter.

pub mod check;
pub mod decap;
pub mod frames;
pub mod host;
pub mod icmp;
pub mod kernel;
pub mod losses;
pub mod oracle;
pub mod random;
pub mod reset;
pub mod scenario;
pub mod table;
pub mod tunnel;
pub mod world;
