//! Selects the server of a client's packet.
//!
//! While a server table does not change, the hash of a flow alone decides, and no flow needs an entry. A migrating slot
//! names two servers. Its current backend receives new flows; its previous backend has the flows from before the
//! change. The first packet of a flow after the change makes an entry: a SYN with the current backend, a mid-stream
//! segment with the previous one. On other slots flows are tracked only in mode `nat`, whose replies must be
//! translated, or where the listener asks for it.
//!
//! Invariants:
//!
//! - A TCP connection stays with its server for as long as the configuration allows.
//! - A datagram stays with its server while that is able to serve and has a next hop.
//! - A SYN never goes to a server that takes no new flows. Exception: an established connection, whose own server
//!   answers.
//! - Mode `nat`: live flows of one client endpoint lead to different server endpoints, so that replies can be told
//!   apart.

mod outcome;
mod progress;

pub use outcome::Outcome;

use super::{
    client_path,
    enter::NewFlow,
    flows::{Conflicts, FAR, Flows, Found, NOWHERE, Query},
    numbers::Segment,
    schedule::schedule,
    slots::{current_backend, hash_of},
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

/// The server selected for a packet.
pub(super) struct Chosen<'t> {
    pub(super) backend: &'t Backend,
    pub(super) hop: &'t NextHop,
    /// Whether the packet begins a flow. False for datagrams of untracked flows, which do not show it.
    pub(super) is_new: bool,
    /// Whether the connection is finished: the packet goes to the server as a RST.
    pub(super) is_finished: bool,
}

impl<'t> Chosen<'t> {
    #[inline(always)]
    fn new<T: Tables>(backend: &'t Backend, is_new: bool, tables: &'t T) -> Result<Self, Reason> {
        Ok(Self { backend, hop: next_hop(backend, tables)?, is_new, is_finished: false })
    }
}

/// A client's packet and the inputs of the selection.
pub(super) struct Request<'t, 'p, T> {
    pub(super) packet: &'p Packet,
    /// Interface and hardware address that the packet came from.
    pub(super) arrival: ClientPath,
    pub(super) service: &'t IndexEntry,
    pub(super) index: &'t ServiceIndex,
    pub(super) tables: &'t T,
}

/// What a flow-table entry says about a packet.
enum Known<'t> {
    /// The packet goes to the flow's server.
    Goes(Chosen<'t>),
    /// The slow path must decide.
    Slow,
    /// The entry does not hold for the packet. A server is selected anew, and the entry is replaced.
    Anew,
    /// The packet belongs to another connection of the endpoint. It goes where it would go without an entry, and
    /// changes none.
    Stranger,
}

/// What the server table alone says about a client's packet.
pub(super) enum ByTable<'t> {
    /// The server of an untracked flow.
    Chosen(Chosen<'t>),
    /// The slow path must decide. Nothing has been changed.
    Slow,
    /// The flow is tracked: [`tracked`] decides.
    Tracked,
}

/// Selects the server of a packet of an untracked flow. Returns [`Reason::Reset`] in the cases that [`tracked`] names.
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
    if slot.is_migrating() {
        return Ok(ByTable::Tracked);
    }
    // The slow path has already checked for martian sources.
    if FAST && index.may_be_martian(&packet.source) {
        return Ok(ByTable::Slow);
    }
    // The first datagram of a flow looks like all others.
    let is_new = packet.flags.asks() && !packet.flags.rst();
    Chosen::new(current_backend(packet, slot, tables)?, is_new, tables).map(ByTable::Chosen)
}

/// Selects the server of a packet of a tracked flow; `frame` holds the packet.
///
/// Returns `None` where the slow path must decide; nothing has been changed then. Returns [`Reason::Reset`] where the
/// connection is finished and the client receives a RST. The fast path leaves the RST to the slow path, too.
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
    // Most new flows find an empty home bucket, which saves the call of the search.
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

/// The entry at `distance` from the home bucket, if it is a flow of this service.
#[inline(always)]
fn found<'t, T: Tables>(
    flows: &Flows<'t, T>,
    query: &Query,
    distance: u32,
    service: &IndexEntry,
) -> Option<Found<'t>> {
    flows.read(query, distance).filter(|found| found.flow.service == service.service)
}

/// Decides on a packet of a tracked flow in the slow path. `distance` is that of its entry from the home bucket. A BPF
/// subprogram ([`Tables::known_flow`]).
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
        Ok(Known::Goes(chosen)) => Outcome::goes(chosen.backend.handle.id(), chosen.is_finished),
        Ok(Known::Slow | Known::Anew) => Outcome::ANEW,
        Ok(Known::Stranger) => Outcome::STRANGER,
        Err(reason) => Outcome::refused(reason),
    }
}

impl<'t, T: Tables> Request<'t, '_, T> {
    const fn answers_return(&self) -> bool {
        self.service.mode == mode::NAT
    }

    const fn is_tcp(&self) -> bool {
        self.packet.protocol == protocol::TCP
    }

    /// Whether the packet is a segment of an existing connection: TCP, and no SYN without ACK.
    const fn goes_on(&self) -> bool {
        self.is_tcp() && !self.packet.flags.asks()
    }

    /// Decides on a packet that has an entry, and updates the entry.
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
            // Handshakes take less than a second. After that the connection that continues takes the entry.
            let is_done = flows.silence(found.meta) >= self.index.hz;
            return Ok(if FAST || is_done { Known::Anew } else { Known::Stranger });
        }
        let Some(backend) = self.keeps(found, flows) else { return Ok(Known::Anew) };
        // The entry may have expired at this node alone: packets may have taken another node meanwhile.
        let is_rst_due =
            backend.is_terminating() || (is_expired && (FAST || flows.is_rst_due(found, packet)));
        if self.goes_on() && is_rst_due {
            let was = found.meta.state();
            let is_finished = !packet.flags.rst();
            if FAST || (is_finished && was & state::RESET != 0) {
                return Err(Reason::Reset);
            }
            let chosen = Chosen::new(backend, false, tables).map_err(|_| Reason::Reset)?;
            flows.mark(found, was | state::RESET);
            recount(service.policy, was, was | state::RESET, backend, tables);
            return Ok(Known::Goes(Chosen { is_finished, ..chosen }));
        }
        // Hardware address 0 means that the client's neighbour was not resolved.
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
        // Only the slow path sees packets that end a flow, so it alone corrects connection counts.
        if flows.touch(found, bits, idle) && !FAST {
            recount(service.policy, was, bits, backend, tables);
        }
        Ok(Known::Goes(chosen))
    }

    /// Whether a segment continues another connection of the endpoint than the one whose SYN made the entry. Asked only
    /// where replies are not seen and the hash leads to the other connection.
    ///
    /// The SYN may be forged. On a migrating slot it goes to another server than an untracked connection.
    #[inline(always)]
    fn is_stranger(&self, found: &Found<'_>) -> bool {
        const KNOWN: u32 = state::ASSURED | state::PICKED_UP;
        !self.answers_return()
            && self.goes_on()
            && found.meta.state() & KNOWN == 0
            && self.service.policy & policy::ELSEWHERE == 0
            && !Segment::of(self.packet).finishes(found.flow.numbers.client)
    }

    /// The server of a mid-stream segment by the hash alone. Makes no entry.
    #[inline(always)]
    fn by_hash(&self) -> Result<Chosen<'t>, Reason> {
        let Self { packet, service, tables, .. } = *self;
        let chosen = tables.server_by_hash(packet, service, Conflicts::default().0);
        let backend = tables.backend(chosen.backend()?).ok_or(Reason::NoServer)?;
        let is_finished = backend.is_terminating() && !packet.flags.rst();
        Ok(Chosen { is_finished, ..Chosen::new(backend, false, tables)? })
    }

    /// Updates the client path of an entry when its packets arrive from elsewhere. The kernel's route decides. Without
    /// a route, or while its neighbour is not resolved, the origin of a plausible segment does.
    #[inline(always)]
    fn follow(&self, segment: &Segment, found: &Found<'_>, query: &Query) {
        let route = self.tables.route_to_client(self.packet);
        let numbers = found.flow.numbers;
        let is_vouched_for = self.goes_on()
            && found.meta.state() & state::ASSURED != 0
            && segment.is_plausible(numbers.client, numbers.server);
        let path = client_path::choose(route, self.arrival, self.tables);
        // A datagram has no sequence numbers. This route leads to the client's own link, where an attacker could forge
        // ARP as well.
        let is_believed = is_vouched_for || (route.0 != 0 && !self.is_tcp());
        if path.mac() != 0 && (route.mac() != 0 || is_believed) {
            found.redirect(query, path, self.arrival);
        }
    }

    /// The server that a tracked flow stays with; `None` if a server must be selected anew.
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
        // The client reuses its port or retransmits its SYN. A finished flow begins anew. Where replies are not seen,
        // the client's FIN is the only sign of an end.
        let has_ended = found.meta.is_finished() || (!self.answers_return() && was & state::CLIENT_FIN != 0);
        // The RST or the FIN may be forged, and the connection may continue. Where replies are not seen, that doubt
        // ends after a time: a port that is used again must not stay with the old connection for ever.
        let is_recent = self.answers_return() || !flows.is_half_closed_for_long(found.meta);
        let is_doubtful = found.meta.is_reset_alone() || !found.meta.is_finished();
        let may_go_on = was & state::ASSURED != 0 && is_doubtful && is_recent;
        if backend.is_terminating() || (has_ended && !may_go_on) {
            return None;
        }
        // The server of an established connection answers the SYN by a challenge ACK (RFC 5961, 4), even if it takes no
        // new flows: the SYN may be forged. An unhealthy server gets no SYN. Where replies are not seen, a server that
        // takes no new flows gets no SYN of a connection that seems finished: it would accept it.
        let decides = backend.is_alive() && (self.answers_return() || !has_ended);
        let is_live = was & state::ASSURED != 0 && decides;
        if backend.flags & Backend::NEW != 0 || is_live { Some(backend) } else { None }
    }

    /// Selects a server for a packet without an entry, or with one that does not hold for it. `distance` is that of the
    /// entry to replace, or [`NOWHERE`].
    #[inline(always)]
    fn begin(&self, query: &Query, distance: u32) -> Result<Chosen<'t>, Reason> {
        let Self { packet, arrival, service, tables, .. } = *self;
        let (answers_return, goes_on) = (self.answers_return(), self.goes_on());
        let (asks, is_new_entry) = (packet.flags.asks(), distance == NOWHERE);
        // The flow's entry may still be in the table that this one replaces, with another server. TCP retransmits the
        // segment.
        if goes_on && is_new_entry && tables.is_resizing() {
            return Err(Reason::NotReady);
        }
        // The flow's server is gone, so its connection cannot continue. In the other modes another server answers the
        // segment.
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
        // Before an entry is made: the packet that gets through is the one that begins the flow.
        let is_finished = goes_on && backend.is_terminating() && !packet.flags.rst();
        next_hop(backend, tables)?;
        // A flow of the previous backend needs no entry if that is the current backend, too: the hash finds it. But an
        // old entry of the endpoint must be replaced, or later packets would match it.
        let is_known = !answers_return
            && is_new_entry
            && service.policy & policy::TRACK == 0
            && asks
            && previous_backend.is_some_and(|previous_backend| previous_backend.handle == backend.handle);
        // A RST begins no flow. It is forwarded to the end that may still have the connection.
        if is_known || packet.flags.rst() {
            return Chosen::new(backend, is_new, tables).map(|chosen| Chosen { is_finished, ..chosen });
        }
        // [`Conflicts`] holds four flows; a fifth could not be told from them.
        if answers_return && is_new_entry && conflicts.are_too_many() {
            return Err(Reason::ClientPortBusy);
        }
        let new = NewFlow::new(backend.handle.id(), distance, is_finished);
        let is_entered = tables.enter_flow(packet, service, arrival, new);
        let chosen = Chosen { is_finished, ..Chosen::new(backend, is_new, tables)? };
        if is_entered {
            return Ok(chosen);
        }
        if answers_return {
            // Without an entry replies cannot be translated: it holds the VIP and the client path.
            return Err(Reason::FlowTableFull);
        }
        self.without_entry(chosen, previous_backend, conflicts)
    }

    /// The server of a packet whose flow got no entry, in modes where replies are not seen. Later packets must find the
    /// same server.
    #[inline(always)]
    fn without_entry(
        &self,
        chosen: Chosen<'t>,
        previous_backend: Option<&'t Backend>,
        conflicts: Conflicts,
    ) -> Result<Chosen<'t>, Reason> {
        let Self { packet, service, tables, .. } = *self;
        match previous_backend {
            // The hash leads later packets to the same server, for as long as the slot keeps this previous backend.
            Some(_) if !packet.flags.asks() => {
                tables.count_forgotten();
                Ok(chosen)
            }
            // The hash finds a new flow of the previous backend without an entry. With any other server the second
            // packet would break the flow.
            Some(previous_backend) if previous_backend.flags & Backend::NEW != 0 => {
                tables.count_forgotten();
                Chosen::new(previous_backend, true, tables)
            }
            Some(previous_backend) if previous_backend.handle != chosen.backend.handle => {
                Err(Reason::FlowTableFull)
            }
            _ if service.policy & policy::ELSEWHERE != 0 && !self.goes_on() => {
                // If the hash leads to the selected server, later packets find it without an entry.
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

/// Updates a server's connection count for the `wlc` scheduler. It falls when a flow ends, and rises when that flow
/// continues or begins anew. The client's FIN counts as the end: most modes do not see the server's.
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
