//! Carries out what must change, and notices when it could not.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use super::{
    desired::Desired,
    diff::diff,
    ids::{Assigned, assign},
};
use crate::dataplane::{
    DataPlane,
    state::{Operation, State},
};

/// The data plane, and what it is known to hold.
pub struct Reconciler<D> {
    plane: D,
    /// `None` when it must be read afresh: at the start, and after a failure.
    held: Option<State>,
    interfaces: BTreeSet<u32>,
    hz: u32,
}

impl<D: DataPlane> Reconciler<D> {
    /// Takes charge of `plane`, whose packets may leave through `interfaces`. `hz` is jiffies in a second.
    pub fn new(plane: D, interfaces: BTreeSet<u32>, hz: u32) -> Self {
        Self { plane, held: None, interfaces, hz }
    }

    #[cfg(test)]
    pub(crate) fn plane_mut(&mut self) -> &mut D {
        &mut self.plane
    }

    #[cfg(test)]
    pub(crate) fn into_plane(self) -> D {
        self.plane
    }

    /// What the data plane holds.
    pub fn held(&mut self) -> Result<&State> {
        let held = match self.held.take() {
            Some(held) => held,
            None => self.plane.observe().context("cannot read the maps")?,
        };
        Ok(self.held.insert(held))
    }

    /// Whether the maps have room for what is desired. Changes nothing.
    pub fn check(&mut self, desired: &Desired) -> Result<()> {
        let (interfaces, hz) = (self.interfaces.clone(), self.hz);
        assign(desired, self.held()?, &interfaces, hz)?;
        Ok(())
    }

    /// Makes the data plane hold what is desired. Returns where everything is, and how many operations it took.
    ///
    /// # Errors
    /// More is desired than the maps hold: nothing was changed. Or an operation failed: what was put in force before
    /// it stays, and the next call starts from what the maps then hold.
    pub fn reconcile(&mut self, desired: &Desired) -> Result<(Assigned, usize)> {
        let (interfaces, hz) = (self.interfaces.clone(), self.hz);
        let held = self.held()?;
        let assigned = assign(desired, held, &interfaces, hz)?;
        let operations = diff(held, &assigned.state);
        for operation in &operations {
            if let Err(error) = self.plane.apply(operation) {
                self.held = None;
                return Err(error.context(format!("cannot carry out {}", name_of(operation))));
            }
        }
        self.held = Some(assigned.state.clone());
        Ok((assigned, operations.len()))
    }
}

/// The name of an operation without its values, which may be long.
fn name_of(operation: &Operation) -> String {
    let text = format!("{operation:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}
