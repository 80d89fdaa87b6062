//! Which server a packet goes to, and which client an answer goes to.
//!
//! A flow that is remembered goes to its server for as long as that server may still receive it; any other packet
//! goes where the table says, and is remembered. Both directions of a flow share one entry, so neither can be
//! forgotten without the other.

use super::tables::{FlowEntry, Tables};
use crate::{
    abi::{
        Reference,
        backend::Backend,
        flow::{Flow, FlowKey, Link, WAYS, state},
        service::Service,
        stats::Reason,
    },
    hash::flow_hash,
    net::parse::{Packet, TcpFlags},
};

/// The server of a packet.
pub(super) struct Chosen<'t> {
    pub(super) backend: &'t Backend,
    /// Whether the packet begins a flow.
    pub(super) is_new: bool,
}

/// The client of an answer, and the service it spoke to.
pub(super) struct Reply<'t> {
    pub(super) service: &'t Service,
    pub(super) backend: Reference,
    pub(super) client: Link,
}

/// Chooses the server of a client's packet.
#[inline(always)]
pub(super) fn to_server<'t, T: Tables>(
    packet: &Packet,
    link: Link,
    service: &Service,
    tables: &'t T,
) -> Result<Chosen<'t>, Reason> {
    let mut key = FlowKey::new(packet.source, packet.source_port, packet.protocol);
    let now = tables.now();
    if let Some((entry, flow)) = find(&mut key, service, now, tables)
        && let Some(backend) = keeps(&flow, packet.flags, tables)
    {
        let state = flow.state | ended_by(packet.flags, state::CLIENT_FIN);
        if flow.client.same(&link) {
            touch(entry, &flow, state, now, tables);
        } else {
            // The client is reached another way now. Replaced as a whole: no answer may see half an address.
            put(&key, &Flow { client: link, last_seen: now, state, ..flow }, tables)?;
        }
        return Ok(Chosen { backend, is_new: false });
    }
    let backend = by_table(packet, service, tables)?;
    if backend.address.same(&packet.source) {
        return Err(Reason::Hairpin);
    }
    // A RST begins nothing; it is sent on for whoever may still know the connection.
    if !packet.flags.rst {
        find_place(&mut key, service, backend, now, tables)?;
        let state = ended_by(packet.flags, state::CLIENT_FIN);
        let flow = Flow {
            service: service.reference,
            backend: backend.reference,
            last_seen: now,
            state,
            client: link,
        };
        put(&key, &flow, tables)?;
    }
    Ok(Chosen { backend, is_new: begins(packet) })
}

/// Finds the client that a server's packet answers.
#[inline(always)]
pub(super) fn to_client<'t, T: Tables>(packet: &Packet, tables: &'t T) -> Option<Reply<'t>> {
    let mut key = FlowKey::new(packet.destination, packet.destination_port, packet.protocol);
    for way in 0..WAYS {
        key.way = way;
        let Some(entry) = tables.flow(&key) else { continue };
        let flow = entry.read();
        let Some(backend) = live(flow.backend, tables) else { continue };
        if backend.port != packet.source_port || !backend.address.same(&packet.source) {
            continue;
        }
        let Some(service) = tables.service(flow.service.id()).filter(|s| s.reference == flow.service) else {
            continue;
        };
        if flow.state & state::RELEASED != 0 {
            continue;
        }
        let now = tables.now();
        // A server that accepts on an ended flow talks to a client that came to it directly: a SYN through the VIP
        // would have begun the flow anew.
        if packet.flags.syn && Flow::is_over(flow.state) {
            entry.set_state(flow.state | state::RELEASED);
            continue;
        }
        touch(entry, &flow, flow.state | ended_by(packet.flags, state::SERVER_FIN), now, tables);
        return Some(Reply { service, backend: flow.backend, client: flow.client });
    }
    None
}

/// Finds the flow of `service` among those of the client endpoint of `key`, unless it has been silent for too long,
/// and leaves its way in `key`.
#[inline(always)]
fn find<'t, T: Tables>(
    key: &mut FlowKey,
    service: &Service,
    now: u32,
    tables: &'t T,
) -> Option<(FlowEntry<'t>, Flow)> {
    for way in 0..WAYS {
        key.way = way;
        if let Some(entry) = tables.flow(key) {
            let flow = entry.read();
            if flow.service == service.reference {
                let expired = now.wrapping_sub(flow.last_seen) > service.idle_timeout;
                return if expired { None } else { Some((entry, flow)) };
            }
        }
    }
    None
}

/// Leaves in `key` the way a new flow to `chosen` is put under: where its service had one, else a free one, else that
/// of a flow which has ended or fallen silent, else that of the flow silent for longest.
///
/// Refuses if another live flow of the endpoint goes to the same address and port: answers could not be told apart.
#[inline(always)]
fn find_place<T: Tables>(
    key: &mut FlowKey,
    service: &Service,
    chosen: &Backend,
    now: u32,
    tables: &T,
) -> Result<(), Reason> {
    const FREE: u32 = u32::MAX - 1;
    const OVER: u32 = 1 << 31;
    let (mut place, mut best) = (0, 0);
    for way in 0..WAYS {
        key.way = way;
        let worth = match tables.flow(key).map(FlowEntry::read) {
            None => FREE,
            Some(flow) if flow.service == service.reference => u32::MAX,
            Some(flow) => {
                let silence = now.wrapping_sub(flow.last_seen);
                let over = Flow::is_over(flow.state) || silence > service.idle_timeout;
                if !over && goes_to(&flow, chosen, tables) {
                    return Err(Reason::PortConflict);
                }
                (if over { OVER } else { 0 }) | (silence >> 2)
            }
        };
        let worth = tables.hide(worth);
        if worth >= best {
            best = worth;
            place = way;
        }
    }
    key.way = tables.hide(u32::from(place)) as u8;
    Ok(())
}

#[inline(always)]
fn goes_to<T: Tables>(flow: &Flow, backend: &Backend, tables: &T) -> bool {
    live(flow.backend, tables)
        .is_some_and(|other| other.port == backend.port && other.address.same(&backend.address))
}

/// The server a remembered flow stays with, if it may.
#[inline(always)]
fn keeps<'t, T: Tables>(flow: &Flow, flags: TcpFlags, tables: &'t T) -> Option<&'t Backend> {
    let backend = live(flow.backend, tables)?;
    if backend.flags & Backend::ESTABLISHED == 0 {
        return None;
    }
    // A SYN is a client that uses its port again, or repeats itself: a server that takes no new flows is left to
    // neither, and an ended flow is begun anew.
    let opening = flags.syn && !flags.ack;
    if opening && (backend.flags & Backend::NEW == 0 || Flow::is_over(flow.state)) {
        return None;
    }
    Some(backend)
}

/// The server that the table names for the flow of this packet.
#[inline(always)]
fn by_table<'t, T: Tables>(packet: &Packet, service: &Service, tables: &'t T) -> Result<&'t Backend, Reason> {
    let seed = tables.control().ok_or(Reason::NotReady)?.seed;
    let hash = flow_hash(
        &packet.source,
        packet.source_port,
        &packet.destination,
        packet.destination_port,
        packet.protocol,
        seed,
    );
    let ring = tables.ring(service.ring).ok_or(Reason::NotReady)?;
    let id = ring.server(hash).ok_or(Reason::NoServer)?;
    let backend = tables.backend(id).ok_or(Reason::NoServer)?;
    // The table may be about to be replaced: what has just died or gone is not chosen.
    if backend.flags & Backend::ESTABLISHED == 0 { Err(Reason::NoServer) } else { Ok(backend) }
}

/// The server of this reference, unless its id has passed to another one.
#[inline(always)]
fn live<T: Tables>(reference: Reference, tables: &T) -> Option<&Backend> {
    tables.backend(reference.id()).filter(|backend| backend.reference == reference)
}

#[inline(always)]
const fn ended_by(flags: TcpFlags, fin: u32) -> u32 {
    (if flags.fin { fin } else { 0 }) | (if flags.rst { state::RESET } else { 0 })
}

/// Whether a packet without a flow begins one: a SYN, or any datagram. Anything else is taken up in the middle.
#[inline(always)]
const fn begins(packet: &Packet) -> bool {
    packet.protocol != crate::net::headers::protocol::TCP || (packet.flags.syn && !packet.flags.ack)
}

/// Writes only what has changed, the time no more than once a second: the entry's cache line stays shared between
/// the processors that serve the two directions.
#[inline(always)]
fn touch<T: Tables>(entry: FlowEntry<'_>, flow: &Flow, state: u32, now: u32, tables: &T) {
    if state != flow.state {
        entry.set_state(state);
    }
    let hz = tables.control().map_or(1, |control| control.hz);
    if now.wrapping_sub(flow.last_seen) >= hz {
        entry.set_last_seen(now);
    }
}

#[inline(always)]
fn put<T: Tables>(key: &FlowKey, flow: &Flow, tables: &T) -> Result<(), Reason> {
    if tables.put_flow(key, flow) { Ok(()) } else { Err(Reason::FlowTableFull) }
}
