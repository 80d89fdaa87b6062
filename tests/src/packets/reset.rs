//! Expected RSTs for segments of terminated connections (RFC 9293, 3.5.2 and 3.10.7.4), built independently of the
//! packet path.

use super::{
    check::{put, refresh},
    frames::{Frame, flag},
};

/// The RST that replaces a segment in the same direction.
pub fn forward(frame: &Frame) -> Frame {
    let at = frame.transport;
    let acknowledges = frame.bytes[at + 13] & flag::ACK;
    bare(frame, frame.bytes[at + 4..at + 12].try_into().expect("eight bytes"), flag::RST | acknowledges)
}

/// The RST that answers the sender of a segment.
pub fn back(frame: &Frame) -> Frame {
    let at = frame.transport;
    let number = |at: usize| u32::from_be_bytes(frame.bytes[at..at + 4].try_into().expect("four bytes"));
    let (flags, offset) = (frame.bytes[at + 13], usize::from(frame.bytes[at + 12] >> 4) * 4);
    let mut numbers = [0; 8];
    let answered = if flags & flag::ACK != 0 {
        numbers[..4].copy_from_slice(&number(at + 8).to_be_bytes());
        flag::RST
    } else {
        let counted = [flag::SYN, flag::FIN].iter().filter(|flag| flags & **flag != 0).count();
        let next = number(at + 4).wrapping_add((frame.end - at - offset + counted) as u32);
        numbers[4..].copy_from_slice(&next.to_be_bytes());
        flag::RST | flag::ACK
    };
    let mut out = bare(frame, numbers, answered);
    swap(&mut out.bytes, 0, 6, 6);
    if out.bytes[out.network] >> 4 == 4 {
        out.bytes[out.network + 8] = 64;
        swap(&mut out.bytes, out.network + 12, out.network + 16, 4);
    } else {
        out.bytes[out.network + 7] = 64;
        swap(&mut out.bytes, out.network + 8, out.network + 24, 16);
    }
    swap(&mut out.bytes, at, at + 2, 2);
    refresh(&mut out);
    out
}

/// A segment without options and payload, with these sequence numbers and flags.
fn bare(frame: &Frame, numbers: [u8; 8], flags: u8) -> Frame {
    let at = frame.transport;
    let mut out = Frame { end: at + 20, ..frame.clone() };
    out.bytes.truncate(out.end);
    let (len, of) = if out.bytes[out.network] >> 4 == 4 { (2, 40) } else { (4, 20) };
    put(&mut out.bytes, out.network + len, of);
    out.bytes[at + 4..at + 12].copy_from_slice(&numbers);
    out.bytes[at + 12..].copy_from_slice(&[5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    refresh(&mut out);
    out
}

fn swap(bytes: &mut [u8], one: usize, other: usize, len: usize) {
    for n in 0..len {
        bytes.swap(one + n, other + n);
    }
}
