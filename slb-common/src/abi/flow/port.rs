//! Port of a flow of a port range, in bits of the word of its server.

use crate::abi::Handle;

/// Bits of the lower and of the upper byte, above id and generation of a [`Handle`].
const LOW: u32 = 24;
const HIGH: u32 = 56;

const _: () = assert!(Handle::MAX_GENERATION < 1 << LOW);

/// The port as bits of the word.
#[inline(always)]
pub(super) const fn bits(port: u16) -> u64 {
    (port as u64 & 0xff) << LOW | (port as u64 >> 8) << HIGH
}

/// The port in a word.
#[inline(always)]
pub(super) const fn of(word: u64) -> u16 {
    ((word >> LOW) & 0xff) as u16 | ((word >> HIGH) << 8) as u16
}

/// What tells the flows of a client endpoint apart: the tag of the service, and behind a port range the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowTag(pub u64);

impl FlowTag {
    /// A flow of the service with this [`Handle::tag`]; `port` is [`Flow::port`](super::Flow).
    #[inline(always)]
    pub const fn new(service: u32, port: u16) -> Self {
        Self(service as u64 | (port as u64) << 32)
    }

    /// [`Handle::tag`] of the service.
    #[inline(always)]
    pub const fn service(self) -> u32 {
        self.0 as u32
    }

    /// [`Flow::port`](super::Flow).
    #[inline(always)]
    pub const fn port(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_and_handle_share_a_word() {
        let handle = Handle::new(0x00ff_ffff, Handle::MAX_GENERATION);
        for port in [0, 1, 0xff, 0x100, 0x1234, 0xffff] {
            let word = handle.0 | bits(port);
            assert_eq!((Handle::from_bits(word), of(word)), (handle, port));
        }
        let tag = FlowTag::new(u32::MAX, 0x1234);
        assert_eq!((tag.service(), tag.port()), (u32::MAX, 0x1234));
    }
}
