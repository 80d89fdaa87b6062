//! Finds the flow that a server's packet answers (modes `nat`, `full-nat`), and updates its entry. A packet to a local
//! address answers the flow with that source, any other one a flow of the client endpoint that it goes to.
//!
//! A server's packet counts only if it arrives by the path to that server. So it is trusted: a server's SYN-ACK begins
//! a connection, and its segments advance the sequence numbers of both sides.

use super::{
    cookie_calls::CookieCalls,
    flow_calls::FlowCalls,
    flows::{EntrySnapshot, FAR, Flows},
    maps::Maps,
    parse::Packet,
    refusal::Refusal,
    sequence_numbers::{Segment, after_server},
    tracked::update_connection_count,
};
use crate::{
    abi::{
        backend::Backend,
        flow::{Client, ClientPath, SequenceNumbers, UNASSURED, idle_units, state},
        interface::{self, Interface},
        programs::TailCalled,
        service::{Service, ServiceIndex, mode},
        source::Source,
        stats::Reason,
        syn_cookie::OffsetKey,
    },
    net::{headers::protocol, vlan::Vlan},
};

/// The client that a reply goes to, and the service whose VIP becomes its source.
pub(super) struct Reply<'t> {
    pub(super) service: &'t Service,
    pub(super) backend: u32,
    pub(super) client: ClientPath,
    /// The interface of that path; `None` if it runs no program.
    pub(super) out: Option<&'t Interface>,
    /// Whether the connection is finished: the packet goes to the client as a RST.
    pub(super) is_finished: bool,
    /// The client endpoint.
    pub(super) end: Client,
    /// The flow's source, which the packet goes to in place of the client endpoint; else [`Source::NONE`].
    pub(super) source: Source,
    /// In the fast path, the sequence offset of a flow that began with a SYN cookie; else 0.
    pub(super) offset: u32,
}

/// Finds the flow that a server's packet answers; `None` if it answers none. `ifindex` is the interface that the packet
/// arrived on.
#[inline(always)]
pub(super) fn to_client<'t, const FAST: bool, const SOURCE: bool, T: FlowCalls + CookieCalls>(
    packet: &Packet,
    ifindex: u32,
    index: &ServiceIndex,
    maps: &'t T,
) -> Result<Option<Reply<'t>>, Refusal> {
    let hash = ServiceIndex::server_hash(&packet.source, packet.source_port);
    if !index.may_be_server(hash) {
        if !is_behind_range(packet, index) {
            return Ok(None);
        }
        if FAST && !SOURCE {
            return Err(Refusal::Next(TailCalled::FullNat));
        }
    }
    let flows = Flows::open(index, maps);
    if FAST && !SOURCE && index.locals.used != 0 && index.locals.may_be_local(&packet.destination) {
        return Err(Refusal::Next(TailCalled::FullNat));
    }
    let source = if SOURCE { source_in(packet, index) } else { None };
    let found = if SOURCE && let Some(source) = source {
        flows.find_by_source(hash, source, packet.protocol)
    } else {
        let client = Client::new(&packet.destination, packet.destination_port, packet.protocol);
        let query = flows.query(client);
        let endpoint = if FAST && !SOURCE {
            Backend::endpoint_of(hash)
        } else {
            Backend::endpoint_and_port_of(hash, packet.source_port)
        };
        let distance = if FAST {
            flows.find_answered_near::<SOURCE>(&query, endpoint)
        } else {
            maps.find_answered_flow(&query, endpoint)
        };
        if FAST && distance == FAR {
            return Err(Refusal::DECLINE);
        }
        let found = flows.read(&query, distance);
        // Its server answers to the source. The slow path searches for another flow.
        if FAST && SOURCE && found.as_ref().is_some_and(|found| found.flow.source.is_allocated()) {
            return Err(Refusal::DECLINE);
        }
        found.map(|found| (found, client))
    };
    let answered = match found {
        Some((found, end)) => reply::<FAST, SOURCE, T>(packet, ifindex, &flows, &found, end, maps)?,
        None => None,
    };
    match answered {
        None if FAST && !SOURCE && is_behind_range(packet, index) => Err(Refusal::Next(TailCalled::FullNat)),
        // The flow may still have its entry in the table that this one replaces.
        None if maps.is_resizing() => Err(Refusal::drop(Reason::NotReady)),
        answered => Ok(answered),
    }
}

/// The flow whose server has received the embedded packet of an ICMP error; `packet` has its ends exchanged, so it reads
/// as an answer. Changes no entry.
#[inline(always)]
pub(super) fn related<'t, T: FlowCalls>(
    packet: &Packet,
    ifindex: u32,
    index: &ServiceIndex,
    maps: &'t T,
) -> Result<Option<Reply<'t>>, Refusal> {
    let Some((found, end, service)) = answered_flow(packet, ifindex, index, maps)? else { return Ok(None) };
    let (backend, client) = (found.flow.backend.id(), found.flow.client);
    let out = maps.interface_at(client.interface());
    Ok(Some(Reply {
        service,
        backend,
        client,
        out,
        is_finished: false,
        end,
        source: found.flow.source,
        offset: 0,
    }))
}

/// The entry of the flow that a server's packet answers, its client endpoint and its service. Changes no entry.
#[inline(always)]
pub(super) fn answered_flow<'t, T: FlowCalls>(
    packet: &Packet,
    ifindex: u32,
    index: &ServiceIndex,
    maps: &'t T,
) -> Result<Option<(EntrySnapshot<'t>, Client, &'t Service)>, Refusal> {
    let hash = ServiceIndex::server_hash(&packet.source, packet.source_port);
    if !index.may_be_server(hash) && !is_behind_range(packet, index) {
        return Ok(None);
    }
    let flows = Flows::open(index, maps);
    let found = if let Some(source) = source_in(packet, index) {
        flows.find_by_source(hash, source, packet.protocol)
    } else {
        let client = Client::new(&packet.destination, packet.destination_port, packet.protocol);
        let query = flows.query(client);
        let endpoint = Backend::endpoint_and_port_of(hash, packet.source_port);
        let distance = maps.find_answered_flow(&query, endpoint);
        flows.read(&query, distance).map(|found| (found, client))
    };
    let (found, end) = match found {
        Some(found) => found,
        // The flow may still have its entry in the table that this one replaces.
        None if maps.is_resizing() => return Err(Refusal::drop(Reason::NotReady)),
        None => return Ok(None),
    };
    let Some(backend) = sender_of::<true, T>(packet, &found, &flows) else { return Ok(None) };
    let Some(service) = maps.service(found.flow.service & 0xffff) else { return Ok(None) };
    let is_its = service.handle.tag() == found.flow.service && service.has_flow_port(found.flow.port);
    if !is_its || !mode::sees_replies(service.mode) {
        return Ok(None);
    }
    if !is_path_from(backend, packet, ifindex, maps) {
        return Err(Refusal::drop(Reason::WrongInterface));
    }
    Ok(Some((found, end, service)))
}

/// Whether a packet may come from a server behind a port range, which has the port of each flow.
#[inline(always)]
fn is_behind_range(packet: &Packet, index: &ServiceIndex) -> bool {
    index.has_ranges() && index.may_be_server(ServiceIndex::server_hash(&packet.source, 0))
}

/// The source of a flow that a packet goes to; `None` if it goes to no local address.
#[inline(always)]
fn source_in(packet: &Packet, index: &ServiceIndex) -> Option<Source> {
    let locals = &index.locals;
    let local = if locals.used == 0 { None } else { locals.find(&packet.destination) };
    local.map(|local| Source::candidate(local, packet.destination_port))
}

/// The server of a flow, if it has sent the packet. Without `RANGES` the flow is of no port range.
#[inline(always)]
fn sender_of<'t, const RANGES: bool, T: FlowCalls>(
    packet: &Packet,
    found: &EntrySnapshot<'t>,
    flows: &Flows<'t, T>,
) -> Option<&'t Backend> {
    let backend = flows.live_backend(found.flow.backend)?;
    // Two server endpoints may have the same number.
    let port = if RANGES { backend.port_for(found.flow.port) } else { backend.port };
    if port == packet.source_port && backend.address.same(&packet.source) { Some(backend) } else { None }
}

#[inline(always)]
fn reply<'t, const FAST: bool, const SOURCE: bool, T: FlowCalls + CookieCalls>(
    packet: &Packet,
    ifindex: u32,
    flows: &Flows<'t, T>,
    found: &EntrySnapshot<'t>,
    end: Client,
    maps: &'t T,
) -> Result<Option<Reply<'t>>, Refusal> {
    let Some(backend) = sender_of::<SOURCE, T>(packet, found, flows) else { return Ok(None) };
    let Some(service) = maps.service(found.flow.service & 0xffff) else { return Ok(None) };
    let source = found.flow.source;
    let is_answered = is_answered::<SOURCE>(service.mode, source);
    // The fast path without sources finds no flow of a range.
    let has_port = (FAST && !SOURCE) || service.has_flow_port(found.flow.port);
    if service.handle.tag() != found.flow.service || !is_answered || !has_port {
        if FAST && !SOURCE && source == Source::COOKIE {
            return Err(Refusal::Next(TailCalled::FullNat));
        }
        // Replies of this listener do not pass SLB, or not to this address, or its range has lost the port. The slow path
        // searches for another flow.
        return if FAST { Err(Refusal::DECLINE) } else { Ok(None) };
    }
    if !is_path_from(backend, packet, ifindex, maps) {
        return Err(Refusal::drop(Reason::WrongInterface));
    }
    let offset = offset::<FAST, SOURCE, T>(packet, found, &end, maps)?;
    let client = found.flow.client;
    let out = maps.interface_at(client.interface());
    // The slow path answers it by an ICMP error or changes its tags, and must find the flow as it was.
    if FAST
        && (packet.hop_limit <= 1 || out.is_some_and(|out| !out.takes(packet.len) || out.is_vlan_device()))
    {
        return Err(Refusal::DECLINE);
    }
    let was = found.sequence_word.state();
    let is_expired = flows.is_expired(found.sequence_word);
    // A SYN-ACK on a finished flow belongs to a connection past the VIP. A client's SYN through the VIP would have
    // begun the flow anew, or set `REOPENED`.
    if packet.flags.syn() && was & state::REOPENED == 0 && (is_expired || found.sequence_word.is_finished()) {
        flows.mark(found, was | state::TUPLE_REUSED);
        return Ok(None);
    }
    if FAST && was & (state::RESET | state::REOPENED) != 0 {
        return Err(Refusal::DECLINE);
    }
    let is_rst_due = backend.is_terminating() || (is_expired && (FAST || flows.is_rst_due(found, packet)));
    let mut is_finished = packet.protocol == protocol::TCP && is_rst_due;
    if is_finished {
        is_finished = !packet.flags.rst();
        if FAST || (is_finished && was & state::RESET != 0) {
            return Err(Refusal::RST_DUE);
        }
        flows.mark(found, was | state::RESET);
        update_connection_count(service.policy, was, was | state::RESET, backend, maps);
    } else {
        let was = was & if !FAST && is_expired { !state::ENDS } else { !0 };
        let mut update = if packet.protocol == protocol::TCP {
            after_segment(was, found, packet)
        } else {
            FlowUpdate { bits: was | state::ANSWERED, numbers: found.flow.numbers }
        };
        if !FAST && was & state::RESET != 0 && continues_after_reset(packet, found, flows) {
            update.bits &= !state::RESET;
        }
        if update.begins_new_connection(was) {
            if FAST {
                return Err(Refusal::DECLINE);
            }
            // The client has asked for a new connection, and this server takes no new flows. A RST answers its SYN-ACK.
            // The client repeats its SYN, which goes to another server. A server that refuses the SYN sends a RST
            // itself.
            if packet.flags.syn() && backend.flags & Backend::ACCEPTS_NEW == 0 {
                flows.mark(found, was & !(state::ASSURED | state::REOPENED) | state::RESET);
                return Err(Refusal::RST_DUE);
            }
        }
        if update.numbers != found.flow.numbers {
            found.advance(update.numbers);
        }
        if flows.touch(found, update.bits, update.idle(was, found, service)) && !FAST {
            update_connection_count(service.policy, was, update.bits, backend, maps);
        }
    }
    Ok(Some(Reply {
        service,
        backend: found.flow.backend.id(),
        client,
        out,
        is_finished,
        end,
        source,
        offset,
    }))
}

/// Whether replies of a flow with this source pass SLB, in a service of this mode, and reach this program.
#[inline(always)]
const fn is_answered<const SOURCE: bool>(mode: u8, source: Source) -> bool {
    if SOURCE && source.is_allocated() {
        mode::sees_replies(mode)
    } else {
        mode == mode::NAT && if SOURCE { source.is_none() } else { source.0 == Source::NONE.0 }
    }
}

/// The sequence offset of a flow that began with a SYN cookie, in the fast path; 0 for others. Handshakes, and all
/// segments in the slow path, are left to [`TailCalled::CookieReply`].
#[inline(always)]
fn offset<const FAST: bool, const SOURCE: bool, T: CookieCalls>(
    packet: &Packet,
    found: &EntrySnapshot<'_>,
    end: &Client,
    maps: &T,
) -> Result<u32, Refusal> {
    if !SOURCE || !found.flow.source.is_of_cookie() {
        return Ok(0);
    }
    if FAST {
        let is_open = found.sequence_word.state() & state::ASSURED != 0 && !packet.flags.syn();
        let known = if is_open { maps.offset_of(OffsetKey::new(end, found.flow.tag())) } else { None };
        known.ok_or(Refusal::DECLINE)
    } else if packet.flags.is_translated() {
        Ok(0)
    } else {
        Err(Refusal::Next(TailCalled::CookieReply))
    }
}

/// Whether a server's packets may arrive on this interface: that of its next hop and in its VLAN, or one with the role
/// `server` alone. A server in no VLAN may answer in one that the host has no device for.
#[inline(always)]
pub(super) fn is_path_from<T: Maps>(backend: &Backend, packet: &Packet, ifindex: u32, maps: &T) -> bool {
    let Some(hop) = maps.next_hop(backend.next_hop).filter(|hop| hop.ifindex != 0) else { return true };
    let is_foreign = packet.vlan_device == 0 && packet.vlan != Vlan::STACKED;
    let is_its_vlan = hop.macs.vlan == packet.vlan || (hop.macs.vlan.is_none() && is_foreign);
    if hop.ifindex == ifindex && is_its_vlan {
        return true;
    }
    let Some(arrival) = maps.interface(ifindex) else { return false };
    let roles = arrival.flags() & (interface::CLIENT | interface::SERVER);
    (arrival.group() == hop.ifindex && is_its_vlan) || roles == interface::SERVER
}

/// State and sequence numbers of a flow after a server's packet.
struct FlowUpdate {
    bits: u32,
    numbers: SequenceNumbers,
}

impl FlowUpdate {
    /// Whether the server accepts another connection than the established one.
    const fn begins_new_connection(&self, was: u32) -> bool {
        (was & !self.bits) & state::ASSURED != 0
    }

    #[inline(always)]
    fn idle(&self, was: u32, found: &EntrySnapshot<'_>, service: &Service) -> u8 {
        if (was ^ self.bits) & state::ASSURED == 0 {
            return found.sequence_word.units();
        }
        let idle = idle_units(service.idle_timeout.into());
        if self.bits & state::ASSURED == 0 && idle > UNASSURED { UNASSURED } else { idle }
    }
}

#[inline(always)]
fn after_segment(was: u32, found: &EntrySnapshot<'_>, packet: &Packet) -> FlowUpdate {
    let (segment, flags, numbers) = (Segment::of(packet), packet.flags, found.flow.numbers);
    if flags.syn() {
        return after_syn(was, numbers, &segment);
    }
    let is_answered = was & state::ANSWERED != 0;
    let is_pickup = was & state::PICKED_UP != 0;
    if flags.rst() {
        if was & state::REOPENED != 0 && flags.acknowledges() {
            // The server refuses the client's SYN, so the connection before it is finished. The next SYN may go to
            // another server.
            return FlowUpdate { bits: was & !(state::ASSURED | state::REOPENED) | state::RESET, numbers };
        }
        // For a connection that it does not know, the server's RST takes the number that the client has acknowledged. A
        // RST that refuses a connection acknowledges the SYN (RFC 9293, 3.10.7.1).
        let of_known = (is_answered | is_pickup) & segment.ends(numbers.server);
        let of_new = !is_answered & segment.acknowledges(numbers.client);
        let reset = if of_known | of_new { state::RESET | state::ANSWERED } else { 0 };
        return FlowUpdate { bits: was | reset, numbers };
    }
    if !is_answered {
        if !is_pickup {
            // The segment does not answer the SYN: it belongs to another connection.
            return FlowUpdate { bits: was, numbers };
        }
        // The server continues a connection that was picked up mid-stream: it is established.
        let known = SequenceNumbers { client: segment.acknowledges, server: segment.end };
        let fin = if flags.fin() { state::SERVER_FIN } else { 0 };
        return FlowUpdate { bits: was | fin | state::ANSWERED | state::ASSURED, numbers: known };
    }
    let fin = if flags.fin() && segment.finishes(numbers.server) { state::SERVER_FIN } else { 0 };
    // The server's number stays until the client has acknowledged its SYN.
    let next = if was & state::ASSURED != 0 { after_server(numbers, &segment) } else { None };
    FlowUpdate { bits: was | fin, numbers: next.unwrap_or(numbers) }
}

/// State and numbers after a server's SYN: it accepts the connection that the client has asked for. It changes nothing
/// if it accepts another one, or if the client has not asked.
#[inline(always)]
const fn after_syn(was: u32, numbers: SequenceNumbers, segment: &Segment) -> FlowUpdate {
    let is_begun = was & state::ASSURED == 0 && segment.accepts(numbers.client);
    if was & state::REOPENED == 0 && !is_begun {
        return FlowUpdate { bits: was, numbers };
    }
    let begun = SequenceNumbers { client: segment.acknowledges, server: segment.end };
    FlowUpdate { bits: state::USED | state::ANSWERED, numbers: begun }
}

/// Whether a server's segment shows that the connection has survived a RST.
#[inline(always)]
fn continues_after_reset<T: FlowCalls>(
    packet: &Packet,
    found: &EntrySnapshot<'_>,
    flows: &Flows<'_, T>,
) -> bool {
    let SequenceNumbers { client, server } = found.flow.numbers;
    let is_plausible = Segment::of(packet).is_plausible(server, client);
    is_plausible && !packet.flags.syn() && !packet.flags.rst() && flows.survives_reset(found)
}
