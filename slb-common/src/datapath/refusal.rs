//! Frames that are not sent on, and why.

use super::icmp_error::IcmpError;
use crate::abi::stats::Reason;

/// Why a step of the packet path does not send a frame on. Only of a dropped frame may bytes have changed.
pub(super) enum Refusal {
    /// Passed to the kernel. Holds the number of the reason.
    Pass(u32),
    /// Dropped. Holds the number of the reason.
    Drop(u32),
    /// Dropped, and its sender receives an ICMP error. Only the slow path sends it.
    IcmpError(IcmpError),
    /// Dropped, and its sender receives a RST: there is no such connection. Only the slow path sends it.
    Rst(Reason),
    /// No listener takes the packet and it answers no flow. Holds the number of the reason. The slow path decides.
    Unmatched(u32),
    /// The fast path does not decide. The slow path starts from the beginning.
    Decline,
}

impl Refusal {
    /// A segment of a connection that is finished: a RST is due.
    pub(super) const RST_DUE: Self = Self::Rst(Reason::Reset);

    /// A packet that is sound, and that no listener takes.
    pub(super) const UNMATCHED: Self = Self::Unmatched(Reason::NotOurs as u32);

    /// Number of the reason. [`Self::Decline`] has none, and counts as [`Reason::NotReady`].
    #[inline(always)]
    pub(super) const fn reason(&self) -> u32 {
        match self {
            Self::Pass(reason) | Self::Drop(reason) | Self::Unmatched(reason) => *reason,
            Self::IcmpError(error) => error.reason as u32,
            Self::Rst(reason) => *reason as u32,
            Self::Decline => Reason::NotReady as u32,
        }
    }

    /// Passed to the kernel.
    pub(super) const fn pass(reason: Reason) -> Self {
        Self::Pass(reason as u32)
    }

    /// Dropped.
    pub(super) const fn drop(reason: Reason) -> Self {
        Self::Drop(reason as u32)
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::drop(reason)
    }
}
