//! Selects the server of a flow without an entry. Only the slow path calls it, as BPF subprograms.
//!
//! By default the slot of the flow's hash decides. Other policies select the server of a new flow otherwise, and only
//! the flow table finds such flows again:
//!
//! - session affinity: the server of the client's affinity entry
//! - round robin: the server of the next slot
//! - least connections: of the servers of the next slots, the one with the fewest connections for its weight

use super::{
    flow_calls::FlowCalls,
    flows::{Conflicts, EntrySnapshot, Flows, Query},
    parse::Packet,
    quic::{self, NamedServer},
    refusal::Refusal,
    slots::{current_backend, previous_backend},
};
use crate::{
    abi::{
        backend::Backend,
        family::Family,
        flow::{Client, Flow, FlowTag, persistence_units, state},
        lookup_table::{LookupTable, NO_BACKEND, Slot},
        service::{IndexEntry, ServiceIndex, mode, policy},
        shared_word::SharedWord,
        stats::Reason,
    },
    hash::mix,
    net::headers::protocol,
    opaque::{forget, forget_long},
};

/// Slots tried for a new flow of mode `nat`. The next one is tried if the slot's server has a live flow of the same
/// client endpoint through another listener (reverse-tuple conflict).
const SERVERS_TRIED: usize = 3;
/// Candidates for least connections: slots of the table, where a run of slots with one server counts once.
pub const CANDIDATES: u32 = 16;

/// Ids of a server and of its slot's previous backend, or the number of a [`Reason`], packed into 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerResult(pub u64);

impl SchedulerResult {
    const REFUSED: u64 = 1 << 63;
    /// No server ([`Reason::NoServer`]).
    pub const NO_SERVER: Self = Self(Self::REFUSED | Reason::NoServer as u64);
    const ID: u64 = NO_BACKEND as u64;
    const PREVIOUS: u32 = 32;
    const NAMED: u64 = 1 << 62;

    #[inline(always)]
    fn of(outcome: Result<(u32, u32), ReasonNumber>) -> Self {
        Self(match outcome {
            Ok((backend, previous_backend)) => {
                u64::from(backend) | u64::from(previous_backend) << Self::PREVIOUS
            }
            Err(reason) => Self::REFUSED | u64::from(reason),
        })
    }

    /// The same, selected by the packet's connection ID.
    #[inline(always)]
    const fn by_name(self) -> Self {
        if self.is_refused() { self } else { Self(self.0 | Self::NAMED) }
    }

    /// Whether the packet's connection ID names the server.
    #[inline(always)]
    pub(super) const fn is_named(self) -> bool {
        self.0 & (Self::NAMED | Self::REFUSED) == Self::NAMED
    }

    /// Whether a reason stands in place of a server.
    #[inline(always)]
    pub(super) const fn is_refused(self) -> bool {
        self.0 & Self::REFUSED != 0
    }

    /// Id of the server, or the reason why there is none.
    #[inline(always)]
    pub(super) const fn backend(self) -> Result<u32, Refusal> {
        const HAIRPIN: u32 = Reason::Hairpin as u32;
        const PORT_CONFLICT: u32 = Reason::PortConflict as u32;
        const NOT_READY: u32 = Reason::NotReady as u32;
        const RESET: u32 = Reason::Reset as u32;
        if !self.is_refused() {
            return Ok((self.0 & Self::ID) as u32);
        }
        Err(match self.0 as u32 {
            RESET => Refusal::RST_DUE,
            HAIRPIN => Refusal::drop(Reason::Hairpin),
            PORT_CONFLICT => Refusal::drop(Reason::PortConflict),
            NOT_READY => Refusal::drop(Reason::NotReady),
            _ => Refusal::drop(Reason::NoServer),
        })
    }

    /// Whether the server is its slot's previous backend.
    #[inline(always)]
    pub(super) const fn is_previous_backend(self) -> bool {
        let server = self.0 & Self::ID;
        !self.is_refused() && server != Self::ID && self.0 >> Self::PREVIOUS & Self::ID == server
    }

    /// Id of the slot's previous backend; `None` if the slot does not migrate.
    #[inline(always)]
    pub(super) const fn previous_backend(self) -> Option<u32> {
        let id = self.0 >> Self::PREVIOUS & Self::ID;
        if id == Self::ID { None } else { Some(id as u32) }
    }
}

/// Selects by the hash of the flow. Returns the server and its slot's previous backend.
#[inline(always)]
pub fn by_hash<T: FlowCalls>(
    packet: &Packet,
    service: &IndexEntry,
    conflicts: u64,
    maps: &T,
) -> SchedulerResult {
    Scheduler::with(packet, service, conflicts, maps, Scheduler::by_hash)
}

/// Selects the next server in round robin, or by least connections if the policy says so.
#[inline(always)]
pub fn by_round_robin<T: FlowCalls>(
    packet: &Packet,
    service: &IndexEntry,
    conflicts: u64,
    maps: &T,
) -> SchedulerResult {
    Scheduler::with(packet, service, conflicts, maps, Scheduler::by_round_robin)
}

/// Selects the server of the client's affinity entry.
#[inline(always)]
pub fn affinity_server<T: FlowCalls>(
    packet: &Packet,
    service: &IndexEntry,
    conflicts: u64,
    maps: &T,
) -> SchedulerResult {
    Scheduler::with(packet, service, conflicts, maps, Scheduler::affinity_server)
}

/// Records the server in the client's affinity entry. Returns the server that the entry then names: another processor
/// may have recorded one for another flow of the client.
#[inline(always)]
pub fn set_affinity<T: FlowCalls>(
    packet: &Packet,
    service: &IndexEntry,
    conflicts: u64,
    chosen: SchedulerResult,
    maps: &T,
) -> SchedulerResult {
    let Ok(id) = chosen.backend() else { return chosen };
    let first = Scheduler::with(packet, service, conflicts, maps, |choice| choice.set_affinity(id));
    if first.is_refused() { chosen } else { first }
}

/// Selects the server that the packet's connection ID names.
#[inline(always)]
pub fn by_connection_id<T: FlowCalls>(
    packet: &Packet,
    service: &IndexEntry,
    conflicts: u64,
    named: NamedServer,
    maps: &T,
) -> SchedulerResult {
    let chosen = Scheduler::with(packet, service, conflicts, maps, |choice| choice.by_connection_id(named));
    chosen.by_name()
}

struct Scheduler<'t, T> {
    packet: &'t Packet,
    service: &'t IndexEntry,
    conflicts: Conflicts,
    maps: &'t T,
    index: &'t ServiceIndex,
}

/// Number of a [`Reason`], so that the verifier need not follow each reason apart.
type ReasonNumber = u32;

impl<'t, T: FlowCalls> Scheduler<'t, T> {
    #[inline(always)]
    fn with(
        packet: &'t Packet,
        service: &'t IndexEntry,
        conflicts: u64,
        maps: &'t T,
        choose: impl FnOnce(&Self) -> Result<(u32, u32), ReasonNumber>,
    ) -> SchedulerResult {
        let Some(index) = maps.index() else { return SchedulerResult::NO_SERVER };
        SchedulerResult::of(choose(&Self { packet, service, conflicts: Conflicts(conflicts), maps, index }))
    }

    #[inline(always)]
    fn number(&self, reason: Reason) -> ReasonNumber {
        forget(reason as u32, self.index.seed)
    }

    /// The server that the table names for the flow's hash, and its slot's previous backend.
    #[inline(always)]
    fn by_hash(&self) -> Result<(u32, u32), ReasonNumber> {
        let Self { packet, service, maps, .. } = *self;
        let lookup_table = maps.lookup_table(service.lookup_table).ok_or(self.number(Reason::NotReady))?;
        let sees_replies = mode::sees_replies(service.mode);
        let is_tcp = packet.protocol == protocol::TCP;
        // A mid-stream segment without an entry belongs to a connection from before the change. A datagram may; in mode
        // `nat` all UDP flows in use are tracked.
        let may_be_old = if is_tcp {
            !packet.flags.is_syn()
        } else {
            !sees_replies && service.policy & policy::FOLLOW == 0
        };
        let (client, port) = (&packet.source, packet.source_port);
        let mut hash =
            if may_be_old { service.old_flow_hash(client, port) } else { service.flow_hash(client, port) };
        for _ in 0..SERVERS_TRIED {
            let number = LookupTable::slot_of(lookup_table.size, hash);
            let slot = lookup_table.slot(number);
            let previous_backend = previous_backend(lookup_table, number, slot, maps);
            let backend = match previous_backend {
                Some(previous_backend) if may_be_old && (is_tcp || previous_backend.is_alive()) => {
                    previous_backend
                }
                _ => current_backend(packet, slot, maps)
                    .map_err(|refusal| forget(refusal.reason(), self.index.seed))?,
            };
            let chosen = (
                backend.handle.id(),
                forget(
                    previous_backend.map_or(NO_BACKEND, |previous_backend| previous_backend.handle.id()),
                    self.index.seed,
                ),
            );
            if !sees_replies {
                return Ok(chosen);
            }
            if self.is_hairpin(backend) {
                return Err(self.number(Reason::Hairpin));
            }
            // A RST begins no flow, so it cannot conflict with one.
            if packet.flags.rst() || !self.has_conflict(backend) {
                return Ok(chosen);
            }
            hash = mix(hash);
        }
        Err(self.number(Reason::PortConflict))
    }

    /// The server that a connection ID names, also one that takes no new flows: the connection may be an old one. Any other
    /// reason than [`Reason::NoServer`] says that this server cannot have the packet, and no other one has the connection.
    #[inline(always)]
    fn by_connection_id(&self, named: NamedServer) -> Result<(u32, u32), ReasonNumber> {
        let backend = quic::backend(named, self.service, self.maps).ok_or(self.number(Reason::NoServer))?;
        if mode::sees_replies(self.service.mode) {
            if self.is_hairpin(backend) {
                return Err(self.number(Reason::Hairpin));
            }
            if self.has_conflict(backend) {
                return Err(self.number(Reason::PortConflict));
            }
        }
        Ok((backend.handle.id(), NO_BACKEND))
    }

    /// Round robin: the next server that may have the flow. Least connections: of all candidates the first with the
    /// fewest connections for its weight.
    #[inline(always)]
    fn by_round_robin(&self) -> Result<(u32, u32), ReasonNumber> {
        let lookup_table =
            self.maps.lookup_table(self.service.lookup_table).ok_or(self.number(Reason::NotReady))?;
        let round_robin_position =
            self.maps.round_robin_position(self.service.id()).ok_or(self.number(Reason::NotReady))?.add(1);
        if lookup_table.size == 0 {
            return Err(self.number(Reason::NoServer));
        }
        let is_round_robin = self.service.policy & policy::LEAST_CONNECTIONS == 0;
        let unknown = self.index.seed;
        let (mut round_robin_position, mut why) =
            (round_robin_position % u64::from(lookup_table.size), self.number(Reason::NoServer));
        // Load 1 with weight 0 is more than the load of any server.
        let (mut best, mut best_load, mut best_weight) = (forget(NO_BACKEND, unknown), 1, 0);
        for _ in 0..CANDIDATES {
            // The verifier joins the rounds of the loop if it knows nothing of these values.
            round_robin_position = forget_long(round_robin_position, unknown);
            (best, why) = (forget(best, unknown), forget(why, unknown));
            (best_load, best_weight) = (forget_long(best_load, unknown), forget_long(best_weight, unknown));
            let slot = lookup_table.slot(round_robin_position);
            match self.candidate(slot) {
                Ok(backend) => {
                    let id = backend.handle.id();
                    if is_round_robin {
                        return Ok((id, NO_BACKEND));
                    }
                    let load = self.maps.connection_count(id).map_or(0, SharedWord::load);
                    // A count may be negative for a while: a flow's end was counted, and not its beginning.
                    let load = if load > u64::from(u32::MAX) { 1 } else { load + 1 };
                    let weight = u64::from(backend.effective_weight);
                    if load * best_weight < best_load * weight {
                        (best, best_load, best_weight) = (id, load, weight);
                    }
                }
                Err(reason) => why = reason,
            }
            // A server with a high weight may have a hundred slots in a run. One try is enough to see that it cannot
            // have the flow.
            round_robin_position += slot.next();
            if round_robin_position >= u64::from(lookup_table.size) {
                round_robin_position -= u64::from(lookup_table.size);
            }
        }
        if best == NO_BACKEND { Err(why) } else { Ok((best, NO_BACKEND)) }
    }

    /// The server of a slot, if it may have the new flow.
    #[inline(always)]
    fn candidate(&self, slot: Slot) -> Result<&'t Backend, ReasonNumber> {
        let backend = slot.server().and_then(|id| self.maps.backend(id));
        let backend = backend.ok_or(self.number(Reason::NoServer))?;
        match self.refusal_reason(backend) {
            None => Ok(backend),
            Some(reason) => Err(self.number(reason)),
        }
    }

    /// Whether a server is the client itself, and no source of SLB's can stand in for the client's.
    #[inline(always)]
    fn is_hairpin(&self, backend: &Backend) -> bool {
        let client = &self.packet.source;
        let family = if client.is_v4() { Family::V4 } else { Family::V6 };
        backend.address.same(client) && self.index.locals.candidates(family).count == 0
    }

    /// Whether a live flow of the client endpoint leads to the same server endpoint.
    #[inline(always)]
    fn has_conflict(&self, backend: &Backend) -> bool {
        self.conflicts.include(backend.endpoint_for(self.packet.destination_port))
    }

    /// Why a server may not have a new flow; `None` if it may.
    #[inline(always)]
    fn refusal_reason(&self, backend: &Backend) -> Option<Reason> {
        let sees_replies = mode::sees_replies(self.service.mode);
        if backend.flags & Backend::ACCEPTS_NEW == 0 {
            Some(Reason::NoServer)
        } else if sees_replies && self.is_hairpin(backend) {
            Some(Reason::Hairpin)
        } else if sees_replies && self.has_conflict(backend) {
            Some(Reason::PortConflict)
        } else {
            None
        }
    }

    /// The server of the client's affinity entry. Refreshes the entry.
    #[inline(always)]
    fn affinity_server(&self) -> Result<(u32, u32), ReasonNumber> {
        let none = self.number(Reason::NoServer);
        let (flows, query) = self.client();
        let found = flows.read(&query, self.find_affinity(&query)).ok_or(none)?;
        let backend = self.live_server(&flows, &found).ok_or(none)?;
        if self.refusal_reason(backend).is_some() {
            return Err(none);
        }
        let idle = persistence_units(self.service.persistence);
        if found.sequence_word.units() == idle {
            flows.touch(&found, found.sequence_word.state(), idle);
        } else {
            // The configured persistence has changed.
            flows.replace(&found, &query, &found.flow, found.sequence_word.state(), idle);
        }
        Ok((backend.handle.id(), NO_BACKEND))
    }

    /// The server that an affinity entry names; `None` if the entry has expired, or its server takes no new flows.
    #[inline(always)]
    fn live_server(&self, flows: &Flows<'t, T>, found: &EntrySnapshot<'t>) -> Option<&'t Backend> {
        // Last-seen times are exact to one second.
        if flows.silence(found.sequence_word) > (u32::from(self.service.persistence) + 1) * self.index.hz {
            return None;
        }
        let backend = flows.live_backend(found.flow.backend)?;
        // The listener may have another server table now, without this server.
        if backend.lookup_table == self.service.lookup_table && backend.flags & Backend::ACCEPTS_NEW != 0 {
            Some(backend)
        } else {
            None
        }
    }

    /// Records a server in the client's affinity entry, unless that names another one already. Another processor may
    /// have been faster, or the named server cannot take this flow. Returns the server that the flow goes to.
    #[inline(always)]
    fn set_affinity(&self, id: u32) -> Result<(u32, u32), ReasonNumber> {
        let none = self.number(Reason::NoServer);
        let backend = self.maps.backend(id).ok_or(none)?;
        let (flows, query) = self.client();
        let service = self.service.service;
        let idle = persistence_units(self.service.persistence);
        let flow = Flow { service, backend: backend.handle, ..Flow::default() };
        let found = flows.read(&query, self.find_affinity(&query));
        match &found {
            Some(found) if self.live_server(&flows, found).is_some() => {}
            Some(found) => drop(flows.replace(found, &query, &flow, state::AFFINITY, idle)),
            None => drop(flows.insert_entry(
                self.maps.slot_for_flow(query.home),
                false,
                &query,
                &flow,
                state::AFFINITY,
                idle,
            )),
        }
        let first = flows.read(&query, self.find_affinity(&query)).ok_or(none)?;
        let backend = self.live_server(&flows, &first).ok_or(none)?;
        if self.refusal_reason(backend).is_some() { Err(none) } else { Ok((backend.handle.id(), NO_BACKEND)) }
    }

    /// The distance of the client's affinity entry. One holds for all ports of a range.
    #[inline(always)]
    fn find_affinity(&self, query: &Query) -> u32 {
        self.maps.find_flow(query, FlowTag::new(self.service.service, 0))
    }

    /// The flow table, and the search for the client's affinity entry.
    #[inline(always)]
    fn client(&self) -> (Flows<'t, T>, Query) {
        let flows = Flows::open(self.index, self.maps);
        let query = flows.query(Client::affinity(&self.packet.source, self.service.id()));
        (flows, query)
    }
}
