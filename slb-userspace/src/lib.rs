//! The userspace part of SLB: configuration, health checks, event loop, maps of the data plane, and API.

pub mod advice;
pub mod announce;
pub mod cli;
pub mod clock;
pub mod daemon;
pub mod dataplane;
pub mod descriptors;
pub mod devices;
pub mod health;
pub mod instruments;
pub mod neigh;
mod packet_address;
mod privileges;
pub mod provoke;
pub mod server;
pub mod sources;
mod state_file;
pub mod supervised;
pub mod telemetry;
pub mod version;
