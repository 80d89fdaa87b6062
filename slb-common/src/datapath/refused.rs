//! Refused packets: the sender receives an ICMP error or a RST, or the packet is dropped or passed.

use core::borrow::Borrow as _;

use super::{
    cookie_segments::{HeaderNumbers, SegmentShape},
    frame_calls::FrameCalls,
    parse::{Fragmentation, Packet},
    path::{Egress, PacketPath, Verdict, count},
    path_calls::PathCalls,
    refusal::{PackedRefusal, Refusal},
    unmatched,
};
use crate::abi::{
    interface::CLIENT,
    stats::{GeneratedPacket, Reason},
};

/// Decides on a packet that another program has parsed and refused.
#[inline(always)]
pub fn refused<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Verdict {
    count(decide(head, ifindex, maps), maps)
}

#[inline(always)]
fn decide<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Result<Egress, Refusal> {
    let path = PacketPath::open(ifindex, maps)?;
    let metadata = head.metadata().ok_or(Refusal::pass(Reason::NotReady))?;
    let packet = &metadata.borrow().packet;
    let mut refusal = metadata.borrow().refusal;
    if refusal.is_dropped() {
        return path.dropped(head, packet, refusal.reason());
    }
    if refusal.is_unmatched() {
        refusal = path.unmatched(packet, refusal.reason())?;
    }
    if refusal.is_rst() { path.reset(head, packet, refusal) } else { path.icmp_error(head, packet, refusal) }
}

impl<T: PathCalls> PacketPath<'_, T, false> {
    /// Decides on a packet that no listener takes and that answers no flow. `reason` is the number of
    /// [`Reason::NotOurs`], or of the reason for which the parser refused the packet.
    #[inline(always)]
    fn unmatched(&self, packet: &Packet, reason: u32) -> Result<PackedRefusal, Refusal> {
        let decision = self.maps.unmatched(packet, reason);
        match decision.action() {
            unmatched::PASS => Err(Refusal::Pass(reason)),
            _ if self.roles & CLIENT == 0 => Err(Refusal::drop(Reason::WrongInterface)),
            unmatched::RESET => Ok(PackedRefusal::rst(Reason::Unmatched as u32)),
            unmatched::ICMP_ERROR => Ok(PackedRefusal::icmp_error(Reason::Unmatched, decision.message())),
            unmatched::MARTIAN => Err(Refusal::drop(Reason::MartianSource)),
            _ if unmatched::is_fully_parsed(reason) => Err(Refusal::drop(Reason::Unmatched)),
            _ => Err(Refusal::Drop(reason)),
        }
    }

    /// Answers a packet by an ICMP error, if the rate limit allows one more.
    #[inline(always)]
    fn icmp_error<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        refusal: PackedRefusal,
    ) -> Result<Egress, Refusal> {
        const UNMATCHED: u32 = Reason::Unmatched as u32;
        const TOO_BIG: u32 = Reason::TooBig as u32;
        let reason = refusal.reason();
        let limited = match reason {
            UNMATCHED => GeneratedPacket::Unmatched,
            // A server's packet: floods of clients do not suppress its path-MTU discovery, and the reverse.
            _ if self.index.vip(&packet.destination).is_none() => GeneratedPacket::ErrorsToServers,
            TOO_BIG => GeneratedPacket::TooBig,
            _ => GeneratedPacket::HopLimit,
        };
        // Later fragments have no ports, and are not answered (RFC 1812, 4.3.2.7).
        if packet.fragmentation == Fragmentation::LATER {
            return Err(Refusal::Drop(reason));
        }
        // Packets that may not be answered use up no limit. It is checked before the message is built.
        if head.may_answer(packet.network, refusal.message())
            && self.maps.may_send(limited, self.index.hz)
            && head.rewrite_to_icmp_error(packet.network, refusal.message())
        {
            Ok(Egress::answer(reason))
        } else {
            Err(Refusal::Drop(reason))
        }
    }

    /// Drops a packet to a server. A client that has acknowledged a SYN cookie is established, and may wait for the server
    /// to speak first: if the SYN that opens its connection is dropped, it receives a RST, if the rate limit allows one
    /// more. What will pass is left to retransmissions.
    #[inline(always)]
    fn dropped<G: FrameCalls>(&self, head: &mut G, packet: &Packet, reason: u32) -> Result<Egress, Refusal> {
        const NOT_READY: u32 = Reason::NotReady as u32;
        let numbers = HeaderNumbers::new(head.offset(), 0);
        if packet.flags.is_of_cookie()
            && reason != NOT_READY
            && self.maps.may_send(GeneratedPacket::Resets, self.index.hz)
            && head.rewrite_segment(packet.network, numbers, SegmentShape::rst())
        {
            Ok(Egress::answer(reason))
        } else {
            Err(Refusal::Drop(reason))
        }
    }

    /// Answers a packet by a RST, if it is no RST itself and the rate limit allows one more.
    #[inline(always)]
    fn reset<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        refusal: PackedRefusal,
    ) -> Result<Egress, Refusal> {
        let reason = refusal.reason();
        let limited = if reason == Reason::Unmatched as u32 {
            GeneratedPacket::Unmatched
        } else {
            GeneratedPacket::Resets
        };
        // RFC 9293, 3.10.7.1: a RST is not answered.
        if packet.flags.rst() || self.rewrite_to_rst(head, packet, true, limited).is_err() {
            return Err(Refusal::Drop(reason));
        }
        Ok(Egress::answer(reason))
    }
}
