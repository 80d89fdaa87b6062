//! Connections. One entry serves both directions, so the two can never be forgotten one without the other.

use super::{Address, Mac, Reference};
use crate::hash::mix;

/// Flows that one client endpoint may have at a time, each to another service.
pub const WAYS: u8 = 4;

/// What both directions of a flow have in common, and a number to tell flows of the same client endpoint apart.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Address of the client.
    pub client: Address,
    /// Port of the client, in network byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 0 to [`WAYS`] - 1.
    pub way: u8,
    /// Always 0: part of what is hashed.
    pub reserved: u32,
}

impl FlowKey {
    /// The first way of a client endpoint; the port in network byte order.
    #[inline(always)]
    pub const fn new(client: Address, port: u16, protocol: u8) -> Self {
        Self { client, port, protocol, way: 0, reserved: 0 }
    }

    /// A hash of everything but the way.
    #[inline(always)]
    pub const fn check(&self) -> u64 {
        let [a, b, c, d] = self.client.0;
        let rest = (self.port as u64) << 8 | self.protocol as u64;
        mix(((a as u64) << 32 | b as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ ((c as u64) << 32 | d as u64)
            ^ rest << 33)
    }
}

/// A flow. [`Flow::last_seen`] and [`Flow::state`] are written in place, one word each; everything else changes by
/// putting a new entry in the place of the old one, so that no packet sees half a change.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The service it came to.
    pub service: Reference,
    /// The server it was given to.
    pub backend: Reference,
    /// Low word of the jiffies at its last packet; no more exact than a second.
    pub last_seen: u32,
    /// Bits of [`state`].
    pub state: u32,
    /// How the client is reached: the way its last packet came.
    pub client: Link,
    /// [`FlowKey::check`] of its key: an entry that is evicted while it is looked at may become another flow's.
    pub check: u64,
}

/// How the client is reached: through the interface its packets come in, by the station that sends them.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Index of the interface.
    pub ifindex: u32,
    /// Keeps the words aligned.
    pub reserved: u32,
    /// Hardware address of the client, or of the router before it.
    pub peer: Mac,
    /// Hardware address of ours that the client's frames are sent to.
    pub own: Mac,
}

impl Link {
    /// Compares without branches: each one would double the paths the verifier follows.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        (self.ifindex ^ other.ifindex) as u64
            | self.peer.difference(other.peer)
            | self.own.difference(other.own)
            == 0
    }
}

/// Bits of [`Flow::state`].
pub mod state {
    /// The client has sent a FIN.
    pub const CLIENT_FIN: u32 = 1;
    /// The server has sent a FIN.
    pub const SERVER_FIN: u32 = 2;
    /// One side has sent a RST.
    pub const RESET: u32 = 4;
    /// The flow has ended, and its server now talks to the same client endpoint on its own account.
    pub const RELEASED: u32 = 8;
}

impl Flow {
    /// Whether both sides, or one with a RST, have ended the connection.
    #[inline(always)]
    pub const fn is_over(state: u32) -> bool {
        state & (state::RESET | state::RELEASED) != 0
            || state & (state::CLIENT_FIN | state::SERVER_FIN) == state::CLIENT_FIN | state::SERVER_FIN
    }
}

const _: () = assert!(size_of::<FlowKey>() == 24);
const _: () = assert!(size_of::<Flow>() == 48);
