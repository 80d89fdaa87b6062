//! The control loop: the single owner of all change.
//!
//! Configuration, health and neighbours come in; [`failover`] takes sides, [`desired`] says what follows, [`ids`] gives it places in
//! the maps, [`diff`] says what must change and in which order, and [`reconcile`] carries it out. All but the last are
//! pure: no clock, no sockets, no tokio.

pub mod apart;
pub mod client_paths;
pub mod desired;
pub mod diff;
pub mod drain;
pub mod drains;
pub mod ending;
pub mod failover;
pub mod fill;
pub mod flush;
pub mod handover;
pub mod ids;
mod loads;
pub mod members;
pub mod memory;
pub mod one_way;
mod openings;
pub mod outages;
pub mod overrides;
mod parted;
pub mod reconcile;
mod rehash;
pub mod room;
pub mod slow_start;
pub mod targets;
pub mod users;
pub mod warm_up;

#[cfg(test)]
mod tests;
