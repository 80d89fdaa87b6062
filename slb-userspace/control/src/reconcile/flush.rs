//! `slb flows flush`: erases flow-table entries.

use std::{ops::Range, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use slb_common::datapath::flow_gc::FlushResult;

use super::Reconciler;
use crate::{dataplane::DataPlane, flush::ResolvedFilter};

impl<D: DataPlane> Reconciler<D> {
    /// Number of slots of the flow table.
    pub fn flow_slots(&self) -> u32 {
        self.plane.flow_slots()
    }

    /// Erases the chosen entries in these slots of the flow table, or only counts them if not `erases`. Flows without
    /// an entry are served by the previous backend of a migrating slot. So migrating slots start their wait again at
    /// `now`.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn flush(
        &mut self,
        slots: Range<u32>,
        choice: &ResolvedFilter,
        erases: bool,
        now: Duration,
    ) -> Result<FlushResult> {
        self.actual()?;
        let hz = self.limits.hz;
        let flushed = self.plane.flush(slots, erases, hz, &mut |entry| choice.matches(entry));
        let flushed = flushed.context("cannot erase flow-table entries")?;
        if erases
            && flushed.erased > 0
            && self.has_migrating_slots()
            && let Some(actual) = &mut self.actual
        {
            Arc::make_mut(actual)
                .tables
                .values_mut()
                .for_each(|table| table.slot_migration.restart_wait(now));
        }
        Ok(flushed)
    }
}
