//! Which server a client's packet goes to, and which client a server's packet answers.
//!
//! A table of servers answers for every flow, for as long as it does not change. Where it has changed, a slot names two
//! servers: its owner, which gets new flows, and its keeper, which has the flows begun before. A flow of such a slot is
//! remembered with its first packet after the change: what asks for a connection goes to the owner, what goes on with
//! one to the keeper. Elsewhere nothing is remembered or looked up, unless answers come back through SLB (mode `nat`), which
//! must be recognised as such, or the listener asks for it.
//!
//! Invariants: a TCP connection stays with its server for as long as that is configured; a datagram for as long as the
//! server is able to serve, and has a next hop. A packet that asks for a connection never goes to a server that takes no new flows. In mode
//! `nat`, flows of one client endpoint that lead to the same server endpoint never live side by side: answers could not
//! be told apart.

use super::{
    flows::{FAR, Flows, Found, NOWHERE, Others, Put, Query},
    schedule::schedule,
    slots::{hash_of, owner},
    tables::Tables,
};
use crate::{
    abi::{
        backend::{Backend, NextHop},
        flow::{Client, Flow, Link, state},
        ring::Ring,
        service::{IndexEntry, Service, ServiceIndex, mode, policy},
        stats::Reason,
    },
    net::{headers::protocol, parse::Packet},
};

/// The server of a packet.
pub(super) struct Chosen<'t> {
    pub(super) backend: &'t Backend,
    pub(super) hop: &'t NextHop,
    /// Whether the packet begins a flow, as far as can be told.
    pub(super) is_new: bool,
    /// Whether the connection is over, and the server to be told.
    pub(super) is_over: bool,
}

impl<'t> Chosen<'t> {
    #[inline(always)]
    fn new<T: Tables>(backend: &'t Backend, is_new: bool, tables: &'t T) -> Result<Self, Reason> {
        Ok(Self { backend, hop: next_hop(backend, tables)?, is_new, is_over: false })
    }
}

/// The client of an answer, and the service it spoke to.
pub(super) struct Reply<'t> {
    pub(super) service: &'t Service,
    pub(super) backend: u32,
    pub(super) client: Link,
    /// Whether the connection is over, and the client to be told.
    pub(super) is_over: bool,
}

/// Chooses the server of a client's packet; `None` where that is not for the quick path, which then has changed nothing.
/// [`Reason::Reset`] where the client is to be told that the connection is over; the quick path leaves that, too.
#[inline(always)]
pub(super) fn to_server<'t, const QUICK: bool, T: Tables>(
    packet: &Packet,
    link: Link,
    service: &IndexEntry,
    index: &ServiceIndex,
    tables: &'t T,
) -> Result<Option<Chosen<'t>>, Reason> {
    if service.mode != mode::NAT && service.policy & policy::TRACK == 0 {
        let ring = tables.ring(service.ring).ok_or(Reason::NotReady)?;
        let slot = ring.slot(Ring::slot_of(ring.size, hash_of(packet, service)));
        if !slot.has_moved() {
            // Datagrams of one flow cannot be told from the first of another.
            let is_new = packet.flags.asks() && !packet.flags.rst();
            return Chosen::new(owner(packet, slot, tables)?, is_new, tables).map(Some);
        }
    }
    tracked::<QUICK, T>(packet, link, service, index, tables)
}

/// Where packets go of flows that are remembered, or to be remembered.
#[inline(always)]
fn tracked<'t, const QUICK: bool, T: Tables>(
    packet: &Packet,
    link: Link,
    service: &IndexEntry,
    index: &ServiceIndex,
    tables: &'t T,
) -> Result<Option<Chosen<'t>>, Reason> {
    let answers_return = service.mode == mode::NAT;
    let asks = packet.flags.asks();
    let flows = Flows::open(index, tables);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    // Nothing to be searched for, as with most new flows.
    let is_empty = !QUICK && flows.is_empty(&query);
    let distance = if QUICK {
        flows.find_near(&query, service.service)
    } else if is_empty {
        NOWHERE
    } else {
        tables.find_flow(&query, service.service)
    };
    if QUICK && distance == FAR {
        return Ok(None);
    }
    let found = flows.read(&query, distance).filter(|found| found.flow.service == service.service);
    let goes_on = packet.protocol == protocol::TCP && !asks;
    if let Some(found) = &found
        && let is_expired = flows.is_expired(found.meta)
        && (!is_expired || (answers_return && goes_on))
        && let Some(backend) = keeps(found, packet, answers_return, &flows)
    {
        // Silence at this node is not silence of the connection: it may have come by another one meanwhile.
        let is_told = backend.is_cut() || (is_expired && (QUICK || flows.is_told(found, packet)));
        if goes_on && is_told {
            let was = found.meta.state();
            let is_over = !packet.flags.rst();
            if QUICK || (is_over && was & state::RESET != 0) {
                return Err(Reason::Reset);
            }
            let chosen = Chosen::new(backend, false, tables).map_err(|_| Reason::Reset)?;
            flows.mark(found, was | state::RESET);
            unload(service.policy, was, was | state::RESET, backend, tables);
            return Ok(Some(Chosen { is_over, ..chosen }));
        }
        let was = found.meta.state() & if !QUICK && is_expired { !state::ENDS } else { !0 };
        let chosen = Chosen::new(backend, false, tables)?;
        let confirmed = !asks && flows.is_worth_keeping(found, answers_return);
        let bits = was | ended_by(packet, state::CLIENT_FIN) | if confirmed { state::CONFIRMED } else { 0 };
        if !answers_return || found.flow.client.same(&link) {
            // What ends a flow is not for the quick path.
            if flows.touch(found, bits) && !QUICK {
                unload(service.policy, was, bits, backend, tables);
            }
        } else if QUICK {
            return Ok(None);
        } else {
            // The client's path has changed. Replaced as a whole: an answer finds the old MAC pair or the new one.
            flows.replace(found, &query, &Flow { client: link, ..found.flow }, bits, service.idle);
        }
        return Ok(Some(chosen));
    }
    if QUICK {
        return Ok(None);
    }
    // Its server may be another one than is chosen now. TCP sends the packet again.
    if goes_on && found.is_none() && tables.is_resizing() {
        return Err(Reason::NotReady);
    }
    // The server is gone. In the other modes another one answers for it. A RST is not answered.
    if answers_return && goes_on && found.is_some() {
        return Err(Reason::Reset);
    }
    let others =
        if answers_return { Others(tables.other_flows(&query, service.service)) } else { Others::default() };
    let scheduled = schedule(packet, service, others, tables);
    let backend = tables.backend(scheduled.backend()?).ok_or(Reason::NoServer)?;
    let keeper = scheduled.keeper().and_then(|id| tables.backend(id));
    let is_new = (asks && !packet.flags.rst()) || (answers_return && packet.protocol != protocol::TCP);
    // Before anything is remembered: the packet that gets through is the one that begins the flow.
    let is_over = goes_on && backend.is_cut() && !packet.flags.rst();
    let chosen = Chosen { is_over, ..Chosen::new(backend, is_new, tables)? };
    // What the keeper has need not be remembered where it is the owner too: it is who gets what nobody remembers. But what
    // is remembered of the endpoint's last connection must go: it would be found for this one.
    let is_known = !answers_return
        && found.is_none()
        && service.policy & policy::TRACK == 0
        && asks
        && keeper.is_some_and(|keeper| keeper.reference == backend.reference);
    // A RST begins nothing; it is sent on for whoever may still know the connection.
    if is_known || packet.flags.rst() {
        return Ok(Some(chosen));
    }
    let taken_up = !answers_return && !asks;
    // The client is told when it speaks again.
    let over = if is_over { state::RESET } else { 0 };
    let bits = ended_by(packet, state::CLIENT_FIN) | over | if taken_up { state::TAKEN_UP } else { 0 };
    let flow = Flow { service: service.service, backend: backend.reference, client: link };
    if answers_return && !is_empty {
        tables.release_flows(&query, service.service, backend.endpoint);
    }
    let put = match &found {
        Some(found) => flows.replace(found, &query, &flow, bits, service.idle),
        // The most that are told apart.
        None if answers_return && others.are_too_many() => return Err(Reason::ClientPortBusy),
        None => flows.put(&query, &flow, bits, service.idle),
    };
    if put == Put::Done {
        return Ok(Some(chosen));
    }
    if answers_return {
        return Err(Reason::FlowTableFull);
    }
    match keeper {
        // Who goes on is found again, for as long as the slot has this keeper.
        Some(_) if !asks => {
            tables.count_forgotten();
            Ok(Some(chosen))
        }
        // Begun with the keeper, a flow is found without being remembered. With anybody else it would break with its
        // second packet.
        Some(keeper) if keeper.flags & Backend::NEW != 0 => {
            tables.count_forgotten();
            Chosen::new(keeper, true, tables).map(Some)
        }
        Some(keeper) if keeper.reference != backend.reference => Err(Reason::FlowTableFull),
        _ if service.policy & policy::ELSEWHERE != 0 && !goes_on => {
            // Where its hash leads, too, it is found without being remembered.
            let by_hash = tables.server_by_hash(packet, service, others.0);
            let is_found = service.policy & (policy::TURNS | policy::LEAST) == 0
                && by_hash.keeper().is_none()
                && by_hash.backend() == Ok(backend.reference.id());
            if is_found { Ok(Some(chosen)) } else { Err(Reason::FlowTableFull) }
        }
        _ => Ok(Some(chosen)),
    }
}

/// Counts a flow less for its server, where that is of use, once it has ended. A client's FIN is an end: of the server's,
/// nothing is seen in most modes.
#[inline(always)]
fn unload<T: Tables>(policy: u32, was: u32, is: u32, backend: &Backend, tables: &T) {
    const ENDED: u32 = state::CLIENT_FIN | state::RESET | state::RELEASED;
    if policy & policy::LEAST != 0
        && was & ENDED == 0
        && is & ENDED != 0
        && let Some(load) = tables.load(backend.reference.id())
    {
        load.add(u64::MAX);
    }
}

/// What is known of the client of a server's packet.
pub(super) enum Answered<'t> {
    /// This is it.
    Client(Reply<'t>),
    /// The packet answers no flow.
    NoFlow,
    /// The packet is a server's, and its flow may still be in the flow table that is being replaced.
    NotReady,
    /// The connection is over, and the server to be told.
    Over,
    /// That is not for the quick path.
    Later,
}

/// Finds the client that a server's packet answers.
#[inline(always)]
pub(super) fn to_client<'t, const QUICK: bool, T: Tables>(
    packet: &Packet,
    index: &ServiceIndex,
    tables: &'t T,
) -> Answered<'t> {
    let hash = ServiceIndex::server_hash(&packet.source, packet.source_port);
    if !index.may_be_server(hash) {
        return Answered::NoFlow;
    }
    let flows = Flows::open(index, tables);
    let client = Client::new(&packet.destination, packet.destination_port, packet.protocol);
    let query = flows.query(client);
    let endpoint = Backend::endpoint_of(hash);
    let distance = if QUICK {
        flows.find_answered_near(&query, endpoint, packet.flags.syn())
    } else {
        tables.find_answered_flow(&query, endpoint, packet.flags.syn())
    };
    if QUICK && distance == FAR {
        return Answered::Later;
    }
    match reply::<QUICK, T>(packet, &flows, &query, distance, tables) {
        Some(answered) => answered,
        None if tables.is_resizing() => Answered::NotReady,
        None => Answered::NoFlow,
    }
}

#[inline(always)]
fn reply<'t, const QUICK: bool, T: Tables>(
    packet: &Packet,
    flows: &Flows<'t, T>,
    query: &Query,
    distance: u32,
    tables: &'t T,
) -> Option<Answered<'t>> {
    let found = flows.read(query, distance)?;
    let backend = flows.live(found.flow.backend)?;
    // The number of an endpoint may be another one's too.
    if backend.port != packet.source_port || !backend.address.same(&packet.source) {
        return None;
    }
    let service = tables.service(found.flow.service & 0xffff)?;
    if service.reference.tag() != found.flow.service || service.mode != mode::NAT {
        // Of a listener whose answers go past SLB; the full path finds the other one, if there is one.
        return if QUICK { Some(Answered::Later) } else { None };
    }
    let was = found.meta.state();
    let is_expired = flows.is_expired(found.meta);
    let is_told = backend.is_cut() || (is_expired && (QUICK || flows.is_told(&found, packet)));
    let mut is_over = packet.protocol == protocol::TCP && is_told;
    if is_over {
        is_over = !packet.flags.rst();
        if QUICK || (is_over && was & state::RESET != 0) {
            return Some(Answered::Over);
        }
        flows.mark(&found, was | state::RESET);
        unload(service.policy, was, was | state::RESET, backend, tables);
    } else {
        // Never both: that is no flow. It may have been taken up in another mode.
        let ends = if !QUICK && is_expired { state::ENDS } else { 0 };
        let bits = was & !(state::TAKEN_UP | ends) | ended_by(packet, state::SERVER_FIN) | state::ANSWERED;
        if flows.touch(&found, bits) && !QUICK {
            unload(service.policy, was, bits, backend, tables);
        }
    }
    let client = found.flow.client;
    Some(Answered::Client(Reply { service, backend: found.flow.backend.id(), client, is_over }))
}

/// The server a remembered flow stays with, if it may.
#[inline(always)]
fn keeps<'t, T: Tables>(
    found: &Found<'_>,
    packet: &Packet,
    answers_return: bool,
    flows: &Flows<'t, T>,
) -> Option<&'t Backend> {
    let backend = flows.live(found.flow.backend)?;
    let needs = if packet.protocol != protocol::TCP {
        Backend::ALIVE
    } else if packet.flags.asks() {
        // A client that uses its port again, or repeats itself: a server that takes no new flows gets neither, and an
        // ended flow is begun anew.
        // Where answers are not seen, the client's FIN is all there is to see of an end.
        let over = !answers_return && found.meta.state() & state::CLIENT_FIN != 0;
        if over || found.meta.is_over() {
            return None;
        }
        Backend::NEW
    } else {
        0
    };
    if backend.flags & needs == needs { Some(backend) } else { None }
}

#[inline(always)]
fn next_hop<'t, T: Tables>(backend: &Backend, tables: &'t T) -> Result<&'t NextHop, Reason> {
    tables.next_hop(backend.next_hop).filter(|hop| hop.ifindex != 0).ok_or(Reason::NoNextHop)
}

#[inline(always)]
const fn ended_by(packet: &Packet, fin: u32) -> u32 {
    (if packet.flags.fin() { fin } else { 0 }) | (if packet.flags.rst() { state::RESET } else { 0 })
}
