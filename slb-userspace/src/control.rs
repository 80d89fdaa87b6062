//! The control loop: the single owner of all change.
//!
//! Configuration, health and neighbours come in; [`desired`] says what follows from them, [`ids`] gives it places in
//! the maps, [`diff`] says what must change and in which order, and [`reconcile`] carries it out. The first three are
//! pure: no clock, no sockets, no tokio.

pub mod desired;
pub mod diff;
pub mod handover;
pub mod ids;
pub mod memory;
pub mod reconcile;

#[cfg(test)]
mod tests;
