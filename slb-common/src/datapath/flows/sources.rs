//! Sources of flows (mode `full-nat`): each belongs to one flow of a server endpoint and protocol.
//!
//! Only a flow whose entry is locked gets a source. A word of the source table counts only as long as the entry that it
//! leads to has the same source. So an evicted or erased flow frees its source without another step.
//!
//! Two processors may claim one source at once. Each first writes its word, then looks for another word of that source.
//! At least one of them sees the other's, and gives up.
//!
//! Where sources are scarce, a flow that is not assured loses its source after a second: a flood of SYNs with forged
//! sources would use them all up.

use super::{EntrySnapshot, Flows, Query};
use crate::{
    abi::{
        flow::{Client, state},
        service::ServiceIndex,
        source::{BUCKET, FLOWS_PER_BUCKET, Source, SourceBucket, SourceKey},
    },
    datapath::maps::Maps,
    opaque::forget,
};

/// Seconds of silence after which a finished TCP connection's source is free: `TCP_TIMEWAIT_LEN` of Linux. Before that,
/// the server may take a SYN for one of the old connection.
const REST: u32 = 60;
/// No position in a bucket.
const NOWHERE: u32 = BUCKET as u32;

/// A source that a flow may claim: a number for a BPF subprogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim(pub u64);

impl Claim {
    const PROTOCOL: u32 = 32;
    const SCARCE: u64 = 1 << 40;

    /// `is_scarce` says whether flows that are not assured lose their sources.
    #[inline(always)]
    pub(in crate::datapath) const fn new(source: Source, protocol: u8, is_scarce: bool) -> Self {
        Self(source.0 as u64 | (protocol as u64) << Self::PROTOCOL | is_scarce as u64 * Self::SCARCE)
    }

    const fn source(self) -> Source {
        Source(self.0 as u32)
    }

    const fn protocol(self) -> u8 {
        (self.0 >> Self::PROTOCOL) as u8
    }

    const fn is_scarce(self) -> bool {
        self.0 & Self::SCARCE != 0
    }
}

/// Claims a source for the flow in `slot`, whose entry the caller has locked. `server` is the server's
/// [`ServiceIndex::server_hash`]. Returns `false` if another flow has it. A BPF subprogram.
#[inline(always)]
pub fn claim_source<T: Maps>(slot: u32, server: u64, claim: Claim, maps: &T) -> bool {
    maps.index().is_some_and(|index| Flows::open(index, maps).claim(slot, server, claim))
}

impl<'t, T: Maps> Flows<'t, T> {
    /// The flow of a packet from a server, whose [`ServiceIndex::server_hash`] is `server`, to a source. Whether the
    /// server is that of the flow, the caller must compare.
    #[inline(always)]
    pub(in crate::datapath) fn find_by_source(
        &self,
        server: u64,
        source: Source,
        protocol: u8,
    ) -> Option<(EntrySnapshot<'t>, Client)> {
        let key = SourceKey::new(server, source, protocol, self.maps.flow_seed());
        let bucket = self.bucket(key)?;
        let mut slot = None;
        for word in bucket {
            if let Some(found) = key.slot_of(word.load()) {
                slot = Some(found);
                break;
            }
        }
        let entry = self.at(slot?, 0)?;
        let sequence_word = entry.sequence_word();
        let client = entry.client();
        let flow = entry.read(sequence_word)?;
        let is_its = sequence_word.is_used()
            && flow.source.is_claimed()
            && flow.source.same(source)
            && client.protocol() == protocol;
        if is_its { Some((EntrySnapshot { entry, sequence_word, flow }, client)) } else { None }
    }

    #[inline(always)]
    fn bucket(&self, key: SourceKey) -> Option<&'t SourceBucket> {
        self.maps.source_bucket(key.bucket() & self.mask / FLOWS_PER_BUCKET)
    }

    #[inline(always)]
    fn claim(&self, slot: u32, server: u64, claim: Claim) -> bool {
        let source = claim.source();
        let key = SourceKey::new(server, source, claim.protocol(), self.maps.flow_seed());
        let Some(bucket) = self.bucket(key) else { return false };
        let Some(entry) = self.at(slot, 0) else { return false };
        let own = key.word(slot & self.mask);
        let mut free = forget(NOWHERE, self.unknown);
        for (n, word) in (0..).zip(bucket) {
            let was = word.load();
            if key.slot_of(was).is_some() {
                // A word of this flow is left from an earlier one in its slot.
                if was != own && !self.gives_up(was, claim) {
                    return false;
                }
                word.exchange(was, 0);
            }
            if word.load() == 0 {
                free = n;
            }
            free = forget(free, self.unknown);
        }
        if free == NOWHERE {
            free = self.first_stale(bucket);
        }
        let Some(word) = bucket.get(free as usize) else { return false };
        entry.set_source(source);
        if word.exchange(0, own) {
            if self.is_alone(bucket, key, own) {
                entry.set_source(source.claimed());
                return true;
            }
            word.exchange(own, 0);
        }
        entry.set_source(Source::NONE);
        false
    }

    /// Whether no other word of the bucket is of this key.
    #[inline(always)]
    fn is_alone(&self, bucket: &SourceBucket, key: SourceKey, own: u64) -> bool {
        let mut others = forget(0, self.unknown);
        for word in bucket {
            let is = word.load();
            others |= u32::from(is != own && key.slot_of(is).is_some());
            others = forget(others, self.unknown);
        }
        others == 0
    }

    /// Whether a word stands for no flow any longer, or its flow loses the source that is claimed.
    #[inline(always)]
    fn gives_up(&self, word: u64, claim: Claim) -> bool {
        if self.is_stale(word) {
            return true;
        }
        let Some(entry) = self.at((word as u32).wrapping_sub(1), 0) else { return true };
        let sequence_word = entry.sequence_word();
        let silence = self.silence(sequence_word);
        let is_unassured = claim.is_scarce() & (sequence_word.state() & state::ASSURED == 0);
        let has_rested = self.is_expired(sequence_word)
            | (sequence_word.is_finished() & (silence >= REST * self.hz))
            | (is_unassured & (silence >= self.hz));
        // Locked, so that no other flow takes the slot meanwhile.
        if sequence_word.is_locked() || !has_rested || !entry.lock(sequence_word) {
            return false;
        }
        entry.set_source(Source::NONE);
        entry.unlock(sequence_word);
        true
    }

    /// Empties a word whose flow has another source by now. Returns its position, or [`NOWHERE`].
    #[inline(always)]
    fn first_stale(&self, bucket: &SourceBucket) -> u32 {
        for (n, word) in (0..).zip(bucket) {
            let is = word.load();
            if self.is_stale(is) && word.exchange(is, 0) {
                return n;
            }
        }
        NOWHERE
    }

    /// Whether a word leads to no flow with the source that it stands for.
    #[inline(always)]
    fn is_stale(&self, word: u64) -> bool {
        let slot = (word as u32).wrapping_sub(1);
        let Some(entry) = self.at(slot, 0) else { return true };
        let sequence_word = entry.sequence_word();
        if !sequence_word.is_used() {
            return sequence_word.is_free();
        }
        let Some(backend) = self.live_backend(entry.backend()) else { return true };
        let server = ServiceIndex::server_hash(&backend.address, backend.port);
        let (source, protocol) = (entry.source(), entry.client().protocol());
        let key = SourceKey::new(server, source, protocol, self.maps.flow_seed());
        source.0 == 0 || key.word(slot) != word
    }

    /// Gives a flow the first source that `claim` claims, while its entry is locked. `claim` gets the flow's slot.
    /// Returns [`Source::NONE`] if it claims none or the entry has changed.
    #[inline(always)]
    pub(in crate::datapath) fn give_source(
        &self,
        query: &Query,
        distance: u32,
        found: &EntrySnapshot<'_>,
        claim: impl FnOnce(u32) -> Source,
    ) -> Source {
        if !found.entry.lock(found.sequence_word) {
            return Source::NONE;
        }
        let source = claim(query.home.wrapping_add(distance) & self.mask);
        found.entry.unlock(found.sequence_word);
        source
    }
}
