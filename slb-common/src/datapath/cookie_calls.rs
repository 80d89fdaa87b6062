//! SYN cookies and the sequence offsets of their connections.

use super::{maps::Maps, parse::Packet};
use crate::abi::{
    stats::CookieEvent,
    syn_cookie::{OffsetKey, SequenceOffset},
};

/// The kernel's SYN cookies, and the map of sequence offsets. Each is a BPF subprogram.
pub trait CookieCalls: Maps {
    /// The cookie for a client's SYN with the sequence number `sequence` and the maximum segment size `mss`, of which it
    /// holds the next smaller value of [`segment_sizes`](super::syn_cookie::segment_sizes). `None` if the kernel has no
    /// cookies. Of the packet only addresses and ports count.
    fn generate_cookie(&self, packet: &Packet, sequence: u32, mss: u32) -> Option<u32>;
    /// Whether the packet acknowledges a cookie of the last two minutes for a SYN with the sequence number `sequence`.
    fn is_cookie(&self, packet: &Packet, sequence: u32) -> bool;
    /// The sequence offset of a flow.
    fn sequence_offset(&self, key: &OffsetKey) -> Option<SequenceOffset>;
    /// [`SequenceOffset::offset`] of a flow, for the fast path.
    fn offset_of(&self, key: OffsetKey) -> Option<u32> {
        self.sequence_offset(&key).map(|known| known.offset)
    }
    /// Keeps the sequence offset of a flow. `false` if the map is full.
    fn put_sequence_offset(&self, key: &OffsetKey, offset: &SequenceOffset) -> bool;
    /// Erases the sequence offset of a flow.
    fn erase_sequence_offset(&self, key: &OffsetKey);
    /// Counts a cookie of a service.
    fn count_cookie(&self, service: u32, event: CookieEvent);
}
