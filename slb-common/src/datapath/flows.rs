//! The flow table: looks flows up and finds places for new ones.

use super::tables::Tables;
use crate::abi::flow::{Client, Flow, FlowEntry, Meta, WINDOW, state};

/// Slots in which a free one is looked for before a flow of one packet must make room.
const SEARCHED: u32 = 8;
/// Seconds after which a flow of one packet is worth no more than a free slot.
const UNCONFIRMED_SECONDS: u32 = 3;
/// Other flows of a client endpoint, each to another service, that are told apart.
pub(super) const OTHERS: u32 = 3;

/// The flow table, as a packet sees it.
pub(super) struct Flows<'t, T> {
    pub(super) tables: &'t T,
    /// Slots less one.
    pub(super) mask: u32,
    /// Jiffies in a second.
    pub(super) hz: u32,
    /// Jiffies.
    pub(super) now: u32,
}

/// A flow in its place.
#[derive(Clone, Copy)]
pub(super) struct Found<'t> {
    pub(super) entry: FlowEntry<'t>,
    pub(super) meta: Meta,
    pub(super) flow: Flow,
}

/// Where flows of the same client endpoint to other services are: distances from their home, plus one, of eight bits
/// each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Others(pub(super) u32);

impl Others {
    /// The n-th of them, as its distance from home.
    #[inline(always)]
    pub(super) const fn nth(self, n: u32) -> Option<u32> {
        ((self.0 >> (8 * n)) & 0xff).checked_sub(1)
    }
}

/// What a look-up has found.
pub(super) enum Search<'t> {
    /// The flow.
    Found(Found<'t>),
    /// No such flow.
    Missing(Others),
}

/// What became of a flow that was to be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It is.
    Done,
    /// All places hold flows that are worth more.
    Full,
}

impl<'t, T: Tables> Flows<'t, T> {
    /// The home of a client endpoint.
    #[inline(always)]
    pub(super) fn home(&self, client: &Client) -> u32 {
        client.home(self.tables.flow_seed()) & self.mask
    }

    /// The slot at a distance from a home.
    #[inline(always)]
    pub(super) fn at(&self, home: u32, distance: u32) -> Option<FlowEntry<'t>> {
        self.tables.flow(home.wrapping_add(distance) & self.mask)
    }

    /// Finds the flow of a client endpoint to the service with this tag. Whether it has expired is not asked.
    #[inline(always)]
    pub(super) fn find(&self, client: &Client, home: u32, service: u32) -> Search<'t> {
        const NOWHERE: u32 = WINDOW;
        let mut others = 0;
        let mut found = NOWHERE;
        let mut places = self.at(home, 0).map_or(0, FlowEntry::places);
        for distance in 0..WINDOW {
            if places == 0 {
                break;
            }
            if places & 1 != 0
                && let Some(entry) = self.at(home, distance)
                && let Some(other) = entry.service_of(client)
                && entry.meta().is_used()
            {
                if other == service {
                    found = distance;
                    break;
                }
                others = others << 8 | (distance + 1);
            }
            places >>= 1;
        }
        let found = self.tables.hide(found);
        let others = Others(others);
        if found >= NOWHERE {
            return Search::Missing(others);
        }
        self.read(client, home, found).filter(|found| found.flow.service == service).map_or(Search::Missing(others), Search::Found)
    }

    /// The flow of a client endpoint at a distance from its home.
    #[inline(always)]
    pub(super) fn read(&self, client: &Client, home: u32, distance: u32) -> Option<Found<'t>> {
        let entry = self.at(home, distance)?;
        let meta = entry.meta();
        entry.service_of(client)?;
        let flow = entry.read(meta)?;
        if meta.is_used() { Some(Found { entry, meta, flow }) } else { None }
    }

    /// Remembers a flow that is not in the table: in a free slot, or in that of a flow which has ended, has been silent
    /// for too long, or consists of one packet.
    #[inline(always)]
    pub(super) fn put(&self, client: &Client, home: u32, flow: &Flow, bits: u32, idle: u8) -> Put {
        const NOWHERE: u32 = WINDOW;
        let (mut place, mut unconfirmed) = (NOWHERE, NOWHERE);
        for distance in 0..WINDOW {
            if distance >= SEARCHED && unconfirmed != NOWHERE {
                break;
            }
            let Some(entry) = self.at(home, distance) else { break };
            let meta = entry.meta();
            if meta.is_being_written() {
                continue;
            }
            if self.is_free(meta) {
                place = distance;
                break;
            }
            if meta.state() & state::CONFIRMED == 0 && unconfirmed == NOWHERE {
                unconfirmed = distance;
            }
        }
        let place = self.tables.hide(if place == NOWHERE { unconfirmed } else { place });
        if place >= NOWHERE {
            return Put::Full;
        }
        let Some(entry) = self.at(home, place) else { return Put::Full };
        let meta = entry.meta();
        // Somebody has just taken it, or it has become worth more.
        if !(self.is_free(meta) || meta.state() & state::CONFIRMED == 0) || !entry.claim(meta) {
            return Put::Full;
        }
        if meta.is_used() {
            let old_home = self.home(&entry.client());
            let distance = home.wrapping_add(place).wrapping_sub(old_home) & self.mask;
            if distance < WINDOW
                && let Some(old_home) = self.at(old_home, 0)
            {
                old_home.leave_place(distance);
            }
        }
        if let Some(home) = self.at(home, 0) {
            home.take_place(place);
        }
        entry.fill(meta, client, flow, self.now, bits, idle);
        Put::Done
    }

    /// Writes the flow that has been found anew, in its place.
    #[inline(always)]
    pub(super) fn replace(&self, found: &Found<'_>, client: &Client, flow: &Flow, bits: u32, idle: u8) -> Put {
        if !found.entry.claim(found.meta) {
            return Put::Full;
        }
        found.entry.fill(found.meta, client, flow, self.now, bits, idle);
        Put::Done
    }

    /// Whether a flow has been silent for too long.
    #[inline(always)]
    pub(super) fn is_expired(&self, meta: Meta) -> bool {
        meta.silence(self.now) > meta.idle(self.hz)
    }

    /// Notes a packet of a flow. Writes only what has changed, the time no more than once a second: the entry's cache line
    /// stays shared between the processors that serve the two directions.
    #[inline(always)]
    pub(super) fn touch(&self, found: &Found<'_>, bits: u32) {
        if bits != found.meta.state() || found.meta.silence(self.now) >= self.hz {
            found.entry.touch(found.meta, self.now, bits);
        }
    }

    #[inline(always)]
    fn is_free(&self, meta: Meta) -> bool {
        !meta.is_used()
            || meta.is_over()
            || self.is_expired(meta)
            || (meta.state() & state::CONFIRMED == 0 && meta.silence(self.now) >= UNCONFIRMED_SECONDS * self.hz)
    }
}
