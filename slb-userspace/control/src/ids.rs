//! Slot allocation in the maps: ids and handles for the desired state. Pure.
//!
//! Existing objects keep their ids and handles, so their flows continue. Each new use of an id gets its own generation.
//! An id that the maps still hold, or that an entry in them names, is not reused.

mod access_lists;
mod local_addresses;
mod quic_servers;
mod servers;
mod token_buckets;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::OnceLock,
    time::Duration,
};

use slb_common::{
    abi::{
        Handle, MAX_SERVICES,
        backend::NextHop,
        flow::idle_units,
        ids::{AccessListId, BackendId, NextHopId, ServiceId, TableId},
        pad_name,
        quic::CidFormat,
        service::{IndexEntry, Service},
        time::BootSecs,
    },
    datapath::schedule::CANDIDATES,
    hash::salt,
};

use slb_config::model::{Bandwidth, Scheduler};

use self::access_lists::AccessLists;
use self::servers::{ActualServers, PoolTable, ServerAssignment};
use super::known_services::KnownServices;
use super::{drain, hash_transition::hash_transition, model::Desired};
use crate::dataplane::state::{
    ControlSettings, IndexContent, MapState, SPARE_TABLE, ServerTable, SlotOrder, TableMember, TableSpec,
    to_address,
};

/// Limits and properties of the maps and the host that do not depend on the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapLimits {
    /// Indexes of the interfaces through which packets may leave.
    pub interfaces: BTreeSet<u32>,
    /// Jiffies per second.
    pub hz: u32,
    /// Server entries in the maps (`max_servers`).
    pub max_backends: u32,
}

/// The desired state with its ids.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The desired state of the maps.
    pub state: MapState,
    /// Id of each pool's table, in the order of the pools.
    pub tables: Vec<TableId>,
    /// When the state next changes by time alone.
    pub next: Option<BootSecs>,
}

/// Inputs besides the desired and the actual state.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The time, in whole seconds.
    pub now: BootSecs,
    /// Removed terminating servers whose connections have all delivered their RSTs.
    pub rst_delivered: &'a BTreeSet<Handle>,
    /// Tables with flows that a GC pass is to rehome. Their servers stay.
    pub rehoming: &'a BTreeSet<TableId>,
    /// Slots of local addresses that new flows no longer choose, and that no flow has.
    pub unused_locals: &'a BTreeSet<u8>,
}

/// The maps have too few entries for the desired state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapsFull {
    /// A map has no free entry.
    #[error(
        "more than {limit} {what} are needed, counting those that are to be replaced, which is all the maps hold: nothing \
         was changed; make room first: apply a configuration without what goes away, then the one with what comes"
    )]
    Entries {
        /// The entries.
        what: &'static str,
        /// Their largest number.
        limit: u32,
    },
    /// The table of local addresses has no free slot for an address.
    #[error(
        "local address {0} finds no place beside the others and those whose connections have not ended: nothing was \
         changed; write another address in its place, or apply the configuration when they have ended"
    )]
    LocalAddress(IpAddr),
}

/// Assigns ids to `desired`, next to the actual state `actual`. It does not yet say which slots of the tables migrate.
///
/// # Errors
/// [`MapsFull`] if the maps have no free entry of a kind.
pub fn assign(
    desired: &Desired,
    actual: &MapState,
    limits: &MapLimits,
    inputs: Inputs<'_>,
) -> Result<Assignment, MapsFull> {
    let mut ids = IdAllocator::new(actual, limits.max_backends);
    let services_before = KnownServices::new(desired, actual);
    let tables = tables(desired, &services_before, inputs.rehoming)?;
    let previous_tables = previous_tables(desired, &services_before, &tables);
    let known = ActualServers::new(actual);
    let mut servers = ServerAssignment::new(desired, actual, inputs, &previous_tables);
    let mut state = MapState { interfaces: limits.interfaces.clone(), ..MapState::default() };
    for (number, (pool, &table)) in desired.pools.iter().zip(&tables).enumerate() {
        let pool_table = PoolTable { number, table, previous_table: previous_tables[number] };
        let mut members = servers.assign_pool(pool, pool_table, &known, &mut ids)?;
        let order = slot_order(pool.scheduler, &mut members);
        let spec = TableSpec {
            slots: pool.slots.slots(),
            seed: desired.seed,
            members,
            order,
            summary: OnceLock::new(),
        };
        // Shared where it does not change, so that it is not compared again.
        let spec = match actual.tables.get(&table) {
            Some(actual) if *actual.spec == spec => actual.spec.clone(),
            _ => spec.into(),
        };
        state.tables.insert(table, ServerTable::new(spec));
    }
    servers.keep_rehoming(&known, &tables, &mut ids)?;
    let answers = servers.answers();
    let ServerAssignment { backends, kept, quic_servers, mut steps, .. } = servers;
    state.quic_servers = quic_servers.into_map();
    state.backends = backends.into_iter().map(|(_, id, backend)| (id, backend)).chain(kept).collect();
    let lists = AccessLists::assign(desired, actual)?;
    state.services = services(desired, &services_before, &tables, &lists, inputs.now, &mut ids, &mut steps)?;
    state.access_lists = lists.into_map();
    let entries = state.services.iter().map(|(id, service)| (*id, entry(service, desired.seed))).collect();
    state.index = IndexContent {
        hz: limits.hz,
        tunnel: desired.tunnel,
        gue_port: desired.gue_port,
        locals: local_addresses::assign(&desired.locals, &actual.index.locals, inputs.unused_locals)?,
        entries,
        servers: answers,
    };
    state.next_hops = ids.hops.iter().map(|(hop, id)| (*id, *hop)).collect();
    state.settings = ControlSettings { seed: desired.seed, generation: ids.generation };
    let next = drain::next_change(state.backends.values(), inputs.now).into_iter().chain(steps).min();
    Ok(Assignment { state, tables, next })
}

/// The services, by id. `steps` gets the times at which they change by themselves.
fn services(
    desired: &Desired,
    known: &KnownServices<'_>,
    tables: &[TableId],
    lists: &AccessLists,
    now: BootSecs,
    ids: &mut IdAllocator,
    steps: &mut Vec<BootSecs>,
) -> Result<BTreeMap<ServiceId, Service>, MapsFull> {
    let mut services = BTreeMap::new();
    for desired_service in &desired.services {
        let (id, handle) = match known.of(desired_service) {
            Some((id, there)) => (id, there.handle),
            None => ids.service(known.actual)?,
        };
        let idle_timeout = seconds(desired_service.idle);
        let (policies, hash_changed_at, end) = hash_transition(
            known.actual.services.get(&id),
            desired_service.policies,
            desired_service.mode,
            idle_timeout,
            now,
        );
        steps.extend(end);
        let access = desired_service.access.as_ref();
        let is_range = desired_service.port.is_range();
        let service = Service {
            address: to_address(desired_service.address),
            port: desired_service.port.first().to_be(),
            last_port: if is_range { desired_service.port.last().to_be() } else { 0 },
            protocol: desired_service.protocol.number(),
            mode: desired_service.mode.number(),
            policy: policies.bits(),
            hash_changed_at: BootSecs::word(hash_changed_at),
            persistence: seconds(desired_service.persistence) as u16,
            quic: desired_service.quic.map_or(0, CidFormat::number),
            syn_cookies: (desired_service.syn_cookies / Service::SYN_COOKIES_UNIT) as u16,
            handle,
            lookup_table: desired_service.pool.map_or(TableId::NONE, |pool| tables[pool]).index(),
            idle_timeout: idle_timeout as u16,
            access_list: access.map_or(AccessListId::EMPTY, |access| lists.id_of(&access.networks)).index(),
            bandwidth: desired_service.bandwidth.map_or(0, Bandwidth::kilobits),
            new_connections: desired_service.new_connections,
            load_balancer: pad_name(&desired_service.load_balancer),
            listener: pad_name(&desired_service.listener),
            group: pad_name(desired_service.group.as_deref().unwrap_or_default()),
            ..Service::default()
        };
        services.insert(id, service);
    }
    token_buckets::assign(&mut services);
    Ok(services)
}

/// Chooses the order of a table's slots, and sets the members' weights for it.
fn slot_order(scheduler: Scheduler, members: &mut [TableMember]) -> SlotOrder {
    let is_even = match scheduler {
        Scheduler::Maglev | Scheduler::MaglevClient => return SlotOrder::Maglev,
        Scheduler::RoundRobin => true,
        Scheduler::WeightedRoundRobin => false,
        // So few members are all among the next slots if they share the slots evenly. By weight some would be compared
        // less often.
        Scheduler::WeightedLeastConnections => members.len() <= CANDIDATES as usize,
    };
    if is_even {
        members.iter_mut().for_each(|member| member.weight = 1);
    }
    SlotOrder::RoundRobin
}

/// The service's entry in the index that packets look up.
pub fn entry(service: &Service, seed: u64) -> IndexEntry {
    let ports = service.ports();
    let is_range = ports.is_range();
    // The salt of a range has no port, so that a flow keeps its slot when the range grows or shrinks.
    let port = if is_range { 0 } else { service.port };
    IndexEntry {
        address: service.address,
        port,
        protocol: service.protocol | if is_range { IndexEntry::RANGE } else { 0 },
        first_port: if is_range { ports.first() } else { 0 },
        last_port: if is_range { ports.last() } else { 0 },
        mode: service.mode,
        service: service.tag().number(),
        lookup_table: service.lookup_table,
        salt: salt(seed, &service.address, port, service.protocol),
        policy: service.policy,
        idle: idle_units(service.idle_timeout.into()),
        persistence: service.persistence,
        quic: service.quic,
        access_list: service.access_list,
        syn_cookies: u32::from(service.syn_cookies) * Service::SYN_COOKIES_UNIT,
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// Table id of each pool. A pool keeps the table of its services, so its servers keep their ids and handles.
/// Tables in `rehoming` are not reused.
fn tables(
    desired: &Desired,
    known: &KnownServices<'_>,
    rehoming: &BTreeSet<TableId>,
) -> Result<Vec<TableId>, MapsFull> {
    let now = known.actual.services.values().map(Service::table).filter(|table| *table != TableId::NONE);
    let mut tables: Vec<Option<TableId>> = vec![None; desired.pools.len()];
    let in_use: BTreeSet<TableId> =
        now.chain(known.actual.tables.keys().copied()).chain(rehoming.iter().copied()).collect();
    let mut taken = BTreeSet::new();
    for service in &desired.services {
        if let Some(pool) = service.pool
            && tables[pool].is_none()
            && let Some(table) = known.of(service).map(|(_, there)| there.table())
            && table != TableId::NONE
            && taken.insert(table)
        {
            tables[pool] = Some(table);
        }
    }
    let full = MapsFull::Entries { what: "server tables", limit: SPARE_TABLE.index() };
    tables
        .into_iter()
        .map(|table| {
            table.map_or_else(
                || {
                    let id = (0..SPARE_TABLE.index())
                        .map(TableId::new)
                        .find(|id| !taken.contains(id) && !in_use.contains(id))
                        .ok_or_else(|| full.clone())?;
                    taken.insert(id);
                    Ok(id)
                },
                Ok,
            )
        })
        .collect()
}

/// For each pool with a table new to its listeners, the table that they had.
fn previous_tables(desired: &Desired, known: &KnownServices<'_>, tables: &[TableId]) -> Vec<Option<TableId>> {
    let mut previous_tables = vec![None; tables.len()];
    for service in &desired.services {
        if let Some(pool) = service.pool
            && let Some(table) = known.of(service).map(|(_, there)| there.table())
            && table != tables[pool]
            && table != TableId::NONE
        {
            previous_tables[pool] = Some(table);
        }
    }
    previous_tables
}

/// Allocates free ids in ascending order, each once.
struct IdAllocator {
    generation: u32,
    max_backends: u32,
    /// Desired next hops with their ids.
    hops: BTreeMap<NextHop, NextHopId>,
    /// Next hops in the maps with their ids.
    hops_in_use: BTreeMap<NextHop, NextHopId>,
    next_hop: u32,
    next_backend: u32,
    next_service: u32,
}

impl IdAllocator {
    fn new(actual: &MapState, max_backends: u32) -> Self {
        Self {
            generation: actual.settings.generation,
            max_backends,
            hops: BTreeMap::new(),
            hops_in_use: actual.next_hops.iter().map(|(id, hop)| (*hop, *id)).collect(),
            next_hop: 1,
            next_backend: 0,
            next_service: 0,
        }
    }

    fn next_hop(&mut self, hop: NextHop, actual: &MapState) -> Result<NextHopId, MapsFull> {
        if let Some(&id) = self.hops.get(&hop) {
            return Ok(id);
        }
        let id = match self.hops_in_use.get(&hop) {
            Some(&id) => id,
            // Enough for the next hops of all servers before and after a change. Id 0 means none.
            None => free(&mut self.next_hop, 2 * self.max_backends + 1, NextHopId::new, &actual.next_hops)
                .ok_or(MapsFull::Entries { what: "next hops", limit: 2 * self.max_backends })?,
        };
        self.hops.insert(hop, id);
        Ok(id)
    }

    fn backend(&mut self, actual: &MapState) -> Result<(BackendId, Handle), MapsFull> {
        let limit = self.max_backends;
        let id = free(&mut self.next_backend, limit, BackendId::new, &actual.backends)
            .ok_or(MapsFull::Entries { what: "servers", limit })?;
        Ok((id, self.handle(id.index())))
    }

    fn service(&mut self, actual: &MapState) -> Result<(ServiceId, Handle), MapsFull> {
        let id = free(&mut self.next_service, MAX_SERVICES, ServiceId::new, &actual.services)
            .ok_or(MapsFull::Entries { what: "services", limit: MAX_SERVICES })?;
        Ok((id, self.handle(id.index())))
    }

    /// A new handle for an id. Its generation is never 0: handle 0 names nothing.
    fn handle(&mut self, id: u32) -> Handle {
        self.generation = self.generation % Handle::MAX_GENERATION + 1;
        Handle::new(id, self.generation)
    }
}

/// The first free id from index `next` on, below `end`. Advances `next` past it.
fn free<I: Ord, T>(next: &mut u32, end: u32, id: impl Fn(u32) -> I, actual: &BTreeMap<I, T>) -> Option<I> {
    let index = (*next..end).find(|index| !actual.contains_key(&id(*index)))?;
    *next = index + 1;
    Some(id(index))
}
