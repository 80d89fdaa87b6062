//! Flows that are remembered. One entry serves both directions, so the two can never be forgotten one without the other.
//!
//! The table is an array of entries of one cache line each. Both directions know the client's endpoint and the protocol: their
//! hash names an entry's *home*, and the entry lies there or in one of the [`WINDOW`] slots from there on. Each home has a
//! word of *places* that says in which, so a look-up reads no slot that holds nothing of its home.
//!
//! Several processors read and write at once. Every word is written whole. The word *meta* holds a version, which is odd
//! while the entry is being written: whoever reads an entry compares the versions before and after. Whoever writes one has
//! made the version odd by compare-and-exchange, so nobody else writes it, nor its bit in its home's places.
//! Only the writer that has locked an entry unlocks it, however long it stalls: a virtual processor may be paused for minutes.
//! BPF programs always get to their end. A daemon may be killed, so its lock is marked: the next daemon frees the entry. The
//! lock on the pins, which a process keeps until its last thread has ended, lets one daemon at a time write.
//! Loads and stores need no more order than acquire and release, which x86-64 keeps by itself, whatever BPF asks for.

mod meta;

pub use meta::{Meta, UNASSURED, idle_units, persistence_units, state};

#[cfg(doc)]
use super::MacPair;
use super::{Address, Handle, interface::slot, shared_word::SharedWord};
use crate::{hash::mix, net::headers::protocol};

/// Slots, from its home on, that an entry may lie in.
pub const WINDOW: u32 = 32;
/// Words of an entry.
pub const WORDS: usize = 8;

const META: usize = 0;
const HOP_BITMAP: usize = 1;
const CLIENT: usize = 2;
const END: usize = 4;
/// Of the word [`END`]: port and protocol. Above lie the tag of where packets came from, and the service.
const ENDPOINT: u64 = 0xff_ffff;
const ARRIVAL: u32 = 24;
const BACKEND: usize = 5;
const PATH: usize = 6;
const NUMBERS: usize = 7;

/// An entry as a copy of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct FlowWords([u64; WORDS]);

/// What both directions of a flow have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    halves: [u64; 2],
    /// Port and protocol; what is above them is free.
    end: u64,
}

impl Client {
    /// The client endpoint; the port in network byte order.
    #[inline(always)]
    pub const fn new(address: &Address, port: u16, protocol: u8) -> Self {
        Self { halves: address.halves(), end: port as u64 | (protocol as u64) << 16 }
    }

    /// The home of its entries, not yet reduced to the table. It depends on a secret of the table, or a client could
    /// choose its ports such that its flows push each other out.
    #[inline(always)]
    pub const fn home(&self, seed: u64) -> u32 {
        let [high, low] = self.halves;
        if high == 0 {
            // IPv4: address, port and protocol side by side in one word. No two are the same before they are mixed.
            return mix(seed ^ ((low & 0xffff_ffff_0000_0000) | self.end)) as u32;
        }
        mix(mix(mix(high ^ seed).wrapping_add(low)) ^ self.end) as u32
    }

    /// What a client address is remembered by as such, with the service of this id: no packet is of protocol 0.
    #[inline(always)]
    pub const fn whole(address: &Address, service: u32) -> Self {
        Self { halves: address.halves(), end: service as u64 & 0xffff }
    }

    /// What one client has at least: an IPv4 address, or the /64 of an IPv6 address, as a number.
    #[inline(always)]
    pub const fn prefix(&self) -> u64 {
        let [high, low] = self.halves;
        if high == 0 { low } else { high }
    }

    /// Whether its protocol is TCP.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.end >> 16 & 0xff == protocol::TCP as u64
    }

    /// The client endpoint as numbers.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 3] {
        [self.halves[0], self.halves[1], self.end]
    }

    /// The client endpoint of these numbers.
    #[inline(always)]
    pub const fn from_words([high, low, end]: [u64; 3]) -> Self {
        Self { halves: [high, low], end }
    }

    /// Address, port (network byte order) and protocol.
    pub const fn parts(&self) -> (Address, u16, u8) {
        let [[a, b], [c, d]] = [
            [self.halves[0] as u32, (self.halves[0] >> 32) as u32],
            [self.halves[1] as u32, (self.halves[1] >> 32) as u32],
        ];
        (Address([a, b, c, d]), self.end as u16, (self.end >> 16) as u8)
    }
}

/// What the flow table holds of a flow, but for [`Meta`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Tag of the service it came to.
    pub service: u32,
    /// The server it was given to.
    pub backend: Handle,
    /// How the client is reached (mode `nat`).
    pub client: ClientPath,
    /// [`ClientPath::tag`] of where its packets came from when that path was chosen.
    pub arrival: u8,
    /// How far both directions have come.
    pub numbers: Numbers,
}

/// How a client is reached: an interface, and the hardware address of the next hop behind it.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientPath(pub u64);

impl ClientPath {
    const MAC: u64 = (1 << 48) - 1;

    /// Behind the interface of this index, the station with this address, in the lower 48 bits as [`MacPair::sender`] returns it.
    #[inline(always)]
    pub const fn new(ifindex: u32, mac: u64) -> Self {
        Self((slot(ifindex) as u64) << 48 | mac & Self::MAC)
    }

    /// Slot of the interface in the interface table.
    #[inline(always)]
    pub const fn interface(self) -> u32 {
        (self.0 >> 48) as u32
    }

    /// The hardware address, in the lower 48 bits.
    #[inline(always)]
    pub const fn mac(self) -> u64 {
        self.0 & Self::MAC
    }

    /// A hash of it.
    #[inline(always)]
    pub const fn tag(self) -> u8 {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }
}

/// Of TCP, the next sequence number of each side, as far as the flow table follows it (`datapath::numbers`). Of UDP, when the flow
/// began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The client's next sequence number. Of UDP, jiffies when the flow began.
    pub client: u32,
    /// The server's next sequence number; 0 while it has not sent anything.
    pub server: u32,
}

impl Numbers {
    #[inline(always)]
    const fn word(self) -> u64 {
        self.client as u64 | (self.server as u64) << 32
    }

    #[inline(always)]
    const fn from_word(word: u64) -> Self {
        Self { client: word as u32, server: (word >> 32) as u32 }
    }
}

/// An entry where it lies in its table: other processors read and write it at the same time.
#[derive(Debug, Clone, Copy)]
pub struct FlowEntry<'t>(&'t [SharedWord; WORDS]);

impl<'t> FlowEntry<'t> {
    /// The entry in these words.
    #[inline(always)]
    pub const fn new(words: &'t [SharedWord; WORDS]) -> Self {
        Self(words)
    }

    /// State and times.
    #[inline(always)]
    pub fn meta(self) -> Meta {
        Meta(self.0[META].load())
    }

    /// Of the slots from here on, those that hold an entry whose home this is: bit n for the n-th.
    #[inline(always)]
    pub fn places(self) -> u64 {
        self.0[HOP_BITMAP].load()
    }

    /// Whether the entry is one of this client endpoint's, and of which service.
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

    /// Tag of the service the flow came to.
    #[inline(always)]
    pub fn service(self) -> u32 {
        (self.0[END].load() >> 32) as u32
    }

    /// The server the flow was given to.
    #[inline(always)]
    pub fn backend(self) -> Handle {
        Handle(self.0[BACKEND].load())
    }

    /// The flow, unless the entry has been replaced since `meta` was read.
    #[inline(always)]
    pub fn read(self, meta: Meta) -> Option<Flow> {
        let end = self.0[END].load();
        let flow = Flow {
            service: (end >> 32) as u32,
            arrival: (end >> ARRIVAL) as u8,
            backend: self.backend(),
            client: ClientPath(self.0[PATH].load()),
            numbers: Numbers::from_word(self.0[NUMBERS].load()),
        };
        if meta.replaced(self.meta()) { None } else { Some(flow) }
    }

    /// Changes when the flow was last seen and its state; `false` if anything has changed since `meta` was read.
    #[inline(always)]
    pub fn touch(self, meta: Meta, now: u32, state: u32) -> bool {
        self.0[META].exchange(meta.0, meta.with(now, state).0)
    }

    /// As [`Self::touch`], with another idle time ([`idle_units`]).
    #[inline(always)]
    pub fn touch_idle(self, meta: Meta, now: u32, state: u32, idle: u8) -> bool {
        self.0[META].exchange(meta.0, meta.with_idle(idle).with(now, state).0)
    }

    /// Changes the numbers, if they are `from`. They may be another flow's by then, which has the same numbers as good as never.
    #[inline(always)]
    pub fn advance(self, from: Numbers, to: Numbers) -> bool {
        self.0[NUMBERS].exchange(from.word(), to.word())
    }

    #[inline(always)]
    const fn end(client: &Client, service: u32, arrival: u8) -> u64 {
        client.end | (arrival as u64) << ARRIVAL | (service as u64) << 32
    }

    /// Changes where packets came from when the flow's path was chosen, if that is `flow`'s.
    #[inline(always)]
    pub fn arrive(self, client: &Client, flow: &Flow, arrival: u8) -> bool {
        let from = Self::end(client, flow.service, flow.arrival);
        self.0[END].exchange(from, Self::end(client, flow.service, arrival))
    }

    /// Has the flow lead to another station, if it leads to `from`. The entry is not locked for that: a packet that finds a locked
    /// entry finds no flow, and the daemon may be preempted.
    #[inline(always)]
    pub fn redirect(self, from: ClientPath, to: ClientPath) -> bool {
        self.0[PATH].exchange(from.0, to.0)
    }

    /// Begins to write the entry; `false` if anything has changed since `meta` was read.
    #[inline(always)]
    pub fn lock(self, meta: Meta) -> bool {
        self.0[META].exchange(meta.0, meta.writing().0)
    }

    /// Fills an entry that has been claimed, and gives it up. `meta` is what it was claimed with.
    #[inline(always)]
    pub fn fill(self, meta: Meta, client: &Client, flow: &Flow, now: u32, state: u32, idle: u8) {
        self.0[CLIENT].store(client.halves[0]);
        self.0[CLIENT + 1].store(client.halves[1]);
        self.0[END].store(Self::end(client, flow.service, flow.arrival));
        self.0[BACKEND].store(flow.backend.0);
        self.0[PATH].store(flow.client.0);
        self.0[NUMBERS].store(flow.numbers.word());
        self.0[META].store(meta.next(now, state | state::USED, u64::from(idle)).0);
    }

    /// Notes that the n-th slot from this home on holds an entry of this home.
    #[inline(always)]
    pub fn set_hop(self, n: u32) {
        self.0[HOP_BITMAP].set(1 << n);
    }

    /// Notes that it does not any more.
    #[inline(always)]
    pub fn clear_hop(self, n: u32) {
        self.0[HOP_BITMAP].clear(1 << n);
    }
}

impl FlowEntry<'_> {
    /// Gives the flow to another server, if it is with `from`. Nobody else changes the server of a flow, and whoever reads the
    /// entry meanwhile finds one or the other.
    pub fn hand(self, from: Handle, to: Handle) -> bool {
        self.0[BACKEND].exchange(from.0, to.0)
    }

    /// As [`Self::lock`], for the daemon: the next one frees the entry if this one is killed before it gives it up.
    pub fn lock_as_daemon(self, meta: Meta) -> bool {
        self.0[META].exchange(meta.0, meta.locked_by_daemon().0)
    }

    /// Gives up an entry that has been claimed, with no flow in it. `meta` is what it was claimed with.
    pub fn free(self, meta: Meta) {
        self.0[META].store(meta.next(0, 0, 0).0);
    }
}

const _: () = assert!(size_of::<FlowWords>() == 64);
const _: () = assert!(WINDOW <= u64::BITS);

#[cfg(test)]
mod tests;
