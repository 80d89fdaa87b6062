//! Fragments of frames, cut independently of the packet path (RFC 791, 3.2; RFC 8200, 4.5).

use super::{
    check::{put, sum},
    frames::{Frame, number},
};

/// Length of the IPv6 fragment header.
const HEADER6: usize = 8;
/// More-fragments flag of IPv4.
const MORE4: u16 = 1 << 13;

/// A fragment of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The packet.
    pub whole: &'static Frame,
    /// Identification; IPv4 has its lower half.
    pub id: u32,
    /// Where it begins behind the IP header of the packet, in bytes: a multiple of eight.
    pub at: usize,
    /// Length behind the IP header, in bytes.
    pub len: usize,
    /// Whether more fragments follow it.
    pub more: bool,
}

/// Cuts a packet into fragments, each of so many bytes behind the IP header, a multiple of eight; the last one is
/// shorter.
pub fn cut(whole: Frame, id: u32, bytes: usize) -> Vec<Fragment> {
    let whole: &'static Frame = Box::leak(Box::new(whole));
    let end = whole.end - whole.transport;
    (0..end)
        .step_by(bytes)
        .map(|at| Fragment { whole, id, at, len: bytes.min(end - at), more: at + bytes < end })
        .collect()
}

impl Fragment {
    /// The frame.
    pub fn frame(&self) -> Frame {
        self.of(self.whole)
    }

    /// The same fragment of the whole packet in this form.
    pub fn of(&self, whole: &Frame) -> Frame {
        let (network, content) = (whole.network, whole.transport + self.at);
        let payload = &whole.bytes[content..content + self.len];
        let mut bytes = whole.bytes[..whole.transport].to_vec();
        if bytes[network] >> 4 == 4 {
            let header = whole.transport - network;
            put(&mut bytes, network + 2, (header + self.len) as u16);
            put(&mut bytes, network + 4, self.id as u16);
            put(&mut bytes, network + 6, (self.at / 8) as u16 | if self.more { MORE4 } else { 0 });
            put(&mut bytes, network + 10, 0);
            let check = !sum(&bytes[network..]);
            put(&mut bytes, network + 10, check);
        } else {
            let extensions = whole.transport - network - 40;
            put(&mut bytes, network + 4, (extensions + HEADER6 + self.len) as u16);
            // One extension header at most: the fragment header follows it.
            let next = network + if extensions == 0 { 6 } else { 40 };
            bytes[next] = number::FRAGMENT;
            bytes.extend([whole.protocol, 0]);
            bytes.extend((self.at as u16 | u16::from(self.more)).to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
        }
        let transport = bytes.len();
        bytes.extend(payload);
        let end = bytes.len();
        Frame { bytes, network, transport, end, protocol: whole.protocol }
    }
}
