//! Sources of flows (mode `full-nat`): each belongs to one flow of a server endpoint and protocol.
//!
//! Only a flow whose entry is locked gets a source. A word of the source table counts only as long as the entry that it
//! leads to has the same source. So an evicted or erased flow frees its source without another step.
//!
//! Two processors may allocate one source at once. Each first writes its word, then looks for another word of that source.
//! At least one of them sees the other's, and gives up. Until it has, replies may find its word and so no flow: that takes
//! less time than a server's answer.
//!
//! Where sources are scarce, a flow that is not assured loses its source early: a flood with forged sources would use
//! them all up.

use super::{EntrySnapshot, Flows, Query};
#[cfg(doc)]
use crate::abi::service::ServiceIndex;
use crate::{
    abi::{
        flow::{Client, FlowEntry, SequenceWord, state},
        source::{BUCKET, FLOWS_PER_BUCKET, Source, SourceBucket, SourceKey},
    },
    datapath::{flow_calls::FlowCalls, maps::Maps},
    opaque::{forget, masked},
};

/// Seconds after which the source of a finished or expired TCP connection is free: `TCP_TIMEWAIT_LEN` of Linux. Before
/// that, the server may take a SYN for one of the old connection.
const TIME_WAIT: u32 = 60;
/// Seconds of silence after which a flow that is not assured loses its source where sources are scarce.
const UNASSURED: u32 = 1;
/// The same for answered datagrams: a late answer must not reach the next flow (`nf_conntrack_udp_timeout`).
const ANSWERED: u32 = 30;
/// No position in a bucket.
const NOWHERE: u32 = BUCKET as u32;

/// A source to allocate: a number for a BPF subprogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation(pub u64);

impl Allocation {
    const PROTOCOL: u32 = 32;
    const SCARCE: u64 = 1 << 40;

    /// `is_scarce` says whether flows that are not assured lose their sources.
    #[inline(always)]
    pub(in crate::datapath) const fn new(source: Source, protocol: u8, is_scarce: bool) -> Self {
        Self(source.0 as u64 | (protocol as u64) << Self::PROTOCOL | (is_scarce as u64 * Self::SCARCE))
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

/// Allocates a source to the flow in `slot`, whose entry the caller has locked. `server` is the server's
/// [`ServiceIndex::server_hash`]. Returns `false` if another flow has it. A BPF subprogram.
#[inline(always)]
pub fn allocate_source<T: FlowCalls>(slot: u32, server: u64, request: Allocation, maps: &T) -> bool {
    maps.index().is_some_and(|index| Flows::open(index, maps).allocate(slot, server, request))
}

/// Empties the word `n` of a bucket of the source table, if it is `was` and its flow does not have the source, or loses
/// it. A BPF subprogram.
#[inline(always)]
pub fn release_word<T: Maps>(bucket: u32, n: u32, was: u64, is_scarce: bool, maps: &T) -> bool {
    maps.index().is_some_and(|index| Flows::open(index, maps).release_word(bucket, n, was, is_scarce))
}

impl<T: FlowCalls> Flows<'_, T> {
    #[inline(always)]
    fn allocate(&self, slot: u32, server: u64, request: Allocation) -> bool {
        let (maps, source, is_scarce) = (self.maps, request.source(), request.is_scarce());
        let key = SourceKey::new(server, source, request.protocol(), maps.flow_seed());
        let number = self.bucket_of(key);
        let Some(bucket) = maps.source_bucket(number) else { return false };
        let Some(entry) = self.at(slot, 0) else { return false };
        let own = key.word(slot & self.mask);
        let mut free = forget(NOWHERE, self.unknown);
        for (n, word) in (0..).zip(bucket) {
            let was = word.load();
            if was == own {
                // Left from an earlier flow in this slot.
                word.exchange(own, 0);
            } else if key.slot_of(was).is_some() && !maps.release_source_word(number, n, was, is_scarce) {
                return false;
            }
            if word.load() == 0 {
                free = n;
            }
            free = forget(free, self.unknown);
        }
        for (n, word) in (0..).zip(bucket) {
            if free == NOWHERE && maps.release_source_word(number, n, word.load(), is_scarce) {
                free = n;
            }
            free = forget(free, self.unknown);
        }
        if free >= NOWHERE {
            return false;
        }
        let word = &bucket[masked::<BUCKET>(free.into())];
        entry.set_source(source);
        if word.exchange(0, own) {
            if self.is_alone(bucket, key, own) {
                entry.set_source(source.allocated());
                return true;
            }
            word.exchange(own, 0);
        }
        entry.set_source(Source::WANTED);
        false
    }
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
        let bucket = self.maps.source_bucket(self.bucket_of(key))?;
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
            && flow.source.is_allocated()
            && flow.source.same(source)
            && client.protocol() == protocol;
        if is_its { Some((EntrySnapshot { entry, sequence_word, flow }, client)) } else { None }
    }

    #[inline(always)]
    const fn bucket_of(&self, key: SourceKey) -> u32 {
        key.bucket() & (self.mask / FLOWS_PER_BUCKET)
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

    /// Empties the word `n` of a bucket, if it is `was` and leads to no flow with the source that it stands for, or that
    /// flow loses its source. The entry is locked meanwhile: its source does not change.
    #[inline(always)]
    fn release_word(&self, bucket: u32, n: u32, was: u64, is_scarce: bool) -> bool {
        let Some(bucket) = self.maps.source_bucket(bucket) else { return false };
        let word = &bucket[masked::<BUCKET>(n.into())];
        let Some(entry) = self.at((was as u32).wrapping_sub(1), 0) else { return false };
        let sequence_word = entry.sequence_word();
        let is_stale = self.is_stale(was);
        let may_go = is_stale || self.is_released(entry, sequence_word, is_scarce);
        if sequence_word.is_locked() || !may_go || !entry.lock(sequence_word) {
            return false;
        }
        if !is_stale {
            entry.set_source(Source::WANTED);
        }
        let is_emptied = word.exchange(was, 0);
        entry.unlock(sequence_word);
        is_emptied
    }

    /// Whether a flow loses its source: it has ended long enough ago, or sources are scarce and it is not assured.
    #[inline(always)]
    fn is_released(&self, entry: FlowEntry<'_>, sequence_word: SequenceWord, is_scarce: bool) -> bool {
        let (silence, bits) = (self.silence(sequence_word), sequence_word.state());
        let is_tcp = entry.client().is_tcp();
        let rest = u32::from(is_tcp) * TIME_WAIT * self.hz;
        let early = if !is_tcp && bits & state::ANSWERED != 0 { ANSWERED } else { UNASSURED };
        let is_early = is_scarce & (bits & state::ASSURED == 0) & (silence >= early * self.hz);
        let after = if sequence_word.is_finished() { 0 } else { sequence_word.idle(self.hz) + 1 };
        is_early | (silence >= after + rest)
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
        let server = backend.server_hash_for(entry.port());
        let (source, protocol) = (entry.source(), entry.client().protocol());
        let key = SourceKey::new(server, source, protocol, self.maps.flow_seed());
        source.0 == 0 || key.word(slot) != word
    }

    /// Gives a flow the source that `allocate` returns, while its entry is locked. `allocate` gets the flow's slot. Returns the source, or [`Source::NONE`] if the entry has changed.
    #[inline(always)]
    pub(in crate::datapath) fn assign_source(
        &self,
        query: &Query,
        distance: u32,
        found: &EntrySnapshot<'_>,
        allocate: impl FnOnce(u32) -> Source,
    ) -> Source {
        if !found.entry.lock(found.sequence_word) {
            return Source::NONE;
        }
        let source = allocate(query.home.wrapping_add(distance) & self.mask);
        found.entry.set_source(source);
        found.entry.unlock(found.sequence_word);
        source
    }
}
