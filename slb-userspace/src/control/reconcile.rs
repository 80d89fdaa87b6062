//! Carries out what must change, and notices when it could not.

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
use crate::{
    dataplane::{
        DataPlane,
        state::{Operation, State},
    },
    health::passive::Pool,
};

pub use sweep::Sweep;

/// The data plane, and what it is known to hold.
pub struct Reconciler<D> {
    plane: D,
    /// `None` when it must be read afresh: at the start, and after a failure.
    held: Option<Arc<State>>,
    surroundings: Surroundings,
    /// Flows that had been forgotten when the last sweep began, or when the plane was read for the first time.
    forgotten: Option<u64>,
    /// Servers that have been removed and cut, and of whose connections the last look has found no end left to tell.
    told: BTreeSet<Handle>,
    /// As [`Self::wants_look`] says.
    wants_look: bool,
    /// Pools whose new connections count, by table.
    watched: BTreeMap<u32, Pool>,
    /// The same with what has come of the connections, as of the last look.
    handshakes: Vec<Pool>,
    /// Which servers have answered new connections, as of the last look.
    answers: BTreeMap<SocketAddr, Answers>,
    /// Connections that a look has found over and could not report, because something else failed.
    ended: Vec<Ended>,
}

/// What has been put in force.
#[derive(Debug, Clone)]
pub struct InForce {
    /// What the data plane holds.
    pub state: Arc<State>,
    /// Pools by number, each with the id of its table; one has several where it has come from several.
    pub tables: Vec<(usize, u32)>,
    /// Operations it took.
    pub operations: usize,
    /// Whether server tables were built.
    pub has_built: bool,
    /// When something must change although nothing else does, in the time that was said to be now.
    pub next: Option<Duration>,
}

impl<D: DataPlane> Reconciler<D> {
    /// Takes charge of `plane`.
    pub fn new(plane: D, surroundings: Surroundings) -> Self {
        Self {
            plane,
            held: None,
            surroundings,
            forgotten: None,
            told: BTreeSet::new(),
            // Whoever was in charge before may have died before the look that a change of its had called for.
            wants_look: true,
            watched: BTreeMap::new(),
            handshakes: Vec::new(),
            answers: BTreeMap::new(),
            ended: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn plane_mut(&mut self) -> &mut D {
        &mut self.plane
    }

    #[cfg(test)]
    pub(crate) fn into_plane(self) -> D {
        self.plane
    }

    /// Makes these the interfaces packets may leave through, from the next change on. Those that are `gone` have taken their
    /// entries along.
    pub fn set_interfaces(&mut self, interfaces: BTreeSet<u32>, gone: &BTreeSet<u32>) {
        self.surroundings.interfaces = interfaces;
        if let Some(held) = &mut self.held
            && !held.interfaces.is_disjoint(gone)
        {
            Arc::make_mut(held).interfaces.retain(|index| !gone.contains(index));
        }
    }

    /// What the data plane holds.
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

    /// Whether the maps have room for what is desired. Changes nothing.
    pub fn check(&mut self, desired: &Desired) -> Result<()> {
        let surroundings = self.surroundings.clone();
        self.held()?;
        let held = self.held.clone().unwrap_or_default();
        assign(&apart(desired, &held).desired, &held, &surroundings, self.moment(Duration::ZERO))?;
        Ok(())
    }

    /// Makes the data plane hold what is desired. `now` is the time since the machine started: deadlines outlive the daemon.
    ///
    /// # Errors
    /// More is desired than the maps hold: nothing was changed. Or an operation failed: what was put in force before
    /// it stays, and the next call starts from what the maps then hold.
    pub fn reconcile(&mut self, desired: &Desired, now: Duration) -> Result<InForce> {
        self.held()?;
        // Not put back after a failure.
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
        // They can be built again, and take much room.
        state.tables.values_mut().for_each(|table| table.owners = None);
        let state = Arc::new(state);
        self.held = Some(state.clone());
        let next = next.map(|seconds| Duration::from_secs(seconds.into()));
        let pools = (0..desired.pools.len()).chain(copies);
        let tables: Vec<_> = pools.zip(tables).collect();
        let was_watching = self.is_watching();
        self.watched = watched(desired, &tables);
        self.wants_look |= self.is_watching() && !was_watching;
        let has_built = operations.iter().any(|operation| matches!(operation, Operation::PutTables(_)));
        Ok(InForce { state, tables, operations: operations.len(), has_built, next })
    }

    fn moment(&self, now: Duration) -> Moment<'_> {
        // A deadline of 0 is none.
        let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX).max(1);
        Moment { now, told: &self.told }
    }

    /// Whether a slot of a table has changed hands and is not its owner's alone yet.
    pub fn is_handing_over(&self) -> bool {
        self.held.iter().flat_map(|held| held.tables.values()).any(|table| !table.slot_migration.is_empty())
    }

    /// Time within which the flow table is to be looked at, whatever it holds.
    pub fn look_within(&self) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |held| ending::look_within(held))
    }

    /// Time between two looks at the flow table for which no client is forgotten while one of its flows goes on, and no failure of
    /// a new connection missed; `None` where neither matters.
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

    /// Whether new connections are watched.
    fn is_watching(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Whether servers have been cut off, listeners have come to other tables, or new connections are watched, since the last
    /// look at the flow table, or there has been none.
    pub fn wants_look(&self) -> bool {
        self.wants_look
    }

    fn carry_out(&mut self, operation: &Operation) -> Result<()> {
        self.plane.apply(operation).with_context(|| format!("cannot carry out {}", name_of(operation)))
    }
}

/// Whether connections of a server are cut that were not before, or a listener comes to another table.
fn wants_look(operation: &Operation, held: &State) -> bool {
    let is_terminating = |backend: &Backend| backend.flags & Backend::TERMINATING != 0;
    match operation {
        Operation::PutBackends(backends) => backends.iter().any(|put| {
            is_terminating(&put.backend) && !held.backends.get(&put.id).is_some_and(is_terminating)
        }),
        // The index, and not the service: it is what says of flows where they are to be, and comes last.
        Operation::PutIndex(index) => index.entries.iter().any(|(id, entry)| {
            let before = held.index.entries.get(id);
            before.is_some_and(|before| {
                before.service == entry.service && before.lookup_table != entry.lookup_table
            })
        }),
        _ => false,
    }
}

/// The name of an operation without its values, which may be long.
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
