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
    flows::{Conflicts, FAR, Flows, NOT_FOUND},
    metadata::ReplacedEntry,
    path_calls::PathCalls,
    refusal::Refusal,
    slots::{current_backend, hash_of},
    tracked::{Disposition, EntryQuestion, PackedDisposition, Request, Selection, found},
};
use crate::{
    abi::{
        backend::Backend,
        flow::{Client, state},
        lookup_table::{LookupTable, NO_BACKEND},
        programs::TailCalled,
        service::{mode, policy},
        source::Source,
        stats::Reason,
        syn_cookie::OffsetKey,
    },
    net::frame::Frame,
};

/// Selects the server of a packet of an untracked flow. `None` where the flow is tracked. `named` is the server that the
/// packet's connection ID names, which decides alone.
#[inline(always)]
pub(super) fn select_untracked<'t, const FAST: bool, T: PathCalls>(
    request: &Request<'t, '_, T>,
    mode: u8,
    named: Option<&'t Backend>,
) -> Result<Option<Selection<'t>>, Refusal> {
    let Request { packet, service, index, maps, .. } = *request;
    if mode::sees_replies(mode) || service.policy & policy::TRACK != 0 {
        return Ok(None);
    }
    if let Some(backend) = named {
        // As below.
        if FAST && index.may_be_martian(&packet.source) {
            return Err(Refusal::DECLINE);
        }
        return Ok(Some(Selection::new(backend, false, maps)?));
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

/// Selects the server of a packet of a tracked flow in the fast path; `frame` holds the packet, and its connection ID
/// names the server `named`. Declines where the entry does not decide alone.
#[inline(always)]
pub(super) fn select_tracked_fast<'t, const SOURCE: bool, T: PathCalls>(
    request: &Request<'t, '_, T>,
    frame: &Frame<'_>,
    named: Option<&Backend>,
) -> Result<Selection<'t>, Refusal> {
    let mut packet = request.packet.numbered(frame).ok_or(Reason::Truncated)?;
    let Request { service, index, maps, .. } = *request;
    let flows = Flows::open(index, maps);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    let tag = service.flow_tag(packet.destination_port);
    let distance = flows.find_near::<SOURCE>(&query, tag);
    if distance == FAR {
        return Err(Refusal::DECLINE);
    }
    let found = found::<SOURCE, T>(&flows, &query, distance, tag).ok_or(Refusal::DECLINE)?;
    // The slow path replaces the entry.
    if SOURCE && named.is_some_and(|named| named.handle != found.flow.backend) {
        return Err(Refusal::DECLINE);
    }
    let source = found.flow.source;
    if !SOURCE && source != Source::NONE {
        return Err(Refusal::Next(TailCalled::FullNat));
    }
    // The slow path gives the flow a source, does the handshakes of flows that begin with a cookie, and inserts the client
    // endpoint into segments that open a connection. Flows of the modes `nat`, `dsr` and `ipip` come here without a source
    // for their connection IDs.
    let keeps_client = source == Source::COOKIE && service.mode == mode::NAT;
    let needs_source = service.mode == mode::FULL_NAT || source != Source::NONE;
    let lacks_source = !source.is_allocated() && needs_source && !keeps_client;
    let is_opening = found.sequence_word.state() & state::ASSURED == 0;
    let has_handshake = service.policy & policy::TOA != 0 || source.is_of_cookie();
    if SOURCE && (lacks_source || (has_handshake && is_opening)) {
        return Err(Refusal::DECLINE);
    }
    let mut offset = 0;
    if SOURCE && source.is_of_cookie() {
        offset = maps.offset_of(OffsetKey::new(&query.client, found.flow.tag())).ok_or(Refusal::DECLINE)?;
        packet.acknowledges = packet.acknowledges.wrapping_sub(offset);
    }
    let request = &Request { packet: &packet, ..*request };
    match request.disposition::<true>(&query, &found, &flows)? {
        Disposition::Forward(selection) => Ok(Selection { offset, ..selection }),
        Disposition::Reselect | Disposition::OtherConnection => Err(Refusal::DECLINE),
    }
}

/// What the slow path finds for a packet of a tracked flow.
pub(super) enum Tracked<'t> {
    /// The server of the flow.
    Selected(Selection<'t>),
    /// The packet begins a flow.
    Begins(ReplacedEntry),
}

/// Selects the server of a packet of a tracked flow in the slow path. Its connection ID names the server `named`.
#[inline(always)]
pub(super) fn select_tracked<'t, T: PathCalls>(
    request: &Request<'t, '_, T>,
    named: Option<&Backend>,
) -> Result<Tracked<'t>, Refusal> {
    let Request { packet, service, index, maps, .. } = *request;
    let flows = Flows::open(index, maps);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    let tag = service.flow_tag(packet.destination_port);
    // Most new flows find an empty home bucket, which saves the call of the search.
    let distance = if flows.is_empty(&query) { NOT_FOUND } else { maps.find_flow(&query, tag) };
    let disposition = if distance == NOT_FOUND {
        PackedDisposition::NO_ENTRY
    } else {
        let named = named.map_or(NO_BACKEND, |named| named.handle.id());
        maps.flow_disposition(packet, service, request.arrival, EntryQuestion::new(distance, named))
    };
    Ok(match disposition.selection(maps)? {
        Some(selection) => Tracked::Selected(selection),
        None if disposition == PackedDisposition::OTHER_CONNECTION => Tracked::Selected(request.by_hash()?),
        None if disposition.is_reselect() => {
            Tracked::Begins(ReplacedEntry::new(distance, disposition.live()))
        }
        None => Tracked::Begins(ReplacedEntry::NONE),
    })
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
}
