//! A data plane in memory. It refuses dangling ids, and the reuse of an id that a program may still see.

mod visibility;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use slb_common::{
    abi::{
        Handle,
        backend::Backend,
        flow::ClientPath,
        ids::{AccessListId, BackendId, NextHopId, ServiceTag, TableId},
        service::policy,
        source::Source,
        time::Jiffies,
    },
    datapath::flow_gc::{FlushResult, GcAction, GcPass},
};

use self::visibility::{Object, ObjectKind};
use super::{
    DataPlane, FlowTableAccess, FlushPredicate, GcVisitor, NewPath, TableContents,
    access_list::Networks,
    quic_server::QuicServerKey,
    rehome::RehomeMap,
    state::{FlowRecord, MapState, Operation, PutBackend, ServerTable, to_address},
};

/// Holds a [`MapState`]. Each operation leaves it consistent, or is refused.
#[derive(Debug, Default, Clone)]
pub struct FakeDataPlane {
    /// The actual state.
    pub state: MapState,
    /// Operations that succeed before one fails; `None` for no failure.
    pub fail_after: Option<usize>,
    /// How much of the failing operation is carried out.
    pub fails: FailurePoint,
    /// Objects that no packet finds any more but that earlier programs may still use, until the next grace period.
    seen: BTreeSet<Object>,
    /// Every handle that was ever used. Flow-table entries may name any of them.
    used: BTreeSet<(ObjectKind, Handle)>,
    /// Tracked flows and affinity entries.
    pub flows: Vec<FlowRecord>,
    /// Indexes in `flows` that a flush has erased.
    pub erased_slots: BTreeSet<usize>,
    /// The last connection counts written, by server id.
    pub connection_counts: BTreeMap<BackendId, u64>,
    /// Evicted flows.
    pub evictions: u64,
    /// Entries that a GC pass cannot read.
    pub unread: usize,
    /// Number of GC passes.
    pub gc_passes: usize,
}

/// How much of a failing operation is carried out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum FailurePoint {
    /// No part of it.
    #[default]
    Before,
    /// The first half of a batch.
    Halfway,
    /// All of it: only the answer is lost.
    After,
}

impl DataPlane for FakeDataPlane {
    fn observe(&self) -> Result<MapState> {
        let mut state = self.state.clone();
        // As in the kernel, the content of tables is not read back. An empty table looks like none.
        state.tables.retain(|_, table| !table.spec.members.is_empty() || !table.slot_migration.is_empty());
        state.tables.values_mut().for_each(|table| *table = ServerTable::default());
        Ok(state)
    }

    fn table(&self, id: TableId) -> Result<TableContents> {
        let table = self.state.tables.get(&id).context("no such table")?;
        let empty = table.spec.members.is_empty() && table.slot_migration.is_empty();
        let current_backends = if empty { Arc::default() } else { table.spec.build() };
        Ok((current_backends, table.slot_migration.previous_backends().collect()))
    }

    fn evictions(&self) -> Result<u64> {
        Ok(self.evictions)
    }

    fn jiffies(&self) -> Result<Jiffies> {
        Ok(Jiffies::new(0))
    }

    fn put_connection_counts(&mut self, connection_counts: &BTreeMap<BackendId, u64>) -> Result<()> {
        self.connection_counts.extend(connection_counts);
        Ok(())
    }

    fn apply(&mut self, operation: &Operation) -> Result<()> {
        match &mut self.fail_after {
            Some(0) => {
                self.fail_after = None;
                if let Some(part) = self.fails.partial(operation) {
                    self.execute(part)?;
                }
                bail!("this operation was to fail");
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.execute(operation.clone())
    }
}

impl FlowTableAccess for FakeDataPlane {
    fn slots(&self) -> u32 {
        self.flows.len() as u32
    }

    fn run_gc(
        &mut self,
        _: Jiffies,
        _: u32,
        visit: &mut GcVisitor<'_>,
        between_ticks: &mut dyn FnMut(),
    ) -> Result<GcPass> {
        self.gc_passes += 1;
        let used = self.flows.iter_mut().enumerate().filter(|(slot, _)| !self.erased_slots.contains(slot));
        let is_terminating = |server: Handle| {
            let backend =
                self.state.backends.get(&BackendId::of(server)).filter(|backend| backend.handle == server);
            backend.is_some_and(|backend| backend.flags & Backend::TERMINATING != 0)
        };
        for (_, flow) in used {
            flow.is_finished |= visit(*flow, &is_terminating) == GcAction::Terminate;
            between_ticks();
        }
        let live = self.flows.len() - self.erased_slots.len();
        Ok(GcPass { live, unread: self.unread, ..GcPass::default() })
    }

    fn flush(&mut self, erases: bool, _: u32, matches: &mut FlushPredicate<'_>) -> Result<FlushResult> {
        let used = (0..self.flows.len()).filter(|slot| !self.erased_slots.contains(slot));
        let taken: Vec<_> = used.filter(|slot| self.flows.get(*slot).is_some_and(&mut *matches)).collect();
        let flushed = FlushResult { erased: taken.len(), locked: 0 };
        if erases {
            self.erased_slots.extend(taken);
        }
        Ok(flushed)
    }

    fn current_backends(&self, id: TableId) -> Result<Arc<[BackendId]>> {
        Ok(self.table(id)?.0)
    }

    fn rehome_flows(&mut self, moves: &RehomeMap) {
        for flow in &mut self.flows {
            flow.backend = moves.get(&(flow.service, flow.backend)).copied().unwrap_or(flow.backend);
        }
    }

    fn update_client_paths(&mut self, to: &NewPath<'_>) -> usize {
        let mut moved = 0;
        for flow in &mut self.flows {
            let to = to(&flow.client, flow.path);
            moved += usize::from(to.is_some());
            flow.path = to.unwrap_or(flow.path);
        }
        moved
    }
}

impl FailurePoint {
    /// The part of a failing operation that is carried out.
    fn partial(self, operation: &Operation) -> Option<Operation> {
        match (self, operation.clone()) {
            (Self::Before, _) => None,
            (Self::After, operation) => Some(operation),
            (Self::Halfway, Operation::PutBackends(mut backends)) => {
                backends.truncate(backends.len() / 2);
                Some(Operation::PutBackends(backends))
            }
            (Self::Halfway, Operation::PutQuicServers(mut servers)) => {
                servers.truncate(servers.len() / 2);
                Some(Operation::PutQuicServers(servers))
            }
            (Self::Halfway, Operation::ClearQuicServers(mut keys)) => {
                keys.truncate(keys.len() / 2);
                Some(Operation::ClearQuicServers(keys))
            }
            (Self::Halfway, Operation::PutTables(tables)) => {
                let half = tables.len() / 2;
                Some(Operation::PutTables(tables.into_iter().take(half).collect()))
            }
            (Self::Halfway, Operation::PutAccessList(id, networks)) => {
                half_of(&networks).map(|half| Operation::PutAccessList(id, half))
            }
            (Self::Halfway, Operation::ClearAccessList(id, networks)) => {
                half_of(&networks).map(|half| Operation::ClearAccessList(id, half))
            }
            (Self::Halfway, _) => None,
        }
    }
}

/// Half of the networks of a list; `None` for no network.
fn half_of(networks: &Networks) -> Option<Networks> {
    let half: BTreeSet<_> = networks.iter().take(networks.len() / 2).copied().collect();
    (!half.is_empty()).then(|| half.into())
}

impl FakeDataPlane {
    fn execute(&mut self, operation: Operation) -> Result<()> {
        visibility::expect_unseen(&operation, &self.state, &self.seen)?;
        self.expect_new_use(&operation)?;
        let before = visibility::visible(&self.state);
        let is_grace_period = matches!(operation, Operation::GracePeriod);
        // A packet of a connection that its server's removal ends anyway may be dropped for lack of a next hop.
        let ends_server = matches!(operation, Operation::ClearBackend(_));
        self.change(operation)?;
        let after = visibility::visible(&self.state);
        let gone = before.difference(&after);
        self.seen.extend(gone.filter(|(kind, _)| !(ends_server && *kind == ObjectKind::NextHop)));
        if is_grace_period {
            self.seen.clear();
        }
        check_consistency(&self.state)
    }

    /// Refuses a handle that was used before.
    fn expect_new_use(&mut self, operation: &Operation) -> Result<()> {
        let uses: Vec<_> = match operation {
            Operation::PutBackends(backends) => {
                let is_new = backends.iter().filter(|put| put.is_new);
                is_new.map(|put| (ObjectKind::Server, put.backend.handle)).collect()
            }
            Operation::PutService { service, is_new: true, .. } => {
                vec![(ObjectKind::Service, service.handle)]
            }
            _ => Vec::new(),
        };
        match uses.into_iter().find(|new| !self.used.insert(*new)) {
            Some((kind, handle)) => bail!("{kind:?} {}: {handle:?} is not new", handle.id()),
            None => Ok(()),
        }
    }

    fn change(&mut self, operation: Operation) -> Result<()> {
        let state = &mut self.state;
        match operation {
            Operation::PutSettings(settings) => state.settings = settings,
            Operation::PutInterface(ifindex) => drop(state.interfaces.insert(ifindex)),
            Operation::RemoveInterface(ifindex) => drop(state.interfaces.remove(&ifindex)),
            Operation::PutNextHop(id, hop) => {
                if state.backends.values().any(|backend| backend.next_hop_id() == id) {
                    bail!("next hop {id} is in use and would change under packets");
                }
                state.next_hops.insert(id, hop);
            }
            Operation::ClearNextHop(id) => drop(state.next_hops.remove(&id)),
            Operation::PutBackends(backends) => {
                for PutBackend { id, backend, is_new } in backends {
                    if let Some(old) = state.backends.get(&id)
                        && is_new != (old.handle != backend.handle)
                    {
                        bail!("server {id}: fresh is {is_new}");
                    }
                    state.backends.insert(id, backend);
                }
            }
            Operation::PutAccessList(id, networks) => {
                if state.access_lists.insert(id, networks).is_some() {
                    bail!("access list {id} would change under packets");
                }
            }
            Operation::ClearAccessList(id, networks) => {
                // As in the kernel, networks are removed one by one.
                let kept: BTreeSet<_> = state.access_lists[&id].difference(&networks).copied().collect();
                state.access_lists.remove(&id);
                if !kept.is_empty() {
                    state.access_lists.insert(id, kept.into());
                }
            }
            Operation::PutQuicServers(servers) => {
                state.quic_servers.extend(servers);
                // As in the kernel, where the greatest number of servers takes the place of their number.
                if state.quic_servers.len() > 2 * state.backends.len() {
                    bail!("the map of QUIC server IDs is full");
                }
            }
            Operation::ClearQuicServers(keys) => state.quic_servers.retain(|key, _| !keys.contains(key)),
            Operation::ClearBackend(id) => drop(state.backends.remove(&id)),
            Operation::PutTables(tables) => state.tables.extend(tables),
            Operation::ClearTable(id) => drop(state.tables.remove(&id)),
            Operation::PutService { id, service, .. } => drop(state.services.insert(id, *service)),
            Operation::GracePeriod => {}
            Operation::ClearService(id) => drop(state.services.remove(&id)),
            Operation::PutIndex(index) => state.index = index,
        }
        Ok(())
    }
}

impl FlowRecord {
    /// A live TCP connection of a client, with an unknown beginning.
    pub fn sample(service: ServiceTag, backend: Handle) -> Self {
        Self {
            service,
            backend,
            client: to_address(IpAddr::from([203, 0, 113, 7])),
            port: 40_000_u16.to_be(),
            path: ClientPath::default(),
            range_port: 0,
            source: Source::NONE,
            evictable_silence: None,
            is_affinity: false,
            is_assured: true,
            is_finished: false,
            is_closing: false,
            left: Some(Jiffies::new(250)),
            handshake: None,
        }
    }
}

/// Checks that every id that is named exists, and that its object accepts what it is given.
fn check_consistency(state: &MapState) -> Result<()> {
    for (id, entry) in &state.index.entries {
        let table = entry.table();
        if state.services.get(id).is_none_or(|there| there.tag() != entry.tag()) {
            bail!("service {id} is found and is not there");
        }
        if table != TableId::NONE && !state.tables.contains_key(&table) {
            bail!("service {id} points at table {table}, which is not there");
        }
        let list = entry.access_list_id();
        if list != AccessListId::EMPTY && !state.access_lists.contains_key(&list) {
            bail!("service {id} has access list {list}, which is not there");
        }
        let members = state.tables.get(&table).into_iter().flat_map(|table| &table.spec.members);
        for backend in members.filter_map(|member| state.backends.get(&member.backend)) {
            if entry.sees_replies() && !state.index.servers.has(backend) {
                bail!(
                    "service {id}: answers of server {} would not be recognised",
                    BackendId::of(backend.handle)
                );
            }
        }
        let named = state.quic_servers.iter().filter(|(key, _)| key.table == table);
        for backend in named.filter_map(|(_, server)| state.backends.get(&BackendId::of(*server))) {
            if entry.policies().has(policy::QUIC)
                && entry.sees_replies()
                && backend.is_alive()
                && !state.index.servers.has(backend)
            {
                bail!(
                    "service {id}: a connection ID names server {}, whose answers would not be recognised",
                    BackendId::of(backend.handle)
                );
            }
        }
    }
    for (id, table) in &state.tables {
        for (slot, previous_backend) in table.slot_migration.previous_backends() {
            if previous_backend != BackendId::NONE && !state.backends.contains_key(&previous_backend) {
                bail!(
                    "table {id} names server {previous_backend} as previous backend of slot {slot}, which does not exist"
                );
            }
        }
        for member in &table.spec.members {
            match state.backends.get(&member.backend) {
                None => bail!("table {id} names server {}, which is not there", member.backend),
                Some(terminating) if terminating.flags & Backend::TERMINATING != 0 => {
                    bail!("table {id} gives new flows to server {}, which is terminating", member.backend)
                }
                Some(_) => {}
            }
        }
    }
    for (QuicServerKey { table, server_id }, server) in &state.quic_servers {
        let backend = state.backends.get(&BackendId::of(*server));
        if backend.is_none_or(|backend| backend.handle != *server || backend.table() != *table) {
            bail!("QUIC server ID {server_id} of table {table} names {server:?}, which is not there");
        }
    }
    for (id, backend) in &state.backends {
        let hop = backend.next_hop_id();
        if hop != NextHopId::NONE && !state.next_hops.contains_key(&hop) {
            bail!("server {id} points at next hop {hop}, which is not there");
        }
    }
    Ok(())
}
