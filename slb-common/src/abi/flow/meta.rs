//! The word of an entry that says what the flow is, and when it was last seen.

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
    pub const PICKED_UP: u32 = 128;
    /// The client has sent a SYN for another connection than the entry's numbers are of. Its server decides: a SYN-ACK begins the flow anew.
    pub const REOPENED: u32 = 256;
    /// Not a flow: where those of a client go ([`Client::whole`](super::Client::whole)). A server that has ended its side has
    /// answered.
    pub const CLIENT: u32 = SERVER_FIN;

    /// What says that the connection ends.
    pub const ENDS: u32 = CLIENT_FIN | SERVER_FIN | RESET;

    /// Whether both sides, or one with a RST, have ended the connection, and no SYN has come since that the server has yet to decide on.
    #[inline(always)]
    pub const fn is_over(state: u32) -> bool {
        const BOTH: u32 = CLIENT_FIN | SERVER_FIN;
        const UNDECIDED: u32 = ASSURED | REOPENED;
        let is_reset = state & RESET != 0 && state & UNDECIDED != UNDECIDED;
        is_reset || state & RELEASED != 0 || state & BOTH == BOTH
    }

    /// Whether nothing but a RST says that an established connection is over. The RST may be forged, as its number is compared within a
    /// window (RFC 5961, 3.2).
    #[inline(always)]
    pub const fn is_reset_alone(state: u32) -> bool {
        const BOTH: u32 = CLIENT_FIN | SERVER_FIN;
        state & (RESET | RELEASED | ASSURED) == RESET | ASSURED && state & BOTH != BOTH
    }
}

/// The word of an entry that changes in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta(pub(super) u64);

/// Jiffies that one processor's clock, or the daemon's, may lag behind what another has written. Few: for so long, each time
/// jiffies have gone round, a flow of long ago looks alive.
const LAG: u32 = 1 << 14;
/// Unit of the idle time in [`Meta`], in seconds.
const IDLE_UNIT: u32 = 4;
/// The same of a client's.
const PERSISTENCE_UNIT: u32 = 16;

impl Meta {
    const VERSION: u64 = 0x7fff << 32;
    const WRITING: u64 = 1 << 32;
    /// Where the state begins, and its nine bits.
    const STATE: u32 = 47;
    const STATES: u32 = 0x1ff;
    const USED: u64 = (state::USED as u64) << Self::STATE;
    /// State of an entry that a daemon has locked. A packet leaves the state as it was: [`state::USED`], or zero.
    const DAEMONS: u32 = Self::STATES ^ state::USED;

    /// Jiffies, the low word, when the flow was last seen; no more exact than a second.
    #[inline(always)]
    pub const fn last_seen(self) -> u32 {
        self.0 as u32
    }

    /// Bits of [`state`].
    #[inline(always)]
    pub const fn state(self) -> u32 {
        (self.0 >> Self::STATE) as u32 & Self::STATES
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
        self.0 & (Self::WRITING | Self::USED) == Self::USED
    }

    /// Whether the entry holds no flow, and nobody writes it.
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.0 & (Self::WRITING | Self::USED) == 0
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

    /// Whether nothing but a RST says that an established connection is over ([`state::is_reset_alone`]).
    #[inline(always)]
    pub const fn is_reset_alone(self) -> bool {
        state::is_reset_alone(self.state())
    }

    /// Whether the entry was written as a whole between this and `later`.
    #[inline(always)]
    pub(super) const fn replaced(self, later: Self) -> bool {
        (self.0 ^ later.0) & Self::VERSION != 0
    }

    #[inline(always)]
    pub(super) const fn writing(self) -> Self {
        Self(self.0 | Self::WRITING)
    }

    pub(super) const fn locked_by_daemon(self) -> Self {
        let rest = self.0 & !((Self::STATES as u64) << Self::STATE);
        Self(rest | (Self::DAEMONS as u64) << Self::STATE | Self::WRITING)
    }

    /// The next version, with these values.
    #[inline(always)]
    pub(super) const fn next(self, last_seen: u32, state: u32, idle: u64) -> Self {
        let version = ((self.0 & Self::VERSION) | Self::WRITING).wrapping_add(Self::WRITING) & Self::VERSION;
        Self(last_seen as u64 | version | (state as u64) << Self::STATE | idle << 56)
    }

    #[inline(always)]
    pub(super) const fn with_idle(self, idle: u8) -> Self {
        Self(self.0 & !(0xff << 56) | (idle as u64) << 56)
    }

    #[inline(always)]
    pub(super) const fn with(self, last_seen: u32, state: u32) -> Self {
        Self(self.0 & (Self::VERSION | 0xff << 56) | last_seen as u64 | (state as u64) << Self::STATE)
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
