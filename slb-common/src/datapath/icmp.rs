//! ICMP messages: echo requests to a VIP, and errors about packets of flows.

use core::borrow::Borrow as _;

use super::{
    echo,
    frame_calls::FrameCalls,
    maps::Direction,
    parse::Packet,
    path::{Egress, PacketPath, Verdict, conclude},
    path_calls::PathCalls,
    refusal::Refusal,
};
use crate::abi::{
    interface::CLIENT,
    programs::TailCalled,
    service::policy,
    stats::{GeneratedPacket, Reason},
};

/// Decides on an ICMP message that the slow path has parsed.
#[inline(always)]
pub fn icmp<G: FrameCalls, T: PathCalls>(
    head: &mut G,
    ifindex: u32,
    maps: &T,
) -> Result<Verdict, TailCalled> {
    let decided = decide(head, ifindex, maps);
    conclude(decided, head, maps)
}

#[inline(always)]
fn decide<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Result<Egress, Refusal> {
    let path = PacketPath::open(ifindex, maps)?;
    let metadata = head.metadata().ok_or(Refusal::pass(Reason::NotReady))?;
    let metadata = metadata.borrow();
    // The only ICMP message that the parser does not refuse is an echo request.
    if metadata.is_sound() { path.echo(head, &metadata.packet) } else { path.related(head, &metadata.packet) }
}

impl<T: PathCalls> PacketPath<'_, T, false> {
    /// Answers an ICMP or `ICMPv6` echo request to a VIP.
    #[inline(always)]
    pub(super) fn echo<G: FrameCalls>(&self, head: &mut G, packet: &Packet) -> Result<Egress, Refusal> {
        let found = self.index.find(&packet.destination, 0, packet.protocol);
        let service = found.filter(|vip| vip.policy & policy::NO_ECHO == 0).ok_or(Refusal::UNMATCHED)?;
        if self.roles & CLIENT == 0 {
            return Err(Refusal::drop(Reason::WrongInterface));
        }
        if self.index.is_martian(&packet.source) {
            return Err(Refusal::drop(Reason::MartianSource));
        }
        if !self.maps.may_send(GeneratedPacket::Echo, self.index.hz) {
            return Err(Refusal::drop(Reason::Echo));
        }
        let bytes = head.frame().len();
        Self::untag(head)?;
        echo::answer(&mut head.frame(), packet).ok_or(Refusal::drop(Reason::Truncated))?;
        self.maps.count_service(service.id(), Direction::In, bytes, false);
        Ok(Egress::answer(Reason::Echo as u32))
    }
}
