//! Finds the flow that a server's packet answers (mode `nat`), and updates its entry.
//!
//! A server's packet counts only if it arrives by the path to that server. So it is trusted: a server's SYN-ACK begins
//! a connection, and its segments advance the sequence numbers of both sides.

use super::{
    flows::{FAR, Flows, Found, Query},
    numbers::{Segment, after_server},
    select::recount,
    tables::Tables,
};
use crate::{
    abi::{
        backend::Backend,
        flow::{Client, ClientPath, Numbers, UNASSURED, idle_units, state},
        interface,
        service::{Service, ServiceIndex, mode},
        stats::Reason,
    },
    net::{headers::protocol, parse::Packet},
};

/// The client that a reply goes to, and the service whose VIP becomes its source.
pub(super) struct Reply<'t> {
    pub(super) service: &'t Service,
    pub(super) backend: u32,
    pub(super) client: ClientPath,
    /// Whether the connection is finished: the packet goes to the client as a RST.
    pub(super) is_finished: bool,
}

/// The flow that a server's packet answers, or why there is none.
pub(super) enum Answered<'t> {
    /// The packet answers this flow.
    Client(Reply<'t>),
    /// The packet answers no flow.
    NoFlow,
    /// The packet is dropped.
    Refused(Reason),
    /// The connection is finished. The server receives a RST.
    Over,
    /// The slow path must decide.
    Later,
}

/// Finds the flow that a server's packet answers. `ifindex` is the interface that the packet arrived on.
#[inline(always)]
pub(super) fn to_client<'t, const FAST: bool, T: Tables>(
    packet: &Packet,
    ifindex: u32,
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
    let distance = if FAST {
        flows.find_answered_near(&query, endpoint)
    } else {
        tables.find_answered_flow(&query, endpoint)
    };
    if FAST && distance == FAR {
        return Answered::Later;
    }
    match reply::<FAST, T>(packet, ifindex, &flows, &query, distance, tables) {
        Some(answered) => answered,
        // The flow may still have its entry in the table that this one replaces.
        None if tables.is_resizing() => Answered::Refused(Reason::NotReady),
        None => Answered::NoFlow,
    }
}

#[inline(always)]
fn reply<'t, const FAST: bool, T: Tables>(
    packet: &Packet,
    ifindex: u32,
    flows: &Flows<'t, T>,
    query: &Query,
    distance: u32,
    tables: &'t T,
) -> Option<Answered<'t>> {
    let found = flows.read(query, distance)?;
    let backend = flows.live(found.flow.backend)?;
    // Two server endpoints may have the same 16-bit number.
    if backend.port != packet.source_port || !backend.address.same(&packet.source) {
        return None;
    }
    let service = tables.service(found.flow.service & 0xffff)?;
    if service.handle.tag() != found.flow.service || service.mode != mode::NAT {
        // Replies of this listener do not pass SLB. The slow path searches for a flow of a `nat` listener.
        return if FAST { Some(Answered::Later) } else { None };
    }
    if !is_way_from(backend, ifindex, tables) {
        return Some(Answered::Refused(Reason::WrongInterface));
    }
    let was = found.meta.state();
    let is_expired = flows.is_expired(found.meta);
    // A SYN-ACK on a finished flow belongs to a connection past the VIP. A client's SYN through the VIP would have
    // begun the flow anew, or set `REOPENED`.
    if packet.flags.syn() && was & state::REOPENED == 0 && (is_expired || found.meta.is_finished()) {
        flows.mark(&found, was | state::RELEASED);
        return None;
    }
    if FAST && was & (state::RESET | state::REOPENED) != 0 {
        return Some(Answered::Later);
    }
    let is_rst_due = backend.is_terminating() || (is_expired && (FAST || flows.is_rst_due(&found, packet)));
    let mut is_finished = packet.protocol == protocol::TCP && is_rst_due;
    if is_finished {
        is_finished = !packet.flags.rst();
        if FAST || (is_finished && was & state::RESET != 0) {
            return Some(Answered::Over);
        }
        flows.mark(&found, was | state::RESET);
        recount(service.policy, was, was | state::RESET, backend, tables);
    } else {
        let was = was & if !FAST && is_expired { !state::ENDS } else { !0 };
        let mut seen = if packet.protocol == protocol::TCP {
            after_segment(was, &found, packet)
        } else {
            Seen { bits: was | state::ANSWERED, numbers: found.flow.numbers }
        };
        if !FAST && was & state::RESET != 0 && goes_on_after_reset(packet, &found, flows) {
            seen.bits &= !state::RESET;
        }
        if seen.begins_anew(was) {
            if FAST {
                return Some(Answered::Later);
            }
            // The client has asked for a new connection, and this server takes no new flows. A RST answers its SYN-ACK.
            // The client repeats its SYN, which goes to another server. A server that refuses the SYN sends a RST
            // itself.
            if packet.flags.syn() && backend.flags & Backend::NEW == 0 {
                flows.mark(&found, was & !(state::ASSURED | state::REOPENED) | state::RESET);
                return Some(Answered::Over);
            }
        }
        if seen.numbers != found.flow.numbers {
            found.advance(seen.numbers);
        }
        if flows.touch(&found, seen.bits, seen.idle(was, &found, service)) && !FAST {
            recount(service.policy, was, seen.bits, backend, tables);
        }
    }
    let client = found.flow.client;
    Some(Answered::Client(Reply { service, backend: found.flow.backend.id(), client, is_finished }))
}

/// Whether a server's packets may arrive on this interface: that of its next hop, or one with the role `server` alone.
#[inline(always)]
fn is_way_from<T: Tables>(backend: &Backend, ifindex: u32, tables: &T) -> bool {
    let Some(hop) = tables.next_hop(backend.next_hop).filter(|hop| hop.ifindex != 0) else { return true };
    if hop.ifindex == ifindex {
        return true;
    }
    let Some(arrival) = tables.interface(ifindex) else { return false };
    let roles = arrival.flags() & (interface::CLIENT | interface::SERVER);
    arrival.group() == hop.ifindex || roles == interface::SERVER
}

/// State and sequence numbers of a flow after a server's packet.
struct Seen {
    bits: u32,
    numbers: Numbers,
}

impl Seen {
    /// Whether the server accepts another connection than the established one.
    const fn begins_anew(&self, was: u32) -> bool {
        (was & !self.bits) & state::ASSURED != 0
    }

    #[inline(always)]
    fn idle(&self, was: u32, found: &Found<'_>, service: &Service) -> u8 {
        if (was ^ self.bits) & state::ASSURED == 0 {
            return found.meta.units();
        }
        let idle = idle_units(service.idle_timeout);
        if self.bits & state::ASSURED == 0 && idle > UNASSURED { UNASSURED } else { idle }
    }
}

#[inline(always)]
fn after_segment(was: u32, found: &Found<'_>, packet: &Packet) -> Seen {
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
            return Seen { bits: was & !(state::ASSURED | state::REOPENED) | state::RESET, numbers };
        }
        // For a connection that it does not know, the server's RST takes the number that the client has acknowledged. A
        // RST that refuses a connection acknowledges the SYN (RFC 9293, 3.10.7.1).
        let of_known = (is_answered | is_pickup) & segment.ends(numbers.server);
        let of_new = !is_answered & segment.acknowledges(numbers.client);
        let reset = if of_known | of_new { state::RESET | state::ANSWERED } else { 0 };
        return Seen { bits: was | reset, numbers };
    }
    if !is_answered {
        if !is_pickup {
            // The segment does not answer the SYN: it belongs to another connection.
            return Seen { bits: was, numbers };
        }
        // The server continues a connection that was picked up mid-stream: it is established.
        let known = Numbers { client: segment.acknowledges, server: segment.end };
        let fin = if flags.fin() { state::SERVER_FIN } else { 0 };
        return Seen { bits: was | fin | state::ANSWERED | state::ASSURED, numbers: known };
    }
    let fin = if flags.fin() && segment.finishes(numbers.server) { state::SERVER_FIN } else { 0 };
    // The server's number stays until the client has acknowledged its SYN.
    let next = if was & state::ASSURED != 0 { after_server(numbers, &segment) } else { None };
    Seen { bits: was | fin, numbers: next.unwrap_or(numbers) }
}

/// State and numbers after a server's SYN: it accepts the connection that the client has asked for. It changes nothing
/// if it accepts another one, or if the client has not asked.
#[inline(always)]
const fn after_syn(was: u32, numbers: Numbers, segment: &Segment) -> Seen {
    let is_begun = was & state::ASSURED == 0 && segment.accepts(numbers.client);
    if was & state::REOPENED == 0 && !is_begun {
        return Seen { bits: was, numbers };
    }
    let begun = Numbers { client: segment.acknowledges, server: segment.end };
    Seen { bits: state::USED | state::ANSWERED, numbers: begun }
}

/// Whether a server's segment shows that the connection has survived a RST.
#[inline(always)]
fn goes_on_after_reset<T: Tables>(packet: &Packet, found: &Found<'_>, flows: &Flows<'_, T>) -> bool {
    let Numbers { client, server } = found.flow.numbers;
    let is_plausible = Segment::of(packet).is_plausible(server, client);
    is_plausible && !packet.flags.syn() && !packet.flags.rst() && flows.survives_reset(found)
}
