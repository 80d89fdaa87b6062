//! Gives everything desired a place in the maps. Pure.
//!
//! What is there already keeps its id and its reference, so flows that name them go on. A new use of an id gets a
//! generation of its own, and no id that the maps still hold, or that something in them names, is used for something
//! else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use slb_common::abi::{
    MAX_BACKENDS, MAX_NEXT_HOPS, MAX_SERVICES, Reference,
    backend::{Backend, NextHop},
    pad_name,
    service::Service,
};

use super::desired::{Desired, Health, Pool, Server};
use crate::dataplane::state::{
    Member, NO_TABLE, SPARE_TABLE, Settings, State, Table, backend_address, to_address, to_ip,
};

/// Places for everything.
#[derive(Debug, Clone)]
pub struct Assigned {
    /// What the data plane should hold.
    pub state: State,
    /// Id of each pool's table, in the order of the pools.
    pub tables: Vec<u32>,
}

/// More than the maps hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "more than {limit} {what} are needed, counting those that are to be replaced, which is all the maps hold: nothing was \
     changed"
)]
pub struct Full {
    what: &'static str,
    limit: u32,
}

/// Gives `desired` places, next to what the data plane holds now. `hz` is jiffies in a second.
pub fn assign(
    desired: &Desired,
    held: &State,
    interfaces: &BTreeSet<u32>,
    hz: u32,
) -> Result<Assigned, Full> {
    let mut ids = Ids::new(held);
    let mut state = State { interfaces: interfaces.clone(), ..State::default() };
    let tables = tables(desired, held)?;

    let known: BTreeMap<(u32, SocketAddr), u32> =
        held.backends.iter().map(|(id, backend)| ((backend.ring, backend_address(backend)), *id)).collect();
    for (pool, &table) in desired.pools.iter().zip(&tables) {
        let mut members = Vec::new();
        for (&address, server) in &pool.servers {
            let next_hop = match server.next_hop {
                Some(hop) => ids.next_hop(hop, held)?,
                None => 0,
            };
            let (id, reference) = match known.get(&(table, address)) {
                Some(&id) => (id, held.backends[&id].reference),
                None => ids.backend(held)?,
            };
            state.backends.insert(id, backend(address, server, reference, next_hop, table));
            if server.takes_new() {
                members.push(Member { backend: id, address, weight: server.weight });
            }
        }
        state.tables.insert(table, table_of(pool, members, desired.seed));
    }

    let known: BTreeMap<_, u32> = held.services.iter().map(|(id, service)| (key_of(service), *id)).collect();
    for wanted in &desired.services {
        let (id, reference) = match known.get(&(wanted.address, wanted.port, wanted.protocol)) {
            Some(&id) => (id, held.services[&id].reference),
            None => ids.service(held)?,
        };
        let idle_timeout = u32::try_from(wanted.idle.as_secs()).unwrap_or(u32::MAX).saturating_mul(hz);
        state.services.insert(
            id,
            Service {
                address: to_address(wanted.address),
                port: wanted.port.to_be(),
                protocol: wanted.protocol,
                reference,
                ring: wanted.pool.map_or(NO_TABLE, |pool| tables[pool]),
                idle_timeout,
                load_balancer: pad_name(&wanted.load_balancer),
                listener: pad_name(&wanted.listener),
                group: pad_name(wanted.group.as_deref().unwrap_or_default()),
                ..Service::default()
            },
        );
    }
    state.next_hops = ids.hops.iter().map(|(hop, id)| (*id, *hop)).collect();
    state.indexed = state.services.keys().copied().collect();
    state.settings = Settings { seed: desired.seed, hz, generation: ids.generation };
    Ok(Assigned { state, tables })
}

/// A pool keeps the table its services have now; whatever else changed about it, its servers keep their places.
fn tables(desired: &Desired, held: &State) -> Result<Vec<u32>, Full> {
    let now: BTreeMap<_, u32> = held
        .services
        .values()
        .filter(|service| service.ring != NO_TABLE)
        .map(|service| (key_of(service), service.ring))
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

fn table_of(pool: &Pool, members: Vec<Member>, seed: u64) -> Table {
    Table { slots: pool.slots.slots(), seed, members }
}

fn backend(address: SocketAddr, server: &Server, reference: Reference, next_hop: u32, ring: u32) -> Backend {
    let alive = if server.is_alive() { Backend::ALIVE } else { 0 };
    let new = if server.takes_new() { Backend::NEW } else { 0 };
    Backend {
        address: to_address(address.ip()),
        port: address.port().to_be(),
        flags: alive | new,
        weight: server.weight,
        reference,
        next_hop,
        ring,
        health: match server.health {
            Health::Unknown => Backend::HEALTH_UNKNOWN,
            Health::Healthy => Backend::HEALTH_HEALTHY,
            Health::Unhealthy => Backend::HEALTH_UNHEALTHY,
            Health::Unchecked => Backend::HEALTH_UNCHECKED,
        },
        reserved: [0; 7],
    }
}

pub(super) fn key_of(service: &Service) -> (IpAddr, u16, u8) {
    (to_ip(&service.address), u16::from_be(service.port), service.protocol)
}

/// Hands out ids that are free: from the lowest up, each once.
struct Ids {
    generation: u16,
    /// Ids of the next hops that are wanted.
    hops: BTreeMap<NextHop, u32>,
    /// Ids of the next hops that are held.
    held_hops: BTreeMap<NextHop, u32>,
    next_hop: u32,
    next_backend: u32,
    next_service: u32,
}

impl Ids {
    fn new(held: &State) -> Self {
        Self {
            generation: held.settings.generation,
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
            None => free(&mut self.next_hop, MAX_NEXT_HOPS, &held.next_hops)
                .ok_or(Full { what: "next hops", limit: MAX_NEXT_HOPS - 1 })?,
        };
        self.hops.insert(hop, id);
        Ok(id)
    }

    fn backend(&mut self, held: &State) -> Result<(u32, Reference), Full> {
        let id = free(&mut self.next_backend, MAX_BACKENDS, &held.backends)
            .ok_or(Full { what: "servers", limit: MAX_BACKENDS })?;
        Ok((id, self.reference(id)))
    }

    fn service(&mut self, held: &State) -> Result<(u32, Reference), Full> {
        let id = free(&mut self.next_service, MAX_SERVICES, &held.services)
            .ok_or(Full { what: "services", limit: MAX_SERVICES })?;
        Ok((id, self.reference(id)))
    }

    /// A use of its own for an id. Never generation 0: a reference of 0 names nothing.
    fn reference(&mut self, id: u32) -> Reference {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        // The maps hold fewer entries than 16 bits name.
        Reference::new(id as u16, self.generation)
    }
}

/// The first id from `next` on that is not held; the next call goes on behind it.
fn free<T>(next: &mut u32, end: u32, held: &BTreeMap<u32, T>) -> Option<u32> {
    let id = (*next..end).find(|id| !held.contains_key(id))?;
    *next = id + 1;
    Some(id)
}
