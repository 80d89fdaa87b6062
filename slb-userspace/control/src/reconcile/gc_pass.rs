//! What precedes and follows a flow-table GC pass of the GC thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use slb_common::abi::{
    ids::{BackendId, TableId},
    service::IndexEntry,
};

use super::Reconciler;
use crate::{
    client_paths::Prefix,
    dataplane::{
        DataPlane,
        state::{MapState, Operation, ServerTable, TABLE_BATCH},
    },
    gc_job::{GcFindings, GcJob},
    one_way::AnswerCounts,
    outlier_detection::DetectorPool,
    slot::Slot,
    slot_migration::PinnedElsewhere,
};

/// Time until the next GC pass if this one has missed flows or rehomed some.
const SOON: Duration = Duration::from_secs(1);

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
        let due = self.due_tables(&state, now);
        self.is_gc_due = false;
        self.rehoming.begin_pass();
        let ejection_pools = self.ejection_pools.clone();
        Ok(GcJob { state, hz: self.limits.hz, state_read, now, on_link, ejection_pools, due })
    }

    /// A GC pass has failed, or its findings could not be processed. Another one is due.
    pub fn abort_gc(&mut self) {
        self.is_gc_due = true;
        self.rehoming.abort_pass();
    }

    /// Processes what a GC pass has found: ends complete slot migrations, and writes connection counts. `now` is the
    /// time since boot.
    ///
    /// # Errors
    /// As [`Self::reconcile`]. [`Self::abort_gc`] follows.
    pub fn end_gc(&mut self, found: GcFindings, now: Duration) -> Result<GcSummary> {
        self.actual()?;
        // A failure leaves `None`, so that the maps are read again.
        let mut actual = self.actual.take().unwrap_or_default();
        // Read after the pass, which has seen every entry not evicted by then.
        let evictions = Some(self.plane.evictions().context("cannot read the counters")?);
        if std::mem::replace(&mut self.evictions, evictions) != evictions {
            if actual.tables.values().any(|table| !table.slot_migration.is_empty()) {
                let tables = &mut Arc::make_mut(&mut actual).tables;
                tables.values_mut().for_each(|table| table.slot_migration.restart_wait(now));
            }
        } else {
            self.end_migrations(&mut actual, &found)?;
        }
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

    /// The next tables whose slot migrations may end, [`TABLE_BATCH`] at most. Each pass takes up after the last one.
    fn due_tables(&mut self, state: &MapState, now: Duration) -> Vec<TableId> {
        let is_due =
            |(id, table): &(&TableId, &ServerTable)| table.slot_migration.is_due(idle_time(state, **id), now);
        let after = state.tables.range((Bound::Excluded(self.last_due), Bound::Unbounded));
        let all = after.chain(state.tables.range(..=self.last_due));
        let due: Vec<TableId> = all.filter(is_due).map(|(id, _)| *id).take(TABLE_BATCH).collect();
        self.last_due = due.last().copied().unwrap_or(self.last_due);
        due
    }

    /// Ends the slot migrations that are complete, of tables that have not changed since the pass began.
    fn end_migrations(&mut self, actual: &mut Arc<MapState>, found: &GcFindings) -> Result<()> {
        let is_same = |id: &TableId| actual.tables.get(id) == found.job.state.tables.get(id);
        let ended: BTreeMap<TableId, ServerTable> = found
            .current_backends
            .keys()
            .filter(|id| is_same(id))
            .filter_map(|id| Some((*id, migrated(actual, *id, found)?)))
            .collect();
        let has_changed = |(id, table): &(&TableId, &ServerTable)| {
            let old = actual.tables.get(id).map(|old| &old.slot_migration);
            old.is_none_or(|old| !old.previous_backends().eq(table.slot_migration.previous_backends()))
        };
        let put: BTreeMap<TableId, ServerTable> =
            ended.iter().filter(has_changed).map(|(id, table)| (*id, table.clone())).collect();
        if ended.is_empty() {
            return Ok(());
        }
        let tables = &mut Arc::make_mut(actual).tables;
        tables.extend(ended.iter().map(|(id, table)| (*id, table.without_current_backends())));
        if !put.is_empty() {
            self.apply_operation(&Operation::PutTables(put))?;
            // A grace period, which also frees the replaced tables of previous backends.
            self.apply_operation(&Operation::GracePeriod)?;
        }
        Ok(())
    }
}

/// A due table as it is after the pass.
fn migrated(actual: &MapState, id: TableId, found: &GcFindings) -> Option<ServerTable> {
    let current_backends = found.current_backends.get(&id)?;
    let mut table = actual.tables.get(&id)?.clone();
    let current_backend =
        |slot: Slot| current_backends.get(slot.position()).copied().unwrap_or(BackendId::NONE);
    let pinned_elsewhere = |slot| match found.pinned_elsewhere.get(&(id, slot)) {
        // An unread entry may be a flow of any slot.
        _ if found.gc_pass.unread != 0 => PinnedElsewhere::UNKNOWN,
        pinned => pinned.copied().unwrap_or_default(),
    };
    table.slot_migration.complete(current_backend, pinned_elsewhere, idle_time(actual, id), found.job.now);
    table.current_backends = Some(current_backends.clone());
    Some(table)
}

/// Time after which untracked flows of a table have expired: the longest idle timeout of its services, plus slack. A
/// change starts the wait before its tables are active.
fn idle_time(state: &MapState, table: TableId) -> Duration {
    const SLACK: u64 = 10;
    let services = state.services.values().filter(|service| service.table() == table);
    let idle = services.map(|service| service.idle_timeout).max().unwrap_or(0);
    Duration::from_secs(u64::from(idle) + SLACK)
}
