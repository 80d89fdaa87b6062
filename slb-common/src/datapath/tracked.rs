//! What a flow's entry says about a client's packet: the server that the flow stays with, and what the packet changes
//! in the entry.

mod packed_disposition;
mod progress;

pub use packed_disposition::PackedDisposition;

use super::{
    client_path,
    flows::{EntrySnapshot, Flows, Query},
    ipip,
    maps::Maps,
    parse::Packet,
    refusal::Refusal,
    sequence_numbers::Segment,
};
use crate::{
    abi::{
        Handle,
        backend::{Backend, NextHop},
        flow::{Client, ClientPath, FlowTag, state},
        lookup_table::NO_BACKEND,
        service::{IndexEntry, ServiceIndex, mode, policy},
        source::Source,
        stats::Reason,
    },
    net::headers::protocol,
};

/// The server selected for a packet.
pub(super) struct Selection<'t> {
    pub(super) backend: &'t Backend,
    pub(super) hop: &'t NextHop,
    /// Whether the packet begins a flow. False for datagrams of untracked flows, which do not show it.
    pub(super) is_new: bool,
    /// Whether the connection is finished: the packet goes to the server as a RST.
    pub(super) is_finished: bool,
    /// Whether the packet opens a connection: a SYN, or what the client sends before the flow is assured.
    pub(super) is_opening: bool,
    /// The source that the packet gets; [`Source::NONE`] if it keeps its own.
    pub(super) source: Source,
    /// Sequence offset of a flow that began with a SYN cookie; 0 for others.
    pub(super) offset: u32,
}

impl<'t> Selection<'t> {
    #[inline(always)]
    pub(super) fn new<T: Maps>(backend: &'t Backend, is_new: bool, maps: &'t T) -> Result<Self, Refusal> {
        Ok(Self {
            backend,
            hop: next_hop(backend, maps)?,
            is_new,
            is_finished: false,
            is_opening: is_new,
            source: Source::NONE,
            offset: 0,
        })
    }

    /// Whether the packet exceeds the MTU towards the server.
    #[inline(always)]
    fn is_too_big(&self, packet: &Packet, mode: u8) -> bool {
        let overhead = ipip::overhead(mode, self.backend);
        packet.len + overhead > self.hop.mtu as usize
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
pub(super) enum Disposition<'t> {
    /// The packet goes to the flow's server.
    Forward(Selection<'t>),
    /// The entry does not hold for the packet. A server is selected anew, and the entry is replaced.
    Reselect,
    /// The packet belongs to another connection of the endpoint. It goes where it would go without an entry, and
    /// changes none.
    OtherConnection,
}

/// What the slow path asks about an entry: its distance from the home bucket, and the server that the packet's connection
/// ID names, as one number.
#[derive(Debug, Clone, Copy)]
pub struct EntryQuestion(pub u64);

impl EntryQuestion {
    const NAMED: u32 = 32;

    /// `named` is the id of a server, or [`NO_BACKEND`].
    #[inline(always)]
    pub(super) const fn new(distance: u32, named: u32) -> Self {
        Self(distance as u64 | (named as u64) << Self::NAMED)
    }

    #[inline(always)]
    const fn distance(self) -> u32 {
        self.0 as u32
    }

    /// Whether the packet names another server than the entry. An entry whose server is gone may have the same id: it
    /// does not hold anyway.
    #[inline(always)]
    const fn names_other_than(self, server: Handle) -> bool {
        let named = (self.0 >> Self::NAMED) as u32;
        named != NO_BACKEND && named != server.id()
    }
}

/// The entry at `distance` from the home bucket, if it is the flow with this tag. Without `RANGES` its service has no port
/// range.
#[inline(always)]
pub(super) fn found<'t, const RANGES: bool, T: Maps>(
    flows: &Flows<'t, T>,
    query: &Query,
    distance: u32,
    tag: FlowTag,
) -> Option<EntrySnapshot<'t>> {
    flows
        .read(query, distance)
        .filter(|found| found.flow.service == tag.service() && (!RANGES || found.flow.port == tag.port()))
}

/// Decides on a packet of a tracked flow in the slow path. A BPF subprogram
/// ([`PathCalls::flow_disposition`](super::path_calls::PathCalls::flow_disposition)).
#[inline(always)]
pub fn disposition<T: Maps>(
    packet: &Packet,
    service: &IndexEntry,
    arrival: ClientPath,
    question: EntryQuestion,
    maps: &T,
) -> PackedDisposition {
    let Some(index) = maps.index() else { return PackedDisposition::NO_ENTRY };
    let request = Request { packet, arrival, service, index, maps };
    let flows = Flows::open(index, maps);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    let tag = service.flow_tag(packet.destination_port);
    let Some(found) = found::<true, T>(&flows, &query, question.distance(), tag) else {
        return PackedDisposition::NO_ENTRY;
    };
    if found.flow.source.is_of_cookie() && !packet.flags.is_marked() {
        return PackedDisposition::TRANSLATE;
    }
    let decided = if question.names_other_than(found.flow.backend) {
        Ok(Disposition::Reselect)
    } else {
        request.disposition::<false>(&query, &found, &flows)
    };
    match decided {
        Ok(Disposition::Forward(selection)) => {
            let Selection { backend, is_finished, is_opening, .. } = selection;
            PackedDisposition::forward(backend.handle.id(), is_finished, is_opening)
        }
        Ok(Disposition::Reselect) => {
            let has_ended = flows.is_expired(found.sequence_word) || found.sequence_word.is_finished();
            if has_ended { PackedDisposition::RESELECT } else { PackedDisposition::RESELECT_LIVE }
        }
        Ok(Disposition::OtherConnection) => PackedDisposition::OTHER_CONNECTION,
        Err(refusal) => PackedDisposition::refusal(&refusal),
    }
}

impl<'t, T: Maps> Request<'t, '_, T> {
    pub(super) const fn sees_replies(&self) -> bool {
        mode::sees_replies(self.service.mode)
    }

    pub(super) const fn is_tcp(&self) -> bool {
        self.packet.protocol == protocol::TCP
    }

    /// Whether the packet is a segment of an existing connection: TCP, and no SYN without ACK.
    pub(super) const fn is_mid_stream(&self) -> bool {
        self.is_tcp() && !self.packet.flags.is_syn()
    }

    /// Decides on a packet that has an entry, and updates the entry.
    #[inline(always)]
    pub(super) fn disposition<const FAST: bool>(
        &self,
        query: &Query,
        found: &EntrySnapshot<'t>,
        flows: &Flows<'t, T>,
    ) -> Result<Disposition<'t>, Refusal> {
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
                return Err(Refusal::RST_DUE);
            }
            let selection = Selection::new(backend, false, maps).map_err(|_| Refusal::RST_DUE)?;
            flows.mark(found, was | state::RESET);
            update_connection_count(service.policy, was, was | state::RESET, backend, maps);
            return Ok(Disposition::Forward(Selection { is_finished, ..selection }));
        }
        // Hardware address 0 means that the client's neighbour was not resolved.
        let needs_client_path =
            self.sees_replies() && (found.flow.arrival != self.arrival.tag() || found.flow.client.mac() == 0);
        let is_in_doubt = found.sequence_word.state() & (state::RESET | state::REOPENED) != 0;
        if FAST && (needs_client_path | is_in_doubt || packet.flags.is_syn()) {
            return Err(Refusal::DECLINE);
        }
        let selection = Selection::new(backend, false, maps)?;
        // The slow path answers it by an ICMP error or sends it into a VLAN, and must find the flow as it was.
        if FAST && (selection.is_too_big(packet, service.mode) || !selection.hop.macs.vlan.is_none()) {
            return Err(Refusal::DECLINE);
        }
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
        // A SYN begins another connection if the server no longer has the one of an assured flow.
        let may_open = packet.flags.is_syn() || found.sequence_word.state() & state::ASSURED == 0;
        let is_opening = may_open && !packet.flags.rst();
        Ok(Disposition::Forward(Selection { is_opening, source: found.flow.source, ..selection }))
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
pub(super) fn next_hop<'t, T: Maps>(backend: &Backend, maps: &'t T) -> Result<&'t NextHop, Refusal> {
    let hop = maps.next_hop(backend.next_hop).filter(|hop| hop.ifindex != 0);
    hop.ok_or(Refusal::drop(Reason::NoNextHop))
}
