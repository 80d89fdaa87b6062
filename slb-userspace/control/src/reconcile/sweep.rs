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
    datapath::flow_gc::{Fate, Look},
    net::headers::protocol,
};

use super::Reconciler;
use crate::outlier_detection::Pool;
use crate::{
    client_paths::{Prefix, Rehomed, Samples},
    connection_counts::ConnectionCounts,
    dataplane::{
        DataPlane,
        state::{BATCH, Operation, State, Table},
    },
    ending::{Ended, Watch},
    handshakes::{Handshakes, LOOK},
    one_way::{Answers, Counts},
    slot_migration::PinnedElsewhere,
};

/// The result of a GC pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// Migrating slots.
    pub moved: usize,
    /// Flows that are neither finished nor expired.
    pub flows: usize,
    /// Assured flows among them, which new flows cannot evict.
    pub assured: usize,
    /// Slots of the flow table. It differs from the configured number after a failed resize.
    pub entries: usize,
    /// Connections that the pass has ended. Their idle ends are to be provoked.
    pub ended: Vec<Ended>,
    /// Pools with an ejection policy, with their handshake outcomes.
    pub handshakes: Vec<Pool>,
    /// Servers of mode `nat`, with how many of their new connections they answered.
    pub answers: BTreeMap<SocketAddr, Answers>,
    /// A sample of the clients of mode `nat`, whose client paths are to be followed.
    pub clients: BTreeSet<IpAddr>,
    /// Time until the next GC pass.
    pub next: Duration,
}

/// Current backend of each slot, by table id.
type Owners = BTreeMap<u32, Arc<[u32]>>;

/// Flows pinned to another backend than the current one of their slot, by table id and slot.
type FoundElsewhere = BTreeMap<(u32, u32), PinnedElsewhere>;

impl<D: DataPlane> Reconciler<D> {
    /// Runs a GC pass over the flow table. It ends finished connections and complete slot migrations, and samples the
    /// clients of mode `nat`. Clients in the prefixes `on_link` are neighbours of this host. `now` is the time since
    /// boot.
    ///
    /// # Errors
    /// As [`Self::reconcile`].
    pub fn sweep(&mut self, now: Duration, on_link: &BTreeSet<Prefix>) -> Result<Sweep> {
        self.held()?;
        // A failure leaves `None`, so that the maps are read again.
        let held = self.held.take().unwrap_or_default();
        let before = held.clone();
        let mut watch = Watch::new(&before, self.surroundings.hz);
        let mut samples = Samples::new(on_link);
        let swept = self.sweep_with(held, &mut watch, &mut samples, now);
        // Kept even if the pass failed: these entries are marked as finished, and no other pass reports them.
        self.ended.append(&mut watch.ended);
        let (moved, flows, assured) = swept?;
        self.wants_look = false;
        let next = watch.next_look();
        let next = if self.is_watching() { next.min(LOOK) } else { next };
        let (ended, handshakes) = (mem::take(&mut self.ended), mem::take(&mut self.handshakes));
        let (answers, clients) = (mem::take(&mut self.answers), samples.chosen());
        let entries = self.plane.flow_slots() as usize;
        Ok(Sweep { moved, flows, assured, entries, ended, handshakes, answers, clients, next })
    }

    /// Replaces the client paths of flows whose clients are now reached by another path. Returns the number of changed
    /// entries.
    ///
    /// # Errors
    /// The flow table cannot be written.
    pub fn move_clients(&mut self, moves: &Rehomed) -> Result<usize> {
        self.plane
            .move_clients(&|client, link| moves.to(client, link))
            .context("cannot replace the client paths of flows")
    }

    /// Answers dropped because the neighbour of their client was not resolved; 0 if the counter cannot be read.
    pub fn unresolved(&self) -> u64 {
        self.plane.unresolved().unwrap_or(0)
    }

    /// Whether any service has mode `nat`, so that answers return through SLB.
    pub fn answers_return(&self) -> bool {
        let entries = self.held.iter().flat_map(|held| held.index.entries.values());
        entries.into_iter().any(|entry| entry.mode == mode::NAT)
    }

    /// Returns the numbers of migrating slots, of live flows, and of assured live flows.
    fn sweep_with(
        &mut self,
        mut held: Arc<State>,
        watch: &mut Watch<'_>,
        samples: &mut Samples<'_>,
        now: Duration,
    ) -> Result<(usize, usize, usize)> {
        let is_due = |(id, table): &(&u32, &Table)| table.slot_migration.is_due(idle_of(&held, **id), now);
        let due: Vec<u32> = held.tables.iter().filter(is_due).map(|(id, _)| *id).collect();
        // Without a due migration there is still one pass.
        let parts = if due.is_empty() { vec![due.as_slice()] } else { due.chunks(BATCH).collect() };
        let (mut changed, mut flows, mut forgotten, mut is_whole) = (false, (0, 0), None, true);
        let mut loads = ConnectionCounts::default();
        for part in parts {
            let current_backends: Owners = part
                .iter()
                .map(|id| Ok((*id, self.plane.table(*id).context("cannot read a table")?.0)))
                .collect::<Result<_>>()?;
            loads = ConnectionCounts::none(&held);
            let (elsewhere, look) =
                self.elsewhere(&held, &current_backends, now, watch, (&mut loads, samples))?;
            flows = (look.live, look.assured);
            is_whole &= look.unread == 0;
            // Read after the pass, which has seen every entry not evicted by then. The next pass compares with the
            // count of the first part, so that no later eviction is missed.
            let now_forgotten = self.plane.forgotten().context("cannot read the counters")?;
            forgotten.get_or_insert(now_forgotten);
            if self.forgotten != Some(now_forgotten) {
                let tables = &mut Arc::make_mut(&mut held).tables;
                tables.values_mut().for_each(|table| table.slot_migration.wait_anew(now));
                break;
            }
            let swept = swept(&held, current_backends, &elsewhere, look, now);
            let tables = &mut Arc::make_mut(&mut held).tables;
            let differ = |(id, table): &(&u32, &Table)| {
                tables.get(id).is_none_or(|old| {
                    !old.slot_migration.previous_backends().eq(table.slot_migration.previous_backends())
                })
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
            // A grace period, which also frees the replaced tables of previous backends.
            self.carry_out(&Operation::Settle)?;
        }
        let left = held.tables.values().map(|table| table.slot_migration.len()).sum();
        self.held = Some(held);
        let loads = loads.by_id();
        if !loads.is_empty() {
            self.plane.put_loads(&loads).context("cannot write how many flows servers have")?;
        }
        self.told = if is_whole { watch.told() } else { BTreeSet::new() };
        Ok((left, flows.0, flows.1))
    }

    /// Runs one pass over the flow table. Returns the flows of migrating slots that are pinned to another backend, for
    /// the tables in `current_backends`.
    fn elsewhere(
        &mut self,
        held: &State,
        current_backends: &Owners,
        now: Duration,
        watch: &mut Watch<'_>,
        (loads, samples): (&mut ConnectionCounts, &mut Samples<'_>),
    ) -> Result<(FoundElsewhere, Look)> {
        let entries: BTreeMap<u32, _> =
            held.index.entries.values().map(|entry| (entry.service, entry)).collect();
        let mut elsewhere = FoundElsewhere::new();
        let mut handshakes = Handshakes::new(&self.watched, held);
        let mut answers = Counts::default();
        let look = self.plane.flows(self.surroundings.hz, &mut |flow| {
            let entry = entries.get(&flow.service);
            if flow.is_client {
                return watch.note_client(&flow, entry.copied());
            }
            let Some(entry) = entry else { return Fate::Goes };
            handshakes.note(&flow, entry);
            answers.note(&flow, entry);
            let fate = watch.note(&flow, entry);
            loads.note(&flow, entry);
            if entry.mode == mode::NAT && flow.left.is_some() && !flow.is_finished {
                samples.note(&flow.client, flow.path);
            }
            // Such a flow always has an entry, so its slot does not matter unless the entry is evicted. UDP does not
            // show whether a flow predates the change.
            let is_loose = flow.loose.is_some() && entry.protocol == protocol::TCP;
            if entry.policy & policy::ELSEWHERE != 0 && !is_loose {
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
            let moved = held
                .tables
                .get(&entry.lookup_table)
                .and_then(|table| table.slot_migration.previous_backend(slot));
            if flow.left.is_some() && current_backends[slot as usize] != flow.backend.id() && moved.is_some()
            {
                let seen = |silence: u32| now.saturating_sub(Duration::from_secs(silence.into()));
                elsewhere.entry((entry.lookup_table, slot)).or_default().note(flow.loose.map(seen));
            }
            fate
        })?;
        self.handshakes = handshakes.pools();
        self.answers = answers.by_server(held);
        Ok((elsewhere, look))
    }
}

/// The tables in `current_backends` as they are after the pass.
fn swept(
    held: &State,
    current_backends: Owners,
    elsewhere: &FoundElsewhere,
    look: Look,
    now: Duration,
) -> BTreeMap<u32, Table> {
    let mut swept = BTreeMap::new();
    for (id, current_backends) in current_backends {
        let Some(table) = held.tables.get(&id) else { continue };
        let mut table = table.clone();
        let current_backend = |slot: u32| current_backends.get(slot as usize).copied().unwrap_or(NO_BACKEND);
        let found = |slot| match elsewhere.get(&(id, slot)) {
            // An unread entry may be a flow of any slot.
            _ if look.unread != 0 => PinnedElsewhere::UNKNOWN,
            found => found.copied().unwrap_or_default(),
        };
        table.slot_migration.sweep(current_backend, found, idle_of(held, id), now);
        table.current_backends = Some(current_backends);
        swept.insert(id, table);
    }
    swept
}

/// Time after which untracked flows of a table have expired: the longest idle timeout of its services, plus slack. A
/// change starts the wait before its tables are active.
fn idle_of(state: &State, table: u32) -> Duration {
    const SLACK: u64 = 10;
    let services = state.services.values().filter(|service| service.lookup_table == table);
    let idle = services.map(|service| service.idle_timeout).max().unwrap_or(0);
    Duration::from_secs(u64::from(idle) + SLACK)
}
