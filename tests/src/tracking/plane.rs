//! A data plane over the packet path's tables in memory.

use std::{
    cell::{Ref, RefCell, RefMut},
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use slb_common::{
    abi::{
        Handle,
        backend::Backend,
        ids::{BackendId, TableId},
        lookup_table::{LookupTable, MIGRATING},
        time::Jiffies,
    },
    datapath::{
        flow_gc::{Clock, FlowGc, FlushResult, GcPass},
        maps::Maps as _,
    },
};
use slb_control::{
    dataplane::{
        DataPlane, FlowTableAccess, FlushPredicate, GcVisitor, NewPath, TableContents,
        rehome::{self, RehomeMap},
        state::{FlowRecord, MapState, Operation, ServerTable, backend_address, to_address},
    },
    slot::Slot,
};

use super::control;
use crate::packets::host::{Host, put_interfaces};

/// The tables, shared by the packet path and successive daemons. Operations are queued until [carried
/// out](Self::carry_out) one by one, so that packets can be processed in between.
#[derive(Clone)]
pub struct HostPlane(Rc<RefCell<Inner>>);

struct Inner {
    host: Host,
    /// State of the maps, as a daemon reads it after a restart.
    state: MapState,
    waiting: VecDeque<Operation>,
    flow_gc: FlowGc,
}

impl HostPlane {
    /// Empty tables, with this many slots of the flow table.
    pub fn new(flows: u32) -> Self {
        let mut host = Host::with_flows(flows);
        put_interfaces(&mut host, &control::interfaces());
        Self(Rc::new(RefCell::new(Inner {
            host,
            state: MapState::default(),
            waiting: VecDeque::new(),
            flow_gc: FlowGc::default(),
        })))
    }

    /// The tables.
    pub fn host(&self) -> Ref<'_, Host> {
        Ref::map(self.0.borrow(), |inner| &inner.host)
    }

    /// The tables.
    pub fn host_mut(&self) -> RefMut<'_, Host> {
        RefMut::map(self.0.borrow_mut(), |inner| &mut inner.host)
    }

    /// State of the maps, without the contents of server tables.
    pub fn state(&self) -> Ref<'_, MapState> {
        Ref::map(self.0.borrow(), |inner| &inner.state)
    }

    /// Carries out the next queued operation; `false` if the queue is empty.
    pub fn carry_out(&self) -> bool {
        let mut inner = self.0.borrow_mut();
        let Some(operation) = inner.waiting.pop_front() else { return false };
        inner.host.apply(&operation);
        inner.note(operation);
        true
    }

    /// Drops queued operations, as when the daemon crashes before it carries them out.
    pub fn forget_waiting(&self) {
        self.0.borrow_mut().waiting.clear();
    }

    /// The current backend of a client endpoint's slot.
    pub fn current_backend(&self, client: SocketAddr, protocol: u8) -> Option<SocketAddr> {
        let (host, state) = (self.host(), self.state());
        let entry = state.index.entries.values().find(|entry| entry.protocol == protocol)?;
        let hash = entry.flow_hash(&to_address(client.ip()), client.port().to_be());
        let lookup_table = host.lookup_table(entry.lookup_table)?;
        let id = lookup_table.slot(LookupTable::slot_of(lookup_table.size, hash)).server()?;
        state.backends.get(&BackendId::new(id)).map(backend_address)
    }

    /// Contents of all flow-table entries.
    pub fn flow_words(&self) -> Vec<u64> {
        let host = self.host();
        let words = |slot| {
            let entry = host.flow(slot).expect("the table is not full");
            let (client, sequence_word) = (entry.client().words(), entry.sequence_word());
            let sequence_word = [
                sequence_word.last_seen().into(),
                sequence_word.state().into(),
                entry.backend().0,
                entry.hop_bitmap(),
            ];
            [client.as_slice(), &sequence_word].concat()
        };
        (0..host.flow_slots()).flat_map(words).collect()
    }

    /// Number of migrating slots in all server tables.
    pub fn moved(&self) -> usize {
        let host = self.host();
        let state = self.state();
        let lookup_tables = state.tables.keys().filter_map(|id| host.lookup_table(id.index()));
        lookup_tables
            .map(|lookup_table| lookup_table.in_use().iter().filter(|slot| **slot & MIGRATING != 0).count())
            .sum()
    }
}

impl Inner {
    fn note(&mut self, operation: Operation) {
        let state = &mut self.state;
        match operation {
            Operation::PutSettings(settings) => state.settings = settings,
            Operation::PutInterface(ifindex) => drop(state.interfaces.insert(ifindex)),
            Operation::RemoveInterface(ifindex) => drop(state.interfaces.remove(&ifindex)),
            Operation::PutNextHop(id, hop) => drop(state.next_hops.insert(id, hop)),
            Operation::ClearNextHop(id) => drop(state.next_hops.remove(&id)),
            Operation::PutAccessList(id, networks) => drop(state.access_lists.insert(id, networks)),
            Operation::ClearAccessList(id, _) => drop(state.access_lists.remove(&id)),
            Operation::PutBackends(backends) => {
                state.backends.extend(backends.into_iter().map(|put| (put.id, put.backend)));
            }
            Operation::PutQuicServers(servers) => state.quic_servers.extend(servers),
            Operation::ClearQuicServers(keys) => state.quic_servers.retain(|key, _| !keys.contains(key)),
            Operation::ClearBackend(id) => drop(state.backends.remove(&id)),
            Operation::PutTables(tables) => {
                state.tables.extend(tables.into_keys().map(|id| (id, ServerTable::default())));
            }
            Operation::ClearTable(id) => drop(state.tables.remove(&id)),
            Operation::PutService { id, service, .. } => drop(state.services.insert(id, *service)),
            Operation::ClearService(id) => drop(state.services.remove(&id)),
            Operation::PutIndex(index) => state.index = index,
            Operation::GracePeriod => {}
        }
    }
}

impl DataPlane for HostPlane {
    fn observe(&self) -> Result<MapState> {
        let mut state = self.state().clone();
        let host = self.host();
        // As in the kernel, an empty server table looks like none.
        state
            .tables
            .retain(|id, _| host.lookup_table(id.index()).is_some_and(|lookup_table| lookup_table.size != 0));
        Ok(state)
    }

    fn table(&self, id: TableId) -> Result<TableContents> {
        let host = self.host();
        let lookup_table = host.lookup_table(id.index()).context("no such table")?;
        let current_backends = lookup_table.current_backends().collect();
        let kept = host.lookup_table(lookup_table.previous_backends);
        let moved = Slot::all().zip(lookup_table.in_use()).filter(|(_, slot)| **slot & MIGRATING != 0);
        let previous_backend =
            |slot: Slot| kept.map_or(BackendId::NONE, |kept| BackendId::new(kept.slots[slot.position()]));
        Ok((current_backends, moved.map(|(slot, _)| (slot, previous_backend(slot))).collect()))
    }

    fn evictions(&self) -> Result<u64> {
        Ok(self.host().evicted_migrating())
    }

    fn jiffies(&self) -> Result<Jiffies> {
        Ok(Jiffies::new(self.host().now()))
    }

    fn put_connection_counts(&mut self, loads: &BTreeMap<BackendId, u64>) -> Result<()> {
        loads.iter().for_each(|(id, load)| self.host().put_load(id.index(), *load));
        Ok(())
    }

    fn apply(&mut self, operation: &Operation) -> Result<()> {
        self.0.borrow_mut().waiting.push_back(operation.clone());
        Ok(())
    }
}

impl FlowTableAccess for HostPlane {
    fn slots(&self) -> u32 {
        self.host().flow_slots()
    }

    fn run_gc(
        &mut self,
        state_read: Jiffies,
        hz: u32,
        visit: &mut GcVisitor<'_>,
        _between_ticks: &mut dyn FnMut(),
    ) -> Result<GcPass> {
        let Inner { host, flow_gc, state, .. } = &mut *self.0.borrow_mut();
        let clock = Clock { now: host.now(), hz };
        let table = host.flow_table();
        let is_terminating = |server: Handle| {
            let backend =
                state.backends.get(&BackendId::of(server)).filter(|backend| backend.handle == server);
            backend.is_some_and(|backend| backend.flags & Backend::TERMINATING != 0)
        };
        flow_gc.begin(&table, clock, state_read.count());
        let gc_pass = flow_gc.scan(&table, 0..u32::MAX, clock, &mut |seen| {
            visit(FlowRecord::new(seen, clock), &is_terminating)
        });
        ensure!(table.is_sound(), "homes do not name their entries");
        Ok(gc_pass)
    }

    fn flush(&mut self, erases: bool, hz: u32, matches: &mut FlushPredicate<'_>) -> Result<FlushResult> {
        let host = self.host();
        let (table, clock) = (host.flow_table(), Clock { now: host.now(), hz });
        let slots = 0..host.flow_slots();
        let flushed = table.flush(slots, erases, &mut |seen| matches(&FlowRecord::new(seen, clock)));
        ensure!(table.is_sound(), "homes do not name their entries");
        Ok(flushed)
    }

    fn current_backends(&self, id: TableId) -> Result<Arc<[BackendId]>> {
        Ok(self.table(id)?.0)
    }

    fn rehome_flows(&mut self, moves: &RehomeMap) {
        rehome::rehome_flows(self.host().slots(), moves);
    }

    fn update_client_paths(&mut self, to: &NewPath<'_>) -> usize {
        rehome::update_client_paths(self.host().slots(), to)
    }
}
