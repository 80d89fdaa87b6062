//! A flow-table GC pass as a job for the GC thread. It works on a copy of the state, while the event loop may change
//! the data plane. Pure.
//!
//! What the pass decides by this state stays right after a change: a live flow is terminated only if its server is
//! still terminating, a refreshed affinity entry is kept, and handles are not reused. [`Reconciler::process_findings`]
//! leaves out what the change has made outdated.
//!
//! [`Reconciler::process_findings`]: crate::reconcile::Reconciler::process_findings

mod migrated_tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use slb_common::{
    abi::{
        Handle,
        backend::Backend,
        ids::{BackendId, ServiceTag, TableId},
        lookup_table::LookupTable,
        protocol::IpProtocol,
        service::{IndexEntry, policy},
        time::Jiffies,
    },
    datapath::flow_gc::{GcAction, GcPass},
};

use crate::{
    client_paths::{Prefix, Samples},
    connection_counts::ConnectionCounts,
    dataplane::{
        FlowTableAccess,
        state::{FlowRecord, MapState},
    },
    finished_flows::{FinishedFlows, TerminatedConnection},
    handshakes::{HANDSHAKE_GC_INTERVAL, Handshakes},
    one_way::{AnswerCounter, AnswerCounts},
    outlier_detection::DetectorPool,
    slot::Slot,
    slot_migration::PinnedElsewhere,
    source_usage::{SourceCounter, SourceUsage},
};

pub(crate) use migrated_tables::{MigratedTable, idle_time};
use migrated_tables::{due_tables, migrated_tables};

/// Current backend of each slot, by table id.
type CurrentBackends = BTreeMap<TableId, Arc<[BackendId]>>;

/// Flows pinned to another backend than the current one of their slot, by table id and slot.
type PinnedFlows = BTreeMap<(TableId, Slot), PinnedElsewhere>;

/// A GC pass that has not run yet.
#[derive(Debug, Clone)]
pub struct GcJob {
    /// The state when the pass began.
    pub(crate) state: Arc<MapState>,
    /// Jiffies per second.
    pub(crate) hz: u32,
    /// When the state was read.
    pub(crate) state_read: Jiffies,
    /// Time since boot when the pass began.
    pub(crate) now: Duration,
    /// Prefixes whose clients are neighbours of this host.
    pub(crate) on_link: BTreeSet<Prefix>,
    /// Pools with an ejection policy, by table.
    pub(crate) ejection_pools: BTreeMap<TableId, DetectorPool>,
    /// The last table whose slot migrations were due in the pass before.
    pub(crate) last_due: TableId,
}

/// What a GC pass has found.
#[derive(Debug, Clone)]
pub struct GcFindings {
    /// The job.
    pub(crate) job: GcJob,
    /// Counts of the pass.
    pub(crate) gc_pass: GcPass,
    /// Slots of the flow table.
    pub(crate) slots: usize,
    /// The last table whose slot migrations were due.
    pub(crate) last_due: TableId,
    /// The due tables as they are after the pass.
    pub(crate) migrated: Vec<MigratedTable>,
    /// Connections of servers under least connections.
    pub(crate) connection_counts: ConnectionCounts,
    /// Pools with an ejection policy, with their handshake outcomes.
    pub(crate) handshakes: Vec<DetectorPool>,
    /// Servers of mode `nat`, with how many of their new connections they answered.
    pub(crate) answers: BTreeMap<SocketAddr, AnswerCounts>,
    /// Used ports of local addresses.
    pub(crate) sources: SourceUsage,
    /// Slots of local addresses that no flow has and new ones do not choose. Empty if flows were not read.
    pub(crate) unused_locals: BTreeSet<u8>,
    /// A sample of the clients of mode `nat`.
    pub(crate) clients: BTreeSet<IpAddr>,
    /// Whether flows were rehomed. The next pass sees them with their new servers.
    pub(crate) has_rehomed: bool,
    /// Removed terminating servers for which the pass has found no RST outstanding.
    pub(crate) rst_delivered: BTreeSet<Handle>,
    /// Time until the next GC pass.
    pub(crate) next: Duration,
    /// Connections that the pass has ended. Their idle ends are to be provoked.
    pub ended: Vec<TerminatedConnection>,
}

impl GcJob {
    /// Runs the pass: erases expired entries, ends finished connections, rehomes flows, and reports what it has found.
    /// `between_ticks` is called after each bounded number of slots.
    ///
    /// # Errors
    /// A server table or the clock cannot be read. No flow was changed.
    pub fn run(self, table: &mut dyn FlowTableAccess, between_ticks: &mut dyn FnMut()) -> Result<GcFindings> {
        let due = due_tables(&self);
        let current_backends: CurrentBackends = due
            .iter()
            .map(|id| Ok((*id, table.current_backends(*id).context("cannot read a table")?)))
            .collect::<Result<_>>()?;
        let mut scan = Scan::new(&self, &current_backends);
        let mut visit =
            |flow: FlowRecord, is_terminating: &dyn Fn(Handle) -> bool| scan.visit(&flow, is_terminating);
        let gc_pass = table.run_gc(self.state_read, self.hz, &mut visit, between_ticks)?;
        let Scan {
            finished_flows,
            samples,
            pinned_elsewhere,
            connection_counts,
            handshakes,
            answers,
            sources,
            ..
        } = scan;
        let has_rehomed = !finished_flows.rehomed.is_empty();
        if has_rehomed {
            table.rehome_flows(&finished_flows.rehomed);
        }
        let next = finished_flows.next_pass();
        let next = if self.ejection_pools.is_empty() { next } else { next.min(HANDSHAKE_GC_INTERVAL) };
        let is_complete = gc_pass.unread == 0;
        Ok(GcFindings {
            gc_pass,
            slots: table.slots() as usize,
            migrated: migrated_tables(&self, &current_backends, &pinned_elsewhere, is_complete),
            last_due: due.last().copied().unwrap_or(self.last_due),
            connection_counts,
            handshakes: handshakes.pools(),
            answers: answers.by_server(&self.state),
            sources: sources.usage(&self.state),
            unused_locals: if is_complete { sources.unused(&self.state) } else { BTreeSet::new() },
            clients: samples.chosen(),
            has_rehomed,
            rst_delivered: if is_complete { finished_flows.rst_delivered() } else { BTreeSet::new() },
            next,
            ended: finished_flows.ended,
            job: self,
        })
    }
}

/// A running pass.
struct Scan<'a> {
    job: &'a GcJob,
    current_backends: &'a CurrentBackends,
    entries: BTreeMap<ServiceTag, &'a IndexEntry>,
    finished_flows: FinishedFlows<'a>,
    samples: Samples<'a>,
    pinned_elsewhere: PinnedFlows,
    connection_counts: ConnectionCounts,
    handshakes: Handshakes<'a>,
    answers: AnswerCounter,
    sources: SourceCounter,
}

impl<'a> Scan<'a> {
    fn new(job: &'a GcJob, current_backends: &'a CurrentBackends) -> Self {
        let state = &*job.state;
        Self {
            job,
            current_backends,
            entries: state.index.entries.values().map(|entry| (entry.tag(), entry)).collect(),
            finished_flows: FinishedFlows::new(state, job.hz),
            samples: Samples::new(&job.on_link),
            pinned_elsewhere: PinnedFlows::new(),
            connection_counts: ConnectionCounts::none(state),
            handshakes: Handshakes::new(&job.ejection_pools, state),
            answers: AnswerCounter::default(),
            sources: SourceCounter::default(),
        }
    }

    /// Notes an entry, and decides its fate. `is_terminating` says whether a server is terminating now.
    fn visit(&mut self, flow: &FlowRecord, is_terminating: &dyn Fn(Handle) -> bool) -> GcAction {
        let entry = self.entries.get(&flow.service).copied();
        if flow.is_affinity {
            return self.finished_flows.affinity_fate(flow, entry);
        }
        self.sources.note(flow, entry);
        let Some(entry) = entry else { return GcAction::Keep };
        self.handshakes.note(flow, entry);
        self.answers.note(flow, entry);
        let has_returned = self.was_terminating(flow) && !is_terminating(flow.backend);
        let fate = if has_returned { GcAction::Keep } else { self.finished_flows.fate_of(flow, entry) };
        self.connection_counts.note(flow, entry);
        if entry.sees_replies() && flow.left.is_some() && !flow.is_finished {
            self.samples.note(&flow.client, flow.path);
        }
        self.note_pinned(flow, entry);
        fate
    }

    /// Whether the flow is live, and its server was terminating when the state was read.
    fn was_terminating(&self, flow: &FlowRecord) -> bool {
        let is_live = flow.left.is_some() && !flow.is_finished;
        let backend =
            self.job.state.backends.get(&BackendId::of(flow.backend)).filter(|it| it.handle == flow.backend);
        is_live && backend.is_some_and(|backend| backend.flags & Backend::TERMINATING != 0)
    }

    /// Notes a flow of a migrating slot that is pinned to another backend than the slot's current one.
    fn note_pinned(&mut self, flow: &FlowRecord, entry: &IndexEntry) {
        // Such a flow always has an entry, so its slot does not matter unless the entry is evicted. UDP does not show
        // whether a flow predates the change.
        let is_evictable = flow.evictable_silence.is_some() && entry.protocol() == Some(IpProtocol::Tcp);
        if entry.policies().has(policy::PINNED_ELSEWHERE) && !is_evictable {
            return;
        }
        let current_backends = self.current_backends.get(&entry.table());
        let Some(current_backends) = current_backends.filter(|backends| !backends.is_empty()) else { return };
        let hash = entry.old_flow_hash(&flow.client, flow.port);
        let slot = Slot::new(LookupTable::slot_of(current_backends.len() as u32, hash) as u32);
        let table = self.job.state.tables.get(&entry.table());
        let is_migrating = table.is_some_and(|table| table.slot_migration.previous_backend(slot).is_some());
        if flow.left.is_some()
            && current_backends[slot.position()] != BackendId::of(flow.backend)
            && is_migrating
        {
            let now = self.job.now;
            let seen = |silence| now.saturating_sub(silence);
            let pinned = self.pinned_elsewhere.entry((entry.table(), slot)).or_default();
            pinned.note(flow.evictable_silence.map(seen));
        }
    }
}
