//! Which server a client's packet goes to.
//!
//! A table of servers answers for every flow, for as long as it does not change. Where it has changed, a slot names two
//! servers: its owner, which gets new flows, and its keeper, which has the flows begun before. A flow of such a slot is
//! remembered with its first packet after the change: what asks for a connection goes to the owner, what goes on with
//! one to the keeper. Elsewhere nothing is remembered or looked up, unless answers come back through SLB (mode `nat`), which
//! must be recognised as such, or the listener asks for it.
//!
//! Invariants: a TCP connection stays with its server for as long as that is configured; a datagram for as long as the
//! server is able to serve, and has a next hop. A packet that asks for a connection never goes to a server that takes no new flows, but
//! for a SYN of an established connection, which its own server answers. In mode `nat`, flows of one client endpoint that lead to the same server endpoint never live side by side: answers could not
//! be told apart.

mod progress;

use super::{
    client_path,
    enter::NewFlow,
    flows::{Conflicts, FAR, Flows, Found, NOWHERE, Query},
    numbers::Segment,
    schedule::schedule,
    slots::{hash_of, owner},
    tables::Tables,
};
use crate::{
    abi::{
        backend::{Backend, NextHop},
        flow::{Client, ClientPath, state},
        lookup_table::LookupTable,
        service::{IndexEntry, ServiceIndex, mode, policy},
        stats::Reason,
    },
    net::{frame::Frame, headers::protocol, parse::Packet},
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

/// A client's packet, and what decides on it.
pub(super) struct Request<'t, 'p, T> {
    pub(super) packet: &'p Packet,
    /// Where it came from.
    pub(super) arrival: ClientPath,
    pub(super) service: &'t IndexEntry,
    pub(super) index: &'t ServiceIndex,
    pub(super) tables: &'t T,
}

/// What a packet finds that belongs to a flow in the table.
enum Known<'t> {
    /// It goes to the flow's server.
    Goes(Chosen<'t>),
    /// That is not for the fast path.
    Slow,
    /// The flow does not hold for it: a server is chosen anew.
    Anew,
    /// It is of another connection of the endpoint than the flow: it goes where it would without an entry, and changes none.
    Stranger,
}

/// What the table of servers alone says of a client's packet.
pub(super) enum ByTable<'t> {
    /// Its server.
    Chosen(Chosen<'t>),
    /// That is not for the fast path, which has changed nothing.
    Slow,
    /// Its flow is tracked: [`tracked`] decides.
    Tracked,
}

/// Chooses the server of a packet of an untracked flow. [`Reason::Reset`] as in [`tracked`].
#[inline(always)]
pub(super) fn by_table<'t, const FAST: bool, T: Tables>(
    request: &Request<'t, '_, T>,
    mode: u8,
) -> Result<ByTable<'t>, Reason> {
    let Request { packet, service, index, tables, .. } = *request;
    if mode == mode::NAT || service.policy & policy::TRACK != 0 {
        return Ok(ByTable::Tracked);
    }
    let lookup_table = tables.lookup_table(service.lookup_table).ok_or(Reason::NotReady)?;
    let slot = lookup_table.slot(LookupTable::slot_of(lookup_table.size, hash_of(packet, service)));
    if slot.has_moved() {
        return Ok(ByTable::Tracked);
    }
    // The slow path has asked before, and knows.
    if FAST && index.may_be_martian(&packet.source) {
        return Ok(ByTable::Slow);
    }
    // Datagrams of one flow cannot be told from the first of another.
    let is_new = packet.flags.asks() && !packet.flags.rst();
    Chosen::new(owner(packet, slot, tables)?, is_new, tables).map(ByTable::Chosen)
}

/// Chooses the server of a packet, which `frame` holds, whose flow is in the flow table, or is to be; `None` where that is not for the
/// fast path, which then has changed nothing. [`Reason::Reset`] where the client is to be told that the connection is over; the fast path
/// leaves that, too.
#[inline(always)]
pub(super) fn tracked<'t, const FAST: bool, T: Tables>(
    request: &Request<'t, '_, T>,
    frame: &Frame<'_>,
) -> Result<Option<Chosen<'t>>, Reason> {
    if !FAST {
        return in_table::<FAST, T>(request);
    }
    let packet = &request.packet.numbered(frame).ok_or(Reason::Truncated)?;
    in_table::<FAST, T>(&Request { packet, ..*request })
}

#[inline(always)]
fn in_table<'t, const FAST: bool, T: Tables>(
    request: &Request<'t, '_, T>,
) -> Result<Option<Chosen<'t>>, Reason> {
    let Request { packet, service, index, tables, .. } = *request;
    let flows = Flows::open(index, tables);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    // Nothing to be searched for, as with most new flows.
    let is_empty = !FAST && flows.is_empty(&query);
    let distance = if FAST {
        flows.find_near(&query, service.service)
    } else if is_empty {
        NOWHERE
    } else {
        tables.find_flow(&query, service.service)
    };
    if FAST && distance == FAR {
        return Ok(None);
    }
    if FAST {
        let Some(found) = found(&flows, &query, distance, service) else { return Ok(None) };
        return match request.known::<true>(&query, &found, &flows)? {
            Known::Goes(chosen) => Ok(Some(chosen)),
            Known::Slow | Known::Anew | Known::Stranger => Ok(None),
        };
    }
    let known = if distance == NOWHERE {
        Outcome::NONE
    } else {
        tables.known_flow(packet, service, request.arrival, distance)
    };
    match known.chosen(tables)? {
        Some(chosen) => Ok(Some(chosen)),
        None if known == Outcome::STRANGER => request.by_hash().map(Some),
        None => request.begin(&query, if known == Outcome::ANEW { distance } else { NOWHERE }).map(Some),
    }
}

/// The flow of a service at a distance from home.
#[inline(always)]
fn found<'t, T: Tables>(
    flows: &Flows<'t, T>,
    query: &Query,
    distance: u32,
    service: &IndexEntry,
) -> Option<Found<'t>> {
    flows.read(query, distance).filter(|found| found.flow.service == service.service)
}

/// A packet of the slow path that came from `arrival`, of the flow at this distance from its home.
#[inline(always)]
pub fn known<T: Tables>(
    packet: &Packet,
    service: &IndexEntry,
    arrival: ClientPath,
    distance: u32,
    tables: &T,
) -> Outcome {
    let Some(index) = tables.index() else { return Outcome::NONE };
    let request = Request { packet, arrival, service, index, tables };
    let flows = Flows::open(index, tables);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    let Some(found) = found(&flows, &query, distance, service) else { return Outcome::NONE };
    match request.known::<false>(&query, &found, &flows) {
        Ok(Known::Goes(chosen)) => Outcome::goes(chosen.backend.handle.id(), chosen.is_over),
        Ok(Known::Slow | Known::Anew) => Outcome::ANEW,
        Ok(Known::Stranger) => Outcome::STRANGER,
        Err(reason) => Outcome::refused(reason),
    }
}

/// What becomes of a packet of a flow in the table, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome(pub u64);

impl Outcome {
    const REFUSED: u64 = 1 << 63;
    const OVER: u64 = 1 << 32;
    /// There is no flow.
    pub const NONE: Self = Self(1 << 62);
    /// The flow does not hold for it: a server is chosen anew.
    const ANEW: Self = Self(1 << 61);
    /// It is of another connection than the flow.
    const STRANGER: Self = Self(1 << 60);

    #[inline(always)]
    const fn goes(backend: u32, is_over: bool) -> Self {
        let over = is_over as u64 * Self::OVER;
        Self(backend as u64 | over)
    }

    #[inline(always)]
    const fn refused(reason: Reason) -> Self {
        Self(Self::REFUSED | reason as u64)
    }

    /// The server, `None` where one is to be chosen, or why the packet is refused.
    #[inline(always)]
    fn chosen<T: Tables>(self, tables: &T) -> Result<Option<Chosen<'_>>, Reason> {
        const RESET: u64 = Outcome::refused(Reason::Reset).0;
        if self.0 == RESET {
            return Err(Reason::Reset);
        }
        if self.0 & Self::REFUSED != 0 {
            return Err(Reason::NoNextHop);
        }
        if self.0 & (Self::NONE.0 | Self::ANEW.0 | Self::STRANGER.0) != 0 {
            return Ok(None);
        }
        let backend = tables.backend(self.0 as u32).ok_or(Reason::NoServer)?;
        let is_over = self.0 & Self::OVER != 0;
        Ok(Some(Chosen { is_over, ..Chosen::new(backend, false, tables)? }))
    }
}

impl<'t, T: Tables> Request<'t, '_, T> {
    const fn answers_return(&self) -> bool {
        self.service.mode == mode::NAT
    }

    const fn is_tcp(&self) -> bool {
        self.packet.protocol == protocol::TCP
    }

    /// Whether it goes on with a connection.
    const fn goes_on(&self) -> bool {
        self.is_tcp() && !self.packet.flags.asks()
    }

    /// A packet of a flow in the table.
    #[inline(always)]
    fn known<const FAST: bool>(
        &self,
        query: &Query,
        found: &Found<'t>,
        flows: &Flows<'t, T>,
    ) -> Result<Known<'t>, Reason> {
        let Self { packet, service, tables, .. } = *self;
        let is_expired = flows.is_expired(found.meta);
        if is_expired && !(self.answers_return() && self.goes_on()) {
            return Ok(Known::Anew);
        }
        if self.is_stranger(found) {
            // Handshakes last less than a second. The connection that goes on is tracked from then on.
            let is_done = flows.silence(found.meta) >= self.index.hz;
            return Ok(if FAST || is_done { Known::Anew } else { Known::Stranger });
        }
        let Some(backend) = self.keeps(found, flows) else { return Ok(Known::Anew) };
        // Silence at this node is not silence of the connection: it may have come by another one meanwhile.
        let is_rst_due =
            backend.is_terminating() || (is_expired && (FAST || flows.is_rst_due(found, packet)));
        if self.goes_on() && is_rst_due {
            let was = found.meta.state();
            let is_over = !packet.flags.rst();
            if FAST || (is_over && was & state::RESET != 0) {
                return Err(Reason::Reset);
            }
            let chosen = Chosen::new(backend, false, tables).map_err(|_| Reason::Reset)?;
            flows.mark(found, was | state::RESET);
            recount(service.policy, was, was | state::RESET, backend, tables);
            return Ok(Known::Goes(Chosen { is_over, ..chosen }));
        }
        // Also while a neighbour is not resolved.
        let is_away = self.answers_return()
            && (found.flow.arrival != self.arrival.tag() || found.flow.client.mac() == 0);
        let is_in_doubt = found.meta.state() & (state::RESET | state::REOPENED) != 0;
        if FAST && (is_away | is_in_doubt || packet.flags.asks()) {
            return Ok(Known::Slow);
        }
        let chosen = Chosen::new(backend, false, tables)?;
        let was = found.meta.state() & if !FAST && is_expired { !state::ENDS } else { !0 };
        let segment = Segment::of(packet);
        let is_left =
            if !FAST && is_in_doubt { self.without_doubt(was, &segment, found, flows) } else { was };
        let bits = self.bits_after(is_left, &segment, found, flows);
        let is_assured_now = (bits & !found.meta.state()) & state::ASSURED != 0;
        let is_established = is_assured_now && !packet.flags.rst();
        let idle = if is_established { service.idle } else { found.meta.units() };
        if self.is_tcp() {
            let is_another = !self.answers_return() && (found.meta.state() & !bits) & state::REOPENED != 0;
            self.advance(&segment, found, is_assured_now, is_another);
        }
        if !FAST && is_away {
            self.follow(&segment, found, query);
        }
        // What ends a flow is not for the fast path.
        if flows.touch(found, bits, idle) && !FAST {
            recount(service.policy, was, bits, backend, tables);
        }
        Ok(Known::Goes(chosen))
    }

    /// Whether a segment goes on with another connection than the one that a SYN has asked for, where answers are not seen and the hash says
    /// where that other one is. The SYN may be forged: on a slot that migrates, it goes to another server than an untracked connection.
    #[inline(always)]
    fn is_stranger(&self, found: &Found<'_>) -> bool {
        const KNOWN: u32 = state::ASSURED | state::PICKED_UP;
        !self.answers_return()
            && self.goes_on()
            && found.meta.state() & KNOWN == 0
            && self.service.policy & policy::ELSEWHERE == 0
            && !Segment::of(self.packet).finishes(found.flow.numbers.client)
    }

    /// The server that a segment without an entry goes on with, which is not entered.
    #[inline(always)]
    fn by_hash(&self) -> Result<Chosen<'t>, Reason> {
        let Self { packet, service, tables, .. } = *self;
        let chosen = tables.server_by_hash(packet, service, Conflicts::default().0);
        let backend = tables.backend(chosen.backend()?).ok_or(Reason::NoServer)?;
        let is_over = backend.is_terminating() && !packet.flags.rst();
        Ok(Chosen { is_over, ..Chosen::new(backend, false, tables)? })
    }

    /// Has the answers of a flow take the kernel's path to its client, where packets come from elsewhere. Where the kernel names none,
    /// or has not resolved the neighbour, they go to where a plausible segment comes from.
    #[inline(always)]
    fn follow(&self, segment: &Segment, found: &Found<'_>, query: &Query) {
        let route = self.tables.route_to_client(self.packet);
        let numbers = found.flow.numbers;
        let is_vouched_for = self.goes_on()
            && found.meta.state() & state::ASSURED != 0
            && segment.is_plausible(numbers.client, numbers.server);
        let path = client_path::choose(route, self.arrival, self.tables);
        // A datagram has no numbers. The route leads to the client's own link, where a forger could answer ARP as well.
        let is_believed = is_vouched_for || (route.0 != 0 && !self.is_tcp());
        if path.mac() != 0 && (route.mac() != 0 || is_believed) {
            found.redirect(query, path, self.arrival);
        }
    }

    /// The server a flow in the table stays with, if it may.
    #[inline(always)]
    fn keeps(&self, found: &Found<'_>, flows: &Flows<'t, T>) -> Option<&'t Backend> {
        let backend = flows.live(found.flow.backend)?;
        let was = found.meta.state();
        if !self.is_tcp() {
            return if backend.is_alive() { Some(backend) } else { None };
        }
        if self.goes_on() {
            return Some(backend);
        }
        // A client that uses its port again, or repeats itself. An ended flow is begun anew. Where answers are not seen, the client's
        // FIN is all there is to see of an end.
        let has_ended = found.meta.is_over() || (!self.answers_return() && was & state::CLIENT_FIN != 0);
        // A RST, and that FIN, may be forged: then the connection goes on. Where answers are not seen, a client's next connection must not
        // be taken for it for ever.
        let is_recent = self.answers_return() || !flows.is_half_closed_for_long(found.meta);
        let is_doubtful = found.meta.is_reset_alone() || !found.meta.is_over();
        let may_go_on = was & state::ASSURED != 0 && is_doubtful && is_recent;
        if backend.is_terminating() || (has_ended && !may_go_on) {
            return None;
        }
        // Of an established connection, its own server decides by a challenge ACK (RFC 5961, 4), whatever takes new flows: the client
        // may not have sent this SYN. A server that fails its checks decides nothing. Where answers are not seen, and the connection
        // seems to have ended, a server that takes no new flows would get one.
        let decides = backend.is_alive() && (self.answers_return() || !has_ended);
        let is_live = was & state::ASSURED != 0 && decides;
        if backend.flags & Backend::NEW != 0 || is_live { Some(backend) } else { None }
    }

    /// A packet of no flow in the table, or of the one at this distance from home, which does not hold for it.
    #[inline(always)]
    fn begin(&self, query: &Query, distance: u32) -> Result<Chosen<'t>, Reason> {
        let Self { packet, arrival, service, tables, .. } = *self;
        let (answers_return, goes_on) = (self.answers_return(), self.goes_on());
        let (asks, is_new_entry) = (packet.flags.asks(), distance == NOWHERE);
        // Its server may be another one than is chosen now. TCP sends the packet again.
        if goes_on && is_new_entry && tables.is_resizing() {
            return Err(Reason::NotReady);
        }
        // The server is gone. In the other modes another one answers for it. A RST is not answered.
        if answers_return && goes_on && !is_new_entry {
            return Err(Reason::Reset);
        }
        let conflicts = if answers_return {
            Conflicts(tables.conflicting_flows(query, service.service))
        } else {
            Conflicts::default()
        };
        let scheduled = schedule(packet, service, conflicts, tables);
        let backend = tables.backend(scheduled.backend()?).ok_or(Reason::NoServer)?;
        let previous_backend = scheduled.previous_backend().and_then(|id| tables.backend(id));
        let is_new = (asks && !packet.flags.rst()) || (answers_return && !self.is_tcp());
        // Before anything is remembered: the packet that gets through is the one that begins the flow.
        let is_over = goes_on && backend.is_terminating() && !packet.flags.rst();
        next_hop(backend, tables)?;
        // What the keeper has need not be remembered where it is the owner too: it is who gets what nobody remembers. But what
        // is remembered of the endpoint's last connection must go: it would be found for this one.
        let is_known = !answers_return
            && is_new_entry
            && service.policy & policy::TRACK == 0
            && asks
            && previous_backend.is_some_and(|previous_backend| previous_backend.handle == backend.handle);
        // A RST begins nothing; it is sent on for whoever may still know the connection.
        if is_known || packet.flags.rst() {
            return Chosen::new(backend, is_new, tables).map(|chosen| Chosen { is_over, ..chosen });
        }
        // The most that are told apart.
        if answers_return && is_new_entry && conflicts.are_too_many() {
            return Err(Reason::ClientPortBusy);
        }
        let new = NewFlow::new(backend.handle.id(), distance, is_over);
        let is_entered = tables.enter_flow(packet, service, arrival, new);
        let chosen = Chosen { is_over, ..Chosen::new(backend, is_new, tables)? };
        if is_entered {
            return Ok(chosen);
        }
        if answers_return {
            // Without an entry its answers could not be translated: the VIP and the client's path are in it.
            return Err(Reason::FlowTableFull);
        }
        self.without_entry(chosen, previous_backend, conflicts)
    }

    /// The server of a packet whose flow the table has no room for, where answers are not seen: the one that later packets find, too.
    #[inline(always)]
    fn without_entry(
        &self,
        chosen: Chosen<'t>,
        previous_backend: Option<&'t Backend>,
        conflicts: Conflicts,
    ) -> Result<Chosen<'t>, Reason> {
        let Self { packet, service, tables, .. } = *self;
        match previous_backend {
            // Who goes on is found again, for as long as the slot has this keeper.
            Some(_) if !packet.flags.asks() => {
                tables.count_forgotten();
                Ok(chosen)
            }
            // Begun with the keeper, a flow is found without being remembered. With anybody else it would break with its
            // second packet.
            Some(previous_backend) if previous_backend.flags & Backend::NEW != 0 => {
                tables.count_forgotten();
                Chosen::new(previous_backend, true, tables)
            }
            Some(previous_backend) if previous_backend.handle != chosen.backend.handle => {
                Err(Reason::FlowTableFull)
            }
            _ if service.policy & policy::ELSEWHERE != 0 && !self.goes_on() => {
                // Where its hash leads, too, it is found without being remembered.
                let by_hash = tables.server_by_hash(packet, service, conflicts.0);
                let is_found = service.policy & (policy::ROUND_ROBIN | policy::LEAST_CONNECTIONS) == 0
                    && by_hash.previous_backend().is_none()
                    && by_hash.backend() == Ok(chosen.backend.handle.id());
                if is_found { Ok(chosen) } else { Err(Reason::FlowTableFull) }
            }
            _ => Ok(chosen),
        }
    }
}

/// Keeps a server's count of connections, where a scheduler needs it: one fewer when a flow ends, one more when it turns out to go on, or
/// begins anew. A client's FIN is an end: of the server's, nothing is seen in most modes.
#[inline(always)]
pub(super) fn recount<T: Tables>(policy: u32, was: u32, is: u32, backend: &Backend, tables: &T) {
    const ENDED: u32 = state::CLIENT_FIN | state::RESET | state::RELEASED;
    let (had_ended, has_ended) = (was & ENDED != 0, is & ENDED != 0);
    if policy & policy::LEAST_CONNECTIONS != 0
        && had_ended != has_ended
        && let Some(connections) = tables.load(backend.handle.id())
    {
        connections.add(if has_ended { u64::MAX } else { 1 });
    }
}

#[inline(always)]
pub(super) fn next_hop<'t, T: Tables>(backend: &Backend, tables: &'t T) -> Result<&'t NextHop, Reason> {
    tables.next_hop(backend.next_hop).filter(|hop| hop.ifindex != 0).ok_or(Reason::NoNextHop)
}
