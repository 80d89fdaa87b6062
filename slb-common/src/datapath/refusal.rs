//! Frames that a step of the packet path does not send on, and why.

use super::icmp_error::{IcmpError, IcmpMessage};
use crate::abi::{programs::TailCalled, stats::Reason};

/// Why a step of the packet path does not send a frame on. Only of a dropped frame may bytes have changed.
pub(super) enum Refusal {
    /// Passed to the kernel. Holds the number of the reason.
    Pass(u32),
    /// Dropped. Holds the number of the reason.
    Drop(u32),
    /// Dropped, and its sender receives an ICMP error.
    IcmpError(IcmpError),
    /// Dropped, and its sender receives a RST: there is no such connection.
    Rst(Reason),
    /// No listener takes the packet and it answers no flow. Holds the number of the reason.
    Unmatched(u32),
    /// Another program decides.
    Next(TailCalled),
}

impl Refusal {
    /// The fast path does not decide. The slow path starts from the beginning.
    pub(super) const DECLINE: Self = Self::Next(TailCalled::Slow);

    /// A segment of a connection that is finished: a RST is due.
    pub(super) const RST_DUE: Self = Self::Rst(Reason::Reset);

    /// A packet that is sound, and that no listener takes.
    pub(super) const UNMATCHED: Self = Self::Unmatched(Reason::NotOurs as u32);

    /// Number of the reason. [`Self::Next`] has none, and counts as [`Reason::NotReady`].
    #[inline(always)]
    pub(super) const fn reason(&self) -> u32 {
        match self {
            Self::Pass(reason) | Self::Drop(reason) | Self::Unmatched(reason) => *reason,
            Self::IcmpError(error) => error.reason as u32,
            Self::Rst(reason) => *reason as u32,
            Self::Next(_) => Reason::NotReady as u32,
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

/// A refusal on which [`TailCalled::Refused`] decides, as a number in a map: reason, kind, and in the upper half an ICMP
/// error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedRefusal(pub u64);

impl PackedRefusal {
    /// A packet that the parser has found sound, until another step refuses it.
    pub const UNMATCHED: Self = Self::unmatched(Reason::NotOurs);
    const RST: u64 = 1 << 16;
    const ICMP_ERROR: u64 = 2 << 16;
    const DROPPED: u64 = 4 << 16;

    /// A packet that the parser refuses.
    #[inline(always)]
    pub const fn unmatched(reason: Reason) -> Self {
        Self(reason as u64)
    }

    /// A packet that is dropped. `reason` is the number of the reason.
    #[inline(always)]
    pub(super) const fn dropped(reason: u32) -> Self {
        Self(Self::DROPPED | reason as u64)
    }

    /// A packet whose sender receives a RST. `reason` is the number of the reason.
    #[inline(always)]
    pub(super) const fn rst(reason: u32) -> Self {
        Self(Self::RST | reason as u64)
    }

    /// A packet whose sender receives an ICMP error.
    #[inline(always)]
    pub(super) const fn icmp_error(reason: Reason, message: IcmpMessage) -> Self {
        Self((message.0 as u64) << 32 | Self::ICMP_ERROR | reason as u64)
    }

    /// `None` for a refusal that needs no other program.
    #[inline(always)]
    pub(super) const fn of(refusal: &Refusal) -> Option<Self> {
        match refusal {
            Refusal::Unmatched(reason) => Some(Self(*reason as u64)),
            Refusal::Rst(reason) => Some(Self::rst(*reason as u32)),
            Refusal::IcmpError(IcmpError { reason, message }) => Some(Self::icmp_error(*reason, *message)),
            Refusal::Pass(_) | Refusal::Drop(_) | Refusal::Next(_) => None,
        }
    }

    /// Number of the reason.
    #[inline(always)]
    pub(super) const fn reason(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    /// Whether no listener takes the packet and it answers no flow.
    #[inline(always)]
    pub(super) const fn is_unmatched(self) -> bool {
        self.0 >> 16 == 0
    }

    /// Whether the packet is dropped.
    #[inline(always)]
    pub(super) const fn is_dropped(self) -> bool {
        self.0 & Self::DROPPED != 0
    }

    /// Whether the sender receives a RST.
    #[inline(always)]
    pub(super) const fn is_rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// The ICMP error that the sender receives.
    #[inline(always)]
    pub(super) const fn message(self) -> IcmpMessage {
        IcmpMessage((self.0 >> 32) as u32)
    }
}
