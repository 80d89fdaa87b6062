//! Unmatched packets: for a VIP, and no listener takes them (RFC 1122, 3.2.2 and 4.2.2; RFC 4443, 3.1 and 3.4).
//!
//! A VIP that is routed to SLB is no address of the host. The kernel would route such a packet back to the router,
//! which routes it to SLB again, until its TTL is used up. If the VIP is also an address of the host, the kernel gets
//! the packet unchanged.
//!
//! A BPF subprogram, as the searches of [`super::flows`]: takes the parsed packet and returns a number.

use super::{icmp_error::IcmpMessage, maps::Maps, parse::Packet};
use crate::{
    abi::{
        service::{NO_SLOT, ServiceIndex, policy},
        stats::Reason,
    },
    net::headers::protocol,
};

/// The packet is passed to the kernel.
pub const PASS: u32 = 0;
/// The packet is dropped.
pub const DROP: u32 = 1;
/// The sender receives a RST.
pub const RESET: u32 = 2;
/// The sender receives the ICMP error in the upper half.
pub const ICMP_ERROR: u32 = 3;

/// The packet is dropped: its source is martian.
pub const MARTIAN: u32 = 4;

/// One of the actions above in the lower half, an ICMP error in the upper half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnmatchedDecision(pub u64);

impl UnmatchedDecision {
    #[inline(always)]
    const fn of(action: u32) -> Self {
        Self(action as u64)
    }

    #[inline(always)]
    const fn icmp_error(message: IcmpMessage) -> Self {
        Self((message.0 as u64) << 32 | ICMP_ERROR as u64)
    }

    /// The action.
    #[inline(always)]
    pub(super) const fn action(self) -> u32 {
        self.0 as u32
    }

    /// The ICMP error of [`ICMP_ERROR`].
    #[inline(always)]
    pub(super) const fn message(self) -> IcmpMessage {
        IcmpMessage((self.0 >> 32) as u32)
    }
}

/// Decides on a packet that no listener takes and that answers no flow. `reason` is the number of [`Reason::NotOurs`],
/// or of the reason for which the parser refused the packet. Fields that the parser has not read are zero.
#[inline(always)]
pub fn decide<T: Maps>(packet: &Packet, reason: u32, maps: &T) -> UnmatchedDecision {
    let Some(index) = maps.index() else { return UnmatchedDecision::of(PASS) };
    let Some(vip) = index.vip(&packet.destination) else { return UnmatchedDecision::of(PASS) };
    if vip.policy & (policy::DROP_UNMATCHED | policy::REJECT_UNMATCHED) == 0 {
        // The kernel would reassemble the listener's fragments and reset their connection.
        let is_listeners =
            reason == Reason::Fragment as u32 && packet.destination_port != 0 && has_listener(packet, index);
        return UnmatchedDecision::of(if is_listeners { DROP } else { PASS });
    }
    // The parser may not have read the source of a packet that it has refused.
    if is_fully_parsed(reason) && index.is_martian(&packet.source) {
        return UnmatchedDecision::of(MARTIAN);
    }
    if vip.policy & policy::REJECT_UNMATCHED == 0 || index.is_martian(&packet.source) {
        return UnmatchedDecision::of(DROP);
    }
    let is_v4 = packet.destination.is_v4();
    let is_sound = reason == Reason::NotOurs as u32;
    match packet.protocol {
        protocol::TCP if is_sound && !packet.flags.rst() => UnmatchedDecision::of(RESET),
        protocol::UDP if is_sound => UnmatchedDecision::icmp_error(IcmpMessage::no_port(is_v4)),
        // No ICMP error answers an ICMP error, and no host answers unknown ICMP messages.
        protocol::ICMP | protocol::ICMPV6 | protocol::NO_NEXT_HEADER => UnmatchedDecision::of(DROP),
        _ if reason == Reason::OtherProtocol as u32 => {
            UnmatchedDecision::icmp_error(IcmpMessage::no_protocol(is_v4))
        }
        _ => UnmatchedDecision::of(DROP),
    }
}

/// Whether a listener takes packets to the packet's port.
#[inline(always)]
fn has_listener(packet: &Packet, index: &ServiceIndex) -> bool {
    let (vip, port) = (&packet.destination, packet.destination_port);
    index.listener_slot(vip, port, packet.protocol) != NO_SLOT
}

/// Whether the parser has read the packet in full: it is refused only for its destination or protocol.
#[inline(always)]
pub(super) const fn is_fully_parsed(reason: u32) -> bool {
    reason == Reason::NotOurs as u32 || reason == Reason::OtherProtocol as u32
}
