//! Benchmarks: what a packet, a connection, a change of configuration costs.
//!
//! A benchmark that cannot show that what it measured is what it says fails, and gives no figures.

pub mod control;
pub mod machine;
pub mod packet;
pub mod stats;
