//! Connections whose handshake began with a SYN cookie: by how much the server's sequence numbers differ between client
//! and server.
//!
//! The client knows the cookie as the server's initial sequence number (ISN), the server its own. The difference does not
//! fit into the flow-table entry, which is marked instead ([`Source::COOKIE`](super::source::Source::COOKIE)).

use super::flow::{Client, FlowTag};

/// Fewest entries of the map.
const MIN_OFFSETS: u32 = 1024;
/// Slots of the flow table for each entry of the map.
const FLOWS_PER_OFFSET: u32 = 2;

/// Entries of the map for a flow table of this many slots. They take memory when they are written.
pub const fn offsets(flow_slots: u32) -> u32 {
    let share = flow_slots / FLOWS_PER_OFFSET;
    if share < MIN_OFFSETS { MIN_OFFSETS } else { share }
}

/// A flow: client endpoint, service, and the port of a port range.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OffsetKey(pub [u64; 4]);

impl OffsetKey {
    /// The flow of a client endpoint with this tag.
    #[inline(always)]
    pub const fn new(client: &Client, tag: FlowTag) -> Self {
        let [high, low, end] = client.words();
        Self([high, low, end, tag.0])
    }
}

/// What the handshake has shown.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SequenceOffset {
    /// The server's sequence numbers at the client, less those at the server, modulo 2^32. 0 until the server has
    /// answered.
    pub offset: u32,
    /// The cookie: the server's ISN at the client.
    pub cookie: u32,
    /// The client's ISN.
    pub sequence: u32,
    /// The client's maximum segment size, as the cookie holds it; 0 if the present connection of the flow began without a
    /// cookie.
    pub mss: u16,
    /// 0 until the server has answered. Then odd, and another number after each time that the flow was picked up.
    pub answered: u16,
}

impl SequenceOffset {
    /// A connection without a cookie, on a flow that an earlier one has marked.
    pub const UNTRANSLATED: Self = Self { offset: 0, cookie: 0, sequence: 0, mss: 0, answered: 1 };

    /// The same once the server has answered with this ISN.
    #[inline(always)]
    #[must_use]
    pub const fn answered(self, server: u32) -> Self {
        Self { offset: self.cookie.wrapping_sub(server), answered: 1, ..self }
    }

    /// The same after the flow was picked up without an entry.
    #[inline(always)]
    #[must_use]
    pub const fn picked_up(self) -> Self {
        let answered = if self.answered == 0 { 0 } else { self.answered.wrapping_add(2) };
        Self { answered, ..self }
    }

    /// Whether there is an offset: the default value is none.
    #[inline(always)]
    pub const fn is_known(self) -> bool {
        self.mss != 0 || self.answered != 0
    }

    /// Whether the server has answered.
    #[inline(always)]
    pub const fn is_answered(self) -> bool {
        self.answered != 0
    }

    /// Whether a SYN of the client with this number opens the connection that began with the cookie.
    #[inline(always)]
    pub const fn is_of(self, sequence: u32) -> bool {
        self.mss != 0 && self.sequence == sequence
    }

    /// Whether a segment of the client acknowledges the cookie, and nothing behind it.
    #[inline(always)]
    pub const fn is_acknowledged(self, acknowledges: u32) -> bool {
        self.mss != 0 && self.cookie.wrapping_add(1) == acknowledges
    }
}

const _: () = assert!(size_of::<OffsetKey>() == 32 && size_of::<SequenceOffset>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Address;

    #[test]
    fn map_has_half_of_the_flow_table() {
        assert_eq!([0, 2048, 1 << 20].map(offsets), [1024, 1024, 1 << 19]);
    }

    #[test]
    fn flows_differ_in_each_part_of_their_key() {
        let key = |host, port, protocol, service, vip_port| {
            let client = Client::new(&Address::v4([10, 0, 0, host]), port, protocol);
            OffsetKey::new(&client, FlowTag::new(service, vip_port))
        };
        let keys = [
            key(1, 2, 6, 4, 0),
            key(2, 2, 6, 4, 0),
            key(1, 3, 6, 4, 0),
            key(1, 2, 17, 4, 0),
            key(1, 2, 6, 5, 0),
            key(1, 2, 6, 4, 1),
        ];
        for (n, one) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(one), "{one:x?}");
        }
    }

    #[test]
    fn connection_without_a_cookie_has_no_handshake() {
        let known = SequenceOffset { cookie: 7, sequence: 0, mss: 536, ..SequenceOffset::default() };
        assert!(known.is_of(0) && known.is_acknowledged(8) && !known.is_answered());
        let known = known.answered(9);
        assert_eq!((known.offset, known.is_answered()), (7_u32.wrapping_sub(9), true));
        let again = SequenceOffset { answered: u16::MAX, ..known }.picked_up();
        assert!(known.picked_up() != known && known.picked_up().is_answered() && again.is_answered());
        let plain = SequenceOffset::UNTRANSLATED;
        assert!(plain.is_known() && known.is_known() && !SequenceOffset::default().is_known());
        assert!(!plain.is_of(0) && !plain.is_acknowledged(1) && plain.is_answered());
    }
}
