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

mod packed_disposition;
mod progress;

pub use packed_disposition::PackedDisposition;

use super::{
    client_path,
    flows::{Conflicts, EntrySnapshot, FAR, Flows, NOT_FOUND, Query},
    insert::NewFlow,
    map_access::Maps,
    schedule::schedule,
    sequence_numbers::Segment,
    slots::{current_backend, hash_of},
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
pub(super) struct Selection<'t> {
    pub(super) backend: &'t Backend,
    pub(super) hop: &'t NextHop,
    /// Whether the packet begins a flow. False for datagrams of untracked flows, which do not show it.
    pub(super) is_new: bool,
    /// Whether the connection is finished: the packet goes to the server as a RST.
    pub(super) is_finished: bool,
}

impl<'t> Selection<'t> {
    #[inline(always)]
    fn new<T: Maps>(backend: &'t Backend, is_new: bool, maps: &'t T) -> Result<Self, Reason> {
        Ok(Self { backend, hop: next_hop(backend, maps)?, is_new, is_finished: false })
    }
}

/// A client's packet and the inputs of the selection.
pub(super) struct Request<'t, 'p, T> {
    pub(super) packet: &'p Packet,
    /// Interface and hardware address that the packet came from.
    pub(super) arrival: ClientPath,
    pub(super) service: &'t IndexEntry,
    pub(super) index: &'t ServiceIndex,
    pub(super) maps: &'t T,
}

/// What a flow-table entry says about a packet.
enum Disposition<'t> {
    /// The packet goes to the flow's server.
    Forward(Selection<'t>),
    /// The slow path must decide.
    Slow,
    /// The entry does not hold for the packet. A server is selected anew, and the entry is replaced.
    Reselect,
    /// The packet belongs to another connection of the endpoint. It goes where it would go without an entry, and
    /// changes none.
    OtherConnection,
}

/// What the server table alone says about a client's packet.
pub(super) enum UntrackedSelection<'t> {
    /// The server of an untracked flow.
    Selection(Selection<'t>),
    /// The slow path must decide. Nothing has been changed.
    Slow,
    /// The flow is tracked: [`select_tracked`] decides.
    Tracked,
}

/// Selects the server of a packet of an untracked flow. Returns [`Reason::Reset`] in the cases that [`select_tracked`] names.
#[inline(always)]
pub(super) fn select_untracked<'t, const FAST: bool, T: Maps>(
    request: &Request<'t, '_, T>,
    mode: u8,
) -> Result<UntrackedSelection<'t>, Reason> {
    let Request { packet, service, index, maps, .. } = *request;
    if mode == mode::NAT || service.policy & policy::TRACK != 0 {
        return Ok(UntrackedSelection::Tracked);
    }
    let lookup_table = maps.lookup_table(service.lookup_table).ok_or(Reason::NotReady)?;
    let slot = lookup_table.slot(LookupTable::slot_of(lookup_table.size, hash_of(packet, service)));
    if slot.is_migrating() {
        return Ok(UntrackedSelection::Tracked);
    }
    // The slow path has already checked for martian sources.
    if FAST && index.may_be_martian(&packet.source) {
        return Ok(UntrackedSelection::Slow);
    }
    // The first datagram of a flow looks like all others.
    let is_new = packet.flags.is_syn() && !packet.flags.rst();
    Selection::new(current_backend(packet, slot, maps)?, is_new, maps).map(UntrackedSelection::Selection)
}

/// Selects the server of a packet of a tracked flow; `frame` holds the packet.
///
/// Returns `None` where the slow path must decide; nothing has been changed then. Returns [`Reason::Reset`] where the
/// connection is finished and the client receives a RST. The fast path leaves the RST to the slow path, too.
#[inline(always)]
pub(super) fn select_tracked<'t, const FAST: bool, T: Maps>(
    request: &Request<'t, '_, T>,
    frame: &Frame<'_>,
) -> Result<Option<Selection<'t>>, Reason> {
    if !FAST {
        return select_in_flow_table::<FAST, T>(request);
    }
    let packet = &request.packet.numbered(frame).ok_or(Reason::Truncated)?;
    select_in_flow_table::<FAST, T>(&Request { packet, ..*request })
}

#[inline(always)]
fn select_in_flow_table<'t, const FAST: bool, T: Maps>(
    request: &Request<'t, '_, T>,
) -> Result<Option<Selection<'t>>, Reason> {
    let Request { packet, service, index, maps, .. } = *request;
    let flows = Flows::open(index, maps);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    // Most new flows find an empty home bucket, which saves the call of the search.
    let is_empty = !FAST && flows.is_empty(&query);
    let distance = if FAST {
        flows.find_near(&query, service.service)
    } else if is_empty {
        NOT_FOUND
    } else {
        maps.find_flow(&query, service.service)
    };
    if FAST && distance == FAR {
        return Ok(None);
    }
    if FAST {
        let Some(found) = found(&flows, &query, distance, service) else { return Ok(None) };
        return match request.disposition::<true>(&query, &found, &flows)? {
            Disposition::Forward(selection) => Ok(Some(selection)),
            Disposition::Slow | Disposition::Reselect | Disposition::OtherConnection => Ok(None),
        };
    }
    let disposition = if distance == NOT_FOUND {
        PackedDisposition::NO_ENTRY
    } else {
        maps.flow_disposition(packet, service, request.arrival, distance)
    };
    match disposition.selection(maps)? {
        Some(selection) => Ok(Some(selection)),
        None if disposition == PackedDisposition::OTHER_CONNECTION => request.by_hash().map(Some),
        None => request
            .begin_flow(&query, if disposition == PackedDisposition::RESELECT { distance } else { NOT_FOUND })
            .map(Some),
    }
}

/// The entry at `distance` from the home bucket, if it is a flow of this service.
#[inline(always)]
fn found<'t, T: Maps>(
    flows: &Flows<'t, T>,
    query: &Query,
    distance: u32,
    service: &IndexEntry,
) -> Option<EntrySnapshot<'t>> {
    flows.read(query, distance).filter(|found| found.flow.service == service.service)
}

/// Decides on a packet of a tracked flow in the slow path. `distance` is that of its entry from the home bucket. A BPF
/// subprogram ([`Maps::flow_disposition`]).
#[inline(always)]
pub fn disposition<T: Maps>(
    packet: &Packet,
    service: &IndexEntry,
    arrival: ClientPath,
    distance: u32,
    maps: &T,
) -> PackedDisposition {
    let Some(index) = maps.index() else { return PackedDisposition::NO_ENTRY };
    let request = Request { packet, arrival, service, index, maps };
    let flows = Flows::open(index, maps);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    let Some(found) = found(&flows, &query, distance, service) else { return PackedDisposition::NO_ENTRY };
    match request.disposition::<false>(&query, &found, &flows) {
        Ok(Disposition::Forward(selection)) => {
            PackedDisposition::forward(selection.backend.handle.id(), selection.is_finished)
        }
        Ok(Disposition::Slow | Disposition::Reselect) => PackedDisposition::RESELECT,
        Ok(Disposition::OtherConnection) => PackedDisposition::OTHER_CONNECTION,
        Err(reason) => PackedDisposition::refusal(reason),
    }
}

impl<'t, T: Maps> Request<'t, '_, T> {
    const fn sees_replies(&self) -> bool {
        self.service.mode == mode::NAT
    }

    const fn is_tcp(&self) -> bool {
        self.packet.protocol == protocol::TCP
    }

    /// Whether the packet is a segment of an existing connection: TCP, and no SYN without ACK.
    const fn is_mid_stream(&self) -> bool {
        self.is_tcp() && !self.packet.flags.is_syn()
    }

    /// Decides on a packet that has an entry, and updates the entry.
    #[inline(always)]
    fn disposition<const FAST: bool>(
        &self,
        query: &Query,
        found: &EntrySnapshot<'t>,
        flows: &Flows<'t, T>,
    ) -> Result<Disposition<'t>, Reason> {
        let Self { packet, service, maps, .. } = *self;
        let is_expired = flows.is_expired(found.sequence_word);
        if is_expired && !(self.sees_replies() && self.is_mid_stream()) {
            return Ok(Disposition::Reselect);
        }
        if self.is_other_connection(found) {
            // Handshakes take less than a second. After that the connection that continues takes the entry.
            let is_done = flows.silence(found.sequence_word) >= self.index.hz;
            return Ok(if FAST || is_done { Disposition::Reselect } else { Disposition::OtherConnection });
        }
        let Some(backend) = self.tracked_backend(found, flows) else { return Ok(Disposition::Reselect) };
        // The entry may have expired at this node alone: packets may have taken another node meanwhile.
        let is_rst_due =
            backend.is_terminating() || (is_expired && (FAST || flows.is_rst_due(found, packet)));
        if self.is_mid_stream() && is_rst_due {
            let was = found.sequence_word.state();
            let is_finished = !packet.flags.rst();
            if FAST || (is_finished && was & state::RESET != 0) {
                return Err(Reason::Reset);
            }
            let selection = Selection::new(backend, false, maps).map_err(|_| Reason::Reset)?;
            flows.mark(found, was | state::RESET);
            update_connection_count(service.policy, was, was | state::RESET, backend, maps);
            return Ok(Disposition::Forward(Selection { is_finished, ..selection }));
        }
        // Hardware address 0 means that the client's neighbour was not resolved.
        let needs_client_path =
            self.sees_replies() && (found.flow.arrival != self.arrival.tag() || found.flow.client.mac() == 0);
        let is_in_doubt = found.sequence_word.state() & (state::RESET | state::REOPENED) != 0;
        if FAST && (needs_client_path | is_in_doubt || packet.flags.is_syn()) {
            return Ok(Disposition::Slow);
        }
        let selection = Selection::new(backend, false, maps)?;
        let was = found.sequence_word.state() & if !FAST && is_expired { !state::ENDS } else { !0 };
        let segment = Segment::of(packet);
        let remaining =
            if !FAST && is_in_doubt { self.resolve_doubt(was, &segment, found, flows) } else { was };
        let bits = self.state_after(remaining, &segment, found, flows);
        let is_assured_now = (bits & !found.sequence_word.state()) & state::ASSURED != 0;
        let is_established = is_assured_now && !packet.flags.rst();
        let idle = if is_established { service.idle } else { found.sequence_word.units() };
        if self.is_tcp() {
            let is_another =
                !self.sees_replies() && (found.sequence_word.state() & !bits) & state::REOPENED != 0;
            self.advance(&segment, found, is_assured_now, is_another);
        }
        if !FAST && needs_client_path {
            self.update_client_path(&segment, found, query);
        }
        // Only the slow path sees packets that end a flow, so it alone corrects connection counts.
        if flows.touch(found, bits, idle) && !FAST {
            update_connection_count(service.policy, was, bits, backend, maps);
        }
        Ok(Disposition::Forward(selection))
    }

    /// Whether a segment continues another connection of the endpoint than the one whose SYN made the entry. Asked only
    /// where replies are not seen and the hash leads to the other connection.
    ///
    /// The SYN may be forged. On a migrating slot it goes to another server than an untracked connection.
    #[inline(always)]
    fn is_other_connection(&self, found: &EntrySnapshot<'_>) -> bool {
        const KNOWN: u32 = state::ASSURED | state::PICKED_UP;
        !self.sees_replies()
            && self.is_mid_stream()
            && found.sequence_word.state() & KNOWN == 0
            && self.service.policy & policy::PINNED_ELSEWHERE == 0
            && !Segment::of(self.packet).finishes(found.flow.numbers.client)
    }

    /// The server of a mid-stream segment by the hash alone. Makes no entry.
    #[inline(always)]
    fn by_hash(&self) -> Result<Selection<'t>, Reason> {
        let Self { packet, service, maps, .. } = *self;
        let selection = maps.server_by_hash(packet, service, Conflicts::default().0);
        let backend = maps.backend(selection.backend()?).ok_or(Reason::NoServer)?;
        let is_finished = backend.is_terminating() && !packet.flags.rst();
        Ok(Selection { is_finished, ..Selection::new(backend, false, maps)? })
    }

    /// Updates the client path of an entry when its packets arrive from elsewhere. The kernel's route decides. Without
    /// a route, or while its neighbour is not resolved, the origin of a plausible segment does.
    #[inline(always)]
    fn update_client_path(&self, segment: &Segment, found: &EntrySnapshot<'_>, query: &Query) {
        let route = self.maps.route_to_client(self.packet);
        let numbers = found.flow.numbers;
        let is_vouched_for = self.is_mid_stream()
            && found.sequence_word.state() & state::ASSURED != 0
            && segment.is_plausible(numbers.client, numbers.server);
        let path = client_path::choose(route, self.arrival, self.maps);
        // A datagram has no sequence numbers. This route leads to the client's own link, where an attacker could forge
        // ARP as well.
        let is_believed = is_vouched_for || (route.0 != 0 && !self.is_tcp());
        if path.mac() != 0 && (route.mac() != 0 || is_believed) {
            found.set_client_path(query, path, self.arrival);
        }
    }

    /// The server that a tracked flow stays with; `None` if a server must be selected anew.
    #[inline(always)]
    fn tracked_backend(&self, found: &EntrySnapshot<'_>, flows: &Flows<'t, T>) -> Option<&'t Backend> {
        let backend = flows.live_backend(found.flow.backend)?;
        let was = found.sequence_word.state();
        if !self.is_tcp() {
            return if backend.is_alive() { Some(backend) } else { None };
        }
        if self.is_mid_stream() {
            return Some(backend);
        }
        // The client reuses its port or retransmits its SYN. A finished flow begins anew. Where replies are not seen,
        // the client's FIN is the only sign of an end.
        let has_ended =
            found.sequence_word.is_finished() || (!self.sees_replies() && was & state::CLIENT_FIN != 0);
        // The RST or the FIN may be forged, and the connection may continue. Where replies are not seen, that doubt
        // ends after a time: a port that is used again must not stay with the old connection for ever.
        let is_recent = self.sees_replies() || !flows.is_half_closed_for_long(found.sequence_word);
        let is_doubtful = found.sequence_word.is_reset_alone() || !found.sequence_word.is_finished();
        let may_go_on = was & state::ASSURED != 0 && is_doubtful && is_recent;
        if backend.is_terminating() || (has_ended && !may_go_on) {
            return None;
        }
        // The server of an established connection answers the SYN by a challenge ACK (RFC 5961, 4), even if it takes no
        // new flows: the SYN may be forged. An unhealthy server gets no SYN. Where replies are not seen, a server that
        // takes no new flows gets no SYN of a connection that seems finished: it would accept it.
        let decides = backend.is_alive() && (self.sees_replies() || !has_ended);
        let is_live = was & state::ASSURED != 0 && decides;
        if backend.flags & Backend::ACCEPTS_NEW != 0 || is_live { Some(backend) } else { None }
    }

    /// Selects a server for a packet without an entry, or with one that does not hold for it. `distance` is that of the
    /// entry to replace, or [`NOT_FOUND`].
    #[inline(always)]
    fn begin_flow(&self, query: &Query, distance: u32) -> Result<Selection<'t>, Reason> {
        let Self { packet, arrival, service, maps, .. } = *self;
        let (sees_replies, is_mid_stream) = (self.sees_replies(), self.is_mid_stream());
        let (is_syn, is_new_entry) = (packet.flags.is_syn(), distance == NOT_FOUND);
        // The flow's entry may still be in the table that this one replaces, with another server. TCP retransmits the
        // segment.
        if is_mid_stream && is_new_entry && maps.is_resizing() {
            return Err(Reason::NotReady);
        }
        // The flow's server is gone, so its connection cannot continue. In the other modes another server answers the
        // segment.
        if sees_replies && is_mid_stream && !is_new_entry {
            return Err(Reason::Reset);
        }
        let conflicts = if sees_replies {
            Conflicts(maps.conflicting_flows(query, service.service))
        } else {
            Conflicts::default()
        };
        let scheduled = schedule(packet, service, conflicts, maps);
        let backend = maps.backend(scheduled.backend()?).ok_or(Reason::NoServer)?;
        let previous_backend = scheduled.previous_backend().and_then(|id| maps.backend(id));
        let is_new = (is_syn && !packet.flags.rst()) || (sees_replies && !self.is_tcp());
        // Before an entry is made: the packet that gets through is the one that begins the flow.
        let is_finished = is_mid_stream && backend.is_terminating() && !packet.flags.rst();
        next_hop(backend, maps)?;
        // A flow of the previous backend needs no entry if that is the current backend, too: the hash finds it. But an
        // old entry of the endpoint must be replaced, or later packets would match it.
        let is_known = !sees_replies
            && is_new_entry
            && service.policy & policy::TRACK == 0
            && is_syn
            && previous_backend.is_some_and(|previous_backend| previous_backend.handle == backend.handle);
        // A RST begins no flow. It is forwarded to the end that may still have the connection.
        if is_known || packet.flags.rst() {
            return Selection::new(backend, is_new, maps)
                .map(|selection| Selection { is_finished, ..selection });
        }
        // [`Conflicts`] holds four flows; a fifth could not be told from them.
        if sees_replies && is_new_entry && conflicts.is_full() {
            return Err(Reason::ClientPortBusy);
        }
        let new = NewFlow::new(backend.handle.id(), distance, is_finished);
        let is_inserted = maps.insert_flow(packet, service, arrival, new);
        let selection = Selection { is_finished, ..Selection::new(backend, is_new, maps)? };
        if is_inserted {
            return Ok(selection);
        }
        if sees_replies {
            // Without an entry replies cannot be translated: it holds the VIP and the client path.
            return Err(Reason::FlowTableFull);
        }
        self.without_entry(selection, previous_backend, conflicts)
    }

    /// The server of a packet whose flow got no entry, in modes where replies are not seen. Later packets must find the
    /// same server.
    #[inline(always)]
    fn without_entry(
        &self,
        selection: Selection<'t>,
        previous_backend: Option<&'t Backend>,
        conflicts: Conflicts,
    ) -> Result<Selection<'t>, Reason> {
        let Self { packet, service, maps, .. } = *self;
        match previous_backend {
            // The hash leads later packets to the same server, for as long as the slot keeps this previous backend.
            Some(_) if !packet.flags.is_syn() => {
                maps.count_evicted_migrating();
                Ok(selection)
            }
            // The hash finds a new flow of the previous backend without an entry. With any other server the second
            // packet would break the flow.
            Some(previous_backend) if previous_backend.flags & Backend::ACCEPTS_NEW != 0 => {
                maps.count_evicted_migrating();
                Selection::new(previous_backend, true, maps)
            }
            Some(previous_backend) if previous_backend.handle != selection.backend.handle => {
                Err(Reason::FlowTableFull)
            }
            _ if service.policy & policy::PINNED_ELSEWHERE != 0 && !self.is_mid_stream() => {
                // If the hash leads to the selected server, later packets find it without an entry.
                let by_hash = maps.server_by_hash(packet, service, conflicts.0);
                let is_found = service.policy & (policy::ROUND_ROBIN | policy::LEAST_CONNECTIONS) == 0
                    && by_hash.previous_backend().is_none()
                    && by_hash.backend() == Ok(selection.backend.handle.id());
                if is_found { Ok(selection) } else { Err(Reason::FlowTableFull) }
            }
            _ => Ok(selection),
        }
    }
}

/// Updates a server's connection count for the `wlc` scheduler. It falls when a flow ends, and rises when that flow
/// continues or begins anew. The client's FIN counts as the end: most modes do not see the server's.
#[inline(always)]
pub(super) fn update_connection_count<T: Maps>(policy: u32, was: u32, is: u32, backend: &Backend, maps: &T) {
    const ENDED: u32 = state::CLIENT_FIN | state::RESET | state::TUPLE_REUSED;
    let (had_ended, has_ended) = (was & ENDED != 0, is & ENDED != 0);
    if policy & policy::LEAST_CONNECTIONS != 0
        && had_ended != has_ended
        && let Some(connections) = maps.connection_count(backend.handle.id())
    {
        connections.add(if has_ended { u64::MAX } else { 1 });
    }
}

#[inline(always)]
pub(super) fn next_hop<'t, T: Maps>(backend: &Backend, maps: &'t T) -> Result<&'t NextHop, Reason> {
    maps.next_hop(backend.next_hop).filter(|hop| hop.ifindex != 0).ok_or(Reason::NoNextHop)
}
