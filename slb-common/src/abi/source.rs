//! Source of a flow's packets towards the server, in place of the client endpoint, and the table by which replies find
//! the flow.
//!
//! The flow-table entry holds the source, so client endpoint, server and source cannot be evicted separately. A word of
//! the source table only leads to the entry, and counts for nothing once the entry has another source or none.

use super::shared_word::SharedWord;
use crate::hash::mix;

/// Words of a bucket of the source table: one cache line.
pub const BUCKET: usize = 8;
/// Slots of the flow table for each bucket of the source table.
pub const FLOWS_PER_BUCKET: u32 = 4;

/// A bucket of the source table. An empty word is 0.
pub type SourceBucket = [SharedWord; BUCKET];

/// A local address and a port, or none.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Source(pub u32);

impl Source {
    /// The client endpoint is kept.
    pub const NONE: Self = Self(0);
    /// The flow needs a source and has none: its packets are not forwarded before it gets one.
    pub const WANTED: Self = Self(1 << 27);
    /// It has been decided that the client endpoint is kept.
    pub const UNTRANSLATED: Self = Self(1 << 26);
    /// Mark of a flow whose handshake began with a SYN cookie ([`super::syn_cookie`]): its client knows other sequence
    /// numbers of the server than the server. It says nothing about the source.
    pub const COOKIE: Self = Self(1 << 28);
    const CANDIDATE: u32 = 1 << 24;
    const ALLOCATED: u32 = 1 << 25;

    /// The local address in this slot of the table, and a port in network byte order. Packets do not use it before it is
    /// allocated.
    #[inline(always)]
    pub const fn candidate(local: u8, port: u16) -> Self {
        Self(port as u32 | (local as u32) << 16 | Self::CANDIDATE)
    }

    /// The source once it belongs to one flow alone.
    #[inline(always)]
    #[must_use]
    pub const fn allocated(self) -> Self {
        Self(self.0 | Self::ALLOCATED)
    }

    /// Whether it belongs to one flow alone.
    #[inline(always)]
    pub const fn is_allocated(self) -> bool {
        self.0 & Self::ALLOCATED != 0
    }

    /// Whether both are the same local address and port.
    #[inline(always)]
    pub const fn same(self, other: Self) -> bool {
        (self.0 ^ other.0) & !(Self::ALLOCATED | Self::COOKIE.0) == 0
    }

    /// Whether the handshake of the flow began with a SYN cookie.
    #[inline(always)]
    pub const fn is_of_cookie(self) -> bool {
        self.0 & Self::COOKIE.0 != 0
    }

    /// [`Self::COOKIE`] alone, if the flow has it.
    #[inline(always)]
    #[must_use]
    pub const fn mark(self) -> Self {
        Self(self.0 & Self::COOKIE.0)
    }

    /// The same without [`Self::COOKIE`].
    #[inline(always)]
    #[must_use]
    pub const fn unmarked(self) -> Self {
        Self(self.0 & !Self::COOKIE.0)
    }

    /// Whether the client endpoint is kept, with [`Self::COOKIE`] or without: [`Self::NONE`].
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.unmarked().0 == 0
    }

    /// Slot of the local address.
    #[inline(always)]
    pub const fn local(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// The port, in network byte order.
    #[inline(always)]
    pub const fn port(self) -> u16 {
        self.0 as u16
    }
}

/// Where the source table leads from a server endpoint, a source and a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceKey(pub u64);

impl SourceKey {
    /// `server` is the server's [`server_hash`](super::service::ServiceIndex::server_hash), `seed` that of the flow table.
    #[inline(always)]
    pub const fn new(server: u64, source: Source, protocol: u8, seed: u64) -> Self {
        let end = source.port() as u64 | (source.local() as u64) << 16 | (protocol as u64) << 24;
        Self(mix(mix(server ^ seed) ^ end))
    }

    /// The bucket, which the caller reduces to the table's size.
    #[inline(always)]
    pub const fn bucket(self) -> u32 {
        self.0 as u32
    }

    /// The word that leads to a slot of the flow table.
    #[inline(always)]
    pub const fn word(self, slot: u32) -> u64 {
        (self.0 >> 32) << 32 | (slot as u64 + 1) & 0xffff_ffff
    }

    /// The slot of the flow table that a word leads to, if the word may be of this key.
    #[inline(always)]
    pub const fn slot_of(self, word: u64) -> Option<u32> {
        if (word ^ self.0) >> 32 == 0 && word as u32 != 0 { Some(word as u32 - 1) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_keeps_its_parts() {
        let source = Source::candidate(255, 0xbb01);
        assert_eq!((source.local(), source.port(), source.is_allocated()), (255, 0xbb01, false));
        assert!(source.allocated().is_allocated() && source.allocated().same(source));
        assert!(!source.same(Source::candidate(255, 0xbb02)) && !source.same(Source::candidate(254, 0xbb01)));
        assert!(!source.same(Source::NONE) && !Source::NONE.is_allocated());
        let marked = Source(source.allocated().0 | Source::COOKIE.0);
        assert!(marked.same(source) && marked.is_of_cookie() && !source.is_of_cookie());
        assert_eq!((marked.local(), marked.port(), marked.unmarked()), (255, 0xbb01, source.allocated()));
        assert!(Source::COOKIE.is_none() && Source::NONE.is_none() && !marked.is_none());
    }

    #[test]
    fn words_lead_to_their_slot_alone() {
        let key = |port| SourceKey::new(9, Source::candidate(3, port), 6, 7);
        for slot in [0, 1, u32::MAX - 1] {
            let word = key(1).word(slot);
            assert_eq!(key(1).slot_of(word), Some(slot));
            assert_eq!(key(2).slot_of(word), None);
        }
        assert_eq!(key(1).slot_of(0), None);
    }
}
