//! Reconciles the data plane with the desired state, and reads it again after a failure.

mod flush;
mod gc_pass;
#[cfg(any(test, feature = "testing"))]
mod in_one_thread;
mod reassigned_slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use slb_common::abi::{Handle, backend::Backend, ids::TableId, time::BootSecs};

use super::{
    diff::diff,
    finished_flows,
    handshakes::{self, ejection_pools},
    ids::{Assignment, Inputs, MapLimits, assign},
    model::Desired,
    one_way,
    rehoming::Rehoming,
    separate_tables::{SeparateTables, separate_tables},
};
use crate::dataplane::{
    DataPlane,
    state::{MapState, Operation},
};
use crate::outlier_detection::DetectorPool;

pub use gc_pass::{GcSummary, PendingMigrations};

/// The data plane and its actual state as far as known.
pub struct Reconciler<D> {
    plane: D,
    /// `None` at the start and after a failure: the maps must be read again.
    actual: Option<Arc<MapState>>,
    limits: MapLimits,
    /// Evictions counted after the last GC pass, or at the first read of the maps.
    evictions: Option<u64>,
    /// Removed terminating servers for which the last GC pass found no RST outstanding.
    rst_delivered: BTreeSet<Handle>,
    /// See [`Self::is_gc_due`].
    is_gc_due: bool,
    /// Pools with an ejection policy, by table.
    ejection_pools: BTreeMap<TableId, DetectorPool>,
    /// Tables with flows that a GC pass is to rehome.
    rehoming: Rehoming,
    /// The last table whose slot migrations a GC pass was to end.
    last_due: TableId,
    /// Slots of local addresses that new flows did not choose when the last GC pass began, and that no flow had.
    unused_locals: BTreeSet<u8>,
    /// Slots of local addresses that flows could choose since the last GC pass began.
    candidate_locals: BTreeSet<u8>,
    /// Tables that got another size since the last change that succeeded.
    resized: Vec<ResizedTable>,
}

/// A server table that got another number of slots. Its untracked connections may move to other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResizedTable {
    /// Slots before the change.
    pub before: usize,
    /// Slots after the change.
    pub after: usize,
}

/// The result of a successful [`Reconciler::reconcile`].
#[derive(Debug, Clone)]
pub struct Reconciliation {
    /// The new actual state.
    pub state: Arc<MapState>,
    /// Pool index and table id of each table. A pool whose services had several tables keeps all of them.
    pub tables: Vec<(usize, TableId)>,
    /// Number of operations.
    pub operations: usize,
    /// Whether server tables were built.
    pub has_built: bool,
    /// When the state next changes by time alone, as time since boot; `None` if it does not.
    pub next: Option<Duration>,
    /// Tables that got another size.
    pub resized: Vec<ResizedTable>,
}

impl<D: DataPlane> Reconciler<D> {
    /// A reconciler that has not read `plane` yet.
    pub fn new(plane: D, limits: MapLimits) -> Self {
        Self {
            plane,
            actual: None,
            limits,
            evictions: None,
            rst_delivered: BTreeSet::new(),
            // The previous daemon may have died between a change and the GC pass that the change required.
            is_gc_due: true,
            ejection_pools: BTreeMap::new(),
            rehoming: Rehoming::unknown(),
            last_due: TableId::new(0),
            unused_locals: BTreeSet::new(),
            candidate_locals: BTreeSet::new(),
            resized: Vec::new(),
        }
    }

    /// The data plane.
    #[cfg(any(test, feature = "testing"))]
    pub fn plane_mut(&mut self) -> &mut D {
        &mut self.plane
    }

    /// The data plane.
    #[cfg(any(test, feature = "testing"))]
    pub fn into_plane(self) -> D {
        self.plane
    }

    /// Jiffies per second.
    pub fn hz(&self) -> u32 {
        self.limits.hz
    }

    /// Sets the interfaces through which packets may leave, from the next change on. The kernel has already removed the
    /// entries of interfaces in `gone`.
    pub fn set_interfaces(&mut self, interfaces: BTreeSet<u32>, gone: &BTreeSet<u32>) {
        self.limits.interfaces = interfaces;
        if let Some(actual) = &mut self.actual
            && !actual.interfaces.is_disjoint(gone)
        {
            Arc::make_mut(actual).interfaces.retain(|index| !gone.contains(index));
        }
    }

    /// The actual state. Reads the maps if it is not known.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn actual(&mut self) -> Result<&MapState> {
        let actual = match self.actual.take() {
            Some(actual) => actual,
            None => {
                if self.evictions.is_none() {
                    self.evictions = Some(self.plane.evictions().context("cannot read the counters")?);
                }
                Arc::new(self.plane.observe().context("cannot read the maps")?)
            }
        };
        Ok(self.actual.insert(actual))
    }

    /// Checks that the maps have enough entries for `desired`. Changes nothing.
    ///
    /// # Errors
    /// They have too few, or cannot be read.
    pub fn check(&mut self, desired: &Desired) -> Result<()> {
        let limits = self.limits.clone();
        self.actual()?;
        let actual = self.actual.clone().unwrap_or_default();
        let rehoming = self.rehoming.tables(&actual);
        let inputs = self.inputs(Duration::ZERO, &rehoming);
        assign(&separate_tables(desired, &actual).desired, &actual, &limits, inputs)?;
        Ok(())
    }

    /// Makes `desired` the actual state. `now` is the time since boot, because deadlines outlive the daemon.
    ///
    /// # Errors
    /// The maps have too few entries, and nothing was changed. Or an operation failed: earlier operations stay active,
    /// and the next call starts from the maps as they then are.
    pub fn reconcile(&mut self, desired: &Desired, now: Duration) -> Result<Reconciliation> {
        self.actual()?;
        // A failure leaves `None`, so that the maps are read again.
        let mut actual = self.actual.take().unwrap_or_default();
        let SeparateTables { desired: separate_tables, copies } = separate_tables(desired, &actual);
        let rehoming = self.rehoming.tables(&actual);
        let assigned = assign(&separate_tables, &actual, &self.limits, self.inputs(now, &rehoming));
        let Assignment { mut state, tables, next } = match assigned {
            Ok(assigned) => assigned,
            Err(full) => {
                self.actual = Some(actual);
                return Err(full.into());
            }
        };
        self.migrate_slots(&mut actual, &mut state, now)?;
        // Before the first operation: after a failure, flows may have what they could choose for a moment.
        for locals in [&actual.index.locals, &state.index.locals] {
            self.unused_locals.retain(|slot| !locals.candidates.contains(slot));
            self.candidate_locals.extend(&locals.candidates);
        }
        let operations = diff(&actual, &state);
        self.is_gc_due |= operations.iter().any(|operation| terminates(operation, &actual));
        let left = left_tables(&actual, &state);
        self.is_gc_due |= !left.is_empty();
        self.rehoming.leave(left);
        operations.iter().try_for_each(|operation| self.apply_operation(operation))?;
        // Current backends can be computed again, and take 262 KB for each table.
        state.tables.values_mut().for_each(|table| table.current_backends = None);
        let state = Arc::new(state);
        self.actual = Some(state.clone());
        let next = next.map(BootSecs::since_boot);
        let pools = (0..desired.pools.len()).chain(copies);
        let tables: Vec<_> = pools.zip(tables).collect();
        let was_watching = self.has_ejection_pools();
        self.ejection_pools = ejection_pools(desired, &tables);
        self.is_gc_due |= self.has_ejection_pools() && !was_watching;
        let has_built = operations.iter().any(|operation| matches!(operation, Operation::PutTables(_)));
        let resized = std::mem::take(&mut self.resized);
        Ok(Reconciliation { state, tables, operations: operations.len(), has_built, next, resized })
    }

    fn inputs<'a>(&'a self, now: Duration, rehoming: &'a BTreeSet<TableId>) -> Inputs<'a> {
        Inputs {
            now: BootSecs::of(now),
            rst_delivered: &self.rst_delivered,
            rehoming,
            unused_locals: &self.unused_locals,
        }
    }

    /// Whether a slot of any table migrates.
    pub fn has_migrating_slots(&self) -> bool {
        self.actual
            .iter()
            .flat_map(|actual| actual.tables.values())
            .any(|table| !table.slot_migration.is_empty())
    }

    /// Longest time until the next GC pass, whatever the flow table contains.
    pub fn max_gc_interval(&self) -> Duration {
        self.actual.as_ref().map_or(Duration::ZERO, |actual| finished_flows::max_gc_interval(actual))
    }

    /// Longest time between two GC passes at which no affinity entry of a live flow expires and no failed handshake is
    /// missed. `None` if neither matters.
    pub fn required_gc_interval(&self) -> Option<Duration> {
        let actual = self.actual.as_deref();
        let keeps = actual.and_then(finished_flows::affinity_gc_interval);
        let has_nat_service = actual.is_some_and(|actual| {
            actual.services.values().any(|service| one_way::sees_answers(service.mode(), service.protocol()))
        });
        let (failures, answers) = (
            self.has_ejection_pools().then_some(handshakes::HANDSHAKE_GC_INTERVAL),
            has_nat_service.then_some(one_way::ANSWER_GC_INTERVAL),
        );
        [keeps, failures, answers].into_iter().flatten().min()
    }

    /// Whether the outlier detector needs handshake outcomes.
    fn has_ejection_pools(&self) -> bool {
        !self.ejection_pools.is_empty()
    }

    /// Whether a GC pass is due at once. That is so at a start, after servers become terminating, after a table split,
    /// and when the outlier detector becomes active.
    pub fn is_gc_due(&self) -> bool {
        self.is_gc_due
    }

    fn apply_operation(&mut self, operation: &Operation) -> Result<()> {
        self.plane.apply(operation).with_context(|| format!("cannot carry out {}", operation_name(operation)))
    }
}

/// Whether the operation makes a server terminating.
fn terminates(operation: &Operation, actual: &MapState) -> bool {
    let is_terminating = |backend: &Backend| backend.flags & Backend::TERMINATING != 0;
    match operation {
        Operation::PutBackends(backends) => backends.iter().any(|put| {
            is_terminating(&put.backend) && !actual.backends.get(&put.id).is_some_and(is_terminating)
        }),
        _ => false,
    }
}

/// Tables that a service of the index uses in `actual` and leaves in `desired`. The index decides which table a flow's
/// packets use.
fn left_tables(actual: &MapState, desired: &MapState) -> BTreeSet<TableId> {
    let left = desired.index.entries.iter().filter_map(|(id, entry)| {
        let before = actual.index.entries.get(id)?;
        let is_moved = before.tag() == entry.tag() && before.table() != entry.table();
        is_moved.then_some(before.table())
    });
    left.filter(|table| *table != TableId::NONE).collect()
}

/// The operation's name for error messages, without its values, which may be long.
fn operation_name(operation: &Operation) -> &'static str {
    match operation {
        Operation::PutSettings(_) => "PutSettings",
        Operation::PutInterface(_) => "PutInterface",
        Operation::RemoveInterface(_) => "RemoveInterface",
        Operation::PutNextHop(..) => "PutNextHop",
        Operation::ClearNextHop(_) => "ClearNextHop",
        Operation::PutAccessList(..) => "PutAccessList",
        Operation::ClearAccessList(..) => "ClearAccessList",
        Operation::PutBackends(_) => "PutBackends",
        Operation::PutQuicServers(_) => "PutQuicServers",
        Operation::ClearQuicServers(_) => "ClearQuicServers",
        Operation::ClearBackend(_) => "ClearBackend",
        Operation::PutTables(_) => "PutTables",
        Operation::ClearTable(_) => "ClearTable",
        Operation::PutService { .. } => "PutService",
        Operation::GracePeriod => "GracePeriod",
        Operation::ClearService(_) => "ClearService",
        Operation::PutIndex(_) => "PutIndex",
    }
}
