//! Inserts flows into the flow table. A BPF subprogram of the slow path, with a stack frame of its own.

use super::{
    client_path,
    flow_calls::FlowCalls,
    flows::{Flows, Insertion},
    parse::Packet,
    sequence_numbers::Segment,
};
use crate::{
    abi::{
        flow::{Client, ClientPath, Flow, SequenceNumbers, UNASSURED, state},
        service::{IndexEntry, mode},
        source::Source,
    },
    net::headers::protocol,
};

/// Server of a new flow and the entry that it replaces, packed into 64 bits: BPF subprograms take five arguments at
/// most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewFlow(pub u64);

impl NewFlow {
    const DISTANCE: u32 = 32;
    const FINISHED: u64 = 1 << 40;

    /// A flow of the server with the id `backend`. `distance` is that of the entry to replace from its home bucket, or
    /// [`NOT_FOUND`](super::flows::NOT_FOUND). `is_finished` says whether the connection is finished.
    #[inline(always)]
    pub(super) const fn new(backend: u32, distance: u32, is_finished: bool) -> Self {
        let finished = is_finished as u64 * Self::FINISHED;
        Self(backend as u64 | (distance as u64) << Self::DISTANCE | finished)
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
        self.0 & Self::FINISHED != 0
    }
}

/// Inserts the flow of a client's packet; `false` if the table has no slot for it. `arrival` is where the packet came
/// from.
#[inline(always)]
pub fn insert<T: FlowCalls>(
    packet: &Packet,
    service: &IndexEntry,
    arrival: ClientPath,
    new: NewFlow,
    maps: &T,
) -> bool {
    let Some(index) = maps.index() else { return false };
    let Some(backend) = maps.backend(new.backend()) else { return false };
    let sees_replies = mode::sees_replies(service.mode);
    let client =
        if sees_replies { client_path::choose(maps.route_to_client(packet), arrival, maps) } else { arrival };
    let flows = Flows::open(index, maps);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    if service.mode == mode::NAT && !flows.is_empty(&query) {
        let tag = service.flow_tag(packet.destination_port);
        maps.mark_tuples_reused(&query, tag, backend.endpoint_and_port_for(packet.destination_port));
    }
    let flow = Flow {
        service: service.service,
        backend: backend.handle,
        client,
        arrival: arrival.tag(),
        numbers: numbers(packet, flows.now()),
        port: service.flow_port(packet.destination_port),
        source: Source::NONE,
    };
    let bits = bits(packet, sees_replies, new.is_finished());
    // In mode `nat` a real client acknowledges the server within seconds. After a mid-stream pickup the server may stay
    // silent for long.
    let is_short = sees_replies && bits & state::PICKED_UP == 0 && service.idle > UNASSURED;
    let idle = if is_short { UNASSURED } else { service.idle };
    let mut insertion = match flows.read(&query, new.distance()) {
        Some(found) => return flows.replace(&found, &query, &flow, bits, idle) == Insertion::Done,
        None => flows.insert_entry(maps.slot_for_flow(query.home), false, &query, &flow, bits, idle),
    };
    if insertion == Insertion::Full && sees_replies {
        let distance = maps.unfair_slot(query.home, query.client.prefix());
        insertion = flows.insert_entry(distance, true, &query, &flow, bits, idle);
    }
    insertion == Insertion::Done
}

#[inline(always)]
fn numbers(packet: &Packet, now: u32) -> SequenceNumbers {
    if packet.protocol != protocol::TCP {
        return SequenceNumbers { client: now, server: 0 };
    }
    let segment = Segment::of(packet);
    SequenceNumbers {
        client: segment.end,
        server: if packet.flags.is_syn() { 0 } else { segment.acknowledges },
    }
}

#[inline(always)]
const fn bits(packet: &Packet, sees_replies: bool, is_finished: bool) -> u32 {
    let is_pickup = !packet.flags.is_syn() && (packet.protocol == protocol::TCP || !sees_replies);
    // The client receives a RST with its next packet.
    let finished = if is_finished { state::RESET } else { 0 };
    let fin = if packet.flags.fin() { state::CLIENT_FIN } else { 0 };
    fin | finished | if is_pickup { state::PICKED_UP } else { 0 }
}
