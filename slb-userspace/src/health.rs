//! Health checks: which servers can take new flows.
//!
//! - [`state`] decides from a sequence of probe results whether a server is healthy. It has no clock and no socket.
//! - [`probe`] makes one probe: `tcp`, `http`, `tls`, `udp`, `icmp`.
//! - [`path`] opens the probe's sockets so that its packets take the path of the traffic.
//! - [`supervisor`] probes every target at its interval and reports changes.

mod compare;
mod error;
pub mod failures;
mod http;
mod icmp;
pub mod path;
pub mod probe;
pub mod state;
pub mod supervisor;
mod tcp;
#[cfg(test)]
mod testing;
mod tls;
mod udp;

pub use error::ProbeError;
pub use failures::Failures;
pub use path::ProbePaths;
pub use slb_control::{
    inputs::{Target, Via},
    model::Health,
};
pub use supervisor::{Supervisor, TargetEvent, TargetUpdate};
