use super::*;
use crate::net::headers::ether_type;

/// A frame whose tail grows and shrinks.
struct Buffer(Vec<u8>);

impl FrameBuffer for Buffer {
    fn frame(&mut self) -> Frame<'_> {
        Frame::from_slice(&mut self.0)
    }

    fn grow(&mut self, _: usize) -> bool {
        false
    }

    fn shrink(&mut self, bytes: usize) -> bool {
        self.0.drain(..bytes);
        true
    }

    fn truncate(&mut self, bytes: usize) -> bool {
        self.resize(bytes)
    }

    fn resize(&mut self, bytes: usize) -> bool {
        self.0.resize(bytes, 0);
        true
    }
}

const AT: usize = 14;

/// A segment with `payload` bytes and the window 0x1234, without valid checksums.
fn frame(is_v4: bool, payload: usize) -> Vec<u8> {
    let kind = if is_v4 { ether_type::IPV4 } else { ether_type::IPV6 };
    let mut bytes = [&[1; 6][..], &[2; 6], &kind.to_ne_bytes()].concat();
    let len = (TCP + payload) as u16;
    if is_v4 {
        let total = (HEADER4 as u16 + len).to_be_bytes();
        bytes.extend([
            PLAIN4,
            0,
            total[0],
            total[1],
            0,
            0,
            0,
            0,
            9,
            protocol::TCP,
            0,
            0,
            10,
            0,
            0,
            1,
            10,
            0,
            0,
            2,
        ]);
    } else {
        bytes.extend([0x60, 0, 0, 0, len.to_be_bytes()[0], len.to_be_bytes()[1], protocol::TCP, 9]);
        bytes.extend([[7; 16], [8; 16]].concat());
    }
    bytes.extend([0x11, 0x11, 0x22, 0x22, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0x12, 0x34, 0, 0, 0xff, 0xff]);
    bytes.extend(vec![0xee; payload]);
    bytes
}

/// TCP checksum over the segment, by RFC 1071: 0 if the one in it is right.
fn remainder(bytes: &[u8], is_v4: bool) -> u16 {
    let header = if is_v4 { HEADER4 } else { HEADER6 };
    let addresses =
        if is_v4 { &bytes[AT + SOURCE4..AT + HEADER4] } else { &bytes[AT + SOURCE6..AT + HEADER6] };
    let segment = &bytes[AT + header..];
    let mut words = addresses.to_vec();
    words.extend([0, protocol::TCP]);
    words.extend((segment.len() as u16).to_be_bytes());
    words.extend(segment);
    let mut sum: u32 = words
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn rewritten_segments_have_the_length_and_checksum_of_their_shape() {
    let numbers = HeaderNumbers::new(0xdead_beef, 0x0102_0304);
    for is_v4 in [true, false] {
        let header = AT + if is_v4 { HEADER4 } else { HEADER6 };
        for payload in [0, 1, 2, 40] {
            for (shape, len, flags, window) in [
                (SegmentShape::syn_ack(1460), 24, 0x6012, 0),
                (SegmentShape::syn(536), 24, 0x6002, 0x1234),
                (SegmentShape::keep_alive(), 21, 0x5010, 0x1234),
            ] {
                let mut buffer = Buffer(frame(is_v4, payload));
                rewrite(&mut buffer, AT, numbers, shape).expect("a TCP segment");
                let bytes = buffer.0;
                assert_eq!(bytes.len(), header + len, "{shape:?}");
                assert_eq!(remainder(&bytes, is_v4), 0, "{shape:?}, {payload} bytes");
                let segment = &bytes[header..];
                assert_eq!(segment[4..12], [0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4]);
                let word = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
                assert_eq!((word(12), word(14), word(18)), (flags, window, 0), "{shape:?}");
                let is_back = shape.is_back();
                assert_eq!(segment[..2], if is_back { [0x22; 2] } else { [0x11; 2] });
                assert_eq!(bytes[..6], if is_back { [2; 6] } else { [1; 6] });
            }
        }
    }
}

#[test]
fn segments_with_options_and_other_protocols_are_not_rewritten() {
    for change in [(AT, 0x46), (AT + 9, protocol::UDP)] {
        let mut buffer = Buffer(frame(true, 0));
        buffer.0[change.0] = change.1;
        let before = buffer.0.clone();
        let shape = SegmentShape::syn(536);
        assert!(rewrite(&mut buffer, AT, HeaderNumbers::new(1, 2), shape).is_none(), "{change:?}");
        assert_eq!(buffer.0, before);
    }
}

#[test]
fn translation_there_undoes_translation_back() {
    let mut buffer = Buffer(frame(true, 3));
    rewrite(&mut buffer, AT, HeaderNumbers::new(5, 7), SegmentShape::keep_alive()).expect("a TCP segment");
    let before = buffer.0.clone();
    let tcp = AT + HEADER4;
    for offset in [0, 1, 6, 0xffff_fff0, 0x8000_0000] {
        for (is_to_server, at, expected) in
            [(true, ACKNOWLEDGED, 7_u32.wrapping_sub(offset)), (false, SEQUENCE, 5_u32.wrapping_add(offset))]
        {
            translate(&mut buffer.frame(), tcp, offset, is_to_server).expect("a TCP segment");
            assert_eq!(buffer.0[tcp + at..][..4], expected.to_be_bytes());
            assert_eq!(remainder(&buffer.0, true), 0);
            translate(&mut buffer.frame(), tcp, offset.wrapping_neg(), is_to_server).expect("a TCP segment");
            assert_eq!(buffer.0, before);
        }
    }
    // Without the flag ACK.
    buffer.0[tcp + 13] = 4;
    let before = buffer.0.clone();
    translate(&mut buffer.frame(), tcp, 99, true).expect("a TCP segment");
    assert_eq!(buffer.0, before);
}
