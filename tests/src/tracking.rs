//! Which server flows stay with while servers come and go: the packet path and the control side over one set of tables
//! in memory, against a model that remembers everything.
//!
//! Invariant: what the model demands is written down in [`play`] and nowhere computed by the code it is asked of.

pub mod control;
pub mod flood;
pub mod model_test;
pub mod plane;
pub mod rng;
pub mod servers;
pub mod settle;
pub mod wire;
