//! The control plane: computes all changes of the data plane.
//!
//! Inputs are configuration, health, next hops and overrides. [`failover`] chooses the sides, and [`desired`] computes
//! the desired state. [`ids`] allocates ids for it, [`diff`] orders the operations, and [`reconcile`] applies them. All
//! but the last are pure: no clock, no sockets, no tokio.

pub mod client_paths;
mod connection_counts;
pub mod dataplane;
pub mod desired;
pub mod diff;
pub mod drain;
pub mod drain_events;
pub mod failover;
pub mod fill_level;
pub mod finished_flows;
pub mod flush;
pub mod gc_job;
mod handshakes;
mod hash_transition;
pub mod ids;
pub mod inherited_state;
pub mod inputs;
mod known_services;
pub mod listener_index;
pub mod listener_servers;
pub mod local_addresses;
pub mod map_limits;
pub mod model;
pub mod one_way;
pub mod outages;
pub mod outlier_detection;
pub mod overrides;
pub mod reconcile;
mod rehoming;
pub mod separate_tables;
pub mod slot;
pub mod slot_migration;
pub mod slow_start;
pub mod source_usage;
mod table_split;
pub mod targets;
pub mod warm_up;

#[cfg(test)]
mod tests;
