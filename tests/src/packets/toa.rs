//! Segments with the client endpoint as a TCP option, or with another kind in place of that option's.

use super::frames::Frame;

/// Length of a TCP header without options.
const TCP: usize = 20;
/// Kind of the option (RFC 4727).
pub const KIND: u8 = 254;
/// The other kind for experiments.
const OTHER_KIND: u8 = 253;

/// What becomes of a segment's TCP options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toa {
    /// The option is inserted as the first one.
    Inserted,
    /// The option at this offset behind the TCP header gets another kind.
    Renamed(usize),
}

impl Toa {
    /// The segment with the change.
    pub fn of(self, frame: &Frame) -> Frame {
        match self {
            Self::Inserted => inserted(frame),
            Self::Renamed(at) => frame.clone().transport(TCP + at, &[OTHER_KIND]).sound(),
        }
    }
}

/// The option with the source of a segment.
pub fn option(frame: &Frame) -> Vec<u8> {
    let address = match frame.bytes[frame.network] >> 4 {
        4 => &frame.bytes[frame.network + 12..][..4],
        _ => &frame.bytes[frame.network + 8..][..16],
    };
    let port = &frame.bytes[frame.transport..][..2];
    [&[KIND, address.len() as u8 + 4], port, address].concat()
}

fn inserted(frame: &Frame) -> Frame {
    let option = option(frame);
    let mut bytes = frame.bytes.clone();
    bytes.splice(frame.transport + TCP..frame.transport + TCP, option.iter().copied());
    bytes[frame.transport + 12] += (option.len() / 4 << 4) as u8;
    // Total length of IPv4, payload length of IPv6.
    let at = frame.network + if bytes[frame.network] >> 4 == 4 { 2 } else { 4 };
    let len = u16::from_be_bytes([bytes[at], bytes[at + 1]]) + option.len() as u16;
    bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
    Frame { bytes, end: frame.end + option.len(), ..frame.clone() }.sound()
}
