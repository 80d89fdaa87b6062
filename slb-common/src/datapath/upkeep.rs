//! Upkeep of the flow table: a look at all of it, which shows the flows and erases what nobody needs any more. The daemon's
//! part, done while packets are forwarded on other processors.
//!
//! Times of flows are low words of jiffies, which come round: what lay in the table for long enough would look alive again.

mod ages;
mod migrate;

use std::hint::spin_loop;

use ages::Ages;
pub use migrate::Migrated;

use crate::abi::{
    flow::{Client, Flow, FlowEntry, Meta, WINDOW, WORDS, state},
    word::Word,
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
    slots: &'t [[Word; WORDS]],
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
    pub const fn new(slots: &'t [[Word; WORDS]], seed: u64) -> Self {
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

    /// Shows every flow that is neither over nor expired. Changes nothing; entries that are being written all the time are left out.
    pub fn live(&self, Clock { now, hz }: Clock, visit: &mut dyn FnMut(&Flow)) {
        for slot in 0..self.len() {
            if let Slot::Used(meta, _, flow) = self.read(slot)
                && !meta.is_client()
                && !meta.is_over()
                && meta.silence(now) <= meta.idle(hz)
            {
                visit(&flow);
            }
        }
    }

    /// How full the table is. Reads all of it.
    pub fn fill(&self, Clock { now, hz }: Clock) -> Fill {
        let mut fill = Fill { entries: self.slots.len(), ..Fill::default() };
        for slot in 0..self.len() {
            let meta = self.at(slot).meta();
            let is_live = meta.is_used() && !meta.is_over() && meta.silence(now) <= meta.idle(hz);
            fill.used += usize::from(!meta.is_free());
            fill.assured += usize::from(is_live && meta.state() & state::ASSURED != 0);
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
                    && entry.claim_as_daemon(found)
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
        let claimed = self.at(slot).claim_as_daemon(meta);
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
            self.at(home).leave_place(distance);
        }
        entry.free(meta);
    }

    /// Frees an entry that another daemon has locked, and was killed before it unlocked it. Which client it wrote, and whether it had
    /// noted that in a bitmap, is not known: the slot is removed from every bitmap that may hold it.
    fn recover(&self, slot: u32, meta: Meta) {
        for distance in 0..WINDOW {
            self.at(slot.wrapping_sub(distance)).leave_place(distance);
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
    // Nobody waits for an answer of one that both sides have not shown to be a flow.
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
pub struct Upkeep {
    ages: Ages,
}

impl Upkeep {
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
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::abi::{
        Address, Reference,
        flow::{idle_units, persistence_units},
    };

    const HZ: u32 = 250;
    const SEED: u64 = 7;
    const SLOTS: usize = 64;
    const IDLE: u32 = 900;

    /// A table with a flow of each of these clients, seen last at 0, each in the first free slot from its home on.
    fn table(clients: u16, bits: u32) -> Vec<[Word; WORDS]> {
        let slots: Vec<[Word; WORDS]> = (0..SLOTS).map(|_| Default::default()).collect();
        let table = FlowTable::new(&slots, SEED);
        for n in 0..clients {
            let client = client(n);
            let (home, _) = table.home(0, &client);
            let distance = (0..WINDOW).find(|n| table.at(home + n).meta().is_free()).unwrap();
            let (entry, meta) = (table.at(home + distance), table.at(home + distance).meta());
            assert!(entry.claim(meta));
            table.at(home).take_place(distance);
            entry.fill(meta, &client, &flow(n), 0, bits, idle_units(IDLE));
        }
        assert!(table.is_sound());
        slots
    }

    fn client(n: u16) -> Client {
        Client::new(&Address::v4([192, 0, 2, 1]), n, 6)
    }

    fn flow(n: u16) -> Flow {
        Flow { service: 1, backend: Reference::new(n.into(), 1), ..Flow::default() }
    }

    fn look(upkeep: &mut Upkeep, table: &FlowTable<'_>, seconds: u32) -> (Look, usize) {
        let mut shown = 0;
        let clock = Clock { now: seconds * HZ, hz: HZ };
        let look = upkeep.look(table, clock, &mut |seen| {
            assert_eq!(seen.client.parts().1, seen.flow.backend.id() as u16);
            shown += 1;
            Fate::Goes
        });
        (look, shown)
    }

    #[test]
    fn flows_are_shown_and_erased_some_time_after_they_expire() {
        let slots = table(40, state::ASSURED);
        let (table, upkeep) = (FlowTable::new(&slots, SEED), &mut Upkeep::default());
        let live = |seconds: u32| {
            let mut live = 0;
            table.live(Clock { now: seconds * HZ, hz: HZ }, &mut |_| live += 1);
            live
        };
        assert_eq!((live(IDLE), live(IDLE + 1)), (40, 0));
        assert_eq!(look(upkeep, &table, IDLE), (Look { live: 40, assured: 40, ..Look::default() }, 40));
        let clock = |seconds: u32| Clock { now: seconds * HZ, hz: HZ };
        assert_eq!(table.fill(clock(IDLE)), Fill { entries: SLOTS, used: 40, assured: 40 });
        assert_eq!(table.fill(clock(IDLE + 1)), Fill { entries: SLOTS, used: 40, assured: 0 });
        assert_eq!(look(upkeep, &table, IDLE + GRACE), (Look::default(), 40));
        let used = (0..SLOTS as u32).find(|slot| table.at(*slot).meta().is_used()).unwrap();
        let meta = table.at(used).meta();
        table.at(used).touch(meta, (IDLE + GRACE) * HZ, meta.state());
        let erased = Look { live: 1, assured: 1, erased: 39, ..Look::default() };
        assert_eq!(look(upkeep, &table, IDLE + GRACE + 1), (erased, 1));
        assert!(table.is_sound());
        assert_eq!(look(upkeep, &table, 2 * (IDLE + GRACE) + 1).0.erased, 1);
        assert!(
            (0..SLOTS as u32).all(|slot| table.at(slot).meta().is_free() && table.at(slot).places() == 0)
        );
    }

    #[test]
    fn flows_that_are_not_assured_are_erased_once_they_expire() {
        let slots = table(40, state::ANSWERED);
        let (table, upkeep) = (FlowTable::new(&slots, SEED), &mut Upkeep::default());
        assert_eq!(look(upkeep, &table, IDLE).0.live, 40);
        assert_eq!(look(upkeep, &table, IDLE + 1), (Look { erased: 40, ..Look::default() }, 0));
        assert!(table.is_sound());
    }

    #[test]
    fn flows_that_are_over_are_shown_and_erased_sooner() {
        let slots = table(1, state::RESET);
        let (table, upkeep) = (FlowTable::new(&slots, SEED), &mut Upkeep::default());
        assert_eq!(look(upkeep, &table, OVER), (Look::default(), 1));
        assert_eq!(look(upkeep, &table, OVER + 1), (Look { erased: 1, ..Look::default() }, 0));
        assert!(table.is_sound());
    }

    #[test]
    fn a_flow_that_is_marked_as_over_has_expired_just_now_if_it_has() {
        for (seconds, silence) in [(IDLE, 0), (IDLE + 1, IDLE * HZ + 1), (IDLE + 30, IDLE * HZ + 1)] {
            let slots = table(1, 0);
            let table = FlowTable::new(&slots, SEED);
            let clock = Clock { now: seconds * HZ, hz: HZ };
            Upkeep::default().look(&table, clock, &mut |_| Fate::Ends);
            let mut marked = |seen: &Seen<'_>| {
                assert_eq!((seen.meta.is_over(), seen.meta.silence(clock.now)), (true, silence));
                Fate::Goes
            };
            assert_eq!(Upkeep::default().look(&table, clock, &mut marked), Look::default());
        }
    }

    #[test]
    fn a_client_is_kept_to_its_server_while_its_flows_go_on_and_some_time_after() {
        const KEPT: u16 = 3600;
        let slots = table(1, state::ASSURED);
        let (table, upkeep) = (FlowTable::new(&slots, SEED), &mut Upkeep::default());
        let whole = Client::whole(&client(0).parts().0, 1);
        let (home, _) = table.home(0, &whole);
        let distance = (0..WINDOW).find(|n| table.at(home + n).meta().is_free()).unwrap();
        let (entry, meta) = (table.at(home + distance), table.at(home + distance).meta());
        assert!(entry.claim(meta));
        table.at(home).take_place(distance);
        entry.fill(meta, &whole, &flow(0), 0, state::CLIENT, persistence_units(600));
        let mut at = |seconds, fate| {
            let clock = Clock { now: seconds * HZ, hz: HZ };
            let look = upkeep.look(&table, clock, &mut |seen| {
                if seen.meta.is_client() && fate != Fate::Ends { Fate::Goes } else { fate }
            });
            assert!(table.is_sound());
            (look.live, look.erased)
        };
        assert_eq!(at(500, Fate::Holds(persistence_units(KEPT))), (1, 0));
        assert_eq!(entry.meta().last_seen(), 500 * HZ);
        assert_eq!(entry.meta().state() & state::ASSURED, state::ASSURED);
        assert_eq!(at(900, Fate::Goes), (1, 0));
        assert_eq!(at(1000, Fate::Goes), (0, 1), "the flow");
        assert_eq!(entry.meta().last_seen(), 500 * HZ);
        assert_eq!(at(500 + 3600, Fate::Goes), (0, 0));
        assert_eq!(at(500 + 3601, Fate::Goes), (0, 1), "the client");
    }

    #[test]
    fn flows_have_the_age_that_looks_have_seen() {
        let slots = table(1, 0);
        let (table, mut upkeep) = (FlowTable::new(&slots, SEED), Upkeep::default());
        let mut ages = |now: u32| {
            let mut ages = BTreeMap::new();
            let clock = Clock { now, hz: HZ };
            upkeep.look(&table, clock, &mut |seen| {
                ages.insert(seen.client.parts().1, seen.age);
                Fate::Goes
            });
            ages
        };
        // Jiffies come round meanwhile.
        let start = 0_u32.wrapping_sub(2 * HZ);
        let at = |seconds: u32| start.wrapping_add(seconds * HZ);
        let put = |port: u16, slot: u32| {
            let entry = table.at(slot);
            let meta = entry.meta();
            assert!(entry.claim(meta));
            entry.fill(meta, &client(port), &flow(port), at(1), 0, idle_units(IDLE));
        };
        let used = (0..SLOTS as u32).find(|slot| table.at(*slot).meta().is_used()).unwrap();
        assert_eq!(ages(start), [(0, None)].into(), "it may have been there for long");
        let other = (used + 1) % SLOTS as u32;
        put(7, other);
        assert_eq!(ages(at(1)), [(0, None), (7, Some(0))].into());
        table.at(other).touch(table.at(other).meta(), at(4), state::ANSWERED | state::USED);
        assert_eq!(ages(at(4)), [(0, None), (7, Some(3))].into(), "the same flow");
        put(7, other);
        put(0, used);
        assert_eq!(ages(at(5)), [(0, Some(0)), (7, Some(0))].into(), "others in their places");
        assert_eq!(ages(at(6) + HZ / 2), [(0, Some(1)), (7, Some(1))].into());
        assert_eq!(ages(at(7)), [(0, Some(2)), (7, Some(2))].into(), "halves add up");
        for second in (60..=600).step_by(60) {
            table.at(used).touch(table.at(used).meta(), at(second), state::USED);
            table.at(other).touch(table.at(other).meta(), at(second), state::USED);
            assert_eq!(ages(at(second))[&7], Some(second - 5));
        }
        assert_eq!(ages(at(606)), [(0, None), (7, None)].into(), "old");
    }

    #[test]
    fn a_flow_that_goes_on_meanwhile_is_not_erased() {
        let slots = table(1, 0);
        let table = FlowTable::new(&slots, SEED);
        let used = (0..SLOTS as u32).find(|slot| table.at(*slot).meta().is_used()).unwrap();
        let meta = table.at(used).meta();
        table.at(used).touch(meta, 1, meta.state());
        assert!(!table.erase(used, meta) && table.at(used).meta().is_used());
        let meta = table.at(used).meta();
        assert!(table.erase(used, meta));
        table.at(used).touch(meta, 1, meta.state());
        assert!(table.at(used).meta().is_free(), "seen by one who did not see it erased");
    }

    #[test]
    fn entry_that_a_packet_writes_is_unread_however_long() {
        let slots = table(3, 0);
        let (table, upkeep) = (FlowTable::new(&slots, SEED), &mut Upkeep::default());
        let used: Vec<_> = (0..SLOTS as u32).filter(|slot| table.at(*slot).meta().is_used()).collect();
        let meta = table.at(used[0]).meta();
        assert!(table.at(used[0]).claim(meta));
        for seconds in [1, 12, IDLE] {
            let unread = (Look { live: 2, unread: 1, ..Look::default() }, 2);
            assert_eq!(look(upkeep, &table, seconds), unread, "after {seconds} s");
        }
        table.at(used[0]).fill(meta, &client(9), &flow(9), 0, 0, idle_units(IDLE));
        assert_eq!(look(upkeep, &table, IDLE), (Look { live: 3, ..Look::default() }, 3));
    }
}
