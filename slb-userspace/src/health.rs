//! Health checks: which servers can take new flows.
//!
//! - [`state`] decides from a sequence of probe results whether a server is healthy. It has no clock and no socket.
//! - [`passive`] decides from what comes of clients' connections whether a server is held out although its check passes.
//! - [`probe`] makes one probe: `tcp`, `http`, `tls`, `udp`, `icmp`.
//! - [`path`] opens the sockets for it, so that its packets go the way the traffic goes.
//! - [`supervisor`] probes every target on its own cadence and reports what changed.

mod compare;
mod error;
pub mod failures;
mod http;
mod icmp;
pub mod passive;
pub mod path;
pub mod probe;
pub mod state;
pub mod supervisor;
pub mod target;
mod tcp;
#[cfg(test)]
mod testing;
mod tls;
mod udp;

pub use error::ProbeError;
pub use failures::Failures;
pub use path::Paths;
pub use state::Health;
pub use supervisor::{Event, News, Supervisor};
pub use target::{Target, Via};
