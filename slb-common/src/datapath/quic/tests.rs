//! Which server a datagram names: headers of every kind, every length, and any bytes.

use proptest::prelude::*;

use super::*;

/// A frame with a UDP datagram of this payload behind an IPv4 header, and the offset of the UDP header.
fn frame(payload: &[u8]) -> (Vec<u8>, usize) {
    const TRANSPORT: usize = 34;
    let mut bytes = vec![0; TRANSPORT + 8];
    bytes[12] = 8;
    bytes[TRANSPORT + 4..TRANSPORT + 6].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    (bytes, TRANSPORT)
}

fn named_in(payload: &[u8], format: CidFormat) -> NamedServer {
    let (mut bytes, transport) = frame(payload);
    read(&Frame::from_slice(&mut bytes), transport, 8 + payload.len(), format)
}

fn long(first: u8, version: u32, cid: &[u8]) -> Vec<u8> {
    [&[first][..], &version.to_be_bytes(), &[cid.len() as u8], cid].concat()
}

/// What the datagram names by the text of RFC 8999 and QUIC-LB.
fn expected(payload: &[u8], format: CidFormat) -> Option<(u32, bool)> {
    let (first, rest) = payload.split_first()?;
    let (cid, may_begin) = if first & 0x80 == 0 {
        (rest, false)
    } else {
        let (version, rest) = rest.split_at_checked(4)?;
        let (len, rest) = rest.split_first()?;
        let is_handshake =
            matches!((version, first & 0x30), ([0, 0, 0, 1], 0x20) | ([0x6b, 0x33, 0x43, 0xcf], 0x30));
        (&rest[..rest.len().min(usize::from(*len))], !is_handshake)
    };
    let (head, rest) = cid.split_first()?;
    let id = rest.get(..format.server_id_len())?;
    (head >> 5 == format.config_rotation())
        .then(|| (id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte)), may_begin))
}

#[test]
fn short_header_names_the_server_in_its_connection_id() {
    let named = named_in(&[0x41, 0b010_00111, 0, 17, 9, 9, 9, 9], CidFormat::new(2, 2));
    assert_eq!((named.id(), named.may_begin()), (Some(17), false));
}

#[test]
fn long_header_may_begin_a_connection_except_in_handshake_packets() {
    let format = CidFormat::new(1, 0);
    for (first, version, may_begin) in [
        (0xc0, 1, true),
        (0xd0, 1, true),
        (0xe0, 1, false),
        (0xd0, 0x6b33_43cf, true),
        (0xe0, 0x6b33_43cf, true),
        (0xf0, 0x6b33_43cf, false),
        (0xe0, 0x0a0a_0a0a, true),
    ] {
        let named = named_in(&long(first, version, &[0, 5, 1, 2]), format);
        assert_eq!((named.id(), named.may_begin()), (Some(5), may_begin), "{first:x} {version:x}");
    }
}

#[test]
fn other_config_rotation_or_short_connection_id_names_no_server() {
    let format = CidFormat::new(2, 1);
    assert_eq!(named_in(&[0x40, 0x20, 1, 2], format).id(), Some(0x102));
    for payload in [&[0x40, 0xe0, 1, 2][..], &[0x40, 0x40, 1, 2], &[0x40, 0x20, 1], &[0x40], &[]] {
        assert_eq!(named_in(payload, format), NamedServer::NONE, "{payload:?}");
    }
    // The octets of the source connection ID are none of the destination's.
    assert_eq!(named_in(&[&long(0xe0, 1, &[0x20, 1])[..], &[2, 3, 4]].concat(), format), NamedServer::NONE);
}

#[test]
fn connection_id_behind_priority_tags_is_found() {
    let (mut bytes, transport) = frame(&[0x40, 0, 0, 3]);
    bytes.splice(12..12, [0x81, 0, 0x20, 0]);
    let named = read(&Frame::from_slice(&mut bytes), transport, 12, CidFormat::new(2, 0));
    assert_eq!(named.id(), Some(3));
}

#[test]
fn octets_behind_the_datagram_or_the_fragment_are_not_read() {
    let format = CidFormat::new(2, 0);
    let (mut bytes, transport) = frame(&[0x40, 0, 0, 3]);
    assert_eq!(read(&Frame::from_slice(&mut bytes), transport, 11, format), NamedServer::NONE);
    bytes[transport + 5] -= 1;
    assert_eq!(read(&Frame::from_slice(&mut bytes), transport, 12, format), NamedServer::NONE);
}

proptest! {
    #[test]
    fn any_datagram_names_what_the_reference_reads(
        first: u8,
        version in prop_oneof![Just(1_u32), Just(0x6b33_43cf), any::<u32>()],
        cid in prop::collection::vec(any::<u8>(), 0..24),
        rest in prop::collection::vec(any::<u8>(), 0..8),
        cut in 0_usize..40,
        len in 1_u8..=4,
        rotation in 0_u8..=6,
    ) {
        let mut payload = if first & 0x80 == 0 {
            [&[first][..], &cid].concat()
        } else {
            long(first, version, &cid)
        };
        payload.extend(rest);
        payload.truncate(cut);
        let format = CidFormat::new(len, rotation);
        let named = named_in(&payload, format);
        prop_assert_eq!(named.id().map(|id| (id, named.may_begin())), expected(&payload, format));
    }

    #[test]
    fn any_bytes_are_read_within_the_frame(
        mut bytes in prop::collection::vec(any::<u8>(), 0..80),
        transport in 0_usize..80,
        len in 0_usize..200,
        number: u8,
    ) {
        read(&Frame::from_slice(&mut bytes), transport, len, CidFormat::from_number(number));
    }
}
