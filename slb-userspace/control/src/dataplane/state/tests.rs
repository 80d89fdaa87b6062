use std::net::{IpAddr, Ipv4Addr};

use slb_common::abi::{MAX_SERVICES, ids::ServiceId};

use super::*;

#[test]
fn state_bits_map_to_handshake_outcomes() {
    use state::{ANSWERED, ASSURED, CLIENT_FIN, RESET, SERVER_FIN, USED};
    for (bits, outcome) in [
        (0, HandshakeOutcome::Unanswered),
        (ANSWERED, HandshakeOutcome::Answered),
        (ANSWERED | RESET, HandshakeOutcome::Reset),
        // Accepted, then reset by either end.
        (ANSWERED | ASSURED | RESET, HandshakeOutcome::Answered),
        (ANSWERED | ASSURED | CLIENT_FIN | SERVER_FIN, HandshakeOutcome::Answered),
        (RESET, HandshakeOutcome::Abandoned),
        (CLIENT_FIN, HandshakeOutcome::Abandoned),
    ] {
        assert_eq!(HandshakeOutcome::of(bits | USED), outcome, "{bits}");
    }
}

#[test]
fn full_service_index_finds_every_service() {
    let entries = (0..MAX_SERVICES).map(|id| {
        let address = to_address(IpAddr::V4(Ipv4Addr::from(0xc000_0200 + id / 50)));
        let port = (8000 + (id % 50) as u16).to_be();
        let service = Handle::new(id, 1).tag();
        (ServiceId::new(id), IndexEntry { address, port, protocol: 6, service, ..IndexEntry::default() })
    });
    let index = IndexContent { entries: entries.collect(), ..IndexContent::default() };
    let built = index.build().unwrap();
    for (id, entry) in &index.entries {
        let found = built.find(&entry.address, entry.port, entry.protocol);
        assert_eq!(found.map(IndexEntry::service_id), Some(*id));
    }
    assert!(built.find(&to_address(IpAddr::V4(Ipv4Addr::LOCALHOST)), 80, 6).is_none());
}
