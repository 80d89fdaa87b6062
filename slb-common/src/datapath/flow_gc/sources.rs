//! Words of the source table for copied entries: replies find a source-translated flow by them alone.
//!
//! The packet path allocates sources meanwhile (`flows::sources`). As there, a writer first writes its word and then looks
//! for another word of the same source, so that one of two writers gives up.

use super::{FlowTable, SlotContent, TRIES};
use crate::abi::{
    Handle,
    flow::{Client, Flow, SequenceWord},
    shared_word::SharedWord,
    source::{FLOWS_PER_BUCKET, SourceBucket, SourceKey},
};

/// The source table in memory that the packet path shares, of a flow table of the matching size.
#[derive(Debug, Clone, Copy)]
pub struct SourceTable<'t> {
    buckets: &'t [SourceBucket],
}

/// [`Backend::server_hash_for`](crate::abi::backend::Backend::server_hash_for) a flow to this server with this
/// [`Flow::port`]; `None` if there is no such server.
pub type ServerHash<'a> = dyn Fn(Handle, u16) -> Option<u64> + 'a;

/// What became of source-translated flows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SourcesResult {
    /// Flows that replies find.
    pub found: usize,
    /// Flows that have lost their source: their bucket is full, their server is gone, or another flow has the source.
    pub cleared: usize,
}

impl<'t> SourceTable<'t> {
    /// The table in `buckets`, whose number is a power of two.
    pub const fn new(buckets: &'t [SourceBucket]) -> Self {
        Self { buckets }
    }

    fn bucket(&self, key: SourceKey) -> &'t SourceBucket {
        &self.buckets[key.bucket() as usize & (self.buckets.len() - 1)]
    }
}

/// Buckets of the source table of a flow table with this number of slots.
pub const fn buckets_of(slots: u32) -> u32 {
    slots.div_ceil(FLOWS_PER_BUCKET)
}

/// A flow table with the source table that leads to its entries.
#[derive(Clone, Copy)]
struct Tables<'t, 's> {
    flows: FlowTable<'t>,
    sources: SourceTable<'t>,
    server: &'s ServerHash<'s>,
}

impl FlowTable<'_> {
    /// Writes missing words of the source table, for all flows with a allocated source. A flow loses its source if its
    /// word cannot be written. Its next packet gets another one.
    pub fn write_sources(&self, sources: &SourceTable<'_>, server: &ServerHash<'_>) -> SourcesResult {
        let tables = Tables { flows: *self, sources: *sources, server };
        let mut result = SourcesResult::default();
        for slot in 0..self.len() {
            match tables.write_word(slot) {
                Some(true) => result.found += 1,
                Some(false) => result.cleared += 1,
                None => {}
            }
        }
        result
    }

    /// Whether exactly one word leads to each allocated source, and no two flows have the same one. For tests, while
    /// nothing writes the tables.
    pub fn has_sound_sources(&self, sources: &SourceTable<'_>, server: &ServerHash<'_>) -> bool {
        let tables = Tables { flows: *self, sources: *sources, server };
        (0..self.len()).all(|slot| {
            let SlotContent::Used(_, client, flow) = self.read(slot) else { return true };
            let Some(key) = tables.allocated_key(&client, &flow) else { return !flow.source.is_allocated() };
            let words = sources.bucket(key).iter().map(SharedWord::load);
            words.filter(|word| key.slot_of(*word).is_some()).eq([key.word(slot)])
        })
    }
}

impl Tables<'_, '_> {
    /// Whether replies find the flow in this slot; `None` if it has no allocated source.
    fn write_word(&self, slot: u32) -> Option<bool> {
        for _ in 0..TRIES {
            let SlotContent::Used(sequence_word, client, flow) = self.flows.read(slot) else { return None };
            if !flow.source.is_allocated() || sequence_word.is_affinity() {
                return None;
            }
            let key = self.allocated_key(&client, &flow);
            if key.is_some_and(|key| self.put_word(key, slot)) {
                return Some(true);
            }
            if self.clear_source(slot, sequence_word, &client, flow) {
                return Some(false);
            }
        }
        None
    }

    /// The key of a flow's allocated source, if its server exists.
    fn allocated_key(&self, client: &Client, flow: &Flow) -> Option<SourceKey> {
        let server = (self.server)(flow.backend, flow.port).filter(|_| flow.source.is_allocated())?;
        Some(SourceKey::new(server, flow.source, client.parts().2, self.flows.seed))
    }

    /// Writes the word that leads to a slot; `false` if the bucket has no place, or another flow has the source.
    fn put_word(&self, key: SourceKey, slot: u32) -> bool {
        let (bucket, own) = (self.sources.bucket(key), key.word(slot));
        if bucket.iter().any(|word| word.load() == own) {
            return true;
        }
        for word in bucket {
            let other = word.load();
            if key.slot_of(other).is_some() {
                if !self.is_stale(other) {
                    return false;
                }
                word.exchange(other, 0);
            }
        }
        let is_written = bucket.iter().any(|word| word.exchange(0, own))
            || bucket.iter().any(|word| {
                let other = word.load();
                self.is_stale(other) && word.exchange(other, own)
            });
        if !is_written {
            return false;
        }
        let is_alone = bucket.iter().all(|word| {
            let other = word.load();
            other == own || key.slot_of(other).is_none()
        });
        if !is_alone {
            bucket.iter().for_each(|word| {
                word.exchange(own, 0);
            });
        }
        is_alone
    }

    /// Whether a word leads to no flow with the source that it stands for. The source of an entry that is locked may be
    /// about to be allocated.
    fn is_stale(&self, word: u64) -> bool {
        let slot = (word as u32).wrapping_sub(1);
        match self.flows.read(slot) {
            SlotContent::Free | SlotContent::Abandoned(_) => true,
            SlotContent::Locked => false,
            SlotContent::Used(_, client, flow) => {
                let server = (self.server)(flow.backend, flow.port);
                let key = server
                    .map(|server| SourceKey::new(server, flow.source, client.parts().2, self.flows.seed));
                flow.source.is_none() || key.is_none_or(|key| key.word(slot) != word)
            }
        }
    }

    /// Takes the source from a flow; `false` if anything has changed about it since `sequence_word` was read.
    fn clear_source(&self, slot: u32, sequence_word: SequenceWord, client: &Client, flow: Flow) -> bool {
        let entry = self.flows.at(slot);
        let is_locked = entry.lock_as_daemon(sequence_word);
        if is_locked {
            let flow = Flow { source: flow.source.mark(), ..flow };
            let (last_seen, state) = (sequence_word.last_seen(), sequence_word.state());
            entry.publish(sequence_word, client, &flow, last_seen, state, sequence_word.units());
        }
        is_locked
    }
}

#[cfg(test)]
mod tests;
