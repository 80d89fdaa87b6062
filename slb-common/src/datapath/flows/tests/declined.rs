//! Packets that the fast path declines: the slow path must find the flow as it was.

use super::*;
use crate::{
    abi::{
        MacPair,
        service::{IndexEntry, mode},
    },
    datapath::{
        parse::{EMPTY_PACKET, TcpFlags},
        tracked::Request,
    },
};

const TCP: u8 = 6;
const ACK: u32 = 16;
const MTU: u32 = 1500;

/// Whether the fast path takes a segment of this length for a server behind this next hop, and whether the flow's entry
/// changes.
fn takes_and_changes(hop: NextHop, len: usize) -> (bool, bool) {
    let shared = SharedTable { hop: Some(hop), ..SharedTable::new() };
    let (source, arrival) = (Address::v4([10, 0, 0, 9]), ClientPath::new(2, 0x0200_0000_0001));
    let service = IndexEntry { mode: mode::NAT, service: 1, idle: 225, ..IndexEntry::default() };
    let packet = Packet {
        len,
        source,
        source_port: 9,
        protocol: TCP,
        flags: TcpFlags(ACK),
        sequence: 100,
        acknowledges: 200,
        ..EMPTY_PACKET
    };
    let flows = Flows::open(&shared.index, &shared);
    let query = flows.query(Client::new(&source, 9, TCP));
    let numbers = SequenceNumbers { client: 100, server: 200 };
    let (backend, client) = (shared.server.handle, arrival);
    let held =
        Flow { service: 1, backend, client, arrival: arrival.tag(), numbers, port: 0, source: Source::NONE };
    let entry = shared.flow(query.home).unwrap();
    let free = entry.sequence_word();
    assert!(entry.lock(free));
    entry.publish(free, &query.client, &held, shared.now(), state::ANSWERED, 225);
    shared.now.fetch_add(10 * HZ, Ordering::Relaxed);
    let found = flows.read(&query, 0).expect("the flow");
    let request =
        Request { packet: &packet, arrival, service: &service, index: &shared.index, maps: &shared };
    let before = entry.sequence_word();
    let is_taken = request.disposition::<true>(&query, &found, &flows).is_ok();
    (is_taken, entry.sequence_word() != before)
}

#[test]
fn fast_path_changes_no_flow_of_packets_that_it_declines() {
    let macs = MacPair::new([2; 6], [4; 6]);
    let hop = NextHop { ifindex: 2, mtu: MTU, macs };
    assert_eq!(takes_and_changes(hop, MTU as usize), (true, true));
    assert_eq!(takes_and_changes(hop, MTU as usize + 1), (false, false));
    let in_vlan = NextHop { macs: macs.in_vlan(Vlan::new(7, false)), ..hop };
    assert_eq!(takes_and_changes(in_vlan, MTU as usize), (false, false));
}
