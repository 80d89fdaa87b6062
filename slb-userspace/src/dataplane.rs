//! The data plane: what the XDP program forwards by, as values that can be compared, and the maps that hold it.
//!
//! Invariants: aya is used in [`bpf`] and nowhere else; only the control loop applies operations.

pub mod bpf;
pub mod state;

#[cfg(test)]
pub(crate) mod fake;

use state::{Operation, State};

/// Something that holds a [`State`].
pub trait DataPlane {
    /// What it holds now. Contents of server tables are not read back: a table found is of unknown content.
    fn observe(&self) -> anyhow::Result<State>;

    /// Carries out one operation.
    fn apply(&mut self, operation: &Operation) -> anyhow::Result<()>;
}
