//! The flow table on the packet path: lookup, insert and eviction.
//!
//! The searches of the slow path are BPF subprograms, which the verifier follows once: [`find`], [`find_answered`],
//! [`conflicts`], [`release`], [`place`] and [`unfair`]. [`Tables`] calls them. They take and return numbers only.

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

/// A client endpoint and where its entries lie.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// Address, port and protocol of the client.
    pub client: Client,
    /// Home bucket: index of a slot of this table.
    pub home: u32,
}

/// No distance from a home bucket: nothing found.
pub const NOWHERE: u32 = WINDOW;
/// The fast path cannot tell: the entry may lie farther from its home bucket than [`NEAR`].
pub(super) const FAR: u32 = NOWHERE + 1;
/// Seconds within which an end answers a provoking segment of the daemon.
const PROVOKED: u32 = 5;
/// Slots from the home bucket on in which the fast path searches.
const NEAR: u32 = 4;

/// Finds the entry of a service's flow by the service's [`Handle::tag`]. Returns its distance from the home bucket, or
/// [`NOWHERE`]. The entry may have expired.
#[inline(always)]
pub fn find<T: Tables>(query: &Query, service: u32, tables: &T) -> u32 {
    tables.index().map_or(NOWHERE, |index| Flows::open(index, tables).find(query, service))
}

/// Finds the flow that a server's packet answers; `endpoint` is the server's [`Backend::endpoint`]. Returns the
/// distance of its entry from the home bucket, or [`NOWHERE`].
#[inline(always)]
pub fn find_answered<T: Tables>(query: &Query, endpoint: u32, tables: &T) -> u32 {
    tables.index().map_or(NOWHERE, |index| Flows::open(index, tables).find_answered(query, endpoint))
}

/// Finds reverse-tuple conflicts: live `nat` flows of the client endpoint to other services. Returns the
/// [`Backend::endpoint`]s of their servers, 16 bits each, for the last four found.
#[inline(always)]
pub fn conflicts<T: Tables>(query: &Query, service: u32, tables: &T) -> u64 {
    tables.index().map_or(0, |index| Flows::open(index, tables).conflicts(query, service))
}

/// Sets [`state::RELEASED`] on finished or expired flows of the client endpoint to other services whose server has this
/// [`Backend::endpoint`].
#[inline(always)]
pub fn release<T: Tables>(query: &Query, service: u32, endpoint: u32, tables: &T) {
    if let Some(index) = tables.index() {
        Flows::open(index, tables).release(query, service, endpoint);
    }
}

/// Finds a slot for a new flow: free, or with an evictable entry. Returns its distance from the home bucket, or
/// [`NOWHERE`].
#[inline(always)]
pub fn place<T: Tables>(home: u32, tables: &T) -> u32 {
    tables.index().map_or(NOWHERE, |index| Flows::open(index, tables).place(home))
}

/// Finds a slot for a new flow where all slots of the neighbourhood hold assured flows: that of a client with more than
/// its share. `prefix` is the new flow's [`Client::prefix`]. Returns the distance from the home bucket, or [`NOWHERE`].
#[inline(always)]
pub fn unfair<T: Tables>(home: u32, prefix: u64, tables: &T) -> u32 {
    tables.index().map_or(NOWHERE, |index| Flows::open(index, tables).unfair(home, prefix))
}

/// The flow table as one packet sees it, at one moment.
pub(super) struct Flows<'t, T> {
    tables: &'t T,
    /// Slots of the table less one; their number is a power of two.
    mask: u32,
    /// Jiffies per second.
    hz: u32,
    /// Jiffies when the table was opened, the low word.
    now: u32,
    /// A number that the verifier does not know, for [`hide`].
    unknown: u64,
}

/// A consistent copy of an entry, and the entry itself.
#[derive(Clone, Copy)]
pub(super) struct Found<'t> {
    entry: FlowEntry<'t>,
    pub(super) meta: Meta,
    pub(super) flow: Flow,
}

impl Found<'_> {
    /// Replaces the sequence numbers. A concurrent change wins.
    #[inline(always)]
    pub(super) fn advance(&self, numbers: Numbers) {
        self.entry.advance(self.flow.numbers, numbers);
    }

    /// Replaces the client path and the arrival tag. A concurrent change wins.
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

/// The result of [`conflicts`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Conflicts(pub(super) u64);

impl Conflicts {
    /// Whether a flow leads to the same server endpoint. Two endpoints may have the same number.
    #[inline(always)]
    pub(super) const fn lead_to(self, backend: &Backend) -> bool {
        let same = self.0 ^ (backend.endpoint as u64).wrapping_mul(0x1_0001_0001_0001);
        same & 0xffff == 0 || same >> 16 & 0xffff == 0 || same >> 32 & 0xffff == 0 || same >> 48 == 0
    }

    /// Whether four flows were found: a fifth could not be told from them.
    #[inline(always)]
    pub(super) const fn are_too_many(self) -> bool {
        self.0 >> 48 != 0
    }
}

/// Result of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// The entry is published.
    Done,
    /// No slot of the neighbourhood is free or evictable, or another processor was faster.
    Full,
}

impl<'t, T: Tables> Flows<'t, T> {
    /// Opens the flow table for one packet.
    #[inline(always)]
    pub(super) fn open(index: &ServiceIndex, tables: &'t T) -> Self {
        Self { tables, mask: tables.flow_mask(), hz: index.hz, now: tables.now(), unknown: index.seed }
    }

    /// A search for entries of a client endpoint.
    #[inline(always)]
    pub(super) fn query(&self, client: Client) -> Query {
        Query { client, home: self.home(&client) }
    }

    /// Whether the hop bitmap of the home bucket is empty.
    #[inline(always)]
    pub(super) fn is_empty(&self, query: &Query) -> bool {
        self.hop_bitmap(query.home) == 0
    }

    /// As the function [`find`], but [`FAR`] where entries lie farther from the home bucket than [`NEAR`].
    #[inline(always)]
    pub(super) fn find_near(&self, query: &Query, service: u32) -> u32 {
        let mut left = self.hop_bitmap(query.home);
        for distance in 0..NEAR {
            if left & 1 != 0 && self.is(query, distance, service) {
                return hide(distance, self.unknown);
            }
            left >>= 1;
        }
        hide(if left == 0 { NOWHERE } else { FAR }, self.unknown)
    }

    /// As the function [`find_answered`], but [`FAR`] where entries lie farther from the home bucket than [`NEAR`].
    /// Repeats the code of [`Self::find_near`]: a shared closure would need more stack than BPF has.
    #[inline(always)]
    pub(super) fn find_answered_near(&self, query: &Query, endpoint: u32) -> u32 {
        let mut left = self.hop_bitmap(query.home);
        for distance in 0..NEAR {
            if left & 1 != 0 && self.is_answered(query, distance, endpoint) {
                return hide(distance, self.unknown);
            }
            left >>= 1;
        }
        hide(if left == 0 { NOWHERE } else { FAR }, self.unknown)
    }

    /// Reads the entry at a distance from the home bucket; `None` if it is free, locked, replaced meanwhile, or of
    /// another client endpoint.
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

    /// Inserts a flow that has no entry; `idle` is in [`idle_units`](crate::abi::flow::idle_units). Another processor
    /// may lock the same slot first. That counts as [`Put::Full`]: it is too rare for a second search.
    #[inline(always)]
    pub(super) fn put(&self, query: &Query, flow: &Flow, bits: u32, idle: u8) -> Put {
        self.put_at(self.tables.slot_for_flow(query.home), false, query, flow, bits, idle)
    }

    /// As [`Self::put`], in the slot of a client with far more than its share of the neighbourhood ([`unfair`]).
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
        // Another processor has just locked it, or its flow has become assured.
        if meta.is_being_written() || !(is_unfair || self.is_evictable(meta)) || !entry.lock(meta) {
            return Put::Full;
        }
        if meta.is_used() {
            if !self.is_finished(meta) && !meta.is_client() {
                self.tables.count_evicted(meta.state() & state::ASSURED != 0);
            }
            let is_pickup = meta.state() & (state::PICKED_UP | state::ANSWERED) == state::PICKED_UP;
            if is_pickup && !self.is_finished(meta) && self.matters(entry) {
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

    /// Whether an evicted flow may be older than the change of its slot, so that the migration must go on. Evicted
    /// datagrams of services that do not follow the hash do not count: they are many, and do not show their age.
    #[inline(always)]
    fn matters(&self, entry: FlowEntry<'_>) -> bool {
        let service = self.tables.service(entry.service() & 0xffff);
        service.is_none_or(|service| {
            service.protocol == protocol::TCP || service.policy & policy::ELSEWHERE == 0
        })
    }

    /// Writes a new flow over an entry that was found.
    #[inline(always)]
    pub(super) fn replace(&self, found: &Found<'_>, query: &Query, flow: &Flow, bits: u32, idle: u8) -> Put {
        if !found.entry.lock(found.meta) {
            return Put::Full;
        }
        found.entry.fill(found.meta, &query.client, flow, self.now, bits, idle);
        Put::Done
    }

    /// The server of this handle; `None` if the id belongs to another server now.
    #[inline(always)]
    pub(super) fn live(&self, handle: Handle) -> Option<&'t Backend> {
        self.tables.backend(handle.id()).filter(|backend| backend.handle == handle)
    }

    /// Whether a flow has been silent for longer than its idle time.
    #[inline(always)]
    pub(super) fn is_expired(&self, meta: Meta) -> bool {
        self.silence(meta) > meta.idle(self.hz)
    }

    /// Whether a segment of an expired connection becomes a RST. It does if it answers a provoking segment of the
    /// daemon, or if the server endpoint passed to another flow of the client endpoint.
    #[inline(always)]
    pub(super) fn is_rst_due(&self, found: &Found<'_>, packet: &Packet) -> bool {
        let was = found.meta.state();
        let answers = was & state::RESET != 0 && packet.flags.only_acknowledges();
        (was & state::RELEASED != 0)
            | (answers & (self.silence(found.meta) <= found.meta.idle(self.hz) + PROVOKED * self.hz))
    }

    /// Whether a plausible segment takes back the RST that the entry is marked with. It must come a second or more
    /// after the RST: segments that were under way come earlier.
    #[inline(always)]
    pub(super) fn survives_reset(&self, found: &Found<'_>) -> bool {
        found.meta.is_reset_alone() && self.silence(found.meta) >= self.hz
    }

    /// Jiffies since a flow was last seen.
    #[inline(always)]
    pub(super) const fn silence(&self, meta: Meta) -> u32 {
        meta.silence(self.now)
    }

    /// Updates state, idle time and last-seen time; returns whether it has written the entry. It writes only changes,
    /// and the time once a second at most. So both directions' processors share the cache line.
    #[inline(always)]
    pub(super) fn touch(&self, found: &Found<'_>, bits: u32, idle: u8) -> bool {
        if bits == found.meta.state() && found.meta.silence(self.now) < self.hz {
            return false;
        }
        found.entry.touch_idle(found.meta, self.now, bits, idle)
    }

    /// Jiffies, the low word.
    #[inline(always)]
    pub(super) const fn now(&self) -> u32 {
        self.now
    }

    /// Changes the state of a finished flow, and not its last-seen time.
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

    /// The smallest distance from the home bucket whose slot holds an entry of this bucket that `is_sought` accepts;
    /// else [`NOWHERE`].
    #[inline(always)]
    fn first(&self, query: &Query, mut is_sought: impl FnMut(u32) -> bool) -> u32 {
        let mut left = self.hop_bitmap(query.home);
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

    /// Entry, sequence word and service tag of a flow of the client endpoint. Other words may be of a later flow,
    /// unless a change of the sequence word succeeds.
    #[inline(always)]
    fn glance(&self, query: &Query, distance: u32) -> Option<(FlowEntry<'t>, Meta, u32)> {
        let entry = self.at(query.home, distance)?;
        let meta = entry.meta();
        let service = entry.service_of(&query.client)?;
        if meta.is_used() { Some((entry, meta, service)) } else { None }
    }

    /// Whether the entry at `distance` is the client endpoint's flow to the service with this tag.
    #[inline(always)]
    fn is(&self, query: &Query, distance: u32, service: u32) -> bool {
        self.at(query.home, distance)
            .is_some_and(|entry| entry.service_of(&query.client) == Some(service) && entry.meta().is_used())
    }

    /// Whether a packet of the server with this [`Backend::endpoint`] answers the flow at `distance`.
    #[inline(always)]
    fn is_answered(&self, query: &Query, distance: u32, endpoint: u32) -> bool {
        let Some((entry, meta, _)) = self.glance(query, distance) else { return false };
        let Some(backend) = self.live(entry.backend()) else { return false };
        // Datagrams do not show whether an expired flow continues, or the client now talks to the server past the VIP.
        backend.endpoint == endpoint
            && meta.state() & state::RELEASED == 0
            && (query.client.is_tcp() || !self.is_expired(meta))
    }

    /// Whether replies of a service pass SLB. Takes the service's tag.
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

    /// Whether a flow is finished or expired.
    #[inline(always)]
    fn is_finished(&self, meta: Meta) -> bool {
        meta.is_finished() || self.is_expired(meta)
    }

    /// As [`Self::is_finished`], but a RST alone does not count: it may be forged.
    #[inline(always)]
    fn is_ended(&self, meta: Meta) -> bool {
        (meta.is_finished() && !meta.is_reset_alone()) || self.is_expired(meta)
    }

    #[inline(always)]
    fn home(&self, client: &Client) -> u32 {
        client.home(self.tables.flow_seed()) & self.mask
    }

    #[inline(always)]
    fn hop_bitmap(&self, home: u32) -> u64 {
        self.at(home, 0).map_or(0, FlowEntry::hop_bitmap)
    }

    /// The slot at a distance from a home bucket.
    #[inline(always)]
    fn at(&self, home: u32, distance: u32) -> Option<FlowEntry<'t>> {
        self.tables.flow(home.wrapping_add(distance) & self.mask)
    }
}

#[cfg(test)]
mod tests;
