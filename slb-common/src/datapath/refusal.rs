//! Frames that are not sent on, and why.

use super::icmp_error::IcmpError;
use crate::abi::stats::Reason;

/// Why a frame is not sent on.
pub(super) enum Refusal {
    /// Passed to the kernel. Holds the number of the reason.
    Pass(u32),
    /// Dropped. Holds the number of the reason.
    Drop(u32),
    /// Dropped, and its sender receives an ICMP error.
    IcmpError(IcmpError),
    /// Dropped, and its sender receives a RST: there is no such connection.
    Reset(Reason),
    /// No listener takes the packet and it answers no flow. Holds the number of the reason; the slow path decides.
    Unmatched(u32),
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        drop(reason)
    }
}

pub(super) const fn pass(reason: Reason) -> Refusal {
    Refusal::Pass(reason as u32)
}

pub(super) const UNMATCHED: Refusal = Refusal::Unmatched(Reason::NotOurs as u32);

pub(super) const fn drop(reason: Reason) -> Refusal {
    Refusal::Drop(reason as u32)
}
