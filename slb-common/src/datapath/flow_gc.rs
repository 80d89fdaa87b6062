//! Flow-table GC: the daemon scans the whole table, reports flows and erases expired entries, while other processors
//! forward packets.
//!
//! Last-seen times are the low word of jiffies, which wraps around. An entry that stays too long would look alive
//! again.

mod ages;
mod flush;
mod resize;
mod sources;

use std::{hint::spin_loop, ops::Range};

use ages::Ages;
pub use flush::FlushResult;
pub use resize::CopyResult;
pub use sources::{ServerHash, SourceTable, SourcesResult, buckets_of};

use crate::abi::{
    flow::{Client, Flow, FlowEntry, NEIGHBOURHOOD, SequenceWord, WORDS, state},
    shared_word::SharedWord,
};

/// Seconds that an expired flow stays in the table. In that time both ends receive a RST, or one of them continues the
/// connection.
const GRACE: u32 = 60;
/// Seconds of silence after which a finished flow is erased: longer than either end waits to retransmit its last
/// segment.
const FINISHED_TIMEOUT: u32 = 240;
/// Reads of an entry that stays locked before it counts as unread.
const TRIES: u32 = 1000;

/// The flow table in memory that the packet path shares.
#[derive(Debug, Clone, Copy)]
pub struct FlowTable<'t> {
    slots: &'t [[SharedWord; WORDS]],
    seed: u64,
}

/// The time of a GC pass.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Jiffies, the low word.
    pub now: u32,
    /// Jiffies per second.
    pub hz: u32,
}

/// An entry that a GC pass reports.
#[derive(Debug)]
pub struct GcEntry<'a> {
    /// State, idle time and last-seen time.
    pub sequence_word: SequenceWord,
    /// The client endpoint.
    pub client: &'a Client,
    /// The flow, or the server of an affinity entry.
    pub flow: &'a Flow,
    /// Seconds since a GC pass first saw the flow. `None` if that is more than 600 s ago, or the flow is older than the
    /// first pass.
    pub age: Option<u32>,
}

/// Fill level of a flow table.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct FlowTableUsage {
    /// Slots of the table.
    pub entries: usize,
    /// Used entries, affinity entries among them.
    pub used: usize,
    /// Of these, assured flows that are neither finished nor expired. New flows evict them in exceptional cases only
    /// (`flows::eviction`).
    pub assured: usize,
}

/// Result of a GC pass.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct GcPass {
    /// Flows that are neither finished nor expired.
    pub live: usize,
    /// Assured flows that are neither finished nor expired. New flows evict them in exceptional cases only.
    pub assured: usize,
    /// Entries that have been erased.
    pub erased: usize,
    /// Affinity entries.
    pub affinity_entries: usize,
    /// Entries that stayed locked: each may hold a flow.
    pub unread: usize,
}

impl GcPass {
    /// Adds what a later part of the same pass found.
    pub const fn add(&mut self, part: Self) {
        let Self { live, assured, erased, affinity_entries, unread } = part;
        self.live += live;
        self.assured += assured;
        self.erased += erased;
        self.affinity_entries += affinity_entries;
        self.unread += unread;
    }
}

/// What a GC pass does with an entry that it has reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcAction {
    /// Nothing.
    Keep,
    /// A flow is marked `RESET`. Its ends receive a RST with their next segment if it has expired or its server is
    /// terminating. An affinity entry is erased.
    Terminate,
    /// The client's affinity entry is refreshed, if it names the flow's server. Its idle time becomes this number of
    /// [`persistence_units`].
    ///
    /// [`persistence_units`]: crate::abi::flow::persistence_units
    RefreshAffinity(u8),
}

/// Content of a slot.
#[derive(Debug, PartialEq, Eq)]
enum SlotContent {
    Free,
    Used(SequenceWord, Client, Flow),
    /// A packet had it locked at each read.
    Locked,
    /// Locked by a daemon that was killed.
    Abandoned(SequenceWord),
}

impl<'t> FlowTable<'t> {
    /// The table in `slots`, whose number is a power of two. `seed` is the seed of its hash.
    pub const fn new(slots: &'t [[SharedWord; WORDS]], seed: u64) -> Self {
        Self { slots, seed }
    }

    /// Whether each hop bitmap names exactly the slots of its bucket's entries. For tests, while nothing writes the
    /// table.
    pub fn is_sound(&self) -> bool {
        let mut hop_bitmap = vec![0; self.slots.len()];
        for slot in 0..self.len() {
            if let SlotContent::Used(_, client, _) = self.read(slot) {
                let (home, distance) = self.home(slot, &client);
                hop_bitmap[home as usize] |= 1_u64 << distance.min(u64::BITS - 1);
            }
        }
        (0..self.len()).zip(hop_bitmap).all(|(slot, hop_bitmap)| self.at(slot).hop_bitmap() == hop_bitmap)
    }

    const fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    fn at(&self, slot: u32) -> FlowEntry<'t> {
        FlowEntry::new(&self.slots[(slot & (self.len() - 1)) as usize])
    }

    /// Visits every flow that is neither finished nor expired, and returns the fill level. Changes nothing, and leaves
    /// out entries that stay locked.
    pub fn live(&self, Clock { now, hz }: Clock, visit: &mut dyn FnMut(&Flow)) -> FlowTableUsage {
        let mut fill = FlowTableUsage { entries: self.slots.len(), ..FlowTableUsage::default() };
        for slot in 0..self.len() {
            let SlotContent::Used(sequence_word, _, flow) = self.read(slot) else { continue };
            fill.used += 1;
            if !sequence_word.is_affinity()
                && !sequence_word.is_finished()
                && sequence_word.silence(now) <= sequence_word.idle(hz)
            {
                fill.assured += usize::from(sequence_word.state() & state::ASSURED != 0);
                visit(&flow);
            }
        }
        fill
    }

    /// Home bucket of a client endpoint, and the distance of `slot` from it.
    fn home(&self, slot: u32, client: &Client) -> (u32, u32) {
        let home = client.home(self.seed) & (self.len() - 1);
        (home, slot.wrapping_sub(home) & (self.len() - 1))
    }

    fn read(&self, slot: u32) -> SlotContent {
        let entry = self.at(slot);
        let mut sequence_word = entry.sequence_word();
        for _ in 0..TRIES {
            if sequence_word.is_free() {
                return SlotContent::Free;
            }
            let client = entry.client();
            if let Some(flow) = entry.read(sequence_word)
                && sequence_word.is_used()
            {
                return SlotContent::Used(sequence_word, client, flow);
            }
            if sequence_word.is_locked_by_daemon() {
                return SlotContent::Abandoned(sequence_word);
            }
            spin_loop();
            sequence_word = entry.sequence_word();
        }
        SlotContent::Locked
    }

    /// Refreshes the affinity entry of a flow's client, if it names the flow's server. An assured flow makes the
    /// affinity entry assured.
    fn refresh_affinity(
        &self,
        sequence_word: SequenceWord,
        client: &Client,
        flow: &Flow,
        now: u32,
        idle: u8,
    ) {
        let affinity = Client::affinity(&client.parts().0, flow.service);
        let (home, _) = self.home(0, &affinity);
        let mut hop_bitmap = self.at(home).hop_bitmap();
        while hop_bitmap != 0 {
            let entry = self.at(home.wrapping_add(hop_bitmap.trailing_zeros()));
            let found = entry.sequence_word();
            if found.is_used()
                && entry.service_of(&affinity) == Some(flow.service)
                && entry.backend() == flow.backend
            {
                let bits = found.state() | sequence_word.state() & state::ASSURED;
                if found.units() == idle {
                    entry.touch(found, now, bits);
                } else if let Some(flow) = entry.read(found)
                    && entry.lock_as_daemon(found)
                {
                    entry.publish(found, &affinity, &flow, now, bits, idle);
                }
                return;
            }
            hop_bitmap &= hop_bitmap - 1;
        }
    }

    /// Erases an entry; `false` if anything has changed about it since `sequence_word` was read.
    fn erase(&self, slot: u32, sequence_word: SequenceWord) -> bool {
        let claimed = self.at(slot).lock_as_daemon(sequence_word);
        if claimed {
            self.release_slot(slot, sequence_word);
        }
        claimed
    }

    /// Releases an entry that the daemon has locked. The bitmap first: once the entry is free, a packet may lock it and
    /// set the bit anew.
    fn release_slot(&self, slot: u32, sequence_word: SequenceWord) {
        let entry = self.at(slot);
        let (home, distance) = self.home(slot, &entry.client());
        if distance < NEIGHBOURHOOD {
            self.at(home).clear_hop(distance);
        }
        entry.release(sequence_word);
    }

    /// Releases an entry that a killed daemon left locked. Its client, and so its home bucket, is uncertain. So the
    /// slot is cleared in every hop bitmap that may name it.
    fn recover(&self, slot: u32, sequence_word: SequenceWord) {
        for distance in 0..NEIGHBOURHOOD {
            self.at(slot.wrapping_sub(distance)).clear_hop(distance);
        }
        self.at(slot).release(sequence_word);
    }
}

/// Whether a GC pass erases the entry: expired, or finished, for long enough.
fn is_erasable(sequence_word: SequenceWord, Clock { now, hz }: Clock) -> bool {
    let (silence, idle) = (sequence_word.silence(now), sequence_word.idle(hz));
    if sequence_word.is_affinity() {
        return silence > idle;
    }
    // Only assured flows stay for their ends to be reset.
    if sequence_word.state() & state::ASSURED == 0 && silence > idle {
        return true;
    }
    // A flow that has expired gets `RESET` when its ends are provoked. That is no reason to erase it sooner.
    let is_finished = sequence_word.is_finished() && silence > FINISHED_TIMEOUT * hz && silence <= idle;
    is_finished || silence > idle + GRACE * hz
}

/// Marks a flow `RESET`, unless anything has changed about it since `sequence_word` was read. It stays for a while, as
/// its ends may answer late. The age of an expired flow becomes just expired: the packet path counts the ends' time to
/// answer from there.
fn reset(entry: FlowEntry<'_>, sequence_word: SequenceWord, Clock { now, hz }: Clock) {
    let idle = sequence_word.idle(hz);
    let seen = if sequence_word.silence(now) > idle { now.wrapping_sub(idle + 1) } else { now };
    entry.touch(sequence_word, seen, sequence_word.state() | state::RESET);
}

/// GC of a flow table. One runs at a time, and no other thread of its process writes the table meanwhile. So a daemon's
/// lock that it finds belongs to a process that has ended.
#[derive(Debug, Default)]
pub struct FlowGc {
    ages: Ages,
    /// Jiffies at which the state was read by which the pass decides.
    state_read: u32,
}

impl FlowGc {
    /// Runs a whole GC pass at one time: [`Self::begin`], then [`Self::scan`] of all slots.
    pub fn gc_pass(
        &mut self,
        table: &FlowTable<'_>,
        clock: Clock,
        visit: &mut dyn FnMut(&GcEntry<'_>) -> GcAction,
    ) -> GcPass {
        self.begin(table, clock, clock.now);
        self.scan(table, 0..table.len(), clock, visit)
    }

    /// Begins a GC pass, of which each slot is scanned once. `state_read` is the jiffies at which the state was read by
    /// which `visit` decides.
    pub fn begin(&mut self, table: &FlowTable<'_>, clock: Clock, state_read: u32) {
        self.ages.begin(table, clock);
        self.state_read = state_read;
    }

    /// Scans these slots: erases entries that are long expired or finished, and reports all others to `visit`, which
    /// decides on them. An affinity entry that was refreshed since the state was read is not erased: `visit` may not
    /// know its service yet.
    pub fn scan(
        &mut self,
        table: &FlowTable<'_>,
        slots: Range<u32>,
        clock: Clock,
        visit: &mut dyn FnMut(&GcEntry<'_>) -> GcAction,
    ) -> GcPass {
        let mut gc_pass = GcPass::default();
        for slot in slots.start..slots.end.min(table.len()) {
            match table.read(slot) {
                SlotContent::Free => {}
                SlotContent::Used(sequence_word, client, flow) if sequence_word.is_affinity() => {
                    let seen = GcEntry { sequence_word, client: &client, flow: &flow, age: None };
                    let ends = is_erasable(sequence_word, clock)
                        || visit(&seen) == GcAction::Terminate && !self.is_new(sequence_word);
                    if ends && table.erase(slot, sequence_word) {
                        gc_pass.erased += 1;
                    } else {
                        gc_pass.affinity_entries += 1;
                    }
                }
                SlotContent::Used(sequence_word, client, flow) => {
                    if is_erasable(sequence_word, clock) && table.erase(slot, sequence_word) {
                        gc_pass.erased += 1;
                    } else {
                        let age = self.ages.age(slot, sequence_word);
                        let seen = GcEntry { sequence_word, client: &client, flow: &flow, age };
                        visit_flow(table, slot, &seen, clock, visit, &mut gc_pass);
                    }
                }
                SlotContent::Locked => gc_pass.unread += 1,
                SlotContent::Abandoned(sequence_word) => {
                    table.recover(slot, sequence_word);
                    gc_pass.erased += 1;
                }
            }
        }
        gc_pass
    }

    /// Whether an entry was last seen after the state was read.
    const fn is_new(&self, sequence_word: SequenceWord) -> bool {
        sequence_word.last_seen().wrapping_sub(self.state_read).cast_signed() >= 0
    }
}

/// Counts a flow, and does with it what `visit` decides.
fn visit_flow(
    table: &FlowTable<'_>,
    slot: u32,
    seen: &GcEntry<'_>,
    clock: Clock,
    visit: &mut dyn FnMut(&GcEntry<'_>) -> GcAction,
    gc_pass: &mut GcPass,
) {
    let GcEntry { sequence_word, client, flow, .. } = *seen;
    let (silence, idle) = (sequence_word.silence(clock.now), sequence_word.idle(clock.hz));
    let is_live = silence <= idle && !sequence_word.is_finished();
    gc_pass.live += usize::from(is_live);
    gc_pass.assured += usize::from(is_live && sequence_word.state() & state::ASSURED != 0);
    match visit(seen) {
        GcAction::Keep => {}
        GcAction::Terminate => reset(table.at(slot), sequence_word, clock),
        GcAction::RefreshAffinity(idle) => {
            table.refresh_affinity(sequence_word, client, flow, clock.now, idle);
        }
    }
}

#[cfg(test)]
mod tests;
