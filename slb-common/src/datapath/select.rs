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

use super::{
    charge,
    flows::{Conflicts, FAR, Flows, NOT_FOUND, Query},
    insert::NewFlow,
    parse::Packet,
    path_calls::PathCalls,
    refusal::Refusal,
    schedule::SchedulerResult,
    schedule_calls::ScheduleCalls,
    slots::{current_backend, hash_of},
    tracked::{Disposition, PackedDisposition, Request, Selection, found, next_hop},
};
use crate::{
    abi::{
        backend::Backend,
        flow::{Client, state},
        lookup_table::LookupTable,
        programs::TailCalled,
        service::{IndexEntry, mode, policy},
        source::Source,
        stats::Reason,
    },
    net::{frame::Frame, headers::protocol},
    opaque::opaque,
};

/// Selects the server of a packet of an untracked flow. `None` where the flow is tracked.
#[inline(always)]
pub(super) fn select_untracked<'t, const FAST: bool, T: PathCalls>(
    request: &Request<'t, '_, T>,
    mode: u8,
) -> Result<Option<Selection<'t>>, Refusal> {
    let Request { packet, service, index, maps, .. } = *request;
    if mode::sees_replies(mode) || service.policy & policy::TRACK != 0 {
        return Ok(None);
    }
    // The slow path checks for martian sources first.
    let not_ready = if FAST { Refusal::DECLINE } else { Refusal::drop(Reason::NotReady) };
    let lookup_table = maps.lookup_table(service.lookup_table).ok_or(not_ready)?;
    let slot = lookup_table.slot(LookupTable::slot_of(lookup_table.size, hash_of(packet, service)));
    if slot.is_migrating() {
        return Ok(None);
    }
    // The slow path has already checked for martian sources.
    if FAST && index.may_be_martian(&packet.source) {
        return Err(Refusal::DECLINE);
    }
    // The first datagram of a flow looks like all others.
    let is_new = packet.flags.is_syn() && !packet.flags.rst();
    Ok(Some(Selection::new(current_backend(packet, slot, maps)?, is_new, maps)?))
}

/// Selects the server of a packet of a tracked flow in the fast path; `frame` holds the packet. Declines where the
/// entry does not decide alone.
#[inline(always)]
pub(super) fn select_tracked_fast<'t, const SOURCE: bool, T: PathCalls>(
    request: &Request<'t, '_, T>,
    frame: &Frame<'_>,
) -> Result<Selection<'t>, Refusal> {
    let packet = &request.packet.numbered(frame).ok_or(Reason::Truncated)?;
    let request = &Request { packet, ..*request };
    let Request { service, index, maps, .. } = *request;
    let flows = Flows::open(index, maps);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    let distance = flows.find_near(&query, service.service);
    if distance == FAR {
        return Err(Refusal::DECLINE);
    }
    let found = found(&flows, &query, distance, service).ok_or(Refusal::DECLINE)?;
    let source = found.flow.source;
    if !SOURCE && source != Source::NONE {
        return Err(Refusal::Next(TailCalled::FullNat));
    }
    // The slow path gives the flow a source, and inserts the client endpoint into segments that open a connection.
    let lacks_source = !source.is_allocated() && service.mode != mode::GUE;
    let is_opening = found.sequence_word.state() & state::ASSURED == 0;
    if SOURCE && (lacks_source || (service.policy & policy::TOA != 0 && is_opening)) {
        return Err(Refusal::DECLINE);
    }
    match request.disposition::<true>(&query, &found, &flows)? {
        Disposition::Forward(selection) => Ok(selection),
        Disposition::Reselect | Disposition::OtherConnection => Err(Refusal::DECLINE),
    }
}

/// Selects the server of a packet of a tracked flow in the slow path.
#[inline(always)]
pub(super) fn select_tracked<'t, T: PathCalls>(
    request: &Request<'t, '_, T>,
) -> Result<Selection<'t>, Refusal> {
    let Request { packet, service, index, maps, .. } = *request;
    let flows = Flows::open(index, maps);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    // Most new flows find an empty home bucket, which saves the call of the search.
    let distance = if flows.is_empty(&query) { NOT_FOUND } else { maps.find_flow(&query, service.service) };
    let disposition = if distance == NOT_FOUND {
        PackedDisposition::NO_ENTRY
    } else {
        maps.flow_disposition(packet, service, request.arrival, distance)
    };
    match disposition.selection(maps)? {
        Some(selection) => Ok(selection),
        None if disposition == PackedDisposition::OTHER_CONNECTION => request.by_hash(),
        None => request.begin_flow(
            &query,
            if disposition.is_reselect() { distance } else { NOT_FOUND },
            disposition.live(),
        ),
    }
}

impl<'t, T: PathCalls> Request<'t, '_, T> {
    /// The server of a mid-stream segment by the hash alone. Makes no entry.
    #[inline(always)]
    fn by_hash(&self) -> Result<Selection<'t>, Refusal> {
        let Self { packet, service, maps, .. } = *self;
        let selection = maps.server_by_hash(packet, service, Conflicts::default().0);
        let backend = maps.backend(selection.backend()?).ok_or(Reason::NoServer)?;
        let is_finished = backend.is_terminating() && !packet.flags.rst();
        Ok(Selection { is_finished, ..Selection::new(backend, false, maps)? })
    }

    /// Selects a server for a packet without an entry, or with one that does not hold for it. `distance` is that of the
    /// entry to replace, or [`NOT_FOUND`]; `live` is 1 if the flow of that entry has not ended, else 0.
    #[inline(always)]
    fn begin_flow(&self, query: &Query, distance: u32, live: u64) -> Result<Selection<'t>, Refusal> {
        let Self { packet, arrival, service, maps, .. } = *self;
        let (sees_replies, is_mid_stream) = (self.sees_replies(), self.is_mid_stream());
        let (is_syn, is_new_entry) = (packet.flags.is_syn(), distance == NOT_FOUND);
        // The flow's entry may still be in the table that this one replaces, with another server. TCP retransmits the
        // segment.
        if is_mid_stream && is_new_entry && maps.is_resizing() {
            return Err(Refusal::drop(Reason::NotReady));
        }
        // The flow's server is gone, so its connection cannot continue. In the other modes another server answers the
        // segment.
        if sees_replies && is_mid_stream && !is_new_entry {
            return Err(Refusal::RST_DUE);
        }
        // Only `nat` flows have reverse-tuple conflicts. In `full-nat` replies differ in their destination port.
        let conflicts = if self.service.mode == mode::NAT {
            Conflicts(maps.conflicting_flows(query, service.service))
        } else {
            Conflicts::default()
        };
        // [`Conflicts`] holds four flows; a fifth could not be told from them. A RST begins no flow.
        if conflicts.is_full() && !packet.flags.rst() {
            return Err(Refusal::drop(Reason::ClientPortBusy));
        }
        let is_new = (is_syn && !packet.flags.rst()) || (sees_replies && !self.is_tcp());
        // A flow that loses its server is no new one. Without branches: each one would double the paths the verifier
        // follows.
        let is_limited = service.policy & policy::LIMIT_NEW_CONNECTIONS != 0;
        if opaque(u64::from(is_limited) & u64::from(is_new) & !live) != 0 {
            charge::new_connection(service, maps)?;
        }
        let scheduled = schedule(packet, service, conflicts, maps);
        let backend = maps.backend(scheduled.backend()?).ok_or(Reason::NoServer)?;
        let previous_backend = scheduled.previous_backend().and_then(|id| maps.backend(id));
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
        let new = NewFlow::new(backend.handle.id(), distance, is_finished);
        let is_inserted = maps.insert_flow(packet, service, arrival, new);
        let selection = Selection { is_finished, ..Selection::new(backend, is_new, maps)? };
        if is_inserted {
            return Ok(selection);
        }
        if sees_replies {
            // Without an entry replies cannot be translated: it holds the VIP and the client path.
            return Err(Refusal::drop(Reason::FlowTableFull));
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
    ) -> Result<Selection<'t>, Refusal> {
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
                Err(Refusal::drop(Reason::FlowTableFull))
            }
            _ if service.policy & policy::PINNED_ELSEWHERE != 0 && !self.is_mid_stream() => {
                // If the hash leads to the selected server, later packets find it without an entry.
                let by_hash = maps.server_by_hash(packet, service, conflicts.0);
                let is_found = service.policy & (policy::ROUND_ROBIN | policy::LEAST_CONNECTIONS) == 0
                    && by_hash.previous_backend().is_none()
                    && by_hash.backend().is_ok_and(|id| id == selection.backend.handle.id());
                if is_found { Ok(selection) } else { Err(Refusal::drop(Reason::FlowTableFull)) }
            }
            _ => Ok(selection),
        }
    }
}

/// Selects a server for a packet's flow. Updates affinity entry, round-robin position and connection count.
#[inline(always)]
fn schedule<T: ScheduleCalls>(
    packet: &Packet,
    service: &IndexEntry,
    conflicts: Conflicts,
    maps: &T,
) -> SchedulerResult {
    let is_tcp = packet.protocol == protocol::TCP;
    let begins = !is_tcp || (packet.flags.is_syn() && !packet.flags.rst());
    let policy = if begins { service.policy } else { 0 };
    if !is_tcp
        && !mode::sees_replies(service.mode)
        && policy & policy::PINNED_ELSEWHERE != 0
        && policy & policy::FOLLOW == 0
    {
        // The datagram may belong to an untracked flow of the slot's previous backend.
        let affinity_server = maps.server_by_hash(packet, service, conflicts.0);
        if affinity_server.is_previous_backend() {
            return affinity_server;
        }
    }
    let persists = policy & policy::PERSIST != 0;
    let mut chosen = SchedulerResult::NO_SERVER;
    if persists {
        chosen = maps.affinity_server(packet, service, conflicts.0);
    }
    if chosen.is_refused() {
        chosen = if policy & (policy::ROUND_ROBIN | policy::LEAST_CONNECTIONS) == 0 {
            maps.server_by_hash(packet, service, conflicts.0)
        } else {
            maps.server_by_round_robin(packet, service, conflicts.0)
        };
        if persists {
            chosen = maps.set_affinity(packet, service, conflicts.0, chosen);
        }
    }
    if policy & policy::LEAST_CONNECTIONS != 0
        && let Ok(backend) = chosen.backend()
        && let Some(load) = maps.connection_count(backend)
    {
        load.add(1);
    }
    chosen
}
