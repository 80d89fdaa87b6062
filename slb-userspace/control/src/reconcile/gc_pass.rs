//! What precedes and follows a flow-table GC pass of the GC thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use slb_common::abi::{ids::TableId, service::policy, unpad_name};

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
    source_usage::SourceUsage,
};

/// Time until the next GC pass if this one has missed flows or rehomed some.
const SOON: Duration = Duration::from_secs(1);

/// Tables whose slot migrations end in one step. A step waits for a grace period of the kernel, 8 to 25 ms at 250 Hz,
/// and each table costs a write of 256 KiB or more, about 1 ms.
const TABLES_PER_STEP: usize = if cfg!(test) { 1 } else { 2 };

/// The result of a GC pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcSummary {
    /// Migrating slots, before the pass ends any migration.
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
    /// Used ports of local addresses (mode `full-nat`).
    pub sources: SourceUsage,
    /// A sample of the clients of mode `nat`, whose client paths are to be followed.
    pub clients: BTreeSet<IpAddr>,
    /// Whether server entries can be cleared that were kept for flows to be rehomed.
    pub is_rehomed: bool,
    /// Time until the next GC pass.
    pub next: Duration,
    /// Longest time until then, whatever passes cost; `None` if the next pass may be postponed.
    pub max_delay: Option<Duration>,
}

/// Tables whose slot migrations a GC pass has found complete, and which [`Reconciler::end_migrations`] is to write.
#[derive(Debug)]
pub struct PendingMigrations {
    tables: Vec<MigratedTable>,
    /// The state when the pass began.
    before: Arc<MapState>,
    /// Whether tables were written since the last grace period.
    has_put: bool,
}

impl<D: DataPlane> Reconciler<D> {
    /// Begins a GC pass over the flow table. Clients in the prefixes `on_link` are neighbours of this host. `now` is
    /// the time since boot. [`Self::process_findings`] or [`Self::abort_gc`] follows.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn begin_gc(&mut self, now: Duration, on_link: BTreeSet<Prefix>) -> Result<GcJob> {
        self.actual()?;
        let state = self.actual.clone().unwrap_or_default();
        let state_read = self.plane.jiffies()?;
        self.is_gc_due = false;
        self.rehoming.begin_pass();
        self.candidate_locals.clone_from(&state.index.locals.candidates);
        let ejection_pools = self.ejection_pools.clone();
        let (hz, last_due) = (self.limits.hz, self.last_due);
        Ok(GcJob { state, hz, state_read, now, on_link, ejection_pools, last_due })
    }

    /// A GC pass has failed, or its findings could not be processed. Another one is due.
    pub fn abort_gc(&mut self) {
        self.is_gc_due = true;
        self.rehoming.abort_pass();
    }

    /// Processes what a GC pass has found, all but slot migrations, and writes connection counts. Returns the tables
    /// whose slot migrations the pass has found complete, for [`Self::end_migrations`]. `now` is the time since boot.
    ///
    /// # Errors
    /// As [`Self::reconcile`]. [`Self::abort_gc`] follows.
    pub fn process_findings(
        &mut self,
        found: GcFindings,
        now: Duration,
    ) -> Result<(GcSummary, PendingMigrations)> {
        self.actual()?;
        // Read after the pass, which has seen every entry not evicted by then.
        let evictions = Some(self.plane.evictions().context("cannot read the counters")?);
        let has_evicted = std::mem::replace(&mut self.evictions, evictions) != evictions;
        if has_evicted {
            self.restart_waits(now);
        }
        self.last_due = found.last_due;
        // Servers that have got an id since the pass began count their connections from zero.
        let mut counts = found.connection_counts.by_id();
        let backends = self.actual.as_ref().map(|actual| &actual.backends);
        counts.retain(|id, _| {
            backends.and_then(|backends| backends.get(id)).map(|backend| backend.handle)
                == found.job.state.backends.get(id).map(|backend| backend.handle)
        });
        if !counts.is_empty() {
            let wrote = self.plane.put_connection_counts(&counts);
            wrote.context("cannot write how many flows servers have")?;
        }
        self.rst_delivered = found.rst_delivered;
        self.unused_locals = &found.unused_locals - &self.candidate_locals;
        let is_complete = found.gc_pass.unread == 0;
        let is_rehomed = if is_complete { self.rehoming.end_pass() } else { self.rehoming.abort_pass() };
        let max_delay = (!is_complete || found.has_rehomed).then_some(SOON);
        let migrations = PendingMigrations {
            tables: if has_evicted { Vec::new() } else { found.migrated },
            before: found.job.state,
            has_put: false,
        };
        let summary = GcSummary {
            moved: self.migrating_slots(),
            flows: found.gc_pass.live,
            assured: found.gc_pass.assured,
            entries: found.slots,
            handshakes: found.handshakes,
            answers: found.answers,
            sources: found.sources,
            clients: found.clients,
            is_rehomed,
            next: found.next.min(max_delay.unwrap_or(found.next)),
            max_delay,
        };
        Ok((summary, migrations))
    }

    /// Ends the slot migrations of the next tables, [`TABLES_PER_STEP`] at most, or frees the tables that they have
    /// replaced. Returns whether another step is to follow. Leaves out tables that have changed since the pass began.
    ///
    /// # Errors
    /// As [`Self::reconcile`]. The other tables are due in the next pass.
    pub fn end_migrations(&mut self, migrations: &mut PendingMigrations) -> Result<bool> {
        let PendingMigrations { tables, before, has_put } = migrations;
        if tables.is_empty() {
            // A grace period, which also frees the replaced tables of previous backends.
            if std::mem::take(has_put) {
                self.apply_operation(&Operation::GracePeriod)?;
            }
            return Ok(false);
        }
        self.actual()?;
        let mut step = tables.split_off(tables.len().saturating_sub(TABLES_PER_STEP));
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
        if !put.is_empty() {
            self.apply_operation(&Operation::PutTables(put))?;
            *has_put = true;
        }
        self.actual = Some(actual);
        Ok(*has_put || !migrations.tables.is_empty())
    }

    /// Number of migrating slots.
    pub fn migrating_slots(&self) -> usize {
        let tables = self.actual.iter().flat_map(|actual| actual.tables.values());
        tables.map(|table| table.slot_migration.len()).sum()
    }

    /// Entries were evicted, whose flows the pass has not seen.
    fn restart_waits(&mut self, now: Duration) {
        let Some(actual) = &mut self.actual else { return };
        if actual.tables.values().any(|table| !table.slot_migration.is_empty()) {
            let tables = &mut Arc::make_mut(actual).tables;
            tables.values_mut().for_each(|table| table.slot_migration.restart_wait(now));
        }
    }

    /// Whether any service has mode `nat`, so that answers return through SLB.
    pub fn has_nat_service(&self) -> bool {
        let entries = self.actual.iter().flat_map(|actual| actual.index.entries.values());
        // The entry of a VIP itself, which answers echo requests, has no table.
        entries.into_iter().any(|entry| entry.table() != TableId::NONE && entry.sees_replies())
    }

    /// Answers dropped because the neighbour of their client was not resolved; 0 if the counter cannot be read.
    pub fn unresolved(&self) -> u64 {
        self.plane.unresolved().unwrap_or(0)
    }

    /// Load balancers and listeners whose SYNs are answered by SYN cookies; none if that cannot be read.
    pub fn flooded(&self) -> BTreeSet<(String, String)> {
        let Some(actual) = self.actual.as_ref().filter(|actual| actual.has_syn_cookies()) else {
            return BTreeSet::new();
        };
        let buckets = self.plane.flooded().unwrap_or_default();
        let services = actual.services.values().filter(|service| {
            service.policies().has(policy::SYN_COOKIES) && buckets.contains(&u32::from(service.token_buckets))
        });
        let name = |padded| unpad_name(padded).unwrap_or_default().to_owned();
        services.map(|service| (name(&service.load_balancer), name(&service.listener))).collect()
    }
}
