//! The maps of the data plane.
//!
//! Invariant: only [`bpf`] uses aya.

pub mod bpf;
pub mod counters;
pub mod interfaces;
