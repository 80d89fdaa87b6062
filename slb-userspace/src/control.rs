//! The control loop: the single owner of all change.
//!
//! Configuration, health and neighbours come in; [`failover`] takes sides, [`desired`] says what follows, [`ids`] gives it places in
//! the maps, [`diff`] says what must change and in which order, and [`reconcile`] carries it out. All but the last are
//! pure: no clock, no sockets, no tokio.

pub mod client_paths;
mod connection_counts;
pub mod desired;
pub mod diff;
pub mod drain;
pub mod drains;
pub mod ending;
pub mod failover;
pub mod fill;
pub mod flush;
mod handshakes;
pub mod ids;
pub mod map_limits;
pub mod members;
pub mod memory;
pub mod one_way;
pub mod outages;
pub mod overrides;
pub mod reconcile;
mod rehash;
pub mod separate_tables;
pub mod slot_migration;
pub mod slow_start;
mod table_split;
pub mod targets;
pub mod users;
pub mod warm_up;

#[cfg(test)]
mod tests;
