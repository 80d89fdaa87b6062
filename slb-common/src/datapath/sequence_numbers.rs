//! TCP sequence numbers: what a segment must show before it changes an entry (RFC 9293, 3.10.7.4; RFC 5961, 3 to 5).
//!
//! SLB is no end of the connection. It forwards every segment to the flow's own server or client, which judges it. An
//! entry changes only by segments whose numbers the other end would accept as well. An entry holds the next number of
//! each side, which lags by less than [`LAG`]. One write per [`LAG`] bytes keeps the entry's cache line shared.

use super::parse::Packet;
use crate::abi::flow::SequenceNumbers;

/// An entry's numbers lag behind the segments' by less than this, in bytes.
pub const LAG: u32 = 1 << 14;
/// Greatest distance in bytes at which a segment advances an entry's numbers. One of 2^22 forged pairs of numbers
/// passes.
const WINDOW: u32 = 1 << 20;

/// Numbers of one segment, seen from its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// Sequence number after its last byte; SYN and FIN count as one each.
    pub end: u32,
    /// Acknowledgement number; meaningless without the ACK flag.
    pub acknowledges: u32,
}

impl Segment {
    /// The numbers of a TCP packet whose numbers have been read ([`Packet::numbered`]).
    #[inline(always)]
    pub const fn of(packet: &Packet) -> Self {
        let flags = packet.flags.syn() as u32 + packet.flags.fin() as u32;
        Self {
            sequence: packet.sequence,
            end: packet.sequence.wrapping_add(packet.payload).wrapping_add(flags),
            acknowledges: packet.acknowledges,
        }
    }

    /// Whether a RST or FIN with this number may end the connection: it must be the sender's next one, within the
    /// entry's lag. `next` is the entry's number of the sender.
    #[inline(always)]
    pub const fn ends(&self, next: u32) -> bool {
        self.sequence.wrapping_sub(next) < LAG
    }

    /// The same for a FIN, which may also be a retransmission.
    #[inline(always)]
    pub const fn finishes(&self, next: u32) -> bool {
        self.sequence.wrapping_sub(next).wrapping_add(LAG) < 2 * LAG
    }

    /// Whether it acknowledges the other side's SYN, and no more than [`LAG`] bytes beyond. `next` is the entry's
    /// number of the other side.
    #[inline(always)]
    pub const fn acknowledges(&self, next: u32) -> bool {
        self.acknowledges.wrapping_sub(next) < LAG
    }

    /// Whether a SYN-ACK accepts the connection of the client's SYN. A server may leave data of the SYN for later.
    /// `next` is the entry's number of the client.
    #[inline(always)]
    pub const fn accepts(&self, next: u32) -> bool {
        self.acknowledges.wrapping_sub(next).wrapping_add(LAG) < 2 * LAG
    }

    /// Whether both numbers are within 1 MiB of the entry's: `own` of the sender, `other` of the other side.
    #[inline(always)]
    pub const fn is_plausible(&self, own: u32, other: u32) -> bool {
        is_near(self.sequence, own) && is_near(self.acknowledges, other)
    }

    /// Whether one of the numbers is, and so vouches for the other.
    #[inline(always)]
    const fn is_half_plausible(&self, own: u32, other: u32) -> bool {
        is_near(self.sequence, own) || is_near(self.acknowledges, other)
    }
}

#[inline(always)]
const fn is_near(number: u32, next: u32) -> bool {
    number.wrapping_sub(next).wrapping_add(WINDOW) < 2 * WINDOW
}

/// An entry's numbers after a plausible segment of the client. `None` if they need no update, or the segment is not
/// plausible.
#[inline(always)]
pub const fn after_client(
    SequenceNumbers { client, server }: SequenceNumbers,
    segment: &Segment,
) -> Option<SequenceNumbers> {
    match after(client, server, segment, segment.is_plausible(client, server)) {
        Some([client, server]) => Some(SequenceNumbers { client, server }),
        None => None,
    }
}

/// An entry's numbers after a segment of the server; `None` as in [`after_client`]. The segment arrived by the path to
/// the server, so no blind sender forged it. One plausible number vouches for the other. That may be far off where a
/// part of the transfer took another node.
#[inline(always)]
pub const fn after_server(
    SequenceNumbers { client, server }: SequenceNumbers,
    segment: &Segment,
) -> Option<SequenceNumbers> {
    match after(server, client, segment, segment.is_half_plausible(server, client)) {
        Some([server, client]) => Some(SequenceNumbers { client, server }),
        None => None,
    }
}

/// Numbers of the sender and of the other side after a segment, if that is believed and changes them.
#[inline(always)]
const fn after(own: u32, other: u32, segment: &Segment, is_believed: bool) -> Option<[u32; 2]> {
    let next = [advanced(own, segment.end), advanced(other, segment.acknowledges)];
    let is_new = next[0] != own || next[1] != other;
    if is_new && is_believed { Some(next) } else { None }
}

/// `end` if it is at least [`LAG`] ahead of `next`, or farther behind it than retransmitted data; else `next`.
#[inline(always)]
const fn advanced(next: u32, end: u32) -> u32 {
    let ahead = end.wrapping_sub(next);
    if ahead >= LAG && ahead <= u32::MAX - WINDOW { end } else { next }
}

#[cfg(test)]
mod tests;
