//! Numbers of the modes, as the packet path compares them.

use crate::abi::mode::Mode;

/// [`Mode::Nat`].
pub const NAT: u8 = Mode::Nat.number();
/// [`Mode::Dsr`].
pub const DSR: u8 = Mode::Dsr.number();
/// [`Mode::Ipip`].
pub const IPIP: u8 = Mode::Ipip.number();
/// [`Mode::FullNat`].
pub const FULL_NAT: u8 = Mode::FullNat.number();
/// [`Mode::Gue`].
pub const GUE: u8 = Mode::Gue.number();

/// Whether replies return through SLB.
#[inline(always)]
pub const fn sees_replies(mode: u8) -> bool {
    mode & !FULL_NAT == NAT
}

/// Whether the fast path of this mode is a program of its own.
#[inline(always)]
pub const fn has_own_fast_path(mode: u8) -> bool {
    mode >= FULL_NAT
}

/// Whether packets to servers are encapsulated.
#[inline(always)]
pub const fn is_tunnel(mode: u8) -> bool {
    mode & IPIP != 0
}

const _: () = assert!(has_own_fast_path(GUE) && is_tunnel(GUE) && is_tunnel(IPIP));
const _: () = assert!(!is_tunnel(NAT | DSR | FULL_NAT) && !has_own_fast_path(NAT | DSR | IPIP));
