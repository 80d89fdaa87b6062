//! Rewrites a frame.

use std::net::{IpAddr, SocketAddr};

use super::read::ParsedFrame;
use crate::packets::frames::number;

/// Changed words of a frame. Words of the IP header are kept apart from those that only the transport checksum covers.
#[derive(Default)]
pub(super) struct WordChanges {
    words: Vec<(usize, [u8; 2])>,
}

impl ParsedFrame {
    /// Offsets of source address and port, and of destination address and port.
    pub(super) fn offsets(&self) -> ((usize, usize), (usize, usize)) {
        let (source, destination) = if self.v4 { (12, 16) } else { (8, 24) };
        ((self.network + source, self.transport), (self.network + destination, self.transport + 2))
    }

    /// Decrements the TTL or hop limit.
    pub(super) fn hop(&self, changes: &mut WordChanges, frame: &[u8]) {
        let at = self.network + if self.v4 { 8 } else { 6 };
        let (high, low) = (frame[at], frame[at + 1]);
        changes.words.push((at, if self.v4 { [high - 1, low] } else { [high, low - 1] }));
    }

    /// Applies the changes, and updates each checksum that covers them (RFC 1624, equation 3).
    pub(super) fn apply(
        &self,
        frame: &[u8],
        changes: &WordChanges,
        receiver: [u8; 6],
        sender: [u8; 6],
    ) -> Vec<u8> {
        let mut out = frame.to_vec();
        out[..6].copy_from_slice(&receiver);
        out[6..12].copy_from_slice(&sender);
        let hop_limit_word = self.network + if self.v4 { 8 } else { 6 };
        let (in_ip, in_transport): (Vec<_>, Vec<_>) = (
            changes.words.iter().filter(|(at, _)| self.v4 && *at < self.transport).copied().collect(),
            changes.words.iter().filter(|(at, _)| *at != hop_limit_word).copied().collect(),
        );
        for (at, word) in &changes.words {
            out[*at..*at + 2].copy_from_slice(word);
        }
        if self.v4 {
            mend(&mut out, frame, self.network + 10, &in_ip);
        }
        match self.protocol {
            number::TCP => mend(&mut out, frame, self.transport + 16, &in_transport),
            number::UDP => {
                let at = self.transport + 6;
                if frame[at..at + 2] != [0, 0] {
                    mend(&mut out, frame, at, &in_transport);
                    if out[at..at + 2] == [0, 0] {
                        out[at..at + 2].fill(0xff);
                    }
                }
            }
            _ => {}
        }
        out
    }
}

fn mend(out: &mut [u8], before: &[u8], at: usize, changes: &[(usize, [u8; 2])]) {
    let add = |x: u16, y: u16| {
        let (sum, carry) = x.overflowing_add(y);
        sum + u16::from(carry)
    };
    let word = |at: usize| u16::from_be_bytes([before[at], before[at + 1]]);
    let mut sum = !word(at);
    for (changed, new) in changes {
        sum = add(add(sum, !word(*changed)), u16::from_be_bytes(*new));
    }
    out[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());
}

/// Changes that write an address and a port.
pub(super) fn write(frame: &[u8], address: usize, port: usize, to: SocketAddr) -> WordChanges {
    assert!(frame.len() >= port + 2);
    let bytes = match to.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut changes = WordChanges::default();
    changes.words.extend(bytes.chunks(2).enumerate().map(|(i, word)| (address + 2 * i, [word[0], word[1]])));
    changes.words.push((port, to.port().to_be_bytes()));
    changes
}

/// The reply to an echo request.
pub(super) fn reply(frame: &[u8], read: &ParsedFrame) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[..6].copy_from_slice(&frame[6..12]);
    out[6..12].copy_from_slice(&frame[..6]);
    let ((source, _), (destination, _)) = read.offsets();
    let len = destination - source;
    out[source..destination].copy_from_slice(&frame[destination..destination + len]);
    out[destination..destination + len].copy_from_slice(&frame[source..destination]);
    let at = read.network + if read.v4 { 8 } else { 6 };
    out[if read.v4 { at } else { at + 1 }] = 64;
    if read.v4 {
        mend(&mut out, frame, read.network + 10, &[(at, [64, frame[at + 1]])]);
    }
    out[read.transport] = if read.v4 { 0 } else { 129 };
    let kind = [out[read.transport], 0];
    let check = read.transport + 2;
    mend(&mut out, frame, check, &[(read.transport, kind)]);
    if out[check..check + 2] == [0, 0] {
        out[check..check + 2].fill(0xff);
    }
    out
}
