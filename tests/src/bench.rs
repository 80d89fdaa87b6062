//! Benchmarks: what a packet, a connection, a change of configuration costs.
//!
//! A benchmark that cannot show that what it measured is what it says fails, and gives no figures. Absolute figures depend
//! on the machine and on what else it does; ratios within one run are what to compare.

pub mod control;
mod figures;
mod generated;
pub mod health;
pub mod machine;
pub mod packet;
pub mod pps;
mod slbd;
pub mod stats;
pub mod status;
pub mod tcp;

pub use figures::Spread;
