//! Reconciles the data plane with the desired state, and reads it again after a failure.

mod flush;
mod reassigned_slots;
mod sweep;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use slb_common::abi::{Handle, backend::Backend};

use super::{
    desired::Desired,
    diff::diff,
    ending::{self, Ended},
    handshakes::{self, watched},
    ids::{Assigned, Moment, Surroundings, assign},
    one_way::{self, Answers},
    separate_tables::{SeparateTables, apart},
};
use crate::dataplane::{
    DataPlane,
    state::{Operation, State},
};
use crate::outlier_detection::Pool;

pub use sweep::Sweep;

/// The data plane and its actual state as far as known.
pub struct Reconciler<D> {
    plane: D,
    /// `None` at the start and after a failure: the maps must be read again.
    held: Option<Arc<State>>,
    surroundings: Surroundings,
    /// Evictions counted before the last GC pass began, or at the first read of the maps.
    forgotten: Option<u64>,
    /// Removed terminating servers for which the last GC pass found no RST outstanding.
    told: BTreeSet<Handle>,
    /// See [`Self::wants_look`].
    wants_look: bool,
    /// Pools with an ejection policy, by table.
    watched: BTreeMap<u32, Pool>,
    /// The same pools with the handshake outcomes of the last GC pass.
    handshakes: Vec<Pool>,
    /// Which servers answered new connections, from the last GC pass.
    answers: BTreeMap<SocketAddr, Answers>,
    /// Connections that a GC pass ended and could not report, because a later step failed.
    ended: Vec<Ended>,
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
pub struct Applied {
    /// The new actual state.
    pub state: Arc<State>,
    /// Pool index and table id of each table. A pool whose services had several tables keeps all of them.
    pub tables: Vec<(usize, u32)>,
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
    pub fn new(plane: D, surroundings: Surroundings) -> Self {
        Self {
            plane,
            held: None,
            surroundings,
            forgotten: None,
            told: BTreeSet::new(),
            // The previous daemon may have died between a change and the GC pass that the change required.
            wants_look: true,
            watched: BTreeMap::new(),
            handshakes: Vec::new(),
            answers: BTreeMap::new(),
            ended: Vec::new(),
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

    /// Sets the interfaces through which packets may leave, from the next change on. The kernel has already removed the
    /// entries of interfaces in `gone`.
    pub fn set_interfaces(&mut self, interfaces: BTreeSet<u32>, gone: &BTreeSet<u32>) {
        self.surroundings.interfaces = interfaces;
        if let Some(held) = &mut self.held
            && !held.interfaces.is_disjoint(gone)
        {
            Arc::make_mut(held).interfaces.retain(|index| !gone.contains(index));
        }
    }

    /// The actual state. Reads the maps if it is not known.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn held(&mut self) -> Result<&State> {
        let held = match self.held.take() {
            Some(held) => held,
            None => {
                if self.forgotten.is_none() {
                    self.forgotten = Some(self.plane.forgotten().context("cannot read the counters")?);
                }
                Arc::new(self.plane.observe().context("cannot read the maps")?)
            }
        };
        Ok(self.held.insert(held))
    }

    /// Checks that the maps have enough entries for `desired`. Changes nothing.
    ///
    /// # Errors
    /// They have too few, or cannot be read.
    pub fn check(&mut self, desired: &Desired) -> Result<()> {
        let surroundings = self.surroundings.clone();
        self.held()?;
        let held = self.held.clone().unwrap_or_default();
        assign(&apart(desired, &held).desired, &held, &surroundings, self.moment(Duration::ZERO))?;
        Ok(())
    }

    /// Makes `desired` the actual state. `now` is the time since boot, because deadlines outlive the daemon.
    ///
    /// # Errors
    /// The maps have too few entries, and nothing was changed. Or an operation failed: earlier operations stay active,
    /// and the next call starts from the maps as they then are.
    pub fn reconcile(&mut self, desired: &Desired, now: Duration) -> Result<Applied> {
        self.held()?;
        // A failure leaves `None`, so that the maps are read again.
        let mut held = self.held.take().unwrap_or_default();
        let SeparateTables { desired: apart, copies } = apart(desired, &held);
        let assigned = assign(&apart, &held, &self.surroundings, self.moment(now));
        let Assigned { mut state, tables, next } = match assigned {
            Ok(assigned) => assigned,
            Err(full) => {
                self.held = Some(held);
                return Err(full.into());
            }
        };
        self.hand_over(&mut held, &mut state, now)?;
        let operations = diff(&held, &state);
        self.wants_look |= operations.iter().any(|operation| wants_look(operation, &held));
        operations.iter().try_for_each(|operation| self.carry_out(operation))?;
        // Current backends can be computed again, and take 262 KB for each table.
        state.tables.values_mut().for_each(|table| table.current_backends = None);
        let state = Arc::new(state);
        self.held = Some(state.clone());
        let next = next.map(|seconds| Duration::from_secs(seconds.into()));
        let pools = (0..desired.pools.len()).chain(copies);
        let tables: Vec<_> = pools.zip(tables).collect();
        let was_watching = self.is_watching();
        self.watched = watched(desired, &tables);
        self.wants_look |= self.is_watching() && !was_watching;
        let has_built = operations.iter().any(|operation| matches!(operation, Operation::PutTables(_)));
        let resized = std::mem::take(&mut self.resized);
        Ok(Applied { state, tables, operations: operations.len(), has_built, next, resized })
    }

    fn moment(&self, now: Duration) -> Moment<'_> {
        // At least 1, because a deadline of 0 means none.
        let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX).max(1);
        Moment { now, told: &self.told }
    }

    /// Whether a slot of any table migrates.
    pub fn is_handing_over(&self) -> bool {
        self.held.iter().flat_map(|held| held.tables.values()).any(|table| !table.slot_migration.is_empty())
    }

    /// Longest time until the next GC pass, whatever the flow table contains.
    pub fn look_within(&self) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |held| ending::look_within(held))
    }

    /// Longest time between two GC passes at which no affinity entry of a live flow expires and no failed handshake is
    /// missed. `None` if neither matters.
    pub fn most_between_looks(&self) -> Option<Duration> {
        let held = self.held.as_deref();
        let keeps = held.and_then(ending::looks_keep_clients);
        let answers_return = held.is_some_and(|held| {
            held.services.values().any(|service| one_way::is_watched(service.mode, service.protocol))
        });
        let (failures, answers) =
            (self.is_watching().then_some(handshakes::LOOK), answers_return.then_some(one_way::LOOK));
        [keeps, failures, answers].into_iter().flatten().min()
    }

    /// Whether the outlier detector needs handshake outcomes.
    fn is_watching(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Whether a GC pass is due at once. That is so at a start, after servers become terminating, after a table split,
    /// and when the outlier detector becomes active.
    pub fn wants_look(&self) -> bool {
        self.wants_look
    }

    fn carry_out(&mut self, operation: &Operation) -> Result<()> {
        self.plane.apply(operation).with_context(|| format!("cannot carry out {}", name_of(operation)))
    }
}

/// Whether the operation terminates a server or gives a service another table.
fn wants_look(operation: &Operation, held: &State) -> bool {
    let is_terminating = |backend: &Backend| backend.flags & Backend::TERMINATING != 0;
    match operation {
        Operation::PutBackends(backends) => backends.iter().any(|put| {
            is_terminating(&put.backend) && !held.backends.get(&put.id).is_some_and(is_terminating)
        }),
        // The index decides which table a flow's packets use, and it is written after the services.
        Operation::PutIndex(index) => index.entries.iter().any(|(id, entry)| {
            let before = held.index.entries.get(id);
            before.is_some_and(|before| {
                before.service == entry.service && before.lookup_table != entry.lookup_table
            })
        }),
        _ => false,
    }
}

/// The operation's name for error messages, without its values, which may be long.
fn name_of(operation: &Operation) -> &'static str {
    match operation {
        Operation::PutSettings(_) => "PutSettings",
        Operation::PutInterface(_) => "PutInterface",
        Operation::RemoveInterface(_) => "RemoveInterface",
        Operation::PutNextHop(..) => "PutNextHop",
        Operation::ClearNextHop(_) => "ClearNextHop",
        Operation::PutBackends(_) => "PutBackends",
        Operation::ClearBackend(_) => "ClearBackend",
        Operation::PutTables(_) => "PutTables",
        Operation::ClearTable(_) => "ClearTable",
        Operation::PutService { .. } => "PutService",
        Operation::Settle => "Settle",
        Operation::ClearService(_) => "ClearService",
        Operation::PutIndex(_) => "PutIndex",
    }
}
