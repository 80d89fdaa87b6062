//! What precedes and follows a flow-table GC pass of the GC thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use slb_common::abi::{ids::TableId, service::IndexEntry};

use super::Reconciler;
use crate::{
    client_paths::Prefix,
    dataplane::{
        DataPlane,
        state::{MapState, Operation, ServerTable},
    },
    gc_job::{GcFindings, GcJob, MigratedTable, idle_time},
    one_way::AnswerCounts,
    outlier_detection::DetectorPool,
};

/// Time until the next GC pass if this one has missed flows or rehomed some.
const SOON: Duration = Duration::from_secs(1);

/// Tables whose slot migrations end in one step of the event loop. Each costs a write of 256 KiB or more, and each step
/// a grace period of the kernel.
const TABLES_PER_STEP: usize = 2;

/// The result of a GC pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcSummary {
    /// Migrating slots.
    pub moved: usize,
    /// Flows that are neither finished nor expired.
    pub flows: usize,
    /// Assured flows among them, which new flows cannot evict.
    pub assured: usize,
    /// Slots of the flow table. It differs from the configured number after a failed resize.
    pub entries: usize,
    /// Pools with an ejection policy, with their handshake outcomes.
    pub handshakes: Vec<DetectorPool>,
    /// Servers of mode `nat`, with how many of their new connections they answered.
    pub answers: BTreeMap<SocketAddr, AnswerCounts>,
    /// A sample of the clients of mode `nat`, whose client paths are to be followed.
    pub clients: BTreeSet<IpAddr>,
    /// Whether server entries can be cleared that were kept for flows to be rehomed.
    pub is_rehomed: bool,
    /// Time until the next GC pass.
    pub next: Duration,
    /// Longest time until then, whatever passes cost; `None` if the next pass may be postponed.
    pub max_delay: Option<Duration>,
}

impl<D: DataPlane> Reconciler<D> {
    /// Begins a GC pass over the flow table. Clients in the prefixes `on_link` are neighbours of this host. `now` is the
    /// time since boot. [`Self::end_gc`] or [`Self::abort_gc`] follows.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn begin_gc(&mut self, now: Duration, on_link: BTreeSet<Prefix>) -> Result<GcJob> {
        self.actual()?;
        let state = self.actual.clone().unwrap_or_default();
        let state_read = self.plane.jiffies()?;
        self.is_gc_due = false;
        self.rehoming.begin_pass();
        let ejection_pools = self.ejection_pools.clone();
        let (hz, last_due) = (self.limits.hz, self.last_due);
        Ok(GcJob { state, hz, state_read, now, on_link, ejection_pools, last_due })
    }

    /// A GC pass has failed, or its findings could not be processed. Another one is due.
    pub fn abort_gc(&mut self) {
        self.is_gc_due = true;
        self.rehoming.abort_pass();
    }

    /// Ends the slot migrations of the next tables for which a GC pass has found them complete, [`TABLES_PER_STEP`] at
    /// most. Returns whether some remain. `now` is the time since boot.
    ///
    /// # Errors
    /// As [`Self::reconcile`]. [`Self::abort_gc`] follows.
    pub fn end_migrations(&mut self, found: &mut GcFindings, now: Duration) -> Result<bool> {
        self.actual()?;
        if !std::mem::replace(&mut found.are_evictions_read, true) {
            self.last_due = found.last_due;
            // Read after the pass, which has seen every entry not evicted by then.
            let evictions = Some(self.plane.evictions().context("cannot read the counters")?);
            if std::mem::replace(&mut self.evictions, evictions) != evictions {
                found.migrations.clear();
                self.restart_waits(now);
            }
        }
        let step = found.migrations.split_off(found.migrations.len().saturating_sub(TABLES_PER_STEP));
        found.has_put_tables |= self.put_migrated(step, &found.job.state)?;
        if !found.migrations.is_empty() {
            return Ok(true);
        }
        // A grace period, which also frees the replaced tables of previous backends.
        if std::mem::take(&mut found.has_put_tables) {
            self.apply_operation(&Operation::GracePeriod)?;
        }
        Ok(false)
    }

    /// Entries were evicted, whose flows the pass has not seen.
    fn restart_waits(&mut self, now: Duration) {
        let Some(actual) = &mut self.actual else { return };
        if actual.tables.values().any(|table| !table.slot_migration.is_empty()) {
            let tables = &mut Arc::make_mut(actual).tables;
            tables.values_mut().for_each(|table| table.slot_migration.restart_wait(now));
        }
    }

    /// Writes tables as they are after a pass that began with the state `before`. Leaves out those that have changed
    /// since. Returns whether any was written.
    fn put_migrated(&mut self, mut step: Vec<MigratedTable>, before: &MapState) -> Result<bool> {
        // A failure leaves `None`, so that the maps are read again.
        let mut actual = self.actual.take().unwrap_or_default();
        step.retain(|MigratedTable { id, .. }| {
            actual.tables.get(id) == before.tables.get(id)
                && idle_time(&actual, *id) == idle_time(before, *id)
        });
        if !step.is_empty() {
            let tables = &mut Arc::make_mut(&mut actual).tables;
            tables.extend(step.iter().map(|it| (it.id, it.table.without_current_backends())));
        }
        let put: BTreeMap<TableId, ServerTable> =
            step.into_iter().filter(|it| it.has_changed).map(|it| (it.id, it.table)).collect();
        let has_put = !put.is_empty();
        if has_put {
            self.apply_operation(&Operation::PutTables(put))?;
        }
        self.actual = Some(actual);
        Ok(has_put)
    }

    /// Processes what a GC pass has found: ends the remaining slot migrations, and writes connection counts. `now` is
    /// the time since boot.
    ///
    /// # Errors
    /// As [`Self::reconcile`]. [`Self::abort_gc`] follows.
    pub fn end_gc(&mut self, mut found: GcFindings, now: Duration) -> Result<GcSummary> {
        while self.end_migrations(&mut found, now)? {}
        // A failure leaves `None`, so that the maps are read again.
        let actual = self.actual.take().unwrap_or_default();
        // Servers that have got an id since the pass began count their connections from zero.
        let mut counts = found.connection_counts.by_id();
        counts.retain(|id, _| {
            actual.backends.get(id).map(|backend| backend.handle)
                == found.job.state.backends.get(id).map(|backend| backend.handle)
        });
        let moved = actual.tables.values().map(|table| table.slot_migration.len()).sum();
        self.actual = Some(actual);
        if !counts.is_empty() {
            let wrote = self.plane.put_connection_counts(&counts);
            wrote.context("cannot write how many flows servers have")?;
        }
        self.rst_delivered = found.rst_delivered;
        let is_complete = found.gc_pass.unread == 0;
        let is_rehomed = if is_complete { self.rehoming.end_pass() } else { self.rehoming.abort_pass() };
        let max_delay = (!is_complete || found.has_rehomed).then_some(SOON);
        Ok(GcSummary {
            moved,
            flows: found.gc_pass.live,
            assured: found.gc_pass.assured,
            entries: found.slots,
            handshakes: found.handshakes,
            answers: found.answers,
            clients: found.clients,
            is_rehomed,
            next: found.next.min(max_delay.unwrap_or(found.next)),
            max_delay,
        })
    }

    /// Whether any service has mode `nat`, so that answers return through SLB.
    pub fn has_nat_service(&self) -> bool {
        let entries = self.actual.iter().flat_map(|actual| actual.index.entries.values());
        entries.into_iter().any(IndexEntry::sees_replies)
    }

    /// Answers dropped because the neighbour of their client was not resolved; 0 if the counter cannot be read.
    pub fn unresolved(&self) -> u64 {
        self.plane.unresolved().unwrap_or(0)
    }
}
