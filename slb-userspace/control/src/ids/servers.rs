//! Ids of the pools' servers: a server that stays keeps its id and handle, a removed one drains under them. Pure.

use std::{collections::BTreeSet, net::SocketAddr};

use slb_common::{
    abi::{
        Handle,
        backend::Backend,
        service::{ServiceIndex, Tunnel, mode},
    },
    datapath::ipip::outer_sum,
};

use super::{Full, Ids, Moment, seconds};
use crate::{
    dataplane::state::{Filter, Member, State, backend_address, to_address},
    desired::{Desired, Health, Pool, Server},
    drain::{self, Leaving},
    slow_start::{self, Begun},
    table_split::left_behind,
};

/// Seconds within which a GC pass has rehomed the flows of a table split.
const SPLIT: u32 = 5;

/// Where a pool is: its number among the pools, its table, and the table that its listeners had before, if that is another one.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) number: usize,
    pub(super) table: u32,
    pub(super) origin: Option<u32>,
}

/// A server's id and what its entry names.
struct Slot {
    id: u32,
    handle: Handle,
    next_hop: u32,
}

/// The servers of all pools.
pub(super) struct Servers<'a> {
    desired: &'a Desired,
    held: &'a State,
    moment: Moment<'a>,
    /// Tables whose flows follow listeners to other tables.
    split: BTreeSet<u32>,
    /// Tables that services use now.
    in_use: BTreeSet<u32>,
    /// Number of the pool, id and entry of each server.
    pub(super) backends: Vec<(usize, u32, Backend)>,
    /// Times at which weights change by themselves, in seconds since the machine started.
    pub(super) steps: Vec<u32>,
}

impl<'a> Servers<'a> {
    pub(super) fn new(
        desired: &'a Desired,
        held: &'a State,
        moment: Moment<'a>,
        origins: &[Option<u32>],
    ) -> Self {
        Self {
            desired,
            held,
            moment,
            split: origins.iter().flatten().copied().chain(left_behind(held)).collect(),
            in_use: held.services.values().map(|service| service.lookup_table).collect(),
            backends: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Gives the servers of a pool, and those removed from it, ids. Returns the members of its table.
    pub(super) fn place(
        &mut self,
        pool: &Pool,
        place: Place,
        known: &Known<'a>,
        ids: &mut Ids,
    ) -> Result<Vec<Member>, Full> {
        let mut members = Vec::with_capacity(pool.servers.len());
        // The listeners' flows come to a new table from the one before: servers there serve or drain here.
        let mut known = known.of(place.origin.unwrap_or(place.table)).iter().peekable();
        let mut left = Vec::new();
        for (address, server) in &pool.servers {
            let next_hop = match server.next_hop {
                Some(hop) => ids.next_hop(hop, self.held)?,
                None => 0,
            };
            while let Some(other) = known.next_if(|other| other.address < *address) {
                left.push(other);
            }
            let same = known.next_if(|other| other.address == *address && !other.is_finished());
            let (id, handle) = match same.filter(|_| place.origin.is_none()) {
                Some(known) => (known.id, known.backend.handle),
                None => ids.backend(self.held)?,
            };
            while let Some(other) = known.next_if(|other| other.address == *address) {
                left.push(other);
            }
            let slot = Slot { id, handle, next_hop };
            members.extend(self.configured(pool, place, slot, (*address, server), same));
        }
        left.extend(known);
        for known in left {
            self.removed(pool, place, known, ids)?;
        }
        Ok(members)
    }

    /// Enters a configured server. Returns its place in the table, if it takes new flows.
    fn configured(
        &mut self,
        pool: &Pool,
        Place { number, table, origin }: Place,
        Slot { id, handle, next_hop }: Slot,
        (address, server): (SocketAddr, &Server),
        same: Option<&KnownServer<'a>>,
    ) -> Option<Member> {
        let now = self.moment.now;
        let slow_start = pool.slow_start.map(seconds);
        let held = same.map(|known| known.backend);
        let leaving = drain::configured(held, server, pool.drain.map(seconds), now);
        let is_in_use = self.in_use.contains(&origin.unwrap_or(table));
        let begun = slow_start.map(|_| slow_start::begun(held, server, is_in_use, now)).unwrap_or_default();
        let mut backend = begun_as(backend(address, server, &self.desired.tunnel), begun);
        let member = server.takes_new().then(|| {
            let (weight, step) = slow_start::weight(server.weight, begun.since, slow_start, now);
            self.steps.extend(step);
            backend.share = weight.into();
            Member { backend: id, address, weight }
        });
        let backend = Backend { handle, next_hop, lookup_table: table, ..backend };
        self.backends.push((number, id, left_as(backend, leaving)));
        member
    }

    /// Enters a server that is no longer configured, for as long as it drains.
    fn removed(
        &mut self,
        pool: &Pool,
        Place { number, table, origin }: Place,
        known: &KnownServer<'a>,
        ids: &mut Ids,
    ) -> Result<(), Full> {
        // RSTs are outstanding until it was terminating, however long ago its time was over: no daemon may have run.
        let has_rst_outstanding = !known.is_finished() || !self.moment.told.contains(&known.backend.handle);
        let drain = pool.drain.map(seconds);
        // Flows of listeners that have left this table are with it until the next GC pass.
        let drain = if self.split.contains(&table) { Some(drain.unwrap_or(0).max(SPLIT)) } else { drain };
        let Some(leaving) = drain::lingering(known.backend, drain, has_rst_outstanding, self.moment.now)
        else {
            return Ok(());
        };
        let (id, handle) = match origin {
            None => (known.id, known.backend.handle),
            Some(_) if known.is_finished() => return Ok(()),
            Some(_) => ids.backend(self.held)?,
        };
        let next_hop = match self.held.next_hops.get(&known.backend.next_hop) {
            Some(hop) => ids.next_hop(*hop, self.held)?,
            None => 0,
        };
        let flags = known.backend.flags & Backend::ALIVE | Backend::REMOVED;
        let backend =
            Backend { handle, flags, weight: 0, share: 0, lookup_table: table, next_hop, ..*known.backend };
        self.backends.push((number, id, left_as(backend, leaving)));
        Ok(())
    }

    /// The servers whose replies return through SLB.
    pub(super) fn answers(&self) -> Filter {
        let services = self.desired.services.iter().filter(|service| service.mode == mode::NAT);
        let answering: BTreeSet<usize> = services.filter_map(|service| service.pool).collect();
        let mut answers = Filter::default();
        for (_, _, backend) in self.backends.iter().filter(|(pool, ..)| answering.contains(pool)) {
            answers.insert(backend);
        }
        answers
    }
}

/// Actual servers, sorted by table and address.
pub(super) struct Known<'a>(Vec<KnownServer<'a>>);

pub(super) struct KnownServer<'a> {
    address: SocketAddr,
    id: u32,
    backend: &'a Backend,
}

impl KnownServer<'_> {
    /// Whether the server is removed and terminating. A configured server at its address is a new one.
    const fn is_finished(&self) -> bool {
        const OVER: u8 = Backend::TERMINATING | Backend::REMOVED;
        self.backend.flags & OVER == OVER
    }
}

impl<'a> Known<'a> {
    pub(super) fn new(held: &'a State) -> Self {
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
