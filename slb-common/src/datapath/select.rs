//! Which server a packet goes to, and which client an answer goes to.
//!
//! A flow that is remembered goes to its server for as long as that server may still receive it; any other packet
//! goes where the table says, and is remembered. Both directions of a flow share one entry, so neither can be
//! forgotten without the other.

use super::tables::{FlowEntry, Tables};
use crate::{
    abi::{
        Reference,
        backend::{Backend, NextHop},
        flow::{Flow, FlowKey, Link, WAYS, state},
        service::Service,
        stats::Reason,
    },
    hash::{flow_hash, mix},
    net::{
        headers::protocol,
        parse::{Packet, TcpFlags},
    },
};

/// Servers a new flow tries before it is refused because their answers could not be told apart.
const SERVERS_TRIED: usize = 3;

/// The server of a packet.
pub(super) struct Chosen<'t> {
    pub(super) backend: &'t Backend,
    pub(super) hop: &'t NextHop,
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
        && let Some(backend) = keeps(&flow, packet, tables)
    {
        let hop = next_hop(backend, tables)?;
        let state = flow.state | ended_by(packet.flags, state::CLIENT_FIN);
        if flow.client.same(&link) {
            touch(entry, &flow, state, now, tables);
        } else {
            // The client is reached another way now. Replaced as a whole: no answer may see half an address.
            put(&key, &Flow { client: link, last_seen: now, state, ..flow }, tables)?;
        }
        return Ok(Chosen { backend, hop, is_new: false });
    }
    let mut hash = hash_of(packet, tables)?;
    for _ in 0..SERVERS_TRIED {
        let backend = by_table(hash, service, tables)?;
        if backend.address.same(&packet.source) {
            return Err(Reason::Hairpin);
        }
        // Before anything is remembered: the packet that gets through is the one that begins the flow.
        let hop = next_hop(backend, tables)?;
        // A RST begins nothing; it is sent on for whoever may still know the connection.
        if packet.flags.rst {
            return Ok(Chosen { backend, hop, is_new: begins(packet) });
        }
        match find_place(&mut key, service, backend, now, tables) {
            Place::Found => {
                let flow = Flow {
                    service: service.reference,
                    backend: backend.reference,
                    last_seen: now,
                    state: ended_by(packet.flags, state::CLIENT_FIN),
                    client: link,
                    check: key.check(),
                };
                put(&key, &flow, tables)?;
                return Ok(Chosen { backend, hop, is_new: begins(packet) });
            }
            Place::Conflict => hash = mix(hash),
            Place::Busy => return Err(Reason::ClientPortBusy),
        }
    }
    Err(Reason::PortConflict)
}

/// Finds the client that a server's packet answers.
#[inline(always)]
pub(super) fn to_client<'t, T: Tables>(packet: &Packet, tables: &'t T) -> Option<Reply<'t>> {
    let mut key = FlowKey::new(packet.destination, packet.destination_port, packet.protocol);
    for way in 0..WAYS {
        key.way = way;
        let Some((entry, flow)) = read(&key, tables) else { continue };
        let Some(backend) = live(flow.backend, tables) else { continue };
        if backend.port != packet.source_port || !backend.address.same(&packet.source) {
            continue;
        }
        let Some(service) = tables.service(flow.service.id()).filter(|s| s.reference == flow.service) else {
            continue;
        };
        let now = tables.now();
        // The client may have gone without a word, and talk to the server directly now.
        if flow.state & state::RELEASED != 0 || silence(&flow, now) > service.idle_timeout {
            continue;
        }
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
        if let Some((entry, flow)) = read(key, tables)
            && flow.service == service.reference
        {
            let expired = silence(&flow, now) > service.idle_timeout;
            return if expired { None } else { Some((entry, flow)) };
        }
    }
    None
}

/// Whether there is a place for a new flow.
enum Place {
    /// The key names it.
    Found,
    /// Another live flow of the endpoint goes to the same address and port: answers could not be told apart.
    Conflict,
    /// All places hold live flows.
    Busy,
}

/// Leaves in `key` the way a new flow to `chosen` is put under: where its service had one, else a free one, else that
/// of a flow which has ended or fallen silent, and longest so. Such a flow to the same server gets no answers from
/// then on.
#[inline(always)]
fn find_place<T: Tables>(
    key: &mut FlowKey,
    service: &Service,
    chosen: &Backend,
    now: u32,
    tables: &T,
) -> Place {
    const FREE: u32 = u32::MAX - 1;
    let (mut place, mut best) = (0, 0);
    for way in 0..WAYS {
        key.way = way;
        let worth = match read(key, tables) {
            None => FREE,
            Some((_, flow)) if flow.service == service.reference => u32::MAX,
            Some((entry, flow)) => {
                let silence = silence(&flow, now);
                let over = Flow::is_over(flow.state) || silence > service.idle_timeout;
                if goes_to(&flow, chosen, tables) {
                    if !over {
                        return Place::Conflict;
                    }
                    entry.set_state(flow.state | state::RELEASED);
                }
                if over { 1 + (silence >> 1) } else { 0 }
            }
        };
        let worth = tables.hide(worth);
        if worth > best {
            best = worth;
            place = way;
        }
    }
    key.way = tables.hide(u32::from(place)) as u8;
    if best == 0 { Place::Busy } else { Place::Found }
}

#[inline(always)]
fn goes_to<T: Tables>(flow: &Flow, backend: &Backend, tables: &T) -> bool {
    live(flow.backend, tables)
        .is_some_and(|other| other.port == backend.port && other.address.same(&backend.address))
}

/// The server a remembered flow stays with, if it may.
#[inline(always)]
fn keeps<'t, T: Tables>(flow: &Flow, packet: &Packet, tables: &'t T) -> Option<&'t Backend> {
    let backend = live(flow.backend, tables)?;
    let needs = if packet.protocol != protocol::TCP {
        Backend::ALIVE
    } else if packet.flags.syn && !packet.flags.ack {
        // A client that uses its port again, or repeats itself: a server that takes no new flows gets neither, and an
        // ended flow is begun anew.
        if Flow::is_over(flow.state) {
            return None;
        }
        Backend::NEW
    } else {
        0
    };
    if backend.flags & needs == needs { Some(backend) } else { None }
}

#[inline(always)]
fn hash_of<T: Tables>(packet: &Packet, tables: &T) -> Result<u64, Reason> {
    let seed = tables.control().ok_or(Reason::NotReady)?.seed;
    Ok(flow_hash(
        &packet.source,
        packet.source_port,
        &packet.destination,
        packet.destination_port,
        packet.protocol,
        seed,
    ))
}

/// The server that the table names for a hash.
#[inline(always)]
fn by_table<'t, T: Tables>(hash: u64, service: &Service, tables: &'t T) -> Result<&'t Backend, Reason> {
    let ring = tables.ring(service.ring).ok_or(Reason::NotReady)?;
    let id = ring.server(hash).ok_or(Reason::NoServer)?;
    let backend = tables.backend(id).ok_or(Reason::NoServer)?;
    // The table may be about to be replaced: what has just died or gone is not chosen.
    if backend.flags & Backend::ALIVE == 0 { Err(Reason::NoServer) } else { Ok(backend) }
}

#[inline(always)]
fn next_hop<'t, T: Tables>(backend: &Backend, tables: &'t T) -> Result<&'t NextHop, Reason> {
    tables.next_hop(backend.next_hop).filter(|hop| hop.ifindex != 0).ok_or(Reason::NoNextHop)
}

/// The flow under a key, and a copy of it.
#[inline(always)]
fn read<'t, T: Tables>(key: &FlowKey, tables: &'t T) -> Option<(FlowEntry<'t>, Flow)> {
    let entry = tables.flow(key)?;
    let flow = entry.read();
    if flow.check == key.check() { Some((entry, flow)) } else { None }
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
    let flags = packet.flags;
    packet.protocol != protocol::TCP || (flags.syn && !flags.ack && !flags.rst)
}

/// Jiffies since the flow was last seen; 0 if another processor has seen it after `now` was read.
#[inline(always)]
const fn silence(flow: &Flow, now: u32) -> u32 {
    let silence = now.wrapping_sub(flow.last_seen);
    if silence > u32::MAX / 2 { 0 } else { silence }
}

/// Writes only what has changed, the time no more than once a second: the entry's cache line stays shared between
/// the processors that serve the two directions.
#[inline(always)]
fn touch<T: Tables>(entry: FlowEntry<'_>, flow: &Flow, state: u32, now: u32, tables: &T) {
    if state != flow.state {
        entry.set_state(state);
    }
    let hz = tables.control().map_or(1, |control| control.hz);
    if silence(flow, now) >= hz {
        entry.set_last_seen(now);
    }
}

#[inline(always)]
fn put<T: Tables>(key: &FlowKey, flow: &Flow, tables: &T) -> Result<(), Reason> {
    if tables.put_flow(key, flow) { Ok(()) } else { Err(Reason::FlowTableFull) }
}
