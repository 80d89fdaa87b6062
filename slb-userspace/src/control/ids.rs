//! Slot allocation in the maps: ids and handles for the desired state. Pure.
//!
//! Existing objects keep their ids and handles, so their flows continue. Each new use of an id gets its own generation.
//! An id that the maps still hold, or that an entry in them names, is not reused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use slb_common::{
    abi::{
        Handle, MAX_SERVICES,
        backend::{Backend, NextHop},
        flow::idle_units,
        pad_name,
        service::{IndexEntry, Service, ServiceIndex, Tunnel, mode},
    },
    datapath::{ipip::outer_sum, schedule::CANDIDATES},
    hash::salt,
};

use super::{
    desired::{Desired, Health, Server, Spread},
    drain::{self, Leaving},
    rehash::rehashed,
    slow_start::{self, Begun},
    table_split::left_behind,
};
use crate::dataplane::state::{
    Filter, Index, Member, NO_TABLE, Order, Plan, SPARE_TABLE, Settings, State, Table, backend_address,
    to_address, to_ip,
};

/// Seconds within which a GC pass has rehomed the flows of a table split.
const PARTING: u32 = 5;

/// Limits and properties of the maps and the host that do not depend on the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Indexes of the interfaces through which packets may leave.
    pub interfaces: BTreeSet<u32>,
    /// Jiffies per second.
    pub hz: u32,
    /// Server entries in the maps (`max_servers`).
    pub max_backends: u32,
}

/// The desired state with its ids.
#[derive(Debug, Clone)]
pub struct Assigned {
    /// The desired state of the maps.
    pub state: State,
    /// Id of each pool's table, in the order of the pools.
    pub tables: Vec<u32>,
    /// When the state next changes by time alone, in seconds since boot.
    pub next: Option<u32>,
}

/// Inputs besides the desired and the actual state.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    /// Seconds since boot.
    pub now: u32,
    /// Removed terminating servers whose connections have all delivered their RSTs.
    pub told: &'a BTreeSet<Handle>,
}

/// The maps have too few entries for the desired state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "more than {limit} {what} are needed, counting those that are to be replaced, which is all the maps hold: nothing was \
     changed; make room first: apply a configuration without what goes away, then the one with what comes"
)]
pub struct Full {
    what: &'static str,
    limit: u32,
}

/// Assigns ids to `desired`, next to the actual state `held`. It does not yet say which slots of the tables migrate.
///
/// # Errors
/// [`Full`] if the maps have no free entry of a kind.
pub fn assign(
    desired: &Desired,
    held: &State,
    surroundings: &Surroundings,
    moment: Moment<'_>,
) -> Result<Assigned, Full> {
    let mut ids = Ids::new(held, surroundings.max_backends);
    let mut state = State { interfaces: surroundings.interfaces.clone(), ..State::default() };
    let tables = tables(desired, held)?;

    let origins = origins(desired, held, &tables);
    let parted: BTreeSet<u32> = origins.iter().flatten().copied().chain(left_behind(held)).collect();
    let known = Known::new(held);
    let in_use: BTreeSet<u32> = held.services.values().map(|service| service.lookup_table).collect();
    let mut steps = Vec::new();
    let answering: BTreeSet<usize> = desired
        .services
        .iter()
        .filter(|service| service.mode == mode::NAT)
        .filter_map(|service| service.pool)
        .collect();
    let mut answers = Filter::default();
    let mut backends = Vec::new();
    for (number, (pool, &table)) in desired.pools.iter().zip(&tables).enumerate() {
        let mut members = Vec::with_capacity(pool.servers.len());
        let drain = pool.drain.map(seconds);
        let slow_start = pool.slow_start.map(seconds);
        // A table split: the flows of the pool's listeners come from the table `origin`, so its servers get entries
        // here too.
        let origin = origins[number];
        let is_in_use = in_use.contains(&origin.unwrap_or(table));
        let mut known = known.of(origin.unwrap_or(table)).iter().peekable();
        let mut left = Vec::new();
        for (address, server) in &pool.servers {
            let next_hop = match server.next_hop {
                Some(hop) => ids.next_hop(hop, held)?,
                None => 0,
            };
            while let Some(other) = known.next_if(|other| other.address < *address) {
                left.push(other);
            }
            let same = known.next_if(|other| other.address == *address && !other.is_over());
            let (id, handle) = match same.filter(|_| origin.is_none()) {
                Some(known) => (known.id, known.backend.handle),
                None => ids.backend(held)?,
            };
            while let Some(other) = known.next_if(|other| other.address == *address) {
                left.push(other);
            }
            let held_backend = same.map(|known| known.backend);
            let leaving = drain::configured(held_backend, server, drain, moment.now);
            let begun = slow_start
                .map(|_| slow_start::begun(held_backend, server, is_in_use, moment.now))
                .unwrap_or_default();
            let mut backend = begun_as(backend(*address, server, &desired.tunnel), begun);
            if server.takes_new() {
                let (weight, step) = slow_start::weight(server.weight, begun.since, slow_start, moment.now);
                steps.extend(step);
                backend.share = weight.into();
                members.push(Member { backend: id, address: *address, weight });
            }
            backends.push((
                number,
                id,
                left_as(Backend { handle, next_hop, lookup_table: table, ..backend }, leaving),
            ));
        }
        left.extend(known);
        for known in left {
            // A server that is not terminating yet has RSTs outstanding, even if its deadline passed while no daemon
            // ran.
            let has_untold = !known.is_over() || !moment.told.contains(&known.backend.handle);
            // Flows of listeners that left this table name its servers until a GC pass rehomes them.
            let drain = if parted.contains(&table) { Some(drain.unwrap_or(0).max(PARTING)) } else { drain };
            let leaving = drain::lingering(known.backend, drain, has_untold, moment.now);
            let Some(leaving) = leaving else { continue };
            let (id, handle) = match origin {
                None => (known.id, known.backend.handle),
                Some(_) if known.is_over() => continue,
                Some(_) => ids.backend(held)?,
            };
            let next_hop = match held.next_hops.get(&known.backend.next_hop) {
                Some(hop) => ids.next_hop(*hop, held)?,
                None => 0,
            };
            let flags = known.backend.flags & Backend::ALIVE | Backend::REMOVED;
            let backend = Backend {
                handle,
                flags,
                weight: 0,
                share: 0,
                lookup_table: table,
                next_hop,
                ..*known.backend
            };
            backends.push((number, id, left_as(backend, leaving)));
        }
        let order = shared(pool.spread, &mut members);
        let plan = Plan { slots: pool.slots.slots(), seed: desired.seed, members, order };
        // An unchanged plan is shared, so that comparing it is cheap.
        let plan = match held.tables.get(&table) {
            Some(held) if *held.plan == plan => held.plan.clone(),
            _ => plan.into(),
        };
        state.tables.insert(table, Table::new(plan));
    }
    for (_, _, backend) in backends.iter().filter(|(pool, ..)| answering.contains(pool)) {
        answers.insert(backend);
    }
    state.backends = backends.into_iter().map(|(_, id, backend)| (id, backend)).collect();

    let known: BTreeMap<_, u32> = held.services.iter().map(|(id, service)| (key_of(service), *id)).collect();
    for wanted in &desired.services {
        let (id, handle) = match known.get(&(wanted.address, wanted.port, wanted.protocol)) {
            Some(&id) => (id, held.services[&id].handle),
            None => ids.service(held)?,
        };
        let idle_timeout = seconds(wanted.idle);
        let (policy, rehashed, end) =
            rehashed(held.services.get(&id), wanted.policy, wanted.mode, idle_timeout, moment.now);
        steps.extend(end);
        state.services.insert(
            id,
            Service {
                address: to_address(wanted.address),
                port: wanted.port.to_be(),
                protocol: wanted.protocol,
                mode: wanted.mode,
                policy,
                rehashed,
                persistence: seconds(wanted.persistence),
                handle,
                lookup_table: wanted.pool.map_or(NO_TABLE, |pool| tables[pool]),
                idle_timeout,
                load_balancer: pad_name(&wanted.load_balancer),
                listener: pad_name(&wanted.listener),
                group: pad_name(wanted.group.as_deref().unwrap_or_default()),
                ..Service::default()
            },
        );
    }
    let entries = state.services.iter().map(|(id, service)| (*id, entry(service, desired.seed))).collect();
    state.index = Index { hz: surroundings.hz, tunnel: desired.tunnel, entries, servers: answers };
    state.next_hops = ids.hops.iter().map(|(hop, id)| (*id, *hop)).collect();
    state.settings = Settings { seed: desired.seed, generation: ids.generation };
    let next = drain::next(state.backends.values(), moment.now).into_iter().chain(steps).min();
    Ok(Assigned { state, tables, next })
}

/// Chooses the order of a table's slots, and sets the members' weights for it.
fn shared(spread: Spread, members: &mut [Member]) -> Order {
    let is_even = match spread {
        Spread::Hashed => return Order::ByHash,
        Spread::Evenly => true,
        Spread::ByWeight => false,
        // So few members are all among the next slots if they share the slots evenly. By weight some would be compared
        // less often.
        Spread::ByFlows => members.len() <= CANDIDATES as usize,
    };
    if is_even {
        members.iter_mut().for_each(|member| member.weight = 1);
    }
    Order::ByTurn
}

/// The service's entry in the index that packets look up.
pub fn entry(service: &Service, seed: u64) -> IndexEntry {
    IndexEntry {
        address: service.address,
        port: service.port,
        protocol: service.protocol,
        mode: service.mode,
        service: service.handle.tag(),
        lookup_table: service.lookup_table,
        salt: salt(seed, &service.address, service.port, service.protocol),
        policy: service.policy,
        idle: idle_units(service.idle_timeout),
        persistence: service.persistence as u16,
        ..IndexEntry::default()
    }
}

/// Actual servers, sorted by table and address.
struct Known<'a>(Vec<KnownServer<'a>>);

struct KnownServer<'a> {
    address: SocketAddr,
    id: u32,
    backend: &'a Backend,
}

impl KnownServer<'_> {
    /// Whether the server is removed and terminating. A configured server at its address is a new one.
    const fn is_over(&self) -> bool {
        const OVER: u8 = Backend::TERMINATING | Backend::REMOVED;
        self.backend.flags & OVER == OVER
    }
}

impl<'a> Known<'a> {
    fn new(held: &'a State) -> Self {
        let known = held.backends.iter();
        let known =
            known.map(|(id, backend)| KnownServer { address: backend_address(backend), id: *id, backend });
        let mut known: Vec<_> = known.collect();
        // Configured servers sort before removed ones.
        known.sort_by_key(|known| {
            (known.backend.lookup_table, known.address, known.backend.flags & Backend::REMOVED != 0)
        });
        Self(known)
    }

    fn of(&self, table: u32) -> &[KnownServer<'a>] {
        let first = self.0.partition_point(|known| known.backend.lookup_table < table);
        let end = self.0.partition_point(|known| known.backend.lookup_table <= table);
        &self.0[first..end]
    }
}

fn begun_as(backend: Backend, begun: Begun) -> Backend {
    let added = if begun.is_added { Backend::ADDED } else { 0 };
    Backend { flags: backend.flags | added, since: begun.since, ..backend }
}

fn left_as(backend: Backend, leaving: Leaving) -> Backend {
    let Leaving { is_terminating, deadline } = leaving;
    let flags = if is_terminating {
        backend.flags & !(Backend::ALIVE | Backend::NEW) | Backend::TERMINATING
    } else {
        backend.flags
    };
    Backend { flags, deadline, ..backend }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// Table id of each pool. A pool keeps the table of its services, so its servers keep their ids and handles.
fn tables(desired: &Desired, held: &State) -> Result<Vec<u32>, Full> {
    let now: BTreeMap<_, u32> = held
        .services
        .values()
        .filter(|service| service.lookup_table != NO_TABLE)
        .map(|service| (key_of(service), service.lookup_table))
        .collect();
    let mut tables: Vec<Option<u32>> = vec![None; desired.pools.len()];
    let in_use: BTreeSet<u32> = now.values().copied().chain(held.tables.keys().copied()).collect();
    let mut taken = BTreeSet::new();
    for service in &desired.services {
        if let Some(pool) = service.pool
            && tables[pool].is_none()
            && let Some(&table) = now.get(&(service.address, service.port, service.protocol))
            && taken.insert(table)
        {
            tables[pool] = Some(table);
        }
    }
    let full = Full { what: "server tables", limit: SPARE_TABLE };
    tables
        .into_iter()
        .map(|table| {
            table.map_or_else(
                || {
                    let id = (0..SPARE_TABLE)
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
fn origins(desired: &Desired, held: &State, tables: &[u32]) -> Vec<Option<u32>> {
    let before: BTreeMap<_, u32> =
        held.services.values().map(|service| (key_of(service), service.lookup_table)).collect();
    let mut origins = vec![None; tables.len()];
    for service in &desired.services {
        if let Some(pool) = service.pool
            && let Some(&table) = before.get(&(service.address, service.port, service.protocol))
            && table != tables[pool]
            && table != NO_TABLE
        {
            origins[pool] = Some(table);
        }
    }
    origins
}

fn backend(address: SocketAddr, server: &Server, tunnel: &Tunnel) -> Backend {
    // Packets cannot reach a server without a next hop, whatever its health check says.
    let alive = if server.is_alive() && server.next_hop.is_some() { Backend::ALIVE } else { 0 };
    let new = if server.takes_new() { Backend::NEW } else { 0 };
    let ip = to_address(address.ip());
    Backend {
        address: ip,
        port: address.port().to_be(),
        flags: alive | new,
        weight: server.weight,
        endpoint: Backend::endpoint_of(ServiceIndex::server_hash(&ip, address.port().to_be())),
        outer_sum: if ip.is_v4() { outer_sum(&tunnel.v4, &ip) } else { 0 },
        health: match server.health {
            Health::Healthy | Health::Unchecked if server.is_standby => Backend::HEALTH_STANDBY,
            Health::Unknown => Backend::HEALTH_UNKNOWN,
            Health::Healthy => Backend::HEALTH_HEALTHY,
            Health::Unhealthy => Backend::HEALTH_UNHEALTHY,
            Health::Unchecked => Backend::HEALTH_UNCHECKED,
        },
        ..Backend::default()
    }
}

pub(super) fn key_of(service: &Service) -> (IpAddr, u16, u8) {
    (to_ip(&service.address), u16::from_be(service.port), service.protocol)
}

/// Allocates free ids in ascending order, each once.
struct Ids {
    generation: u32,
    max_backends: u32,
    /// Desired next hops with their ids.
    hops: BTreeMap<NextHop, u32>,
    /// Next hops in the maps with their ids.
    held_hops: BTreeMap<NextHop, u32>,
    next_hop: u32,
    next_backend: u32,
    next_service: u32,
}

impl Ids {
    fn new(held: &State, max_backends: u32) -> Self {
        Self {
            generation: held.settings.generation,
            max_backends,
            hops: BTreeMap::new(),
            held_hops: held.next_hops.iter().map(|(id, hop)| (*hop, *id)).collect(),
            next_hop: 1,
            next_backend: 0,
            next_service: 0,
        }
    }

    fn next_hop(&mut self, hop: NextHop, held: &State) -> Result<u32, Full> {
        if let Some(&id) = self.hops.get(&hop) {
            return Ok(id);
        }
        let id = match self.held_hops.get(&hop) {
            Some(&id) => id,
            // Enough for the next hops of all servers before and after a change. Id 0 means none.
            None => free(&mut self.next_hop, 2 * self.max_backends + 1, &held.next_hops)
                .ok_or(Full { what: "next hops", limit: 2 * self.max_backends })?,
        };
        self.hops.insert(hop, id);
        Ok(id)
    }

    fn backend(&mut self, held: &State) -> Result<(u32, Handle), Full> {
        let limit = self.max_backends;
        let id =
            free(&mut self.next_backend, limit, &held.backends).ok_or(Full { what: "servers", limit })?;
        Ok((id, self.handle(id)))
    }

    fn service(&mut self, held: &State) -> Result<(u32, Handle), Full> {
        let id = free(&mut self.next_service, MAX_SERVICES, &held.services)
            .ok_or(Full { what: "services", limit: MAX_SERVICES })?;
        Ok((id, self.handle(id)))
    }

    /// A new handle for an id. Its generation is never 0: handle 0 names nothing.
    fn handle(&mut self, id: u32) -> Handle {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        Handle::new(id, self.generation)
    }
}

/// The first free id from `next` on, below `end`. Advances `next` past it.
fn free<T>(next: &mut u32, end: u32, held: &BTreeMap<u32, T>) -> Option<u32> {
    let id = (*next..end).find(|id| !held.contains_key(id))?;
    *next = id + 1;
    Some(id)
}
