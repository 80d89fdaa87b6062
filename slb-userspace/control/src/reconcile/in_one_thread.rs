//! Passes over the flow table without a GC thread, for tests.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use slb_common::datapath::flow_gc::FlushResult;

use super::{GcSummary, Reconciler};
use crate::{
    client_paths::{PathChanges, Prefix},
    dataplane::{DataPlane, FlowTableAccess},
    finished_flows::TerminatedConnection,
    flush::ResolvedFilter,
    gc_job::GcFindings,
};

impl<D: DataPlane + FlowTableAccess> Reconciler<D> {
    /// Begins, runs and ends a GC pass. Returns also the connections that it has ended.
    ///
    /// # Errors
    /// As the steps.
    pub fn run_gc(
        &mut self,
        now: Duration,
        on_link: &BTreeSet<Prefix>,
    ) -> Result<(GcSummary, Vec<TerminatedConnection>)> {
        let job = self.begin_gc(now, on_link.clone())?;
        let found = job.run(&mut self.plane, &mut || {}).inspect_err(|_| self.abort_gc())?;
        let ended = found.ended.clone();
        Ok((self.end_gc(found, now).inspect_err(|_| self.abort_gc())?, ended))
    }

    /// Ends a GC pass with all its slot migrations. [`GcSummary::moved`] is what is left of them.
    ///
    /// # Errors
    /// As the steps.
    pub fn end_gc(&mut self, found: GcFindings, now: Duration) -> Result<GcSummary> {
        let (summary, mut migrations) = self.process_findings(found, now)?;
        while self.end_migrations(&mut migrations)? {}
        Ok(GcSummary { moved: self.migrating_slots(), ..summary })
    }

    /// Erases the chosen entries, or only counts them if not `erases`.
    ///
    /// # Errors
    /// The clock cannot be read.
    pub fn flush(&mut self, choice: &ResolvedFilter, erases: bool, now: Duration) -> Result<FlushResult> {
        let flushed = self.plane.flush(erases, self.limits.hz, &mut |entry| choice.matches(entry))?;
        if erases && flushed.erased > 0 {
            self.on_flushed(now);
        }
        Ok(flushed)
    }

    /// Replaces client paths of flows. Returns the number of changed entries.
    pub fn update_client_paths(&mut self, changes: &PathChanges) -> usize {
        self.plane.update_client_paths(&|client, path| changes.to(client, path))
    }
}
