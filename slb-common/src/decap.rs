//! The decapsulator: removes the outer IPv4 or IPv6 header of a load balancer's tunnel packets (RFC 2003, RFC 4213, RFC
//! 2473), and a UDP header behind it (Generic UDP Encapsulation). It runs on a server whose kernel has no tunnel device.
//!
//! An open decapsulator lets anyone send packets from within the network (CVE-2020-10136, CVE-2024-7596), so:
//!
//! - Only packets whose outer source is in the [`DecapPolicy`] are decapsulated. All others are counted and passed to
//!   the kernel unchanged, which may have tunnels of its own.
//! - A packet is decapsulated once. A tunnel packet inside a tunnel packet goes to the kernel unchanged.
//! - The inner packet has passed a router: its TTL or hop limit is decremented, so that no loop is endless.
//! - If the policy names inner destinations, the inner packet must have one of them.
//!
//! The outer destination is not compared. The frame has this machine's hardware address, and the kernel drops packets
//! for other machines.
//!
//! Invariants: a frame is changed only after every check that could refuse it; this module calls no kernel helper.

mod ecn;
mod gue;
mod inner;
mod link;
mod outer;
#[cfg(test)]
mod tests;

use crate::{
    abi::decap::{DecapPolicy, DecapReason},
    net::frame::Frame,
};

/// The decision on a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Why. [`DecapReason::action`] is the action.
    pub reason: DecapReason,
    /// Bytes to cut off the head of a decapsulated frame; the rest begins with its Ethernet header. 0 in any other
    /// frame.
    pub cut: usize,
}

/// Decides on a frame, and rewrites one that is decapsulated. The caller cuts [`Outcome::cut`] bytes off it.
///
/// After the cut the caller must not use `frame` any more: the frame has moved.
#[inline(always)]
pub fn process(frame: &mut Frame<'_>, policy: &DecapPolicy) -> Outcome {
    match strip(frame, policy) {
        Ok(outcome) => outcome,
        Err(reason) => Outcome { reason, cut: 0 },
    }
}

#[inline(always)]
fn strip(frame: &mut Frame<'_>, policy: &DecapPolicy) -> Result<Outcome, DecapReason> {
    let outer = outer::read(frame, policy)?.forget(policy);
    if !policy.allows(&outer.source) {
        return Err(DecapReason::SourceNotAllowed);
    }
    let outer = gue::open(frame, outer)?.forget(policy);
    let (ether_type, reason) = inner::forward(frame, &outer, policy)?;
    let cut = link::move_header(frame, outer.network, outer.inner, ether_type, policy)
        .ok_or(DecapReason::BadInner)?;
    Ok(Outcome { reason, cut })
}
