//! A flow-table GC pass and what follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use slb_common::{
    abi::{
        lookup_table::{LookupTable, NO_BACKEND},
        service::{mode, policy},
    },
    datapath::flow_gc::{GcAction, GcPass},
    net::headers::protocol,
};

use super::Reconciler;
use crate::outlier_detection::DetectorPool;
use crate::{
    client_paths::{PathChanges, Prefix, Samples},
    connection_counts::ConnectionCounts,
    dataplane::{
        DataPlane,
        state::{MapState, Operation, ServerTable, TABLE_BATCH},
    },
    finished_flows::{FinishedFlows, TerminatedConnection},
    handshakes::{HANDSHAKE_GC_INTERVAL, Handshakes},
    one_way::{AnswerCounter, AnswerCounts},
    slot_migration::PinnedElsewhere,
};

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
    /// Connections that the pass has ended. Their idle ends are to be provoked.
    pub ended: Vec<TerminatedConnection>,
    /// Pools with an ejection policy, with their handshake outcomes.
    pub handshakes: Vec<DetectorPool>,
    /// Servers of mode `nat`, with how many of their new connections they answered.
    pub answers: BTreeMap<SocketAddr, AnswerCounts>,
    /// A sample of the clients of mode `nat`, whose client paths are to be followed.
    pub clients: BTreeSet<IpAddr>,
    /// Time until the next GC pass.
    pub next: Duration,
}

/// Current backend of each slot, by table id.
type CurrentBackends = BTreeMap<u32, Arc<[u32]>>;

/// Flows pinned to another backend than the current one of their slot, by table id and slot.
type PinnedFlows = BTreeMap<(u32, u32), PinnedElsewhere>;

impl<D: DataPlane> Reconciler<D> {
    /// Runs a GC pass over the flow table. It ends finished connections and complete slot migrations, and samples the
    /// clients of mode `nat`. Clients in the prefixes `on_link` are neighbours of this host. `now` is the time since
    /// boot.
    ///
    /// # Errors
    /// As [`Self::reconcile`].
    pub fn run_gc(&mut self, now: Duration, on_link: &BTreeSet<Prefix>) -> Result<GcSummary> {
        self.actual()?;
        // A failure leaves `None`, so that the maps are read again.
        let actual = self.actual.take().unwrap_or_default();
        let before = actual.clone();
        let mut finished_flows = FinishedFlows::new(&before, self.limits.hz);
        let mut samples = Samples::new(on_link);
        let migrated = self.run_gc_parts(actual, &mut finished_flows, &mut samples, now);
        // Kept even if the pass failed: these entries are marked as finished, and no other pass reports them.
        self.ended.append(&mut finished_flows.ended);
        let (moved, flows, assured) = migrated?;
        self.is_gc_due = false;
        let next = finished_flows.next_pass();
        let next = if self.has_ejection_pools() { next.min(HANDSHAKE_GC_INTERVAL) } else { next };
        let (ended, handshakes) = (mem::take(&mut self.ended), mem::take(&mut self.handshakes));
        let (answers, clients) = (mem::take(&mut self.answers), samples.chosen());
        let entries = self.plane.flow_slots() as usize;
        Ok(GcSummary { moved, flows, assured, entries, ended, handshakes, answers, clients, next })
    }

    /// Replaces the client paths of flows whose clients are now reached by another path. Returns the number of changed
    /// entries.
    ///
    /// # Errors
    /// The flow table cannot be written.
    pub fn update_client_paths(&mut self, changes: &PathChanges) -> Result<usize> {
        self.plane
            .update_client_paths(&|client, link| changes.to(client, link))
            .context("cannot replace the client paths of flows")
    }

    /// Answers dropped because the neighbour of their client was not resolved; 0 if the counter cannot be read.
    pub fn unresolved(&self) -> u64 {
        self.plane.unresolved().unwrap_or(0)
    }

    /// Whether any service has mode `nat`, so that answers return through SLB.
    pub fn has_nat_service(&self) -> bool {
        let entries = self.actual.iter().flat_map(|actual| actual.index.entries.values());
        entries.into_iter().any(|entry| entry.mode == mode::NAT)
    }

    /// Returns the numbers of migrating slots, of live flows, and of assured live flows.
    fn run_gc_parts(
        &mut self,
        mut actual: Arc<MapState>,
        finished_flows: &mut FinishedFlows<'_>,
        samples: &mut Samples<'_>,
        now: Duration,
    ) -> Result<(usize, usize, usize)> {
        let is_due =
            |(id, table): &(&u32, &ServerTable)| table.slot_migration.is_due(idle_time(&actual, **id), now);
        let due: Vec<u32> = actual.tables.iter().filter(is_due).map(|(id, _)| *id).collect();
        // Without a due migration there is still one pass.
        let parts = if due.is_empty() { vec![due.as_slice()] } else { due.chunks(TABLE_BATCH).collect() };
        let (mut changed, mut flows, mut evictions, mut is_complete) = (false, (0, 0), None, true);
        let mut connection_counts = ConnectionCounts::default();
        for part in parts {
            let current_backends: CurrentBackends = part
                .iter()
                .map(|id| Ok((*id, self.plane.table(*id).context("cannot read a table")?.0)))
                .collect::<Result<_>>()?;
            connection_counts = ConnectionCounts::none(&actual);
            let (pinned_elsewhere, gc_pass) = self.pinned_elsewhere(
                &actual,
                &current_backends,
                now,
                finished_flows,
                (&mut connection_counts, samples),
            )?;
            flows = (gc_pass.live, gc_pass.assured);
            is_complete &= gc_pass.unread == 0;
            // Read after the pass, which has seen every entry not evicted by then. The next pass compares with the
            // count of the first part, so that no later eviction is missed.
            let now_evicted = self.plane.evictions().context("cannot read the counters")?;
            evictions.get_or_insert(now_evicted);
            if self.evictions != Some(now_evicted) {
                let tables = &mut Arc::make_mut(&mut actual).tables;
                tables.values_mut().for_each(|table| table.slot_migration.restart_wait(now));
                break;
            }
            let migrated = migrated(&actual, current_backends, &pinned_elsewhere, gc_pass, now);
            let tables = &mut Arc::make_mut(&mut actual).tables;
            let differ = |(id, table): &(&u32, &ServerTable)| {
                tables.get(id).is_none_or(|old| {
                    !old.slot_migration.previous_backends().eq(table.slot_migration.previous_backends())
                })
            };
            let put: BTreeMap<u32, ServerTable> =
                migrated.iter().filter(differ).map(|(id, table)| (*id, table.clone())).collect();
            tables.extend(migrated.iter().map(|(id, table)| (*id, table.without_current_backends())));
            if !put.is_empty() {
                changed = true;
                self.apply_operation(&Operation::PutTables(put))?;
            }
        }
        self.evictions = evictions;
        if !finished_flows.rehomed.is_empty() {
            self.plane.rehome_flows(&finished_flows.rehomed).context("cannot move flows")?;
        }
        if changed {
            // A grace period, which also frees the replaced tables of previous backends.
            self.apply_operation(&Operation::GracePeriod)?;
        }
        let left = actual.tables.values().map(|table| table.slot_migration.len()).sum();
        self.actual = Some(actual);
        let connection_counts = connection_counts.by_id();
        if !connection_counts.is_empty() {
            self.plane
                .put_connection_counts(&connection_counts)
                .context("cannot write how many flows servers have")?;
        }
        self.rst_delivered = if is_complete { finished_flows.rst_delivered() } else { BTreeSet::new() };
        Ok((left, flows.0, flows.1))
    }

    /// Runs one pass over the flow table. Returns the flows of migrating slots that are pinned to another backend, for
    /// the tables in `current_backends`.
    fn pinned_elsewhere(
        &mut self,
        actual: &MapState,
        current_backends: &CurrentBackends,
        now: Duration,
        finished_flows: &mut FinishedFlows<'_>,
        (connection_counts, samples): (&mut ConnectionCounts, &mut Samples<'_>),
    ) -> Result<(PinnedFlows, GcPass)> {
        let entries: BTreeMap<u32, _> =
            actual.index.entries.values().map(|entry| (entry.service, entry)).collect();
        let mut pinned_elsewhere = PinnedFlows::new();
        let mut handshakes = Handshakes::new(&self.ejection_pools, actual);
        let mut answers = AnswerCounter::default();
        let gc_pass = self.plane.run_gc(self.limits.hz, &mut |flow| {
            let entry = entries.get(&flow.service);
            if flow.is_affinity {
                return finished_flows.affinity_fate(&flow, entry.copied());
            }
            let Some(entry) = entry else { return GcAction::Keep };
            handshakes.note(&flow, entry);
            answers.note(&flow, entry);
            let fate = finished_flows.fate_of(&flow, entry);
            connection_counts.note(&flow, entry);
            if entry.mode == mode::NAT && flow.left.is_some() && !flow.is_finished {
                samples.note(&flow.client, flow.path);
            }
            // Such a flow always has an entry, so its slot does not matter unless the entry is evicted. UDP does not
            // show whether a flow predates the change.
            let is_loose = flow.evictable_silence.is_some() && entry.protocol == protocol::TCP;
            if entry.policy & policy::PINNED_ELSEWHERE != 0 && !is_loose {
                return fate;
            }
            let Some(current_backends) = current_backends
                .get(&entry.lookup_table)
                .filter(|current_backends| !current_backends.is_empty())
            else {
                return fate;
            };
            let hash = entry.old_flow_hash(&flow.client, flow.port);
            let slot = LookupTable::slot_of(current_backends.len() as u32, hash) as u32;
            let moved = actual
                .tables
                .get(&entry.lookup_table)
                .and_then(|table| table.slot_migration.previous_backend(slot));
            if flow.left.is_some() && current_backends[slot as usize] != flow.backend.id() && moved.is_some()
            {
                let seen = |silence: u32| now.saturating_sub(Duration::from_secs(silence.into()));
                pinned_elsewhere
                    .entry((entry.lookup_table, slot))
                    .or_default()
                    .note(flow.evictable_silence.map(seen));
            }
            fate
        })?;
        self.handshakes = handshakes.pools();
        self.answers = answers.by_server(actual);
        Ok((pinned_elsewhere, gc_pass))
    }
}

/// The tables in `current_backends` as they are after the pass.
fn migrated(
    actual: &MapState,
    current_backends: CurrentBackends,
    pinned_elsewhere: &PinnedFlows,
    gc_pass: GcPass,
    now: Duration,
) -> BTreeMap<u32, ServerTable> {
    let mut migrated = BTreeMap::new();
    for (id, current_backends) in current_backends {
        let Some(table) = actual.tables.get(&id) else { continue };
        let mut table = table.clone();
        let current_backend = |slot: u32| current_backends.get(slot as usize).copied().unwrap_or(NO_BACKEND);
        let found = |slot| match pinned_elsewhere.get(&(id, slot)) {
            // An unread entry may be a flow of any slot.
            _ if gc_pass.unread != 0 => PinnedElsewhere::UNKNOWN,
            found => found.copied().unwrap_or_default(),
        };
        table.slot_migration.complete(current_backend, found, idle_time(actual, id), now);
        table.current_backends = Some(current_backends);
        migrated.insert(id, table);
    }
    migrated
}

/// Time after which untracked flows of a table have expired: the longest idle timeout of its services, plus slack. A
/// change starts the wait before its tables are active.
fn idle_time(state: &MapState, table: u32) -> Duration {
    const SLACK: u64 = 10;
    let services = state.services.values().filter(|service| service.lookup_table == table);
    let idle = services.map(|service| service.idle_timeout).max().unwrap_or(0);
    Duration::from_secs(u64::from(idle) + SLACK)
}
