//! Flow-table GC: the daemon scans the whole table, reports flows and erases expired entries, while other processors
//! forward packets.
//!
//! Last-seen times are the low word of jiffies, which wraps around. An entry that stays too long would look alive
//! again.

mod ages;
mod flush;
mod migrate;

use std::hint::spin_loop;

use ages::Ages;
pub use flush::Flushed;
pub use migrate::Migrated;

use crate::abi::{
    flow::{Client, Flow, FlowEntry, Meta, WINDOW, WORDS, state},
    shared_word::SharedWord,
};

/// Seconds that an expired flow stays in the table. In that time both ends receive a RST, or one of them continues the
/// connection.
const GRACE: u32 = 60;
/// Seconds of silence after which a finished flow is erased: longer than either end waits to retransmit its last
/// segment.
const OVER: u32 = 240;
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
pub struct Seen<'a> {
    /// State, idle time and last-seen time.
    pub meta: Meta,
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
pub struct Fill {
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
pub struct Look {
    /// Flows that are neither finished nor expired.
    pub live: usize,
    /// Assured flows that are neither finished nor expired. New flows evict them in exceptional cases only.
    pub assured: usize,
    /// Entries that have been erased.
    pub erased: usize,
    /// Affinity entries.
    pub clients: usize,
    /// Entries that stayed locked: each may hold a flow.
    pub unread: usize,
}

/// What a GC pass does with an entry that it has reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Goes,
    /// A flow is marked `RESET`. Its ends receive a RST with their next segment if it has expired or its server is
    /// terminating. An affinity entry is erased.
    Ends,
    /// The client's affinity entry is refreshed, if it names the flow's server. Its idle time becomes this number of
    /// [`persistence_units`].
    ///
    /// [`persistence_units`]: crate::abi::flow::persistence_units
    Holds(u8),
}

/// Content of a slot.
#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Free,
    Used(Meta, Client, Flow),
    /// A packet had it locked at each read.
    Locked,
    /// Locked by a daemon that was killed.
    Abandoned(Meta),
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
            if let Slot::Used(_, client, _) = self.read(slot) {
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
    pub fn live(&self, Clock { now, hz }: Clock, visit: &mut dyn FnMut(&Flow)) -> Fill {
        let mut fill = Fill { entries: self.slots.len(), ..Fill::default() };
        for slot in 0..self.len() {
            let Slot::Used(meta, _, flow) = self.read(slot) else { continue };
            fill.used += 1;
            if !meta.is_client() && !meta.is_finished() && meta.silence(now) <= meta.idle(hz) {
                fill.assured += usize::from(meta.state() & state::ASSURED != 0);
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

    fn read(&self, slot: u32) -> Slot {
        let entry = self.at(slot);
        let mut meta = entry.meta();
        for _ in 0..TRIES {
            if meta.is_free() {
                return Slot::Free;
            }
            let client = entry.client();
            if let Some(flow) = entry.read(meta)
                && meta.is_used()
            {
                return Slot::Used(meta, client, flow);
            }
            if meta.is_locked_by_daemon() {
                return Slot::Abandoned(meta);
            }
            spin_loop();
            meta = entry.meta();
        }
        Slot::Locked
    }

    /// Refreshes the affinity entry of a flow's client, if it names the flow's server. An assured flow makes the
    /// affinity entry assured.
    fn hold(&self, meta: Meta, client: &Client, flow: &Flow, now: u32, idle: u8) {
        let whole = Client::whole(&client.parts().0, flow.service);
        let (home, _) = self.home(0, &whole);
        let mut hop_bitmap = self.at(home).hop_bitmap();
        while hop_bitmap != 0 {
            let entry = self.at(home.wrapping_add(hop_bitmap.trailing_zeros()));
            let found = entry.meta();
            if found.is_used()
                && entry.service_of(&whole) == Some(flow.service)
                && entry.backend() == flow.backend
            {
                let bits = found.state() | meta.state() & state::ASSURED;
                if found.units() == idle {
                    entry.touch(found, now, bits);
                } else if let Some(flow) = entry.read(found)
                    && entry.lock_as_daemon(found)
                {
                    entry.fill(found, &whole, &flow, now, bits, idle);
                }
                return;
            }
            hop_bitmap &= hop_bitmap - 1;
        }
    }

    /// Erases an entry; `false` if anything has changed about it since `meta` was read.
    fn erase(&self, slot: u32, meta: Meta) -> bool {
        let claimed = self.at(slot).lock_as_daemon(meta);
        if claimed {
            self.vacate(slot, meta);
        }
        claimed
    }

    /// Releases an entry that the daemon has locked. The bitmap first: once the entry is free, a packet may lock it and
    /// set the bit anew.
    fn vacate(&self, slot: u32, meta: Meta) {
        let entry = self.at(slot);
        let (home, distance) = self.home(slot, &entry.client());
        if distance < WINDOW {
            self.at(home).clear_hop(distance);
        }
        entry.free(meta);
    }

    /// Releases an entry that a killed daemon left locked. Its client, and so its home bucket, is uncertain. So the
    /// slot is cleared in every hop bitmap that may name it.
    fn recover(&self, slot: u32, meta: Meta) {
        for distance in 0..WINDOW {
            self.at(slot.wrapping_sub(distance)).clear_hop(distance);
        }
        self.at(slot).free(meta);
    }
}

/// Whether a GC pass erases the entry: expired, or finished, for long enough.
fn is_done(meta: Meta, Clock { now, hz }: Clock) -> bool {
    let (silence, idle) = (meta.silence(now), meta.idle(hz));
    if meta.is_client() {
        return silence > idle;
    }
    // Only assured flows stay for their ends to be reset.
    if meta.state() & state::ASSURED == 0 && silence > idle {
        return true;
    }
    // A flow that has expired gets `RESET` when its ends are provoked. That is no reason to erase it sooner.
    let is_finished = meta.is_finished() && silence > OVER * hz && silence <= idle;
    is_finished || silence > idle + GRACE * hz
}

/// Marks a flow `RESET`, unless anything has changed about it since `meta` was read. It stays for a while, as its ends
/// may answer late. The age of an expired flow becomes just expired: the packet path counts the ends' time to answer
/// from there.
fn reset(entry: FlowEntry<'_>, meta: Meta, Clock { now, hz }: Clock) {
    let idle = meta.idle(hz);
    let seen = if meta.silence(now) > idle { now.wrapping_sub(idle + 1) } else { now };
    entry.touch(meta, seen, meta.state() | state::RESET);
}

/// GC of a flow table. One runs at a time, and no other thread of its process writes the table meanwhile. So a daemon's
/// lock that it finds belongs to a process that has ended.
#[derive(Debug, Default)]
pub struct FlowGc {
    ages: Ages,
}

impl FlowGc {
    /// Runs a GC pass: erases entries that are long expired or finished, and reports all others to `visit`, which
    /// decides on them.
    pub fn look(
        &mut self,
        table: &FlowTable<'_>,
        clock: Clock,
        visit: &mut dyn FnMut(&Seen<'_>) -> Fate,
    ) -> Look {
        let Clock { now, hz } = clock;
        let mut look = Look::default();
        self.ages.begin(table, clock);
        for slot in 0..table.len() {
            match table.read(slot) {
                Slot::Free => {}
                Slot::Used(meta, client, flow) if meta.is_client() => {
                    let seen = Seen { meta, client: &client, flow: &flow, age: None };
                    let ends = is_done(meta, clock) || visit(&seen) == Fate::Ends;
                    if ends && table.erase(slot, meta) {
                        look.erased += 1;
                    } else {
                        look.clients += 1;
                    }
                }
                Slot::Used(meta, client, flow) => {
                    let (silence, idle) = (meta.silence(now), meta.idle(hz));
                    if is_done(meta, clock) && table.erase(slot, meta) {
                        look.erased += 1;
                    } else {
                        let is_live = silence <= idle && !meta.is_finished();
                        look.live += usize::from(is_live);
                        look.assured += usize::from(is_live && meta.state() & state::ASSURED != 0);
                        let age = self.ages.age(slot, meta);
                        match visit(&Seen { meta, client: &client, flow: &flow, age }) {
                            Fate::Goes => {}
                            Fate::Ends => reset(table.at(slot), meta, clock),
                            Fate::Holds(idle) => table.hold(meta, &client, &flow, now, idle),
                        }
                    }
                }
                Slot::Locked => look.unread += 1,
                Slot::Abandoned(meta) => {
                    table.recover(slot, meta);
                    look.erased += 1;
                }
            }
        }
        look
    }
}

#[cfg(test)]
mod tests;
