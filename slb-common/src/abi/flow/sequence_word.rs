//! The sequence word of an entry: version, state, idle time and last-seen time.

/// Bits of [`SequenceWord::state`].
pub mod state {
    /// The entry is in use.
    pub const USED: u32 = 1;
    /// The client has sent a FIN.
    pub const CLIENT_FIN: u32 = 2;
    /// The server has sent a FIN.
    pub const SERVER_FIN: u32 = 4;
    /// One side has sent a RST, or SLB resets the connection.
    pub const RESET: u32 = 8;
    /// The flow has ended. Its server endpoint talks to the client endpoint past the VIP, or in another flow.
    pub const TUPLE_REUSED: u32 = 16;
    /// The server has sent something.
    pub const ANSWERED: u32 = 32;
    /// Both sides have shown that they hear each other (as `IPS_ASSURED`), as far as SLB sees packets of both. No flow
    /// that is not assured evicts such a flow.
    pub const ASSURED: u32 = 64;
    /// Mid-stream pickup: the entry began with a packet that is no SYN. In mode `nat` never set for UDP.
    pub const PICKED_UP: u32 = 128;
    /// The client has sent a SYN for another connection than that of the entry's numbers. The server decides: a SYN-ACK
    /// begins the flow anew.
    pub const REOPENED: u32 = 256;
    /// The entry is an affinity entry ([`Client::affinity`](super::Client::affinity)). No flow has this state: a server
    /// that has sent a FIN has [`ANSWERED`].
    pub const AFFINITY: u32 = SERVER_FIN;

    /// A side has ended the connection.
    pub const ENDS: u32 = CLIENT_FIN | SERVER_FIN | RESET;

    /// Whether FINs of both sides or a RST have ended the connection. A RST does not count while the server has yet to
    /// decide on a later SYN.
    #[inline(always)]
    pub const fn is_finished(state: u32) -> bool {
        const BOTH: u32 = CLIENT_FIN | SERVER_FIN;
        const UNDECIDED: u32 = ASSURED | REOPENED;
        let is_reset = state & RESET != 0 && state & UNDECIDED != UNDECIDED;
        is_reset || state & TUPLE_REUSED != 0 || state & BOTH == BOTH
    }

    /// Whether a RST alone says that an assured connection has ended. The RST may be forged, as its number is compared
    /// within a window (RFC 5961, 3.2).
    #[inline(always)]
    pub const fn is_reset_alone(state: u32) -> bool {
        const BOTH: u32 = CLIENT_FIN | SERVER_FIN;
        state & (RESET | TUPLE_REUSED | ASSURED) == RESET | ASSURED && state & BOTH != BOTH
    }
}

/// Sequence word of an entry. Its state, idle time and last-seen time change in place; its version changes with every
/// whole write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceWord(pub(super) u64);

/// Jiffies by which a processor's clock, or the daemon's, may lag behind a last-seen time. Small: each time jiffies
/// wrap around, an old flow looks alive for this long.
const LAG: u32 = 1 << 14;
/// Unit of a flow's idle time, in seconds.
const IDLE_UNIT: u32 = 4;
/// Unit of an affinity entry's idle time, in seconds.
const PERSISTENCE_UNIT: u32 = 16;

impl SequenceWord {
    const VERSION: u64 = 0x7fff << 32;
    const LOCKED: u64 = 1 << 32;
    /// Offset of the state, and a mask of its nine bits.
    const STATE_SHIFT: u32 = 47;
    const STATE_MASK: u32 = 0x1ff;
    const USED: u64 = (state::USED as u64) << Self::STATE_SHIFT;
    /// State of an entry that a daemon has locked. A packet's lock keeps the state, which has [`state::USED`] or is 0.
    const LOCKED_BY_DAEMON: u32 = Self::STATE_MASK ^ state::USED;

    /// Jiffies when the flow was last seen, the low word; exact to one second.
    #[inline(always)]
    pub const fn last_seen(self) -> u32 {
        self.0 as u32
    }

    /// Bits of [`state`].
    #[inline(always)]
    pub const fn state(self) -> u32 {
        (self.0 >> Self::STATE_SHIFT) as u32 & Self::STATE_MASK
    }

    /// Version: changes with every whole write, is odd while the entry is locked, and wraps around.
    #[inline(always)]
    pub const fn version(self) -> u16 {
        ((self.0 & Self::VERSION) >> 32) as u16
    }

    /// Idle time in jiffies: silence after which the entry expires.
    #[inline(always)]
    pub const fn idle(self, hz: u32) -> u32 {
        // Without branches: each one would double the paths the verifier follows.
        let more = self.is_affinity() as u32 * (PERSISTENCE_UNIT - IDLE_UNIT);
        (self.0 >> 56) as u32 * (IDLE_UNIT + more) * hz
    }

    /// Idle time in [`idle_units`], or [`persistence_units`] of an affinity entry.
    #[inline(always)]
    pub const fn units(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// Whether it is an affinity entry.
    #[inline(always)]
    pub const fn is_affinity(self) -> bool {
        self.state() & (state::SERVER_FIN | state::ANSWERED) == state::AFFINITY
    }

    /// Jiffies since the flow was last seen; 0 if another processor has seen it after `now` was read.
    #[inline(always)]
    pub const fn silence(self, now: u32) -> u32 {
        let silence = now.wrapping_sub(self.last_seen());
        if silence > u32::MAX - LAG { 0 } else { silence }
    }

    /// Whether the entry is in use and not locked.
    #[inline(always)]
    pub const fn is_used(self) -> bool {
        self.0 & (Self::LOCKED | Self::USED) == Self::USED
    }

    /// Whether the entry is neither in use nor locked.
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.0 & (Self::LOCKED | Self::USED) == 0
    }

    /// Whether the entry is locked.
    #[inline(always)]
    pub const fn is_locked(self) -> bool {
        self.0 & Self::LOCKED != 0
    }

    /// Whether a daemon has locked the entry, and may have been killed since.
    #[inline(always)]
    pub const fn is_locked_by_daemon(self) -> bool {
        self.is_locked() && self.state() == Self::LOCKED_BY_DAEMON
    }

    /// Whether the connection has ended ([`state::is_finished`]).
    #[inline(always)]
    pub const fn is_finished(self) -> bool {
        state::is_finished(self.state())
    }

    /// Whether a RST alone says that an assured connection has ended ([`state::is_reset_alone`]).
    #[inline(always)]
    pub const fn is_reset_alone(self) -> bool {
        state::is_reset_alone(self.state())
    }

    /// Whether the entry was locked or replaced between this and `later`.
    #[inline(always)]
    pub(super) const fn replaced(self, later: Self) -> bool {
        (self.0 ^ later.0) & Self::VERSION != 0
    }

    #[inline(always)]
    pub(super) const fn locked(self) -> Self {
        Self(self.0 | Self::LOCKED)
    }

    pub(super) const fn locked_by_daemon(self) -> Self {
        let rest = self.0 & !((Self::STATE_MASK as u64) << Self::STATE_SHIFT);
        Self(rest | (Self::LOCKED_BY_DAEMON as u64) << Self::STATE_SHIFT | Self::LOCKED)
    }

    /// The sequence word with the next even version and these values, which unlocks the entry.
    #[inline(always)]
    pub(super) const fn next(self, last_seen: u32, state: u32, idle: u64) -> Self {
        let version = ((self.0 & Self::VERSION) | Self::LOCKED).wrapping_add(Self::LOCKED) & Self::VERSION;
        Self(last_seen as u64 | version | (state as u64) << Self::STATE_SHIFT | idle << 56)
    }

    #[inline(always)]
    pub(super) const fn with_idle(self, idle: u8) -> Self {
        Self(self.0 & !(0xff << 56) | (idle as u64) << 56)
    }

    #[inline(always)]
    pub(super) const fn with(self, last_seen: u32, state: u32) -> Self {
        Self(self.0 & (Self::VERSION | 0xff << 56) | last_seen as u64 | (state as u64) << Self::STATE_SHIFT)
    }
}

/// Idle time of flows of mode `nat` that are not assured: 60 seconds, in which a client sends its SYN four times.
pub const UNASSURED: u8 = idle_units(60);

/// Idle time in units of four seconds, rounded up: 0 to 1,020 seconds.
pub const fn idle_units(seconds: u32) -> u8 {
    let units = seconds.div_ceil(IDLE_UNIT);
    if units < 255 { units as u8 } else { 255 }
}

/// Idle time of an affinity entry in units of sixteen seconds, rounded up: 0 to 4,080 seconds.
pub const fn persistence_units(seconds: u16) -> u8 {
    // At most 4,096 units.
    let units = (seconds as u32).div_ceil(PERSISTENCE_UNIT);
    if units < 255 { units as u8 } else { 255 }
}
