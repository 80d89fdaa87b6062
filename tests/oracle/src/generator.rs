//! Random configurations, and random packets for them. Most packets are nearly valid, so that they reach deep code;
//! endpoints are few, so that flows meet.

mod access;
mod configuration;
mod frame;
mod listener_limits;
mod mutation;
mod quic;
mod sequence;

use crate::world::ServerState;

pub use self::{configuration::world, sequence::sequence};

/// A frame that arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The frame.
    pub bytes: Vec<u8>,
    /// Index of the interface.
    pub interface: u32,
}

/// A step of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A frame arrives.
    Frame(Arrival),
    /// The same frame arrives so many times.
    Flood(Arrival, u32),
    /// So many jiffies pass.
    Wait(u32),
    /// A server changes its state.
    Server(usize, ServerState),
}

/// What a sequence may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    Host,
    /// What a test run in the kernel can do: frames of at least 14 bytes on one interface, and no time passes.
    Kernel,
}
