//! Upkeep of the flow table: a look at all of it, which shows the flows and erases what nobody needs any more. The daemon's
//! part, done while packets are forwarded on other processors.
//!
//! Times of flows are low words of jiffies, which come round: what lay in the table for long enough would look alive again.

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

/// Seconds an expired flow stays in the table: in that time both ends receive a RST, or one of them goes on with it.
const GRACE: u32 = 60;
/// Seconds of silence after which a flow that is over is erased: longer than either side waits to send its last packet again.
const OVER: u32 = 240;
/// Times an entry is read while somebody writes it.
const TRIES: u32 = 1000;

/// The flow table where it lies.
#[derive(Debug, Clone, Copy)]
pub struct FlowTable<'t> {
    slots: &'t [[SharedWord; WORDS]],
    seed: u64,
}

/// What time it is.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Jiffies, the low word.
    pub now: u32,
    /// Jiffies in a second.
    pub hz: u32,
}

/// A flow that a look shows.
#[derive(Debug)]
pub struct Seen<'a> {
    /// State and times.
    pub meta: Meta,
    /// The client endpoint.
    pub client: &'a Client,
    /// The flow.
    pub flow: &'a Flow,
    /// Seconds since a look has seen it for the first time; `None` if that is minutes ago, or it was there before the
    /// first look.
    pub age: Option<u32>,
}

/// How full a flow table is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Entries that it has.
    pub entries: usize,
    /// Entries that are used, for whatever.
    pub used: usize,
    /// Of these, assured flows that are neither over nor expired: they make no room for others.
    pub assured: usize,
}

/// What a look at the flow table has found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Flows that are neither over nor expired.
    pub live: usize,
    /// Entries that a new flow cannot have: assured flows that are neither over nor expired.
    pub assured: usize,
    /// Flows that have been erased.
    pub erased: usize,
    /// Clients that are kept to servers.
    pub clients: usize,
    /// Entries that could not be read: there may be a flow in each.
    pub unread: usize,
}

/// What becomes of a flow that has been shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Goes,
    /// It is marked as over: its ends are told when they speak, if it has expired or its server's connections have been cut. A
    /// client is kept no more.
    Ends,
    /// Its client is kept to its server as if the flow had begun now, for these [`persistence_units`].
    ///
    /// [`persistence_units`]: crate::abi::flow::persistence_units
    Holds(u8),
}

/// What a slot holds.
#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Free,
    Used(Meta, Client, Flow),
    /// A packet was writing it whenever it was read.
    Locked,
    /// A daemon was killed while it wrote it.
    Abandoned(Meta),
}

impl<'t> FlowTable<'t> {
    /// The table in these slots, whose number is a power of two, with the seed of its hash.
    pub const fn new(slots: &'t [[SharedWord; WORDS]], seed: u64) -> Self {
        Self { slots, seed }
    }

    /// Whether each home's places are exactly its entries'. For tests, and only while nobody writes.
    pub fn is_sound(&self) -> bool {
        let mut places = vec![0; self.slots.len()];
        for slot in 0..self.len() {
            if let Slot::Used(_, client, _) = self.read(slot) {
                let (home, distance) = self.home(slot, &client);
                places[home as usize] |= 1_u64 << distance.min(u64::BITS - 1);
            }
        }
        (0..self.len()).zip(places).all(|(slot, places)| self.at(slot).places() == places)
    }

    const fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    fn at(&self, slot: u32) -> FlowEntry<'t> {
        FlowEntry::new(&self.slots[(slot & (self.len() - 1)) as usize])
    }

    /// Visits every flow that is neither over nor expired, and returns how full the table is. Changes nothing; entries that are being
    /// written all the time are left out.
    pub fn live(&self, Clock { now, hz }: Clock, visit: &mut dyn FnMut(&Flow)) -> Fill {
        let mut fill = Fill { entries: self.slots.len(), ..Fill::default() };
        for slot in 0..self.len() {
            let Slot::Used(meta, _, flow) = self.read(slot) else { continue };
            fill.used += 1;
            if !meta.is_client() && !meta.is_over() && meta.silence(now) <= meta.idle(hz) {
                fill.assured += usize::from(meta.state() & state::ASSURED != 0);
                visit(&flow);
            }
        }
        fill
    }

    /// The home of a client endpoint's entries, and how far from it a slot is.
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

    /// Notes where a client's flows go as seen just now, if they go where this one does.
    fn hold(&self, meta: Meta, client: &Client, flow: &Flow, now: u32, idle: u8) {
        let whole = Client::whole(&client.parts().0, flow.service);
        let (home, _) = self.home(0, &whole);
        let mut places = self.at(home).places();
        while places != 0 {
            let entry = self.at(home.wrapping_add(places.trailing_zeros()));
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
            places &= places - 1;
        }
    }

    /// Erases a flow, unless anything has changed about it since `meta` was read.
    fn erase(&self, slot: u32, meta: Meta) -> bool {
        let claimed = self.at(slot).lock_as_daemon(meta);
        if claimed {
            self.vacate(slot, meta);
        }
        claimed
    }

    /// Frees an entry that nobody else writes. In this order: whoever finds it free may set its bit anew.
    fn vacate(&self, slot: u32, meta: Meta) {
        let entry = self.at(slot);
        let (home, distance) = self.home(slot, &entry.client());
        if distance < WINDOW {
            self.at(home).clear_hop(distance);
        }
        entry.free(meta);
    }

    /// Frees an entry that another daemon has locked, and was killed before it unlocked it. Which client it wrote, and whether it had
    /// noted that in a bitmap, is not known: the slot is removed from every bitmap that may hold it.
    fn recover(&self, slot: u32, meta: Meta) {
        for distance in 0..WINDOW {
            self.at(slot.wrapping_sub(distance)).clear_hop(distance);
        }
        self.at(slot).free(meta);
    }
}

/// Whether a GC pass erases the entry: it has expired, or its connection is over, for long enough.
fn is_done(meta: Meta, Clock { now, hz }: Clock) -> bool {
    let (silence, idle) = (meta.silence(now), meta.idle(hz));
    if meta.is_client() {
        return silence > idle;
    }
    // Only assured flows are kept for their ends to be reset.
    if meta.state() & state::ASSURED == 0 && silence > idle {
        return true;
    }
    // A flow that has expired is over as well once its ends receive RSTs.
    let is_over = meta.is_over() && silence > OVER * hz && silence <= idle;
    is_over || silence > idle + GRACE * hz
}

/// Marks a flow as over, unless anything has changed about it since `meta` was read. It stays for a while: its ends may be slow to
/// answer. One that has expired does so again now: the packet path counts from there how long its ends may take.
fn reset(entry: FlowEntry<'_>, meta: Meta, Clock { now, hz }: Clock) {
    let idle = meta.idle(hz);
    let seen = if meta.silence(now) > idle { now.wrapping_sub(idle + 1) } else { now };
    entry.touch(meta, seen, meta.state() | state::RESET);
}

/// Looks after a flow table. One at a time may, and no other thread of its process writes the table meanwhile: locks of daemons that
/// it finds are those of processes that have ended.
#[derive(Debug, Default)]
pub struct FlowGc {
    ages: Ages,
}

impl FlowGc {
    /// Shows every flow, and every client that is kept to a server, and erases those that have expired, or are over, for long. `visit` says what becomes of the others.
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
                        let is_live = silence <= idle && !meta.is_over();
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
