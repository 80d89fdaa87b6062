//! The flow table: looks flows up and finds places for new ones.
//!
//! The searches of the full path are compiled apart, as functions of their own that the verifier follows once, whatever
//! calls them: [`find`], [`conflicts`], [`release`] and [`place`], which [`Tables`] calls. They take and return nothing but
//! numbers.

mod eviction;

use super::tables::Tables;
use crate::{
    abi::{
        Handle,
        backend::Backend,
        flow::{Client, ClientPath, Flow, FlowEntry, Meta, Numbers, WINDOW, state},
        service::{ServiceIndex, mode, policy},
    },
    net::{headers::protocol, parse::Packet},
    opaque::{hide, hide_long},
};

/// What a search in the flow table is about.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// The client endpoint.
    pub client: Client,
    /// Its home, reduced to the table.
    pub home: u32,
}

/// A distance from home that is none.
pub const NOWHERE: u32 = WINDOW;
/// A distance that the quick path does not know.
pub(super) const FAR: u32 = NOWHERE + 1;
/// Seconds within which an end answers what the daemon has provoked it with.
const PROVOKED: u32 = 5;
/// Distances from home that the quick path looks at.
const NEAR: u32 = 4;

/// Finds a flow of the service with this tag: [`NOWHERE`], or its distance from home. Whether it has expired is not asked.
#[inline(always)]
pub fn find<T: Tables>(query: &Query, service: u32, tables: &T) -> u32 {
    tables.index().map_or(NOWHERE, |index| Flows::open(index, tables).find(query, service))
}

/// Finds a flow that a packet answers, of the server with this [`Backend::endpoint`]: [`NOWHERE`], or its distance from
/// home.
#[inline(always)]
pub fn find_answered<T: Tables>(query: &Query, endpoint: u32, tables: &T) -> u32 {
    tables.index().map_or(NOWHERE, |index| Flows::open(index, tables).find_answered(query, endpoint))
}

/// Finds where live flows of the client endpoint to other services lead: [`Backend::endpoint`]s of 16 bits each, the last
/// four found.
#[inline(always)]
pub fn conflicts<T: Tables>(query: &Query, service: u32, tables: &T) -> u64 {
    tables.index().map_or(0, |index| Flows::open(index, tables).conflicts(query, service))
}

/// Ends answers of flows of the client endpoint to other services that are over and lead to this [`Backend::endpoint`].
#[inline(always)]
pub fn release<T: Tables>(query: &Query, service: u32, endpoint: u32, tables: &T) {
    if let Some(index) = tables.index() {
        Flows::open(index, tables).release(query, service, endpoint);
    }
}

/// Finds a place for a new flow: [`NOWHERE`], or its distance from home.
#[inline(always)]
pub fn place<T: Tables>(home: u32, tables: &T) -> u32 {
    tables.index().map_or(NOWHERE, |index| Flows::open(index, tables).place(home))
}

/// Finds a place for a new flow of the client with this [`Client::prefix`], where all places hold assured flows: that of a client that
/// has more than its share. [`NOWHERE`], or its distance from home.
#[inline(always)]
pub fn unfair<T: Tables>(home: u32, prefix: u64, tables: &T) -> u32 {
    tables.index().map_or(NOWHERE, |index| Flows::open(index, tables).unfair(home, prefix))
}

/// The flow table, as a packet sees it.
pub(super) struct Flows<'t, T> {
    tables: &'t T,
    /// Slots less one.
    mask: u32,
    /// Jiffies in a second.
    hz: u32,
    /// Jiffies.
    now: u32,
    /// Anything that is never compared, to hide things by.
    unknown: u64,
}

/// A flow in its place.
#[derive(Clone, Copy)]
pub(super) struct Found<'t> {
    entry: FlowEntry<'t>,
    pub(super) meta: Meta,
    pub(super) flow: Flow,
}

impl Found<'_> {
    /// Replaces the flow's numbers. A concurrent change wins.
    #[inline(always)]
    pub(super) fn advance(&self, numbers: Numbers) {
        self.entry.advance(self.flow.numbers, numbers);
    }

    /// Replaces the path to the flow's client and the tag of its arrival. A concurrent change wins.
    #[inline(always)]
    pub(super) fn redirect(&self, query: &Query, path: ClientPath, arrival: ClientPath) {
        if path != self.flow.client {
            self.entry.redirect(self.flow.client, path);
        }
        if arrival.tag() != self.flow.arrival {
            self.entry.arrive(&query.client, &self.flow, arrival.tag());
        }
    }
}

/// What [`conflicts`] has found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Conflicts(pub(super) u64);

impl Conflicts {
    /// Whether one leads to the same server endpoint, or seems to.
    #[inline(always)]
    pub(super) const fn lead_to(self, backend: &Backend) -> bool {
        let same = self.0 ^ (backend.endpoint as u64).wrapping_mul(0x1_0001_0001_0001);
        same & 0xffff == 0 || same >> 16 & 0xffff == 0 || same >> 32 & 0xffff == 0 || same >> 48 == 0
    }

    /// Whether one more could not be told from them.
    #[inline(always)]
    pub(super) const fn are_too_many(self) -> bool {
        self.0 >> 48 != 0
    }
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
    /// The flow table of these tables.
    #[inline(always)]
    pub(super) fn open(index: &ServiceIndex, tables: &'t T) -> Self {
        Self { tables, mask: tables.flow_mask(), hz: index.hz, now: tables.now(), unknown: index.seed }
    }

    /// A search for flows of a client endpoint.
    #[inline(always)]
    pub(super) fn query(&self, client: Client) -> Query {
        Query { client, home: self.home(&client) }
    }

    /// Whether no entry has this home.
    #[inline(always)]
    pub(super) fn is_empty(&self, query: &Query) -> bool {
        self.places(query.home) == 0
    }

    /// As the function [`find`], but [`FAR`] where it may be further from home than the quick path looks.
    #[inline(always)]
    pub(super) fn find_near(&self, query: &Query, service: u32) -> u32 {
        let mut left = self.places(query.home);
        for distance in 0..NEAR {
            if left & 1 != 0 && self.is(query, distance, service) {
                return hide(distance, self.unknown);
            }
            left >>= 1;
        }
        hide(if left == 0 { NOWHERE } else { FAR }, self.unknown)
    }

    /// As the function [`find_answered`], but [`FAR`] where it may be further from home than the quick path looks. Written out
    /// as the one before: with a closure in common the program needs more stack than BPF has.
    #[inline(always)]
    pub(super) fn find_answered_near(&self, query: &Query, endpoint: u32) -> u32 {
        let mut left = self.places(query.home);
        for distance in 0..NEAR {
            if left & 1 != 0 && self.is_answered(query, distance, endpoint) {
                return hide(distance, self.unknown);
            }
            left >>= 1;
        }
        hide(if left == 0 { NOWHERE } else { FAR }, self.unknown)
    }

    /// The flow of a client endpoint at a distance from its home.
    #[inline(always)]
    pub(super) fn read(&self, query: &Query, distance: u32) -> Option<Found<'t>> {
        if distance >= NOWHERE {
            return None;
        }
        let entry = self.at(query.home, distance)?;
        let meta = entry.meta();
        entry.service_of(&query.client)?;
        let flow = entry.read(meta)?;
        if meta.is_used() { Some(Found { entry, meta, flow }) } else { None }
    }

    /// Remembers a flow that is not in the table. Another processor may take the same place at the same moment, which is as if
    /// there had been none: too rare to look for another one.
    #[inline(always)]
    pub(super) fn put(&self, query: &Query, flow: &Flow, bits: u32, idle: u8) -> Put {
        self.put_at(self.tables.slot_for_flow(query.home), false, query, flow, bits, idle)
    }

    /// As [`Self::put`], in the place of a flow of the client that has far more than its share of the neighbourhood ([`unfair`]).
    #[inline(always)]
    pub(super) fn put_unfairly_held(&self, query: &Query, flow: &Flow, bits: u32, idle: u8) -> Put {
        self.put_at(self.tables.unfair_slot(query.home, query.client.prefix()), true, query, flow, bits, idle)
    }

    #[inline(always)]
    fn put_at(&self, distance: u32, is_unfair: bool, query: &Query, flow: &Flow, bits: u32, idle: u8) -> Put {
        if distance >= NOWHERE {
            return Put::Full;
        }
        let Some(entry) = self.at(query.home, distance) else { return Put::Full };
        let meta = entry.meta();
        // Somebody has just taken it, or it has become worth more.
        if meta.is_being_written() || !(is_unfair || self.may_go(meta)) || !entry.lock(meta) {
            return Put::Full;
        }
        if meta.is_used() {
            if !self.is_over(meta) && !meta.is_client() {
                self.tables.count_evicted(meta.state() & state::ASSURED != 0);
            }
            let is_pickup = meta.state() & (state::PICKED_UP | state::ANSWERED) == state::PICKED_UP;
            if is_pickup && !self.is_over(meta) && self.matters(entry) {
                self.tables.count_forgotten();
            }
            let old_home = self.home(&entry.client());
            let old_distance = query.home.wrapping_add(distance).wrapping_sub(old_home) & self.mask;
            if old_distance < WINDOW
                && let Some(old_home) = self.at(old_home, 0)
            {
                old_home.clear_hop(old_distance);
            }
        }
        if let Some(home) = self.at(query.home, 0) {
            home.set_hop(distance);
        }
        entry.fill(meta, &query.client, flow, self.now, bits, idle);
        Put::Done
    }

    /// Whether a flow that is pushed out may be missed by a slot that has changed hands. Datagrams that go elsewhere anyway are
    /// many, and nobody can tell whether they began before.
    #[inline(always)]
    fn matters(&self, entry: FlowEntry<'_>) -> bool {
        let service = self.tables.service(entry.service() & 0xffff);
        service.is_none_or(|service| {
            service.protocol == protocol::TCP || service.policy & policy::ELSEWHERE == 0
        })
    }

    /// Writes a flow that has been found anew, in its place.
    #[inline(always)]
    pub(super) fn replace(&self, found: &Found<'_>, query: &Query, flow: &Flow, bits: u32, idle: u8) -> Put {
        if !found.entry.lock(found.meta) {
            return Put::Full;
        }
        found.entry.fill(found.meta, &query.client, flow, self.now, bits, idle);
        Put::Done
    }

    /// The server of a flow, unless its id has passed to another one.
    #[inline(always)]
    pub(super) fn live(&self, handle: Handle) -> Option<&'t Backend> {
        self.tables.backend(handle.id()).filter(|backend| backend.handle == handle)
    }

    /// Whether a flow has been silent for too long.
    #[inline(always)]
    pub(super) fn is_expired(&self, meta: Meta) -> bool {
        self.silence(meta) > meta.idle(self.hz)
    }

    /// Whether a packet of an expired connection is to become a RST: the daemon has just provoked its ends, and this is what one
    /// of them answers, or the flow's server endpoint serves another flow of this client endpoint.
    #[inline(always)]
    pub(super) fn is_rst_due(&self, found: &Found<'_>, packet: &Packet) -> bool {
        let was = found.meta.state();
        let answers = was & state::RESET != 0 && packet.flags.only_acknowledges();
        (was & state::RELEASED != 0)
            | (answers & (self.silence(found.meta) <= found.meta.idle(self.hz) + PROVOKED * self.hz))
    }

    /// Whether a plausible segment shows that the connection has survived the RST that its entry is marked with: it comes a second or more
    /// after it. Segments that were under way come before that.
    #[inline(always)]
    pub(super) fn survives_reset(&self, found: &Found<'_>) -> bool {
        found.meta.is_reset_alone() && self.silence(found.meta) >= self.hz
    }

    /// Jiffies since a flow was last seen.
    #[inline(always)]
    pub(super) const fn silence(&self, meta: Meta) -> u32 {
        meta.silence(self.now)
    }

    /// Notes a packet of a flow. Writes only what has changed, the time no more than once a second: the entry's cache line
    /// stays shared between the processors that serve the two directions. Returns whether it has been written.
    #[inline(always)]
    pub(super) fn touch(&self, found: &Found<'_>, bits: u32, idle: u8) -> bool {
        if bits == found.meta.state() && found.meta.silence(self.now) < self.hz {
            return false;
        }
        found.entry.touch_idle(found.meta, self.now, bits, idle)
    }

    /// Jiffies.
    #[inline(always)]
    pub(super) const fn now(&self) -> u32 {
        self.now
    }

    /// Changes the state of a flow that is over. Its time of silence goes on.
    #[inline(always)]
    pub(super) fn mark(&self, found: &Found<'_>, bits: u32) {
        found.entry.touch(found.meta, found.meta.last_seen(), bits);
    }

    #[inline(always)]
    fn find(&self, query: &Query, service: u32) -> u32 {
        self.first(query, |distance| self.is(query, distance, service))
    }

    #[inline(always)]
    fn find_answered(&self, query: &Query, endpoint: u32) -> u32 {
        self.first(query, |distance| {
            self.is_answered(query, distance, endpoint)
                && self.at(query.home, distance).is_some_and(|entry| self.answers_return(entry.service()))
        })
    }

    /// The first distance from home at which an entry of this home lies that is sought, or [`NOWHERE`].
    #[inline(always)]
    fn first(&self, query: &Query, mut is_sought: impl FnMut(u32) -> bool) -> u32 {
        let mut left = self.places(query.home);
        for distance in 0..WINDOW {
            if left == 0 {
                break;
            }
            if left & 1 != 0 && is_sought(distance) {
                return distance;
            }
            left >>= 1;
        }
        NOWHERE
    }

    /// A flow of the client endpoint at a distance from its home, as far as that is needed to know what it is: with its state and
    /// the tag of its service. What else is read of it may be of another flow, unless the state can be changed.
    #[inline(always)]
    fn glance(&self, query: &Query, distance: u32) -> Option<(FlowEntry<'t>, Meta, u32)> {
        let entry = self.at(query.home, distance)?;
        let meta = entry.meta();
        let service = entry.service_of(&query.client)?;
        if meta.is_used() { Some((entry, meta, service)) } else { None }
    }

    /// Whether the flow at a distance from home is the client endpoint's, to the service with this tag.
    #[inline(always)]
    fn is(&self, query: &Query, distance: u32, service: u32) -> bool {
        self.at(query.home, distance)
            .is_some_and(|entry| entry.service_of(&query.client) == Some(service) && entry.meta().is_used())
    }

    /// Whether a packet of the server with this [`Backend::endpoint`] answers the flow at a distance from home.
    #[inline(always)]
    fn is_answered(&self, query: &Query, distance: u32, endpoint: u32) -> bool {
        let Some((entry, meta, _)) = self.glance(query, distance) else { return false };
        let Some(backend) = self.live(entry.backend()) else { return false };
        // Datagrams do not say whether the client has gone without a word, and talks to the server directly now.
        backend.endpoint == endpoint
            && meta.state() & state::RELEASED == 0
            && (query.client.is_tcp() || !self.is_expired(meta))
    }

    /// Whether answers of a service come back through SLB.
    #[inline(always)]
    fn answers_return(&self, tag: u32) -> bool {
        self.tables.service(tag & 0xffff).is_some_and(|service| service.mode == mode::NAT)
    }

    #[inline(always)]
    fn conflicts(&self, query: &Query, service: u32) -> u64 {
        let mut conflicts = hide_long(0, self.unknown);
        self.first(query, |distance| {
            if let Some((entry, meta, other)) = self.glance(query, distance)
                && other != service
                && !self.is_ended(meta)
                && self.answers_return(other)
                && let Some(backend) = self.live(entry.backend())
            {
                conflicts = hide_long(conflicts << 16 | u64::from(backend.endpoint), self.unknown);
            }
            false
        });
        conflicts
    }

    #[inline(always)]
    fn release(&self, query: &Query, service: u32, endpoint: u32) {
        self.first(query, |distance| {
            if let Some((entry, meta, other)) = self.glance(query, distance)
                && other != service
                && self.is_ended(meta)
                && self.live(entry.backend()).is_some_and(|there| there.endpoint == endpoint)
            {
                entry.touch(meta, meta.last_seen(), meta.state() | state::RELEASED);
            }
            false
        });
    }

    /// Whether a flow has ended, or been silent for too long.
    #[inline(always)]
    fn is_over(&self, meta: Meta) -> bool {
        meta.is_over() || self.is_expired(meta)
    }

    /// As [`Self::is_over`], and not by a RST alone, which may be forged.
    #[inline(always)]
    fn is_ended(&self, meta: Meta) -> bool {
        (meta.is_over() && !meta.is_reset_alone()) || self.is_expired(meta)
    }

    #[inline(always)]
    fn home(&self, client: &Client) -> u32 {
        client.home(self.tables.flow_seed()) & self.mask
    }

    #[inline(always)]
    fn places(&self, home: u32) -> u64 {
        self.at(home, 0).map_or(0, FlowEntry::places)
    }

    /// The slot at a distance from a home.
    #[inline(always)]
    fn at(&self, home: u32, distance: u32) -> Option<FlowEntry<'t>> {
        self.tables.flow(home.wrapping_add(distance) & self.mask)
    }
}

#[cfg(test)]
mod tests;
