//! What `slb flows flush` changes besides the flow table.

use std::{sync::Arc, time::Duration};

use super::Reconciler;
use crate::dataplane::DataPlane;

impl<D: DataPlane> Reconciler<D> {
    /// Entries have been erased. Flows without an entry are served by the previous backend of a migrating slot. So
    /// migrating slots start their wait again at `now`.
    pub fn on_flushed(&mut self, now: Duration) {
        if self.has_migrating_slots()
            && let Some(actual) = &mut self.actual
        {
            let tables = &mut Arc::make_mut(actual).tables;
            tables.values_mut().for_each(|table| table.slot_migration.restart_wait(now));
        }
    }
}
