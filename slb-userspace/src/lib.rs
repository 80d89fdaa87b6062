//! The control side of SLB: configuration, health checks, the control loop, the data plane's maps, and the API.

pub mod api;
pub mod config;
pub mod health;
pub mod neigh;
