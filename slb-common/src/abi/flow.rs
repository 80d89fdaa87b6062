//! Layout of the flow table: an array of entries, one cache line each. One entry serves both directions, so they cannot
//! be evicted separately.
//!
//! The table is a hopscotch hash. The hash of client endpoint and protocol, which both directions know, names an
//! entry's *home bucket*. The entry lies in that slot or in one of the next [`NEIGHBOURHOOD`] - 1. Each home bucket has
//! a *hop bitmap* of the slots that hold its entries, so a lookup reads no others.
//!
//! All processors read and write at once, each word as a whole. The *sequence word* holds a version, which is odd while
//! the entry is locked (seqlock). A reader compares the versions before and after. A writer locks the entry by
//! compare-and-exchange; then it alone writes the entry and its bit in the hop bitmap.
//!
//! Only the writer that locked an entry unlocks it, however long it stalls: a virtual processor may be paused for
//! minutes. BPF programs always run to their end. A daemon may be killed, so its lock has a mark, and the next daemon
//! releases the entry. A process keeps the lock on the pins until its last thread has ended. So one daemon at a time
//! writes the table.
//!
//! Loads and stores need acquire and release order only, which x86-64 provides for plain accesses, whatever BPF asks
//! for.

mod port;
mod sequence_word;

pub use port::FlowTag;
pub use sequence_word::{SequenceWord, UNASSURED, idle_units, persistence_units, state};

#[cfg(doc)]
use super::MacPair;
use super::{Address, Handle, interface::slot, shared_word::SharedWord, source::Source};
use crate::{hash::mix, net::headers::protocol};

/// Slots of a neighbourhood: an entry lies in its home bucket or in one of the slots after it.
pub const NEIGHBOURHOOD: u32 = 32;
/// Words of an entry.
pub const WORDS: usize = 8;

const SEQUENCE_WORD: usize = 0;
/// The hop bitmap in the lower half. In the upper half the [`Source`] of the flow in this slot.
const HOP_BITMAP: usize = 1;
const SOURCE: u32 = 32;
const CLIENT: usize = 2;
const END: usize = 4;
/// Port and protocol in the word [`END`]. Above them lie the arrival tag and the service tag.
const ENDPOINT: u64 = 0xff_ffff;
const ARRIVAL: u32 = 24;
/// The handle of the server. Bits of it that no handle has hold the port of a flow of a port range.
const BACKEND: usize = 5;
const PATH: usize = 6;
const NUMBERS: usize = 7;

/// A copy of an entry.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct FlowWords([u64; WORDS]);

/// A client endpoint and protocol, which both directions of a flow have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    halves: [u64; 2],
    /// Port and protocol in the lower 24 bits, 0 above.
    end: u64,
}

impl Client {
    /// A client endpoint; `port` is in network byte order.
    #[inline(always)]
    pub const fn new(address: &Address, port: u16, protocol: u8) -> Self {
        Self { halves: address.halves(), end: port as u64 | (protocol as u64) << 16 }
    }

    /// Hash of the client endpoint, which the caller reduces to a home bucket of the table. `seed` is secret: otherwise
    /// a client could choose ports whose flows evict each other.
    #[inline(always)]
    pub const fn home(&self, seed: u64) -> u32 {
        let [high, low] = self.halves;
        if high == 0 {
            // IPv4: address, port and protocol fit in one word, so different endpoints differ before they are mixed.
            return mix(seed ^ ((low & 0xffff_ffff_0000_0000) | self.end)) as u32;
        }
        mix(mix(mix(high ^ seed).wrapping_add(low)) ^ self.end) as u32
    }

    /// Key of the affinity entry of a client address and the service with this id. No flow has it: its protocol is 0.
    #[inline(always)]
    pub const fn affinity(address: &Address, service: u32) -> Self {
        Self { halves: address.halves(), end: service as u64 & 0xffff }
    }

    /// Client address as a number: an IPv4 address, or the /64 of an IPv6 address.
    #[inline(always)]
    pub const fn prefix(&self) -> u64 {
        let [high, low] = self.halves;
        if high == 0 { low } else { high }
    }

    /// IP protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.end >> 16) as u8
    }

    /// Whether its protocol is TCP.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.end >> 16 & 0xff == protocol::TCP as u64
    }

    /// The client endpoint as numbers, for BPF subprograms.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 3] {
        [self.halves[0], self.halves[1], self.end]
    }

    /// The client endpoint of [`Self::words`].
    #[inline(always)]
    pub const fn from_words([high, low, end]: [u64; 3]) -> Self {
        Self { halves: [high, low], end }
    }

    /// Address, port (network byte order) and protocol.
    pub const fn parts(&self) -> (Address, u16, u8) {
        let (address, port) = self.endpoint();
        (address, port, self.protocol())
    }

    /// Address and port (network byte order).
    #[inline(always)]
    pub const fn endpoint(&self) -> (Address, u16) {
        let [[a, b], [c, d]] = [
            [self.halves[0] as u32, (self.halves[0] >> 32) as u32],
            [self.halves[1] as u32, (self.halves[1] >> 32) as u32],
        ];
        (Address([a, b, c, d]), self.end as u16)
    }
}

/// Content of an entry, without [`SequenceWord`] and client endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// [`Handle::tag`] of its service.
    pub service: u32,
    /// The server of the flow.
    pub backend: Handle,
    /// Client path (mode `nat`).
    pub client: ClientPath,
    /// [`ClientPath::tag`] of where the client's packets came from when the path was chosen.
    pub arrival: u8,
    /// Sequence numbers of both sides.
    pub numbers: SequenceNumbers,
    /// Port of the VIP and of the server, in network byte order, if its listener has a port range; else 0.
    pub port: u16,
    /// Source of its packets towards the server, if that is not the client endpoint.
    pub source: Source,
}

impl Flow {
    /// What tells it from other flows of its client endpoint.
    #[inline(always)]
    pub const fn tag(&self) -> FlowTag {
        FlowTag::new(self.service, self.port)
    }
}

/// Client path: an interface, and the hardware address of the next hop behind it. 0 is none.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientPath(pub u64);

impl ClientPath {
    const MAC: u64 = (1 << 48) - 1;

    /// The path through the interface with this index to the hardware address `mac`. That is in the lower 48 bits, as
    /// [`MacPair::sender`] returns it.
    #[inline(always)]
    pub const fn new(ifindex: u32, mac: u64) -> Self {
        Self((slot(ifindex) as u64) << 48 | mac & Self::MAC)
    }

    /// Slot of the interface in the interface table.
    #[inline(always)]
    pub const fn interface(self) -> u32 {
        (self.0 >> 48) as u32
    }

    /// The hardware address in the lower 48 bits; 0 while it is not resolved.
    #[inline(always)]
    pub const fn mac(self) -> u64 {
        self.0 & Self::MAC
    }

    /// An 8-bit hash of the path.
    #[inline(always)]
    pub const fn tag(self) -> u8 {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }
}

/// TCP: the next sequence number of each side, with the lag that `datapath::sequence_numbers` allows. UDP: the time
/// when the flow began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SequenceNumbers {
    /// TCP: the client's next sequence number. UDP: jiffies when the flow began, the low word.
    pub client: u32,
    /// TCP: the server's next sequence number; 0 before its first segment.
    pub server: u32,
}

impl SequenceNumbers {
    #[inline(always)]
    const fn word(self) -> u64 {
        self.client as u64 | (self.server as u64) << 32
    }

    #[inline(always)]
    const fn from_word(word: u64) -> Self {
        Self { client: word as u32, server: (word >> 32) as u32 }
    }
}

/// An entry in the shared table. Other processors may read and write it at any time.
#[derive(Debug, Clone, Copy)]
pub struct FlowEntry<'t>(&'t [SharedWord; WORDS]);

impl<'t> FlowEntry<'t> {
    /// The entry in these words.
    #[inline(always)]
    pub const fn new(words: &'t [SharedWord; WORDS]) -> Self {
        Self(words)
    }

    /// The sequence word: state, idle time and last-seen time.
    #[inline(always)]
    pub fn sequence_word(self) -> SequenceWord {
        SequenceWord(self.0[SEQUENCE_WORD].load())
    }

    /// The hop bitmap of this home bucket: bit n says that the n-th slot from here holds one of its entries.
    #[inline(always)]
    pub fn hop_bitmap(self) -> u64 {
        self.0[HOP_BITMAP].load() & u64::from(u32::MAX)
    }

    /// The source of the flow in this slot.
    #[inline(always)]
    pub fn source(self) -> Source {
        Source((self.0[HOP_BITMAP].load() >> SOURCE) as u32)
    }

    /// Replaces the source of the flow in this slot, whose entry the caller has locked: a reader of it starts again.
    /// [`Source::COOKIE`] stays as it is.
    #[inline(always)]
    pub fn set_source(self, source: Source) {
        const REPLACED: u32 = !Source::COOKIE.0;
        if (self.source().0 ^ source.0) & REPLACED != 0 {
            self.0[HOP_BITMAP].clear(u64::from(REPLACED) << SOURCE);
            self.0[HOP_BITMAP].set(u64::from(source.0 & REPLACED) << SOURCE);
        }
    }

    /// As [`Self::set_source`], and [`Source::COOKIE`] as well.
    #[inline(always)]
    pub fn set_source_and_mark(self, source: Source) {
        if self.source() != source {
            self.0[HOP_BITMAP].clear(u64::from(u32::MAX) << SOURCE);
            self.0[HOP_BITMAP].set(u64::from(source.0) << SOURCE);
        }
    }

    /// Adds bits to the source of the flow in this slot, whose entry the caller has locked.
    #[inline(always)]
    pub fn mark_source(self, mark: Source) {
        self.0[HOP_BITMAP].set(u64::from(mark.0) << SOURCE);
    }

    /// The service tag, if the entry is of this client endpoint.
    #[inline(always)]
    pub fn service_of(self, client: &Client) -> Option<u32> {
        let end = self.0[END].load();
        let differs = (self.0[CLIENT].load() ^ client.halves[0])
            | (self.0[CLIENT + 1].load() ^ client.halves[1])
            | ((end ^ client.end) & ENDPOINT);
        if differs == 0 { Some((end >> 32) as u32) } else { None }
    }

    /// The client endpoint.
    #[inline(always)]
    pub fn client(self) -> Client {
        Client {
            halves: [self.0[CLIENT].load(), self.0[CLIENT + 1].load()],
            end: self.0[END].load() & ENDPOINT,
        }
    }

    /// [`Handle::tag`] of the flow's service.
    #[inline(always)]
    pub fn service(self) -> u32 {
        (self.0[END].load() >> 32) as u32
    }

    /// The server of the flow.
    #[inline(always)]
    pub fn backend(self) -> Handle {
        Handle::from_bits(self.0[BACKEND].load())
    }

    /// [`Flow::port`].
    #[inline(always)]
    pub fn port(self) -> u16 {
        port::of(self.0[BACKEND].load())
    }

    /// The content; `None` if the entry was locked or replaced after `sequence_word` was read.
    #[inline(always)]
    pub fn read(self, sequence_word: SequenceWord) -> Option<Flow> {
        let end = self.0[END].load();
        let backend = self.0[BACKEND].load();
        let flow = Flow {
            service: (end >> 32) as u32,
            arrival: (end >> ARRIVAL) as u8,
            backend: Handle::from_bits(backend),
            port: port::of(backend),
            client: ClientPath(self.0[PATH].load()),
            numbers: SequenceNumbers::from_word(self.0[NUMBERS].load()),
            source: self.source(),
        };
        if sequence_word.replaced(self.sequence_word()) { None } else { Some(flow) }
    }

    /// Changes last-seen time and state; `false` if the sequence word is no longer `sequence_word`.
    #[inline(always)]
    pub fn touch(self, sequence_word: SequenceWord, now: u32, state: u32) -> bool {
        self.0[SEQUENCE_WORD].exchange(sequence_word.0, sequence_word.with(now, state).0)
    }

    /// As [`Self::touch`], with another idle time ([`idle_units`]).
    #[inline(always)]
    pub fn touch_idle(self, sequence_word: SequenceWord, now: u32, state: u32, idle: u8) -> bool {
        self.0[SEQUENCE_WORD].exchange(sequence_word.0, sequence_word.with_idle(idle).with(now, state).0)
    }

    /// Changes the sequence numbers if they are `from`. The entry may hold another flow by then; that one having equal
    /// numbers is next to impossible.
    #[inline(always)]
    pub fn advance(self, from: SequenceNumbers, to: SequenceNumbers) -> bool {
        self.0[NUMBERS].exchange(from.word(), to.word())
    }

    #[inline(always)]
    const fn end(client: &Client, service: u32, arrival: u8) -> u64 {
        client.end | (arrival as u64) << ARRIVAL | (service as u64) << 32
    }

    /// Changes the arrival tag, if client endpoint, service and tag are those of `client` and `flow`.
    #[inline(always)]
    pub fn set_arrival_tag(self, client: &Client, flow: &Flow, arrival: u8) -> bool {
        let from = Self::end(client, flow.service, flow.arrival);
        self.0[END].exchange(from, Self::end(client, flow.service, arrival))
    }

    /// Changes the client path if it is `from`. Does not lock the entry: a packet that finds it locked finds no flow,
    /// and the daemon may be preempted.
    #[inline(always)]
    pub fn set_client_path(self, from: ClientPath, to: ClientPath) -> bool {
        self.0[PATH].exchange(from.0, to.0)
    }

    /// Locks the entry; `false` if its sequence word is no longer `sequence_word`.
    #[inline(always)]
    pub fn lock(self, sequence_word: SequenceWord) -> bool {
        self.0[SEQUENCE_WORD].exchange(sequence_word.0, sequence_word.locked().0)
    }

    /// Unlocks an entry whose content has not changed. `sequence_word` is the word that [`Self::lock`] replaced.
    #[inline(always)]
    pub fn unlock(self, sequence_word: SequenceWord) {
        let SequenceWord(was) = sequence_word;
        let next = sequence_word.next(was as u32, sequence_word.state(), was >> 56);
        self.0[SEQUENCE_WORD].store(next.0);
    }

    /// Publishes an entry that the caller has locked. `sequence_word` is the word that [`Self::lock`] replaced.
    #[inline(always)]
    pub fn publish(
        self,
        sequence_word: SequenceWord,
        client: &Client,
        flow: &Flow,
        now: u32,
        state: u32,
        idle: u8,
    ) {
        self.0[CLIENT].store(client.halves[0]);
        self.0[CLIENT + 1].store(client.halves[1]);
        self.0[END].store(Self::end(client, flow.service, flow.arrival));
        self.0[BACKEND].store(flow.backend.0 | port::bits(flow.port));
        self.0[PATH].store(flow.client.0);
        self.0[NUMBERS].store(flow.numbers.word());
        self.set_source_and_mark(flow.source);
        self.0[SEQUENCE_WORD].store(sequence_word.next(now, state | state::USED, u64::from(idle)).0);
    }

    /// Sets bit n of this home bucket's hop bitmap.
    #[inline(always)]
    pub fn set_hop(self, n: u32) {
        self.0[HOP_BITMAP].set(1 << n);
    }

    /// Clears bit n of this home bucket's hop bitmap.
    #[inline(always)]
    pub fn clear_hop(self, n: u32) {
        self.0[HOP_BITMAP].clear(1 << n);
    }
}

impl FlowEntry<'_> {
    /// Changes the flow's server if it is `from`. Only the daemon does this. A reader finds the old or the new server.
    pub fn rehome(self, from: Handle, to: Handle) -> bool {
        let word = self.0[BACKEND].load();
        let port = port::bits(port::of(word));
        self.0[BACKEND].exchange(from.0 | port, to.0 | port)
    }

    /// As [`Self::lock`], for the daemon. If it is killed before it unlocks the entry, the next daemon releases it.
    pub fn lock_as_daemon(self, sequence_word: SequenceWord) -> bool {
        self.0[SEQUENCE_WORD].exchange(sequence_word.0, sequence_word.locked_by_daemon().0)
    }

    /// Releases an entry that the caller has locked. `sequence_word` is the word that the lock replaced.
    pub fn release(self, sequence_word: SequenceWord) {
        self.0[SEQUENCE_WORD].store(sequence_word.next(0, 0, 0).0);
    }
}

const _: () = assert!(size_of::<FlowWords>() == 64);
const _: () = assert!(NEIGHBOURHOOD <= u64::BITS);

#[cfg(test)]
mod tests;
