//! Subprograms that read or rewrite the frame.

use core::borrow::Borrow;

#[cfg(doc)]
use super::{icmp_error, parse, reset};
use super::{icmp_error::IcmpMessage, parse::Packet};
#[cfg(doc)]
use crate::net::ethernet;
use crate::net::frame::FrameBuffer;

/// The frame in the kernel's buffer, and the subprograms that read or rewrite it.
pub trait FrameCalls: FrameBuffer {
    /// A parsed packet, by value or by reference.
    type Packet: Borrow<Packet>;

    /// [`parse::parse`]; `None` where there is no memory for the packet. A BPF subprogram. No constant packet can stand
    /// in for it: before Linux 6.15, subprograms take no pointer to read-only data.
    fn parse(&mut self) -> Option<Parsed<Self::Packet>>;
    /// [`ethernet::remove_priority_tags`], a BPF subprogram. After `false` the frame must be dropped.
    fn remove_priority_tags(&mut self) -> bool;
    /// [`icmp_error::answer`], a BPF subprogram. After `false` the frame must be dropped.
    fn rewrite_to_icmp_error(&mut self, network: usize, message: IcmpMessage) -> bool;
    /// [`reset::rewrite_to_rst`], a BPF subprogram. After `false` the frame must be dropped.
    fn rewrite_to_rst(&mut self, network: usize, back: bool) -> bool;
}

/// Result of the parser.
#[derive(Debug, Clone, Copy)]
pub struct Parsed<P> {
    /// Number of the [`Reason`](crate::abi::stats::Reason) for which the frame is refused, or [`Self::SOUND`].
    pub outcome: u32,
    /// The packet; of a refused frame, what the parser has read of it.
    pub packet: P,
}

impl<P> Parsed<P> {
    /// Outcome of a frame that is not refused.
    pub const SOUND: u32 = u32::MAX;
}
