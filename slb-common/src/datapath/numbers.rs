//! Sequence numbers of TCP flows: what a segment must show before it changes what the flow table holds of a connection (RFC 9293,
//! 3.10.7.4; RFC 5961, 3 to 5).
//!
//! SLB is no end of the connection: it forwards every segment to the flow's own server or client, which judges it. Its own state
//! changes only by segments whose numbers the other side, too, would take. An entry holds the next number of each side, which lags
//! behind by less than [`LAG`]: one write for that many bytes, so that the entry's cache line stays shared.

use crate::{abi::flow::Numbers, net::parse::Packet};

/// An entry's numbers lag behind the segments' by less than this, in bytes.
pub const LAG: u32 = 1 << 14;
/// Segments further apart than this, in bytes, do not advance an entry's numbers: of the pairs of numbers that a forged segment may
/// have, one in 2^22 passes.
const WINDOW: u32 = 1 << 20;

/// Numbers of one segment, seen from its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// Sequence number after its last byte; SYN and FIN count.
    pub end: u32,
    /// The number that it acknowledges; of no meaning without the flag.
    pub acknowledges: u32,
}

impl Segment {
    /// The numbers of a TCP packet.
    #[inline(always)]
    pub const fn of(packet: &Packet) -> Self {
        let flags = packet.flags.syn() as u32 + packet.flags.fin() as u32;
        Self {
            sequence: packet.sequence,
            end: packet.sequence.wrapping_add(packet.payload).wrapping_add(flags),
            acknowledges: packet.acknowledges,
        }
    }

    /// Whether the receiver may take a RST or FIN with this number for one of the connection: it comes where its sender's last
    /// bytes ended, as exactly as the entry says. `next` is the entry's number of the sender.
    #[inline(always)]
    pub const fn ends(&self, next: u32) -> bool {
        self.sequence.wrapping_sub(next) < LAG
    }

    /// The same for a FIN, which may come again.
    #[inline(always)]
    pub const fn finishes(&self, next: u32) -> bool {
        self.sequence.wrapping_sub(next).wrapping_add(LAG) < 2 * LAG
    }

    /// Whether it acknowledges what the other side has sent, of which nothing but a SYN has been followed. `next` is the entry's
    /// number of the other side.
    #[inline(always)]
    pub const fn acknowledges(&self, next: u32) -> bool {
        self.acknowledges.wrapping_sub(next) < LAG
    }

    /// Whether a SYN-ACK accepts the connection that the client has asked for by the SYN whose numbers the entry has. A server may leave
    /// data of the SYN for later. `next` is the entry's number of the client.
    #[inline(always)]
    pub const fn accepts(&self, next: u32) -> bool {
        self.acknowledges.wrapping_sub(next).wrapping_add(LAG) < 2 * LAG
    }

    /// Whether both numbers are near those of the entry: `own` of the sender, `other` of the other side.
    #[inline(always)]
    pub const fn is_plausible(&self, own: u32, other: u32) -> bool {
        is_near(self.sequence, own) && is_near(self.acknowledges, other)
    }

    /// Whether one of the numbers is, and so vouches for the other one.
    #[inline(always)]
    const fn is_half_plausible(&self, own: u32, other: u32) -> bool {
        is_near(self.sequence, own) || is_near(self.acknowledges, other)
    }
}

#[inline(always)]
const fn is_near(number: u32, next: u32) -> bool {
    number.wrapping_sub(next).wrapping_add(WINDOW) < 2 * WINDOW
}

/// The numbers of an entry after a plausible segment of the client; `None` where they are near enough, or it is not plausible.
#[inline(always)]
pub const fn after_client(Numbers { client, server }: Numbers, segment: &Segment) -> Option<Numbers> {
    match after(client, server, segment, segment.is_plausible(client, server)) {
        Some([client, server]) => Some(Numbers { client, server }),
        None => None,
    }
}

/// The same after a segment of the server, which has come by the way to it: no blind sender's. One number that is near the entry's
/// vouches for the other one, which may be far off where a part of the transfer has not come by.
#[inline(always)]
pub const fn after_server(Numbers { client, server }: Numbers, segment: &Segment) -> Option<Numbers> {
    match after(server, client, segment, segment.is_half_plausible(server, client)) {
        Some([server, client]) => Some(Numbers { client, server }),
        None => None,
    }
}

/// The sender's number and the other side's after a segment, where that is believed.
#[inline(always)]
const fn after(own: u32, other: u32, segment: &Segment, is_believed: bool) -> Option<[u32; 2]> {
    let next = [advanced(own, segment.end), advanced(other, segment.acknowledges)];
    let is_new = next[0] != own || next[1] != other;
    if is_new && is_believed { Some(next) } else { None }
}

/// Another number, if it is at least [`LAG`] later, or so far behind that it is none of data that are sent again.
#[inline(always)]
const fn advanced(next: u32, end: u32) -> u32 {
    let ahead = end.wrapping_sub(next);
    if ahead >= LAG && ahead <= u32::MAX - WINDOW { end } else { next }
}

#[cfg(test)]
mod tests;
