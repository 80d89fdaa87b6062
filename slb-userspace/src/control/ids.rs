//! Gives everything desired a place in the maps. Pure.
//!
//! What is there already keeps its id and its reference, so flows that name them go on. A new use of an id gets a
//! generation of its own, and no id that the maps still hold is used for something else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use slb_common::abi::{
    MAX_BACKENDS, MAX_NEXT_HOPS, MAX_RINGS, MAX_SERVICES, Reference,
    backend::{Backend, NextHop},
    pad_name,
    service::Service,
};

use super::desired::{Desired, Health, Pool, Server};
use crate::dataplane::state::{Member, Settings, State, Table, backend_address, to_address, to_ip};

/// The table of what has none.
pub const NO_TABLE: u32 = u32::MAX;

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
#[error("the configuration needs more than {limit} {what}, which is all the maps hold: nothing was changed")]
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
    let mut ids = Ids { generation: held.settings.generation };
    let mut state = State { interfaces: interfaces.clone(), ..State::default() };
    let tables = tables(desired, held)?;

    let known: BTreeMap<(u32, SocketAddr), u32> =
        held.backends.iter().map(|(id, backend)| ((backend.ring, backend_address(backend)), *id)).collect();
    for (pool, &table) in desired.pools.iter().zip(&tables) {
        let mut members = Vec::new();
        for (&address, server) in &pool.servers {
            let next_hop = match server.next_hop {
                Some(hop) => ids.next_hop(hop, held, &mut state)?,
                None => 0,
            };
            let (id, reference) = match known.get(&(table, address)) {
                Some(&id) => (id, held.backends[&id].reference),
                None => ids.backend(held, &state)?,
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
            None => ids.service(held, &state)?,
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
    let full = Full { what: "server tables", limit: MAX_RINGS };
    tables
        .into_iter()
        .map(|table| {
            table.map_or_else(
                || {
                    let id = (0..MAX_RINGS)
                        .find(|id| !taken.contains(id) && !held.tables.contains_key(id))
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
    let established = if server.keeps_established() { Backend::ESTABLISHED } else { 0 };
    let new = if server.takes_new() { Backend::NEW } else { 0 };
    Backend {
        address: to_address(address.ip()),
        port: address.port().to_be(),
        flags: established | new,
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

fn key_of(service: &Service) -> (IpAddr, u16, u8) {
    (to_ip(&service.address), u16::from_be(service.port), service.protocol)
}

/// Hands out ids that are free. Looking for them from the generation on, which moves with every one handed out, an
/// id that has just become free is the last to be used again.
struct Ids {
    generation: u16,
}

impl Ids {
    fn next_hop(&mut self, hop: NextHop, held: &State, state: &mut State) -> Result<u32, Full> {
        let full = Full { what: "next hops", limit: MAX_NEXT_HOPS - 1 };
        let same = |hops: &BTreeMap<u32, NextHop>| hops.iter().find(|(_, h)| **h == hop).map(|(id, _)| *id);
        let id = match same(&state.next_hops).or_else(|| same(&held.next_hops)) {
            Some(id) => id,
            None => self
                .free(1, MAX_NEXT_HOPS, |id| {
                    held.next_hops.contains_key(&id) || state.next_hops.contains_key(&id)
                })
                .ok_or(full)?,
        };
        state.next_hops.insert(id, hop);
        Ok(id)
    }

    fn backend(&mut self, held: &State, state: &State) -> Result<(u32, Reference), Full> {
        let full = Full { what: "servers", limit: MAX_BACKENDS };
        let used = |id| held.backends.contains_key(&id) || state.backends.contains_key(&id);
        let id = self.free(0, MAX_BACKENDS, used).ok_or(full)?;
        Ok((id, self.reference(id)))
    }

    fn service(&mut self, held: &State, state: &State) -> Result<(u32, Reference), Full> {
        let full = Full { what: "services", limit: MAX_SERVICES };
        let used = |id| held.services.contains_key(&id) || state.services.contains_key(&id);
        let id = self.free(0, MAX_SERVICES, used).ok_or(full)?;
        Ok((id, self.reference(id)))
    }

    fn free(&mut self, first: u32, end: u32, used: impl Fn(u32) -> bool) -> Option<u32> {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        let count = end - first;
        let start = u32::from(self.generation) % count;
        (0..count).map(|i| first + (start + i) % count).find(|id| !used(*id))
    }

    /// The maps hold fewer entries than 16 bits name.
    fn reference(&self, id: u32) -> Reference {
        Reference::new(id as u16, self.generation)
    }
}
