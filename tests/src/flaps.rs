//! Chaos test: random failures of servers and random operator actions, and the model of what flows may do meanwhile.

pub mod chaos;
pub mod model;
