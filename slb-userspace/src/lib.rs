//! The userspace part of SLB: configuration, health checks, control loop, maps of the data plane, and API.

pub mod advice;
pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod descriptors;
pub mod devices;
pub mod health;
pub mod neigh;
mod privileges;
pub mod provoke;
mod state_file;
pub mod supervised;
pub mod telemetry;
pub mod version;
