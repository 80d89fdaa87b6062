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

#[cfg(doc)]
use super::Stations;
use super::{Address, Reference, interface::slot, word::Word};
use crate::{hash::mix, net::headers::protocol};

/// Slots, from its home on, that an entry may lie in.
pub const WINDOW: u32 = 32;
/// Words of an entry.
pub const WORDS: usize = 8;

const META: usize = 0;
const PLACES: usize = 1;
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
    pub backend: Reference,
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

    /// Behind the interface of this index, the station with this address, in the lower 48 bits as [`Stations::sender`] returns it.
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

/// Bits of [`Meta::state`].
pub mod state {
    /// There is a flow.
    pub const USED: u32 = 1;
    /// The client has sent a FIN.
    pub const CLIENT_FIN: u32 = 2;
    /// The server has sent a FIN.
    pub const SERVER_FIN: u32 = 4;
    /// One side has sent a RST.
    pub const RESET: u32 = 8;
    /// The flow has ended, and its server now talks to the same client endpoint on its own account.
    pub const RELEASED: u32 = 16;
    /// The server has sent something.
    pub const ANSWERED: u32 = 32;
    /// Both sides have shown that they hear each other, as far as packets of both pass: a flow that is not evicted for one that has not
    /// shown it.
    pub const ASSURED: u32 = 64;
    /// Begun with a packet that asks for nothing: nobody has seen it asked for, or accepted.
    pub const TAKEN_UP: u32 = 128;
    /// Not a flow: where those of a client go ([`Client::whole`](super::Client::whole)). A server that has ended its side has
    /// answered.
    pub const CLIENT: u32 = SERVER_FIN;

    /// What says that the connection ends.
    pub const ENDS: u32 = CLIENT_FIN | SERVER_FIN | RESET;

    /// Whether both sides, or one with a RST, have ended the connection.
    #[inline(always)]
    pub const fn is_over(state: u32) -> bool {
        state & (RESET | RELEASED) != 0 || state & (CLIENT_FIN | SERVER_FIN) == CLIENT_FIN | SERVER_FIN
    }
}

/// The word of an entry that changes in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta(u64);

/// Jiffies that one processor's clock, or the daemon's, may lag behind what another has written. Few: for so long, each time
/// jiffies have gone round, a flow of long ago looks alive.
const LAG: u32 = 1 << 14;
/// Unit of the idle time in [`Meta`], in seconds.
const IDLE_UNIT: u32 = 4;
/// The same of a client's.
const PERSISTENCE_UNIT: u32 = 16;

impl Meta {
    const VERSION: u64 = 0xffff << 32;
    const WRITING: u64 = 1 << 32;
    /// State of an entry that a daemon has locked. A packet leaves the state as it was: [`state::USED`], or zero.
    const DAEMONS: u32 = 0xff ^ state::USED;

    /// Jiffies, the low word, when the flow was last seen; no more exact than a second.
    #[inline(always)]
    pub const fn last_seen(self) -> u32 {
        self.0 as u32
    }

    /// Bits of [`state`].
    #[inline(always)]
    pub const fn state(self) -> u32 {
        (self.0 >> 48) as u32 & 0xff
    }

    /// Another one for every flow that an entry has held; they come round.
    #[inline(always)]
    pub const fn version(self) -> u16 {
        ((self.0 & Self::VERSION) >> 32) as u16
    }

    /// Jiffies of silence after which the flow is forgotten.
    #[inline(always)]
    pub const fn idle(self, hz: u32) -> u32 {
        // Without branches: each one would double the paths the verifier follows.
        let more = self.is_client() as u32 * (PERSISTENCE_UNIT - IDLE_UNIT);
        (self.0 >> 56) as u32 * (IDLE_UNIT + more) * hz
    }

    /// The idle time as it was put in.
    #[inline(always)]
    pub const fn units(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// Whether it is no flow, but says where those of a client go.
    #[inline(always)]
    pub const fn is_client(self) -> bool {
        self.state() & (state::SERVER_FIN | state::ANSWERED) == state::CLIENT
    }

    /// Jiffies since the flow was last seen; 0 if another processor has seen it after `now` was read.
    #[inline(always)]
    pub const fn silence(self, now: u32) -> u32 {
        let silence = now.wrapping_sub(self.last_seen());
        if silence > u32::MAX - LAG { 0 } else { silence }
    }

    /// Whether there is a flow in the entry, and nobody writes it.
    #[inline(always)]
    pub const fn is_used(self) -> bool {
        self.0 & (Self::WRITING | (state::USED as u64) << 48) == (state::USED as u64) << 48
    }

    /// Whether the entry holds no flow, and nobody writes it.
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.0 & (Self::WRITING | (state::USED as u64) << 48) == 0
    }

    /// Whether somebody writes the entry.
    #[inline(always)]
    pub const fn is_being_written(self) -> bool {
        self.0 & Self::WRITING != 0
    }

    /// Whether a daemon writes the entry, or was killed while it did.
    #[inline(always)]
    pub const fn is_locked_by_daemon(self) -> bool {
        self.is_being_written() && self.state() == Self::DAEMONS
    }

    /// Whether both sides, or one with a RST, have ended the connection.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        state::is_over(self.state())
    }

    /// Whether the entry was written as a whole between this and `later`.
    #[inline(always)]
    const fn replaced(self, later: Self) -> bool {
        (self.0 ^ later.0) & Self::VERSION != 0
    }

    #[inline(always)]
    const fn writing(self) -> Self {
        Self(self.0 | Self::WRITING)
    }

    const fn locked_by_daemon(self) -> Self {
        Self(self.0 & !(0xff << 48) | (Self::DAEMONS as u64) << 48 | Self::WRITING)
    }

    /// The next version, with these values.
    #[inline(always)]
    const fn next(self, last_seen: u32, state: u32, idle: u64) -> Self {
        let version = ((self.0 & Self::VERSION) | Self::WRITING).wrapping_add(Self::WRITING) & Self::VERSION;
        Self(last_seen as u64 | version | (state as u64) << 48 | idle << 56)
    }

    #[inline(always)]
    const fn with_idle(self, idle: u8) -> Self {
        Self(self.0 & !(0xff << 56) | (idle as u64) << 56)
    }

    #[inline(always)]
    const fn with(self, last_seen: u32, state: u32) -> Self {
        Self(self.0 & (Self::VERSION | 0xff << 56) | last_seen as u64 | (state as u64) << 48)
    }
}

/// Idle time of flows of mode `nat` that are not assured, as an entry holds it: 60 seconds, within which a client sends its SYN four
/// times.
pub const UNASSURED: u8 = idle_units(60);

/// Idle time as an entry holds it, in units of four seconds, rounded up: 0 to 1,020 seconds.
pub const fn idle_units(seconds: u32) -> u8 {
    let units = seconds.div_ceil(IDLE_UNIT);
    if units < 255 { units as u8 } else { 255 }
}

/// The same for a client's, in units of sixteen seconds: 0 to 4,080 seconds.
pub const fn persistence_units(seconds: u16) -> u8 {
    // At most 4,096.
    let units = (seconds as u32).div_ceil(PERSISTENCE_UNIT);
    if units < 255 { units as u8 } else { 255 }
}

/// An entry where it lies in its table: other processors read and write it at the same time.
#[derive(Debug, Clone, Copy)]
pub struct FlowEntry<'t>(&'t [Word; WORDS]);

impl<'t> FlowEntry<'t> {
    /// The entry in these words.
    #[inline(always)]
    pub const fn new(words: &'t [Word; WORDS]) -> Self {
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
        self.0[PLACES].load()
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
    pub fn backend(self) -> Reference {
        Reference(self.0[BACKEND].load())
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
    pub fn claim(self, meta: Meta) -> bool {
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
    pub fn take_place(self, n: u32) {
        self.0[PLACES].set(1 << n);
    }

    /// Notes that it does not any more.
    #[inline(always)]
    pub fn leave_place(self, n: u32) {
        self.0[PLACES].clear(1 << n);
    }
}

impl FlowEntry<'_> {
    /// Gives the flow to another server, if it is with `from`. Nobody else changes the server of a flow, and whoever reads the
    /// entry meanwhile finds one or the other.
    pub fn hand(self, from: Reference, to: Reference) -> bool {
        self.0[BACKEND].exchange(from.0, to.0)
    }

    /// As [`Self::claim`], for the daemon: the next one frees the entry if this one is killed before it gives it up.
    pub fn claim_as_daemon(self, meta: Meta) -> bool {
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
