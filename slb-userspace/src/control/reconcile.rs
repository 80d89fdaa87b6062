//! Carries out what must change, and notices when it could not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use slb_common::{
    abi::{
        Reference,
        backend::Backend,
        ring::{NO_BACKEND, Ring},
        service::{Service, mode, policy},
    },
    datapath::upkeep::{Fate, Look},
    net::headers::protocol,
};

use super::{
    apart::{Apart, apart},
    desired::Desired,
    diff::diff,
    ending::{self, Ended, Watch},
    handover::{Elsewhere, Handover},
    ids::{Assigned, Moment, Surroundings, assign},
    loads::Loads,
    openings::{LOOK, Openings, watched},
    parted::{parted, successors},
};
use crate::{
    dataplane::{
        DataPlane,
        state::{BATCH, Operation, State, Table, build_all},
    },
    health::passive::Pool,
};

/// The data plane, and what it is known to hold.
pub struct Reconciler<D> {
    plane: D,
    /// `None` when it must be read afresh: at the start, and after a failure.
    held: Option<Arc<State>>,
    surroundings: Surroundings,
    /// Flows that had been forgotten when the last sweep began, or when the plane was read for the first time.
    forgotten: Option<u64>,
    /// Servers that have been removed and cut, and of whose connections the last look has found no end left to tell.
    told: BTreeSet<Reference>,
    /// Whether servers have been cut off, or listeners have come to other tables, since the last look.
    wants_look: bool,
    /// Pools whose new connections count, by table.
    watched: BTreeMap<u32, Pool>,
    /// The same with what has come of the connections, as of the last look.
    openings: Vec<Pool>,
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

/// What a look at the flow table has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// Slots that have changed hands and are not their owners' alone yet.
    pub moved: usize,
    /// Flows that are neither over nor expired.
    pub flows: usize,
    /// Connections that are over, whose ends may not know.
    pub ended: Vec<Ended>,
    /// Pools whose new connections count, with what has come of them.
    pub openings: Vec<Pool>,
    /// Time until the next look is of use.
    pub next: Duration,
}

/// Owners of the slots of tables, by table.
type Owners = BTreeMap<u32, Arc<[u32]>>;

/// Flows found elsewhere than with the owner of their slot, by table and slot.
type FoundElsewhere = BTreeMap<(u32, u32), Elsewhere>;

impl<D: DataPlane> Reconciler<D> {
    /// Takes charge of `plane`.
    pub fn new(plane: D, surroundings: Surroundings) -> Self {
        Self {
            plane,
            held: None,
            surroundings,
            forgotten: None,
            told: BTreeSet::new(),
            wants_look: false,
            watched: BTreeMap::new(),
            openings: Vec::new(),
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
        let Apart { desired: apart, copies } = apart(desired, &held);
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
        self.held.iter().flat_map(|held| held.tables.values()).any(|table| !table.handover.is_empty())
    }

    /// Time within which the flow table is to be looked at, whatever it holds.
    pub fn look_within(&self) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |held| ending::look_within(held))
    }

    /// Whether new connections are watched.
    fn is_watching(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Whether servers have been cut off, listeners have come to other tables, or new connections are watched, since the last
    /// look at the flow table.
    pub fn wants_look(&self) -> bool {
        self.wants_look
    }

    /// Looks at the flow table: for connections that are over, and for what is over of slots that changed hands.
    ///
    /// # Errors
    /// As [`Self::reconcile`].
    pub fn sweep(&mut self, now: Duration) -> Result<Sweep> {
        self.held()?;
        // Not put back after a failure.
        let mut held = self.held.take().unwrap_or_default();
        let is_due = |(id, table): &(&u32, &Table)| table.handover.is_due(idle_of(&held, **id), now);
        let due: Vec<u32> = held.tables.iter().filter(is_due).map(|(id, _)| *id).collect();
        // Without any, the flow table is looked at all the same.
        let parts = if due.is_empty() { vec![due.as_slice()] } else { due.chunks(BATCH).collect() };
        let (mut changed, mut flows, mut forgotten, mut is_whole) = (false, 0, None, true);
        self.wants_look = false;
        let before = held.clone();
        let mut watch = Watch::new(&before, self.surroundings.hz);
        let mut loads = Loads::default();
        for part in parts {
            let owners: Owners = part
                .iter()
                .map(|id| Ok((*id, self.plane.table(*id).context("cannot read a table")?.0)))
                .collect::<Result<_>>()?;
            loads = Loads::none(&before);
            let (elsewhere, look) = self.elsewhere(&held, &owners, now, &mut watch, &mut loads)?;
            flows = look.live;
            is_whole &= look.unread == 0;
            // Asked after the look, which then has seen whatever has not been forgotten; the next time, all that is
            // forgotten after the first one counts.
            let now_forgotten = self.plane.forgotten().context("cannot read the counters")?;
            forgotten.get_or_insert(now_forgotten);
            if self.forgotten != Some(now_forgotten) {
                let tables = &mut Arc::make_mut(&mut held).tables;
                tables.values_mut().for_each(|table| table.handover.wait_anew(now));
                break;
            }
            let swept = swept(&held, owners, &elsewhere, look, now);
            let tables = &mut Arc::make_mut(&mut held).tables;
            let differ = |(id, table): &(&u32, &Table)| {
                tables.get(id).is_none_or(|old| !old.handover.keepers().eq(table.handover.keepers()))
            };
            let put: BTreeMap<u32, Table> =
                swept.iter().filter(differ).map(|(id, table)| (*id, table.clone())).collect();
            tables.extend(swept.iter().map(|(id, table)| (*id, table.without_owners())));
            if !put.is_empty() {
                changed = true;
                self.carry_out(&Operation::PutTables(put))?;
            }
        }
        self.forgotten = forgotten;
        if !watch.moves.is_empty() {
            self.plane.move_flows(&watch.moves).context("cannot move flows")?;
        }
        if changed {
            // What was in force before needs no room any more.
            self.carry_out(&Operation::Settle)?;
        }
        let left = held.tables.values().map(|table| table.handover.len()).sum();
        self.held = Some(held);
        let loads = loads.by_id();
        if !loads.is_empty() {
            self.plane.put_loads(&loads).context("cannot write how many flows servers have")?;
        }
        let next = watch.next_look();
        let next = if self.is_watching() { next.min(LOOK) } else { next };
        let openings = std::mem::take(&mut self.openings);
        self.told = if is_whole { watch.told() } else { BTreeSet::new() };
        Ok(Sweep { moved: left, flows, ended: watch.ended, openings, next })
    }

    /// Slots that have changed hands of which flows are remembered to be with another server than the owner, each with
    /// its table, of the tables with these owners.
    fn elsewhere(
        &mut self,
        held: &State,
        owners: &Owners,
        now: Duration,
        watch: &mut Watch<'_>,
        loads: &mut Loads,
    ) -> Result<(FoundElsewhere, Look)> {
        let entries: BTreeMap<u32, _> =
            held.index.entries.values().map(|entry| (entry.service, entry)).collect();
        let mut elsewhere = FoundElsewhere::new();
        let mut openings = Openings::new(&self.watched, held);
        let look = self.plane.flows(self.surroundings.hz, &mut |flow| {
            let entry = entries.get(&flow.service);
            if flow.is_client {
                return watch.note_client(&flow, entry.copied());
            }
            let Some(entry) = entry else { return Fate::Goes };
            openings.note(&flow, entry);
            let fate = watch.note(&flow, entry);
            loads.note(&flow, entry);
            // Remembered for good: it is not for the table to say where it is, unless it is pushed out. Of datagrams nobody can
            // tell whether they began before.
            let is_loose = flow.loose.is_some() && entry.protocol == protocol::TCP;
            if entry.policy & policy::ELSEWHERE != 0 && !is_loose {
                return fate;
            }
            let Some(owners) = owners.get(&entry.ring).filter(|owners| !owners.is_empty()) else {
                return fate;
            };
            let hash = entry.old_flow_hash(&flow.client, flow.port);
            let slot = Ring::slot_of(owners.len() as u32, hash) as u32;
            let moved = held.tables.get(&entry.ring).and_then(|table| table.handover.keeper(slot));
            if flow.left.is_some() && owners[slot as usize] != flow.backend.id() && moved.is_some() {
                let seen = |silence: u32| now.saturating_sub(Duration::from_secs(silence.into()));
                elsewhere.entry((entry.ring, slot)).or_default().note(flow.loose.map(seen));
            }
            fate
        })?;
        self.openings = openings.pools();
        Ok((elsewhere, look))
    }

    /// Works out which slots of the wanted tables have changed hands. What is held is said to be what is wanted where that
    /// is found to be so.
    fn hand_over(&self, held: &mut Arc<State>, wanted: &mut State, now: Duration) -> Result<()> {
        let State { tables, backends, services, .. } = wanted;
        // Asked for every slot that has changed hands.
        let mut there = vec![false; backends.last_key_value().map_or(0, |(id, _)| *id as usize + 1)];
        backends.keys().for_each(|id| there[*id as usize] = true);
        let exists = |id: u32| there.get(id as usize) == Some(&true);
        let remembered = remembered(held, services);
        let scattered = scattered(held, services);
        let mut replaced = Vec::new();
        for (id, old) in &held.tables {
            let Some(table) = tables.get_mut(id) else { continue };
            if old.plan != table.plan || scattered.contains(id) {
                replaced.push(*id);
                continue;
            }
            table.handover = old.handover.clone();
            if !table.handover.keepers().all(|(_, keeper)| exists(keeper)) {
                let owners = table.owners();
                table.handover.forget(|slot| owners[slot as usize], exists);
            }
        }
        for (id, old) in parted(held, services) {
            let Some(table) = tables.get_mut(&id) else { continue };
            let (before, keepers) = self.plane.table(old).context("cannot read a table")?;
            let after = table.owners();
            if are_alike(&before, &after) {
                let successor = successors(&held.backends, backends, old, id);
                let keepers = keepers.into_iter().map(|(slot, keeper)| (slot, successor(keeper)));
                table.handover = Handover::found(keepers, now);
                let before: Vec<u32> = before.iter().map(|server| successor(*server)).collect();
                table.handover.change(&before, &after, exists, now);
            }
        }
        // An empty one that has been found looks like none.
        for id in scattered.iter().filter(|id| !held.tables.contains_key(id)) {
            if let Some(table) = tables.get_mut(id) {
                let owners = table.owners();
                table.handover.look_for_all(&owners, exists, now);
            }
        }
        let mut found = Vec::new();
        for part in replaced.chunks(BATCH) {
            build_all(part_of(tables, part));
            for id in part {
                let (Some(old), Some(table)) = (held.tables.get(id), tables.get_mut(id)) else { continue };
                if self.replace(*id, old, table, remembered.contains(id), exists, now)? {
                    table.owners = None;
                    found.push((*id, table.clone()));
                }
                if scattered.contains(id) {
                    let owners = table.owners();
                    table.handover.look_for_all(&owners, exists, now);
                }
            }
            if replaced.len() > BATCH {
                // They take more room than building them again takes time.
                part_of(tables, part).for_each(|table| table.owners = None);
            }
        }
        if !found.is_empty() {
            Arc::make_mut(held).tables.extend(found);
        }
        Ok(())
    }

    /// Works out which slots change hands when `table`, which has been built, takes the place of `old`. Returns whether the
    /// data plane, of which that was not known, holds it already.
    fn replace(
        &self,
        id: u32,
        old: &Table,
        table: &mut Table,
        is_remembered: bool,
        exists: impl Fn(u32) -> bool + Copy,
        now: Duration,
    ) -> Result<bool> {
        // To read it takes much less time than to build it.
        let (before, keepers) = self.plane.table(id).context("cannot read a table")?;
        let found = if old.is_known() { old.handover.clone() } else { Handover::found(keepers, now) };
        let after = table.owners();
        if !are_alike(&before, &after) {
            return Ok(false);
        }
        table.handover = found.clone();
        if is_remembered {
            table.handover.forget(|slot| after[slot as usize], exists);
        } else {
            table.handover.change(&before, &after, exists, now);
        }
        Ok(!old.is_known() && before == after && found == table.handover)
    }

    fn carry_out(&mut self, operation: &Operation) -> Result<()> {
        self.plane.apply(operation).with_context(|| format!("cannot carry out {}", name_of(operation)))
    }
}

/// Whether slots of two tables correspond.
fn are_alike(before: &[u32], after: &[u32]) -> bool {
    // Empty where no server could be chosen.
    if before.len() != after.len() && !before.is_empty() {
        tracing::warn!(
            before = before.len(),
            now = after.len(),
            "another table size: connections that are not tracked may move"
        );
    }
    before.len() == after.len()
}

/// Tables whose flows are all remembered, as they have been: nobody looks for one in the slot that it had.
fn remembered(held: &State, wanted: &BTreeMap<u32, Service>) -> BTreeSet<u32> {
    let goes_by_table = |service: &&Service| service.policy & policy::ELSEWHERE == 0;
    let by_table: BTreeSet<u32> = held
        .services
        .values()
        .chain(wanted.values())
        .filter(goes_by_table)
        .map(|service| service.ring)
        .collect();
    held.tables.keys().filter(|id| !by_table.contains(id)).copied().collect()
}

/// Tables by which new flows are given servers from now on, or are no longer. What is remembered is to be found, and what is
/// not is with the server that its slot had.
fn scattered(held: &State, wanted: &BTreeMap<u32, Service>) -> BTreeSet<u32> {
    // Where answers return, all flows are remembered anyway.
    let goes_elsewhere = |service: &Service| {
        service.mode != mode::NAT && (service.policy & policy::ELSEWHERE != 0 || service.rehashed != 0)
    };
    let is_scattered = |(id, service): &(&u32, &Service)| {
        let held = held.services.get(id).filter(|held| held.reference == service.reference);
        held.is_some_and(|held| goes_elsewhere(held) != goes_elsewhere(service))
    };
    wanted.iter().filter(is_scattered).map(|(_, service)| service.ring).collect()
}

/// Whether connections of a server are cut that were not before, or a listener comes to another table.
fn wants_look(operation: &Operation, held: &State) -> bool {
    let is_cut = |backend: &Backend| backend.flags & Backend::CUT != 0;
    match operation {
        Operation::PutBackends(backends) => {
            backends.iter().any(|put| is_cut(&put.backend) && !held.backends.get(&put.id).is_some_and(is_cut))
        }
        Operation::PutService { id, service, .. } => {
            held.services.get(id).is_some_and(|before| before.ring != service.ring)
        }
        _ => false,
    }
}

/// The tables with these ids, which are sorted.
fn part_of<'a>(tables: &'a mut BTreeMap<u32, Table>, ids: &[u32]) -> impl Iterator<Item = &'a mut Table> {
    tables.iter_mut().filter(|(id, _)| ids.binary_search(id).is_ok()).map(|(_, table)| table)
}

/// The tables with these owners, as they are to be after a look at the flow table.
fn swept(
    held: &State,
    owners: Owners,
    elsewhere: &FoundElsewhere,
    look: Look,
    now: Duration,
) -> BTreeMap<u32, Table> {
    let mut swept = BTreeMap::new();
    for (id, owners) in owners {
        let Some(table) = held.tables.get(&id) else { continue };
        let mut table = table.clone();
        let owner = |slot: u32| owners.get(slot as usize).copied().unwrap_or(NO_BACKEND);
        let found = |slot| match elsewhere.get(&(id, slot)) {
            // It may be a flow of any slot.
            _ if look.unread != 0 => Elsewhere::UNKNOWN,
            found => found.copied().unwrap_or_default(),
        };
        table.handover.sweep(owner, found, idle_of(held, id), now);
        table.owners = Some(owners);
        swept.insert(id, table);
    }
    swept
}

/// The time after which flows of a table are forgotten: the longest of its services', and as long as it may take to put
/// tables in force, which begins before it counts.
fn idle_of(state: &State, table: u32) -> Duration {
    const SLACK: u64 = 10;
    let services = state.services.values().filter(|service| service.ring == table);
    let idle = services.map(|service| service.idle_timeout).max().unwrap_or(0);
    Duration::from_secs(u64::from(idle) + SLACK)
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
