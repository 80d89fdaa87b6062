//! Ids of the pools' servers: a server that stays keeps its id and handle, a removed one drains under them. Pure.

use std::{collections::BTreeSet, net::SocketAddr};

use slb_common::{
    abi::{
        Handle,
        backend::Backend,
        ids::{BackendId, NextHopId, TableId},
        service::{Service, ServiceIndex},
        time::BootSecs,
        tunnel::Tunnel,
    },
    datapath::ipip::outer_sum,
};

use super::{IdAllocator, Inputs, MapsFull, quic_servers::QuicServerIds, seconds};
use crate::{
    dataplane::state::{MapState, ServerFilter, TableMember, backend_address, to_address},
    drain::{self, DrainState},
    model::{Desired, DesiredPool, DesiredServer},
    slow_start::{self, Ramp},
    table_split::abandoned_tables,
};

/// Seconds for which the servers of a table stay at least while a GC pass is to rehome flows from there.
const REHOME_SECONDS: u32 = 5;

/// Where a pool is: its number among the pools, its table, and the table that its listeners had before, if that is
/// another one.
#[derive(Clone, Copy)]
pub(super) struct PoolTable {
    pub(super) number: usize,
    pub(super) table: TableId,
    pub(super) previous_table: Option<TableId>,
}

/// A server's id and what its entry names.
struct EntryIds {
    id: BackendId,
    handle: Handle,
    next_hop: NextHopId,
}

/// The servers of all pools.
pub(super) struct ServerAssignment<'a> {
    desired: &'a Desired,
    actual: &'a MapState,
    inputs: Inputs<'a>,
    /// Tables from which a GC pass is to rehome flows.
    split: BTreeSet<TableId>,
    /// Tables that services use now.
    in_use: BTreeSet<TableId>,
    /// Number of the pool, id and entry of each server.
    pub(super) backends: Vec<(usize, BackendId, Backend)>,
    /// Id and entry of each server that only flows to be rehomed keep.
    pub(super) kept: Vec<(BackendId, Backend)>,
    /// Servers by QUIC server ID.
    pub(super) quic_servers: QuicServerIds,
    /// Times at which weights change by themselves.
    pub(super) steps: Vec<BootSecs>,
}

impl<'a> ServerAssignment<'a> {
    pub(super) fn new(
        desired: &'a Desired,
        actual: &'a MapState,
        inputs: Inputs<'a>,
        previous_tables: &[Option<TableId>],
    ) -> Self {
        Self {
            desired,
            actual,
            inputs,
            split: previous_tables
                .iter()
                .flatten()
                .chain(inputs.rehoming)
                .copied()
                .chain(abandoned_tables(actual))
                .collect(),
            in_use: actual.services.values().map(Service::table).collect(),
            backends: Vec::new(),
            kept: Vec::new(),
            quic_servers: QuicServerIds::new(actual),
            steps: Vec::new(),
        }
    }

    /// Gives the servers of a pool, and those removed from it, ids. Returns the members of its table.
    pub(super) fn assign_pool(
        &mut self,
        pool: &DesiredPool,
        pool_table: PoolTable,
        known: &ActualServers<'a>,
        ids: &mut IdAllocator,
    ) -> Result<Vec<TableMember>, MapsFull> {
        let mut members = Vec::with_capacity(pool.servers.len());
        // The listeners' flows come to a new table from the one before: servers there serve or drain here.
        let mut known = known.of(pool_table.previous_table.unwrap_or(pool_table.table)).iter().peekable();
        let mut left = Vec::new();
        for (address, server) in &pool.servers {
            let next_hop = match server.next_hop {
                Some(hop) => ids.next_hop(hop, self.actual)?,
                None => NextHopId::NONE,
            };
            while let Some(other) = known.next_if(|other| other.address < *address) {
                left.push(other);
            }
            let same = known.next_if(|other| other.address == *address && !other.is_finished());
            let (id, handle) = match same.filter(|_| pool_table.previous_table.is_none()) {
                Some(known) => (known.id, known.backend.handle),
                None => ids.backend(self.actual)?,
            };
            while let Some(other) = known.next_if(|other| other.address == *address) {
                left.push(other);
            }
            let slot = EntryIds { id, handle, next_hop };
            members.extend(self.assign_configured(pool, pool_table, slot, (*address, server), same));
        }
        left.extend(known);
        for known in left {
            self.assign_removed(pool, pool_table, known, ids)?;
        }
        Ok(members)
    }

    /// Adds a configured server. Returns its member of the table, if it takes new flows.
    fn assign_configured(
        &mut self,
        pool: &DesiredPool,
        PoolTable { number, table, previous_table }: PoolTable,
        EntryIds { id, handle, next_hop }: EntryIds,
        (address, server): (SocketAddr, &DesiredServer),
        same: Option<&ActualServer<'a>>,
    ) -> Option<TableMember> {
        let now = self.inputs.now;
        let slow_start = pool.slow_start.map(seconds);
        let actual = same.map(|known| known.backend);
        let mut leaving = drain::of_configured(actual, server, pool.drain.map(seconds), now);
        let serves = actual.is_some_and(|backend| backend.flags & Backend::TERMINATING == 0);
        if leaving.is_terminating && serves && previous_table.is_none() && self.split.contains(&table) {
            // As in `removed`.
            leaving = leaving.not_before(now.plus(REHOME_SECONDS), now);
        }
        let is_in_use = self.in_use.contains(&previous_table.unwrap_or(table));
        let ramp = slow_start.map(|_| slow_start::ramp(actual, server, is_in_use, now)).unwrap_or_default();
        let mut backend = with_ramp(backend(address, server, &self.desired.tunnel), ramp);
        let member = server.accepts_new_flows().then(|| {
            let (weight, step) = slow_start::weight(server.weight, ramp.since, slow_start, now);
            self.steps.extend(step);
            backend.effective_weight = weight.into();
            TableMember { backend: id, address, weight }
        });
        let backend = Backend { handle, next_hop: next_hop.index(), lookup_table: table.index(), ..backend };
        let backend = with_drain(backend, leaving);
        self.quic_servers.put_configured(table, server.quic_server_id, &backend);
        self.backends.push((number, id, backend));
        member
    }

    /// Adds a server that is no longer configured, for as long as it drains.
    fn assign_removed(
        &mut self,
        pool: &DesiredPool,
        PoolTable { number, table, previous_table }: PoolTable,
        known: &ActualServer<'a>,
        ids: &mut IdAllocator,
    ) -> Result<(), MapsFull> {
        let Some(leaving) = self.removed(known, table, pool.drain.map(seconds)) else { return Ok(()) };
        let (id, handle) = match previous_table {
            None => (known.id, known.backend.handle),
            // Without flows to rehome, none of its flows comes to the new table.
            Some(_) if known.is_finished() && self.inputs.rehoming.is_empty() => return Ok(()),
            Some(_) => ids.backend(self.actual)?,
        };
        let backend = Backend { handle, lookup_table: table.index(), ..self.removed_entry(known, ids)? };
        self.quic_servers.keep(table, known.backend.handle, handle);
        self.backends.push((number, id, with_drain(backend, leaving)));
        Ok(())
    }

    /// Keeps the servers of tables that no pool has any more, until a GC pass has rehomed the flows from there.
    /// `tables` are the tables of the pools.
    pub(super) fn keep_rehoming(
        &mut self,
        known: &ActualServers<'a>,
        tables: &[TableId],
        ids: &mut IdAllocator,
    ) -> Result<(), MapsFull> {
        for table in self.inputs.rehoming.iter().filter(|table| !tables.contains(table)) {
            for server in known.of(*table) {
                if let Some(leaving) = self.removed(server, *table, None) {
                    let backend = self.removed_entry(server, ids)?;
                    self.quic_servers.keep(*table, backend.handle, backend.handle);
                    self.kept.push((server.id, with_drain(backend, leaving)));
                }
            }
        }
        Ok(())
    }

    /// Drain state of a server that is no longer configured in a table; `None` if it can be cleared. `drain` is
    /// `drain_timeout` in seconds.
    fn removed(&self, known: &ActualServer<'a>, table: TableId, drain: Option<u32>) -> Option<DrainState> {
        let now = self.inputs.now;
        // Its RSTs count as outstanding until it is terminating: the deadline may have passed while no daemon ran.
        let has_rst_outstanding =
            !known.is_finished() || !self.inputs.rst_delivered.contains(&known.backend.handle);
        let leaving = drain::of_removed(known.backend, drain, has_rst_outstanding, now)?;
        // Flows of listeners that have left the table are with the server until a GC pass has rehomed them.
        let is_kept = self.split.contains(&table) && !known.is_finished();
        Some(if is_kept { leaving.not_before(now.plus(REHOME_SECONDS), now) } else { leaving })
    }

    /// The entry of a server that is no longer configured, without its drain state.
    fn removed_entry(&self, known: &ActualServer<'a>, ids: &mut IdAllocator) -> Result<Backend, MapsFull> {
        let next_hop = match self.actual.next_hops.get(&known.backend.next_hop_id()) {
            Some(hop) => ids.next_hop(*hop, self.actual)?,
            None => NextHopId::NONE,
        };
        let flags = known.backend.flags & Backend::ALIVE | Backend::REMOVED;
        Ok(Backend { flags, weight: 0, effective_weight: 0, next_hop: next_hop.index(), ..*known.backend })
    }

    /// The servers whose replies return through SLB.
    pub(super) fn answers(&self) -> ServerFilter {
        let services = self.desired.services.iter().filter(|service| service.mode.sees_replies());
        let answering: BTreeSet<usize> = services.filter_map(|service| service.pool).collect();
        let mut answers = ServerFilter::default();
        for (_, _, backend) in self.backends.iter().filter(|(pool, ..)| answering.contains(pool)) {
            answers.insert(backend);
        }
        for (_, backend) in self.kept.iter().filter(|(_, backend)| self.actual.index.servers.has(backend)) {
            answers.insert(backend);
        }
        answers
    }
}

/// Actual servers, sorted by table and address.
pub(super) struct ActualServers<'a>(Vec<ActualServer<'a>>);

pub(super) struct ActualServer<'a> {
    address: SocketAddr,
    id: BackendId,
    backend: &'a Backend,
}

impl ActualServer<'_> {
    /// Whether the server is removed and terminating. A configured server at its address is a new one.
    const fn is_finished(&self) -> bool {
        const FINISHED: u8 = Backend::TERMINATING | Backend::REMOVED;
        self.backend.flags & FINISHED == FINISHED
    }
}

impl<'a> ActualServers<'a> {
    pub(super) fn new(actual: &'a MapState) -> Self {
        let known = actual.backends.iter();
        let known =
            known.map(|(id, backend)| ActualServer { address: backend_address(backend), id: *id, backend });
        let mut known: Vec<_> = known.collect();
        // Configured servers sort before removed ones.
        known.sort_by_key(|known| {
            (known.backend.table(), known.address, known.backend.flags & Backend::REMOVED != 0)
        });
        Self(known)
    }

    fn of(&self, table: TableId) -> &[ActualServer<'a>] {
        let first = self.0.partition_point(|known| known.backend.table() < table);
        let end = self.0.partition_point(|known| known.backend.table() <= table);
        &self.0[first..end]
    }
}

fn with_ramp(backend: Backend, ramp: Ramp) -> Backend {
    let added = if ramp.is_added { Backend::ADDED } else { 0 };
    Backend { flags: backend.flags | added, since: BootSecs::word(ramp.since), ..backend }
}

fn with_drain(backend: Backend, leaving: DrainState) -> Backend {
    let DrainState { is_terminating, deadline } = leaving;
    let flags = if is_terminating {
        backend.flags & !(Backend::ALIVE | Backend::ACCEPTS_NEW) | Backend::TERMINATING
    } else {
        backend.flags
    };
    Backend { flags, deadline: BootSecs::word(deadline), ..backend }
}

fn backend(address: SocketAddr, server: &DesiredServer, tunnel: &Tunnel) -> Backend {
    // Packets cannot reach a server without a next hop, whatever its health check says.
    let alive = if server.is_alive() && server.next_hop.is_some() { Backend::ALIVE } else { 0 };
    let new = if server.accepts_new_flows() { Backend::ACCEPTS_NEW } else { 0 };
    let ip = to_address(address.ip());
    Backend {
        address: ip,
        port: address.port().to_be(),
        flags: alive | new,
        weight: server.weight,
        endpoint: Backend::endpoint_of(ServiceIndex::server_hash(&ip, address.port().to_be())),
        outer_sum: if ip.is_v4() { outer_sum(&tunnel.v4, &ip) } else { 0 },
        health: server.shown_health().number(),
        ..Backend::default()
    }
}
