//! The flow table on the packet path: lookup, insert and eviction.
//!
//! The searches of the slow path are BPF subprograms, which the verifier follows once: [`find`], [`find_answered`],
//! [`conflicts`], [`mark_tuple_reused`], [`find_slot`] and [`find_unfair_slot`].
//! [`FlowCalls`](super::flow_calls::FlowCalls) calls them. They take and return numbers only.

mod conflicts;
mod eviction;
mod sources;

pub(super) use conflicts::Conflicts;
pub use conflicts::{conflicts, mark_tuple_reused};
pub use sources::{Allocation, allocate_source, release_word};

use super::{maps::Maps, parse::Packet};
use crate::{
    abi::{
        Handle,
        backend::Backend,
        flow::{
            Client, ClientPath, Flow, FlowEntry, FlowTag, NEIGHBOURHOOD, SequenceNumbers, SequenceWord, state,
        },
        service::{ServiceIndex, mode, policy},
        source::Source,
    },
    net::headers::protocol,
    opaque::forget,
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
pub const NOT_FOUND: u32 = NEIGHBOURHOOD;
/// The fast path cannot tell: the entry may lie farther from its home bucket than [`NEAR`].
pub(super) const FAR: u32 = NOT_FOUND + 1;
/// Seconds within which an end answers a provoking segment of the daemon.
const PROVOKE_TIMEOUT: u32 = 5;
/// Slots from the home bucket on in which the fast path searches.
const NEAR: u32 = 4;

/// Finds the entry of a flow. Returns its distance from the home bucket, or [`NOT_FOUND`]. The entry may have expired.
#[inline(always)]
pub fn find<T: Maps>(query: &Query, tag: FlowTag, maps: &T) -> u32 {
    maps.index().map_or(NOT_FOUND, |index| Flows::open(index, maps).find(query, tag))
}

/// Finds the flow that a server's packet answers; `endpoint` is the packet's [`Backend::endpoint_and_port_of`]. Returns the
/// distance of its entry from the home bucket, or [`NOT_FOUND`].
#[inline(always)]
pub fn find_answered<T: Maps>(query: &Query, endpoint: u32, maps: &T) -> u32 {
    maps.index().map_or(NOT_FOUND, |index| Flows::open(index, maps).find_answered(query, endpoint))
}

/// Finds a slot for a new flow: free, or with an evictable entry. Returns its distance from the home bucket, or
/// [`NOT_FOUND`].
#[inline(always)]
pub fn find_slot<T: Maps>(home: u32, maps: &T) -> u32 {
    maps.index().map_or(NOT_FOUND, |index| Flows::open(index, maps).find_slot(home))
}

/// Finds a slot for a new flow where all slots of the neighbourhood hold assured flows: that of a client with more than
/// its share. `prefix` is the new flow's [`Client::prefix`]. Returns the distance from the home bucket, or
/// [`NOT_FOUND`].
#[inline(always)]
pub fn find_unfair_slot<T: Maps>(home: u32, prefix: u64, maps: &T) -> u32 {
    maps.index().map_or(NOT_FOUND, |index| Flows::open(index, maps).find_unfair_slot(home, prefix))
}

/// The flow table as one packet sees it, at one moment.
pub(super) struct Flows<'t, T> {
    maps: &'t T,
    /// Slots of the table less one; their number is a power of two.
    mask: u32,
    /// Jiffies per second.
    hz: u32,
    /// Jiffies when the table was opened, the low word.
    now: u32,
    /// A number that the verifier does not know, for [`forget`].
    unknown: u64,
}

/// A consistent copy of an entry, and the entry itself.
#[derive(Clone, Copy)]
pub(super) struct EntrySnapshot<'t> {
    entry: FlowEntry<'t>,
    pub(super) sequence_word: SequenceWord,
    pub(super) flow: Flow,
}

impl EntrySnapshot<'_> {
    /// Adds a mark to the source; `false` if the entry has changed since.
    #[inline(always)]
    pub(super) fn mark_source(&self, mark: Source) -> bool {
        let is_locked = self.entry.lock(self.sequence_word);
        if is_locked {
            self.entry.mark_source(mark);
            self.entry.unlock(self.sequence_word);
        }
        is_locked
    }

    /// Replaces the sequence numbers. A concurrent change wins.
    #[inline(always)]
    pub(super) fn advance(&self, numbers: SequenceNumbers) {
        self.entry.advance(self.flow.numbers, numbers);
    }

    /// Replaces the client path and the arrival tag. A concurrent change wins.
    #[inline(always)]
    pub(super) fn set_client_path(&self, query: &Query, path: ClientPath, arrival: ClientPath) {
        if path != self.flow.client {
            self.entry.set_client_path(self.flow.client, path);
        }
        if arrival.tag() != self.flow.arrival {
            self.entry.set_arrival_tag(&query.client, &self.flow, arrival.tag());
        }
    }
}

/// Result of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Insertion {
    /// The entry is published.
    Done,
    /// No slot of the neighbourhood is free or evictable, or another processor was faster.
    Full,
}

impl<'t, T: Maps> Flows<'t, T> {
    /// Opens the flow table for one packet.
    #[inline(always)]
    pub(super) fn open(index: &ServiceIndex, maps: &'t T) -> Self {
        Self { maps, mask: maps.flow_mask(), hz: index.hz, now: maps.now(), unknown: index.seed }
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

    /// As the function [`find`], but [`FAR`] where entries lie farther from the home bucket than [`NEAR`]. Without `RANGES`
    /// the service has no port range.
    #[inline(always)]
    pub(super) fn find_near<const RANGES: bool>(&self, query: &Query, tag: FlowTag) -> u32 {
        let mut left = self.hop_bitmap(query.home);
        for distance in 0..NEAR {
            if left & 1 != 0 && self.is_flow_of::<RANGES>(query, distance, tag) {
                return forget(distance, self.unknown);
            }
            left >>= 1;
        }
        forget(if left == 0 { NOT_FOUND } else { FAR }, self.unknown)
    }

    /// As the function [`find_answered`], but [`FAR`] where entries lie farther from the home bucket than [`NEAR`].
    /// Without `RANGES` it finds no flow of a port range, and `endpoint` is a [`Backend::endpoint_of`]. Repeats the code of
    /// [`Self::find_near`]: a shared closure would need more stack than BPF has.
    #[inline(always)]
    pub(super) fn find_answered_near<const RANGES: bool>(&self, query: &Query, endpoint: u32) -> u32 {
        let mut left = self.hop_bitmap(query.home);
        for distance in 0..NEAR {
            if left & 1 != 0 && self.is_answered::<RANGES>(query, distance, endpoint) {
                return forget(distance, self.unknown);
            }
            left >>= 1;
        }
        forget(if left == 0 { NOT_FOUND } else { FAR }, self.unknown)
    }

    /// Reads the entry at a distance from the home bucket; `None` if it is free, locked, replaced meanwhile, or of
    /// another client endpoint.
    #[inline(always)]
    pub(super) fn read(&self, query: &Query, distance: u32) -> Option<EntrySnapshot<'t>> {
        if distance >= NOT_FOUND {
            return None;
        }
        let entry = self.at(query.home, distance)?;
        let sequence_word = entry.sequence_word();
        entry.service_of(&query.client)?;
        let flow = entry.read(sequence_word)?;
        if sequence_word.is_used() { Some(EntrySnapshot { entry, sequence_word, flow }) } else { None }
    }

    /// Inserts a flow that has no entry; `idle` is in [`idle_units`](crate::abi::flow::idle_units). `distance` is that
    /// of the slot from the home bucket ([`find_slot`]; if `is_unfair`, [`find_unfair_slot`]). Another processor may
    /// lock the slot first. That counts as [`Insertion::Full`]: it is too rare for a second search.
    #[inline(always)]
    pub(super) fn insert_entry(
        &self,
        distance: u32,
        is_unfair: bool,
        query: &Query,
        flow: &Flow,
        bits: u32,
        idle: u8,
    ) -> Insertion {
        if distance >= NOT_FOUND {
            return Insertion::Full;
        }
        let Some(entry) = self.at(query.home, distance) else { return Insertion::Full };
        let sequence_word = entry.sequence_word();
        // Another processor has just locked it, or its flow has become assured.
        if sequence_word.is_locked()
            || !(is_unfair || self.is_evictable(sequence_word))
            || !entry.lock(sequence_word)
        {
            return Insertion::Full;
        }
        if sequence_word.is_used() {
            if !self.is_finished(sequence_word) && !sequence_word.is_affinity() {
                self.maps.count_evicted(sequence_word.state() & state::ASSURED != 0);
            }
            let is_pickup = sequence_word.state() & (state::PICKED_UP | state::ANSWERED) == state::PICKED_UP;
            if is_pickup && !self.is_finished(sequence_word) && self.may_be_migrating(entry) {
                self.maps.count_evicted_migrating();
            }
            let old_home = self.home(&entry.client());
            let old_distance = query.home.wrapping_add(distance).wrapping_sub(old_home) & self.mask;
            if old_distance < NEIGHBOURHOOD
                && let Some(old_home) = self.at(old_home, 0)
            {
                old_home.clear_hop(old_distance);
            }
        }
        if let Some(home) = self.at(query.home, 0) {
            home.set_hop(distance);
        }
        entry.publish(sequence_word, &query.client, flow, self.now, bits, idle);
        Insertion::Done
    }

    /// Whether an evicted flow may be older than the change of its slot, so that the migration must go on. Evicted
    /// datagrams of services that do not follow the hash do not count: they are many, and do not show their age.
    #[inline(always)]
    fn may_be_migrating(&self, entry: FlowEntry<'_>) -> bool {
        let service = self.maps.service(entry.service() & 0xffff);
        service.is_none_or(|service| {
            service.protocol == protocol::TCP || service.policy & policy::PINNED_ELSEWHERE == 0
        })
    }

    /// Writes a new flow over an entry that was found.
    #[inline(always)]
    pub(super) fn replace(
        &self,
        found: &EntrySnapshot<'_>,
        query: &Query,
        flow: &Flow,
        bits: u32,
        idle: u8,
    ) -> Insertion {
        if !found.entry.lock(found.sequence_word) {
            return Insertion::Full;
        }
        found.entry.publish(found.sequence_word, &query.client, flow, self.now, bits, idle);
        Insertion::Done
    }

    /// The server of this handle; `None` if the id belongs to another server now.
    #[inline(always)]
    pub(super) fn live_backend(&self, handle: Handle) -> Option<&'t Backend> {
        self.maps.backend(handle.id()).filter(|backend| backend.handle == handle)
    }

    /// Whether a flow has been silent for longer than its idle time.
    #[inline(always)]
    pub(super) fn is_expired(&self, sequence_word: SequenceWord) -> bool {
        self.silence(sequence_word) > sequence_word.idle(self.hz)
    }

    /// Whether a segment of an expired connection becomes a RST. It does if it answers a provoking segment of the
    /// daemon, or if the server endpoint passed to another flow of the client endpoint.
    #[inline(always)]
    pub(super) fn is_rst_due(&self, found: &EntrySnapshot<'_>, packet: &Packet) -> bool {
        let was = found.sequence_word.state();
        let answers = was & state::RESET != 0 && packet.flags.is_pure_ack();
        (was & state::TUPLE_REUSED != 0)
            | (answers
                & (self.silence(found.sequence_word)
                    <= found.sequence_word.idle(self.hz) + PROVOKE_TIMEOUT * self.hz))
    }

    /// Whether a plausible segment takes back the RST that the entry is marked with. It must come a second or more
    /// after the RST: segments that were under way come earlier.
    #[inline(always)]
    pub(super) fn survives_reset(&self, found: &EntrySnapshot<'_>) -> bool {
        found.sequence_word.is_reset_alone() && self.silence(found.sequence_word) >= self.hz
    }

    /// Jiffies since a flow was last seen.
    #[inline(always)]
    pub(super) const fn silence(&self, sequence_word: SequenceWord) -> u32 {
        sequence_word.silence(self.now)
    }

    /// Updates state, idle time and last-seen time; returns whether it has written the entry. It writes only changes,
    /// and the time once a second at most. So both directions' processors share the cache line.
    #[inline(always)]
    pub(super) fn touch(&self, found: &EntrySnapshot<'_>, bits: u32, idle: u8) -> bool {
        if bits == found.sequence_word.state() && found.sequence_word.silence(self.now) < self.hz {
            return false;
        }
        found.entry.touch_idle(found.sequence_word, self.now, bits, idle)
    }

    /// Jiffies, the low word.
    #[inline(always)]
    pub(super) const fn now(&self) -> u32 {
        self.now
    }

    /// Changes the state of a finished flow, and not its last-seen time.
    #[inline(always)]
    pub(super) fn mark(&self, found: &EntrySnapshot<'_>, bits: u32) {
        found.entry.touch(found.sequence_word, found.sequence_word.last_seen(), bits);
    }

    #[inline(always)]
    fn find(&self, query: &Query, tag: FlowTag) -> u32 {
        self.first(query, |distance| self.is_flow_of::<true>(query, distance, tag))
    }

    #[inline(always)]
    fn find_answered(&self, query: &Query, endpoint: u32) -> u32 {
        self.first(query, |distance| {
            self.is_answered::<true>(query, distance, endpoint)
                && self.at(query.home, distance).is_some_and(|entry| self.is_nat(entry))
        })
    }

    /// The smallest distance from the home bucket whose slot holds an entry of this bucket that `is_sought` accepts;
    /// else [`NOT_FOUND`].
    #[inline(always)]
    fn first(&self, query: &Query, mut is_sought: impl FnMut(u32) -> bool) -> u32 {
        let mut left = self.hop_bitmap(query.home);
        for distance in 0..NEIGHBOURHOOD {
            if left == 0 {
                break;
            }
            if left & 1 != 0 && is_sought(distance) {
                return distance;
            }
            left >>= 1;
        }
        NOT_FOUND
    }

    /// Entry, sequence word and tag of a flow of the client endpoint. Other words may be of a later flow,
    /// unless a change of the sequence word succeeds.
    #[inline(always)]
    fn peek(&self, query: &Query, distance: u32) -> Option<(FlowEntry<'t>, SequenceWord, FlowTag)> {
        let entry = self.at(query.home, distance)?;
        let sequence_word = entry.sequence_word();
        let tag = FlowTag::new(entry.service_of(&query.client)?, entry.port());
        if sequence_word.is_used() { Some((entry, sequence_word, tag)) } else { None }
    }

    /// Whether the entry at `distance` is the client endpoint's flow with this tag.
    #[inline(always)]
    fn is_flow_of<const RANGES: bool>(&self, query: &Query, distance: u32, tag: FlowTag) -> bool {
        self.at(query.home, distance).is_some_and(|entry| {
            entry.service_of(&query.client) == Some(tag.service())
                && (!RANGES || entry.port() == tag.port())
                && entry.sequence_word().is_used()
        })
    }

    /// Whether a packet of the server with this [`Backend::endpoint_and_port_for`] the flow at `distance` answers it. Without
    /// `RANGES` the number alone counts: live flows of other listeners never share it.
    #[inline(always)]
    fn is_answered<const RANGES: bool>(&self, query: &Query, distance: u32, endpoint: u32) -> bool {
        let Some((entry, sequence_word, _)) = self.peek(query, distance) else { return false };
        let Some(backend) = self.live_backend(entry.backend()) else { return false };
        let is_its = if RANGES {
            backend.endpoint_and_port_for(entry.port()) == endpoint
        } else {
            backend.endpoint == endpoint && backend.port != 0
        };
        // Datagrams do not show whether an expired flow continues, or the client now talks to the server past the VIP.
        is_its
            && sequence_word.state() & state::TUPLE_REUSED == 0
            && (query.client.is_tcp() || !self.is_expired(sequence_word))
    }

    /// Whether replies of a service pass SLB. Takes the service's tag.
    #[inline(always)]
    fn sees_replies(&self, tag: u32) -> bool {
        self.maps.service(tag & 0xffff).is_some_and(|service| mode::sees_replies(service.mode))
    }

    /// Whether only the client endpoint tells the flow's replies from others: mode `nat`, without a source of its own.
    #[inline(always)]
    fn is_nat(&self, entry: FlowEntry<'_>) -> bool {
        let service = self.maps.service(entry.service() & 0xffff);
        entry.source().is_none() && service.is_some_and(|service| service.mode == mode::NAT)
    }

    /// Whether a flow is finished or expired.
    #[inline(always)]
    fn is_finished(&self, sequence_word: SequenceWord) -> bool {
        sequence_word.is_finished() || self.is_expired(sequence_word)
    }

    /// As [`Self::is_finished`], but a RST alone does not count: it may be forged.
    #[inline(always)]
    fn is_ended(&self, sequence_word: SequenceWord) -> bool {
        (sequence_word.is_finished() && !sequence_word.is_reset_alone()) || self.is_expired(sequence_word)
    }

    #[inline(always)]
    fn home(&self, client: &Client) -> u32 {
        client.home(self.maps.flow_seed()) & self.mask
    }

    #[inline(always)]
    fn hop_bitmap(&self, home: u32) -> u64 {
        self.at(home, 0).map_or(0, FlowEntry::hop_bitmap)
    }

    /// The slot at a distance from a home bucket.
    #[inline(always)]
    fn at(&self, home: u32, distance: u32) -> Option<FlowEntry<'t>> {
        self.maps.flow(home.wrapping_add(distance) & self.mask)
    }
}

#[cfg(test)]
mod tests;
