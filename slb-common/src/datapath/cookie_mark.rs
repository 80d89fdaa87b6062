//! The mark of flows that began with a SYN cookie, [`Source::COOKIE`].

use super::{
    flows::{self, Flows},
    maps::Maps,
    parse::Packet,
    tracked::found,
};
use crate::abi::{flow::Client, service::IndexEntry, source::Source};

/// Attempts to mark an entry that other processors change.
const TRIES: u32 = 4;

/// Marks the flow of a packet as one whose numbers are translated. A BPF subprogram.
#[inline(always)]
pub fn mark_flow<T: Maps>(packet: &Packet, service: &IndexEntry, maps: &T) {
    let Some(index) = maps.index() else { return };
    let flows = Flows::open(index, maps);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    let tag = service.flow_tag(packet.destination_port);
    let distance = flows::find(&query, tag, maps);
    // Other processors may change the entry meanwhile.
    for _ in 0..TRIES {
        let Some(found) = found::<true, T>(&flows, &query, distance, tag) else { return };
        if found.flow.source.is_of_cookie() || found.mark_source(Source::COOKIE) {
            return;
        }
    }
}
