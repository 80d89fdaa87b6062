//! Frames with the option, compared with frames that etherparse has built and reads.

use etherparse::{PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice, VlanHeader, VlanId};
use proptest::prelude::*;

use super::{TCP, insert};
use crate::{
    abi::toa,
    datapath::parse::{EMPTY_PACKET, Packet, parse},
    net::frame::{Frame, FrameBuffer},
};

const CLIENT4: [u8; 4] = [203, 0, 113, 5];
const CLIENT6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
const PORT: u16 = 40_001;
/// Maximum segment size and window scale.
const OPTIONS: [u8; 8] = [2, 4, 5, 180, 1, 3, 3, 7];

/// A frame with bytes before it, as a driver leaves them.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl FrameBuffer for Buffer {
    fn frame(&mut self) -> Frame<'_> {
        Frame::from_slice(&mut self.bytes[self.start..])
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let start = self.start.checked_sub(bytes);
        self.start = start.unwrap_or(self.start);
        start.is_some()
    }

    fn shrink(&mut self, bytes: usize) -> bool {
        self.start += bytes;
        true
    }

    fn resize(&mut self, bytes: usize) -> bool {
        self.bytes.resize(self.start + bytes, 0);
        true
    }

    fn truncate(&mut self, bytes: usize) -> bool {
        self.bytes.truncate(self.start + bytes);
        true
    }
}

/// A segment of the client, with `tags` VLAN tags.
fn segment(is_v4: bool, tags: usize, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let id = |n| VlanId::try_new(n).unwrap();
    if tags == 1 {
        write(builder.single_vlan(id(7)), is_v4, options, payload, &mut bytes);
    } else if tags == 2 {
        write(builder.double_vlan(id(7), id(8)), is_v4, options, payload, &mut bytes);
    } else if is_v4 {
        tcp(builder.ipv4(CLIENT4, [10, 0, 0, 1], 9), options, payload, &mut bytes);
    } else {
        tcp(builder.ipv6(CLIENT6, [0xfd; 16], 9), options, payload, &mut bytes);
    }
    bytes
}

fn write(
    builder: PacketBuilderStep<VlanHeader>,
    is_v4: bool,
    options: &[u8],
    payload: &[u8],
    bytes: &mut Vec<u8>,
) {
    if is_v4 {
        tcp(builder.ipv4(CLIENT4, [10, 0, 0, 1], 9), options, payload, bytes);
    } else {
        tcp(builder.ipv6(CLIENT6, [0xfd; 16], 9), options, payload, bytes);
    }
}

fn tcp(
    builder: PacketBuilderStep<etherparse::IpHeaders>,
    options: &[u8],
    payload: &[u8],
    bytes: &mut Vec<u8>,
) {
    builder.tcp(PORT, 80, 77, 1000).syn().options_raw(options).unwrap().write(bytes, payload).unwrap();
}

/// Inserts the option into a frame with `headroom` bytes before it.
fn inserted(frame: &[u8], headroom: usize, room: usize) -> Vec<u8> {
    let mut buffer = Buffer { bytes: vec![0xee; headroom], start: headroom };
    buffer.bytes.extend(frame);
    let mut packet: Packet = EMPTY_PACKET;
    parse(&buffer.frame(), &mut packet).unwrap();
    insert(&mut buffer, &packet, room).unwrap();
    buffer.bytes[buffer.start..].to_vec()
}

fn option(is_v4: bool) -> Vec<u8> {
    let mut option = vec![toa::KIND, if is_v4 { 8 } else { 20 }];
    option.extend(PORT.to_be_bytes());
    option.extend(if is_v4 { &CLIENT4[..] } else { &CLIENT6[..] });
    option
}

/// Checks that a frame has correct checksums. Returns its TCP options and its payload.
fn read(frame: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP") };
    assert_eq!((tcp.source_port(), tcp.sequence_number(), tcp.syn()), (PORT, 77, true));
    let check = match sliced.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
        }
        etherparse::NetSlice::Arp(_) => panic!("ARP"),
    };
    assert_eq!(check.unwrap(), tcp.checksum());
    (tcp.options().to_vec(), tcp.payload().to_vec())
}

/// The options with another kind for each of [`toa::KIND`] (RFC 9293, 3.1).
fn renamed(options: &[u8]) -> Vec<u8> {
    let (mut renamed, mut at) = (options.to_vec(), 0);
    while at < options.len() && options[at] != 0 {
        if options[at] == toa::KIND {
            renamed[at] = 253;
        }
        at += match (options[at], options.get(at + 1)) {
            (1, _) => 1,
            (_, Some(len)) if *len >= 2 => usize::from(*len),
            _ => break,
        };
    }
    renamed
}

proptest! {
    #[test]
    fn option_is_the_first_and_nothing_else_changes(
        is_v4 in any::<bool>(),
        tags in 0_usize..3,
        words in 0_usize..=5,
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let options: Vec<u8> = OPTIONS.iter().copied().cycle().take(8 * (words / 2)).chain([1; 4]).collect();
        let frame = segment(is_v4, tags, &options, &payload);
        let option = option(is_v4);
        let with_option = inserted(&frame, 64, option.len());
        let (read_options, read_payload) = read(&with_option);
        prop_assert_eq!(read_options, [option, options].concat());
        prop_assert_eq!(read_payload, payload);
        let ethernet = 14 + 4 * tags;
        prop_assert_eq!(&with_option[..ethernet], &frame[..ethernet]);
    }

    #[test]
    fn malformed_options_are_read_within_their_bounds(
        is_v4 in any::<bool>(),
        mut options in prop::collection::vec(any::<u8>(), 40..=40),
        at in 0_usize..40,
    ) {
        options[at] = toa::KIND;
        let frame = segment(is_v4, 0, &options, &[9; 10]);
        let (read_options, payload) = read(&inserted(&frame, 64, 1000));
        prop_assert_eq!(payload, [9; 10]);
        prop_assert_eq!(read_options, renamed(&options));
    }
}

#[test]
fn segment_without_room_stays_as_it_is() {
    let full = [&OPTIONS[..]; 5].concat();
    for is_v4 in [false, true] {
        let len = option(is_v4).len();
        for (options, headroom, room) in
            [(&OPTIONS[..], 64, len - 1), (&OPTIONS[..], len + 3, 1000), (&full[..], 64, 1000)]
        {
            let frame = segment(is_v4, 0, options, b"data");
            assert_eq!(inserted(&frame, headroom, room), frame, "{headroom} {room}");
        }
    }
}

#[test]
fn segment_without_room_hides_the_option_that_its_client_has_written() {
    for is_v4 in [false, true] {
        let forged = option(is_v4);
        for before in [0, 1, 2, 3, 4] {
            let mut options = [&[1; 4][..before], &forged, &OPTIONS].concat();
            options.resize(40, 0);
            let (read_options, payload) = read(&inserted(&segment(is_v4, 0, &options, b"data"), 64, 1000));
            options[before] = 253;
            assert_eq!(read_options, options);
            assert_eq!(payload, b"data");
        }
    }
}

#[test]
fn datagrams_get_no_option() {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(CLIENT4, [10, 0, 0, 1], 9);
    builder.udp(PORT, 53).write(&mut frame, &[7; TCP]).unwrap();
    assert_eq!(inserted(&frame, 64, 1000), frame);
}
