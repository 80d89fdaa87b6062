//! The control side of SLB: configuration, health checks, the control loop, the data plane's maps, and the API.

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
