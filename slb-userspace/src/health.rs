//! Health checks: which servers can take new flows.
//!
//! - [`state`] decides from a sequence of probe results whether a server is healthy. It has no clock and no socket.
//! - [`tcp`] makes one probe.
//! - [`supervisor`] probes every target on its own cadence and reports what changed.

pub mod state;
pub mod supervisor;
pub mod tcp;

pub use state::Health;
pub use supervisor::{Event, Supervisor, Target};
