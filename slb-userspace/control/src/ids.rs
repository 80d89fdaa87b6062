//! Slot allocation in the maps: ids and handles for the desired state. Pure.
//!
//! Existing objects keep their ids and handles, so their flows continue. Each new use of an id gets its own generation.
//! An id that the maps still hold, or that an entry in them names, is not reused.

mod servers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use slb_common::{
    abi::{
        Handle, MAX_SERVICES,
        backend::NextHop,
        flow::idle_units,
        pad_name,
        service::{IndexEntry, Service},
    },
    datapath::schedule::CANDIDATES,
    hash::salt,
};

use self::servers::{Known, Place, Servers};
use super::{
    desired::{Desired, Spread},
    drain,
    rehash::rehashed,
};
use crate::dataplane::state::{
    Index, Member, NO_TABLE, Order, Plan, SPARE_TABLE, Settings, State, Table, to_address, to_ip,
};

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
    let tables = tables(desired, held)?;
    let origins = origins(desired, held, &tables);
    let known = Known::new(held);
    let mut servers = Servers::new(desired, held, moment, &origins);
    let mut state = State { interfaces: surroundings.interfaces.clone(), ..State::default() };
    for (number, (pool, &table)) in desired.pools.iter().zip(&tables).enumerate() {
        let place = Place { number, table, origin: origins[number] };
        let mut members = servers.place(pool, place, &known, &mut ids)?;
        let order = shared(pool.spread, &mut members);
        let plan = Plan { slots: pool.slots.slots(), seed: desired.seed, members, order };
        // Shared where it does not change, so that it is not compared again.
        let plan = match held.tables.get(&table) {
            Some(held) if *held.plan == plan => held.plan.clone(),
            _ => plan.into(),
        };
        state.tables.insert(table, Table::new(plan));
    }
    let answers = servers.answers();
    let Servers { backends, mut steps, .. } = servers;
    state.backends = backends.into_iter().map(|(_, id, backend)| (id, backend)).collect();
    state.services = services(desired, held, &tables, moment.now, &mut ids, &mut steps)?;
    let entries = state.services.iter().map(|(id, service)| (*id, entry(service, desired.seed))).collect();
    state.index = Index { hz: surroundings.hz, tunnel: desired.tunnel, entries, servers: answers };
    state.next_hops = ids.hops.iter().map(|(hop, id)| (*id, *hop)).collect();
    state.settings = Settings { seed: desired.seed, generation: ids.generation };
    let next = drain::next(state.backends.values(), moment.now).into_iter().chain(steps).min();
    Ok(Assigned { state, tables, next })
}

/// The services, by id. `steps` gets the times at which they change by themselves.
fn services(
    desired: &Desired,
    held: &State,
    tables: &[u32],
    now: u32,
    ids: &mut Ids,
    steps: &mut Vec<u32>,
) -> Result<BTreeMap<u32, Service>, Full> {
    let known: BTreeMap<_, u32> = held.services.iter().map(|(id, service)| (key_of(service), *id)).collect();
    let mut services = BTreeMap::new();
    for wanted in &desired.services {
        let (id, handle) = match known.get(&(wanted.address, wanted.port, wanted.protocol)) {
            Some(&id) => (id, held.services[&id].handle),
            None => ids.service(held)?,
        };
        let idle_timeout = seconds(wanted.idle);
        let (policy, rehashed, end) =
            rehashed(held.services.get(&id), wanted.policy, wanted.mode, idle_timeout, now);
        steps.extend(end);
        let service = Service {
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
        };
        services.insert(id, service);
    }
    Ok(services)
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
