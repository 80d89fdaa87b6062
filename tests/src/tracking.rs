//! Model test: which server flows stay with while servers come and go. The packet path and the control side run over
//! one set of tables in memory, against a model that records every flow.
//!
//! Invariant: the model's rules are written down in [`model_test`], and never computed by the code under test.

pub mod control;
pub mod flood;
pub mod model_test;
pub mod plane;
pub mod quiescence;
pub mod rng;
pub mod servers;
pub mod wire;
