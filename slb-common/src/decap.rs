//! The decapsulator: takes the outer header off packets that a load balancer has put into IPv4 or IPv6 (RFC 2003, RFC
//! 4213, RFC 2473), on a server whose kernel has no tunnel device.
//!
//! An open decapsulator lets anyone send packets from within the network (CVE-2020-10136, CVE-2024-7596), so:
//! - Only packets whose outer source is in the [`Policy`] are stripped. All others are left to the kernel as they are,
//!   which may have tunnels of its own, and counted.
//! - A packet is stripped once: a tunnel packet inside a tunnel packet goes to the kernel as it is.
//! - The inner packet has passed a router: its TTL or hop limit goes down, so that no loop runs for ever.
//! - Where the policy names inner destinations, there are no others.
//!
//! The outer destination is not compared: the frame is for this machine by its hardware address, and the kernel drops
//! what is for another one after this program as before it.
//!
//! Invariants: a frame is changed only after every check that could refuse it; nothing in here calls the kernel.

mod ecn;
mod inner;
mod link;
mod outer;
#[cfg(test)]
mod tests;

use crate::{
    abi::decap::{Policy, Reason},
    net::frame::Frame,
};

/// What has become of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Why; [`Reason::action`] says what.
    pub reason: Reason,
    /// Bytes to be cut off the head of a stripped frame; what is left begins with its Ethernet header.
    pub cut: usize,
}

/// Decides on a frame. One to be stripped is changed, up to the bytes that must be cut off.
///
/// Nothing else may be done with a frame once its head has been cut: its old place is gone.
#[inline(always)]
pub fn process(frame: &mut Frame<'_>, policy: &Policy) -> Outcome {
    match strip(frame, policy) {
        Ok(outcome) => outcome,
        Err(reason) => Outcome { reason, cut: 0 },
    }
}

#[inline(always)]
fn strip(frame: &mut Frame<'_>, policy: &Policy) -> Result<Outcome, Reason> {
    let outer = outer::read(frame)?.hidden(policy);
    if !policy.allows(&outer.source) {
        return Err(Reason::SourceNotAllowed);
    }
    let (ether_type, reason) = inner::forward(frame, &outer, policy)?;
    let cut =
        link::move_header(frame, outer.network, outer.inner, ether_type, policy).ok_or(Reason::BadInner)?;
    Ok(Outcome { reason, cut })
}
