//! Benchmarks: the cost of a packet, of a connection, and of a configuration change.
//!
//! A benchmark fails, and gives no figures, unless it can show that it measured what it claims. Absolute figures depend
//! on the machine and its load; compare ratios within one run.

pub mod control;
mod figures;
mod generated;
pub mod health;
pub mod machine;
pub mod packet;
pub mod pps;
mod slbd;
pub mod stall;
pub mod stats;
pub mod status;
pub mod syn_flood;
pub mod tcp;

pub use figures::FigureSpread;
