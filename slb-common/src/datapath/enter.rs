//! Inserts flows into the flow table. A BPF subprogram of the slow path, with a stack frame of its own.

use super::{
    client_path,
    flows::{Flows, Put, Query},
    numbers::Segment,
    tables::Tables,
};
use crate::{
    abi::{
        flow::{Client, ClientPath, Flow, Numbers, UNASSURED, state},
        service::{IndexEntry, mode},
    },
    net::{headers::protocol, parse::Packet},
};

/// Server of a new flow and the entry that it replaces, packed into 64 bits: BPF subprograms take five arguments at
/// most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewFlow(pub u64);

impl NewFlow {
    const DISTANCE: u32 = 32;
    const OVER: u64 = 1 << 40;

    /// A flow of the server with the id `backend`. `distance` is that of the entry to replace from its home bucket, or
    /// [`NOWHERE`](super::flows::NOWHERE). `is_finished` says whether the connection is finished.
    #[inline(always)]
    pub(super) const fn new(backend: u32, distance: u32, is_finished: bool) -> Self {
        let over = is_finished as u64 * Self::OVER;
        Self(backend as u64 | (distance as u64) << Self::DISTANCE | over)
    }

    #[inline(always)]
    const fn backend(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    const fn distance(self) -> u32 {
        (self.0 >> Self::DISTANCE) as u32 & 0xff
    }

    #[inline(always)]
    const fn is_finished(self) -> bool {
        self.0 & Self::OVER != 0
    }
}

/// Inserts the flow of a client's packet; `false` if the table has no slot for it. `arrival` is where the packet came
/// from.
#[inline(always)]
pub fn enter<T: Tables>(
    packet: &Packet,
    service: &IndexEntry,
    arrival: ClientPath,
    new: NewFlow,
    tables: &T,
) -> bool {
    let Some(index) = tables.index() else { return false };
    let Some(backend) = tables.backend(new.backend()) else { return false };
    let answers_return = service.mode == mode::NAT;
    let client = if answers_return {
        client_path::choose(tables.route_to_client(packet), arrival, tables)
    } else {
        arrival
    };
    let flows = Flows::open(index, tables);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    if answers_return && !flows.is_empty(&query) {
        tables.release_flows(&query, service.service, backend.endpoint);
    }
    let flow = Flow {
        service: service.service,
        backend: backend.handle,
        client,
        arrival: arrival.tag(),
        numbers: numbers(packet, flows.now()),
    };
    let bits = bits(packet, answers_return, new.is_finished());
    // In mode `nat` a real client acknowledges the server within seconds. After a mid-stream pickup the server may stay
    // silent for long.
    let is_short = answers_return && bits & state::PICKED_UP == 0 && service.idle > UNASSURED;
    let idle = if is_short { UNASSURED } else { service.idle };
    put(&flows, &query, new.distance(), &flow, bits, idle, answers_return) == Put::Done
}

#[inline(always)]
fn numbers(packet: &Packet, now: u32) -> Numbers {
    if packet.protocol != protocol::TCP {
        return Numbers { client: now, server: 0 };
    }
    let segment = Segment::of(packet);
    Numbers { client: segment.end, server: if packet.flags.asks() { 0 } else { segment.acknowledges } }
}

#[inline(always)]
const fn bits(packet: &Packet, answers_return: bool, is_finished: bool) -> u32 {
    let is_pickup = !packet.flags.asks() && (packet.protocol == protocol::TCP || !answers_return);
    // The client receives a RST with its next packet.
    let over = if is_finished { state::RESET } else { 0 };
    let fin = if packet.flags.fin() { state::CLIENT_FIN } else { 0 };
    fin | over | if is_pickup { state::PICKED_UP } else { 0 }
}

#[inline(always)]
fn put<T: Tables>(
    flows: &Flows<'_, T>,
    query: &Query,
    distance: u32,
    flow: &Flow,
    bits: u32,
    idle: u8,
    answers_return: bool,
) -> Put {
    if let Some(found) = flows.read(query, distance) {
        return flows.replace(&found, query, flow, bits, idle);
    }
    let put = flows.put(query, flow, bits, idle);
    if put == Put::Full && answers_return { flows.put_unfairly_held(query, flow, bits, idle) } else { put }
}
