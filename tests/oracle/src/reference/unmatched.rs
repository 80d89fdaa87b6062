//! Packets that no listener takes, and that answer no flow.

use super::{Reference, Refusal, Slots};
use crate::{
    answers::Cause,
    outcome::Reason,
    packet::{Content, Packet, Refused, number},
    world::{Interface, Unmatched},
};

impl<S: Slots> Reference<'_, S> {
    /// A packet that the parser refuses.
    pub(super) fn refused(&self, refused: &Refused, arrival: &Interface) -> Refusal {
        let vip = refused.destination.and_then(|ip| self.world.vip(ip));
        let passes = match vip.map(|vip| vip.unmatched) {
            None => true,
            // The kernel would reassemble the listener's fragments, and reset their connection.
            Some(Unmatched::Pass) => {
                refused.fragment_of.is_none_or(|(at, protocol)| self.world.listener(at, protocol).is_none())
            }
            Some(Unmatched::Drop | Unmatched::Reject) => false,
        };
        if passes {
            Refusal::Pass(refused.reason)
        } else if arrival.client {
            Refusal::Drop(refused.reason)
        } else {
            Refusal::Drop(Reason::WrongInterface)
        }
    }

    /// A valid packet.
    pub(super) fn unmatched(&self, packet: &Packet, arrival: &Interface) -> Refusal {
        let reason = if packet.content == Content::Other { Reason::OtherProtocol } else { Reason::NotOurs };
        let policy = match self.world.vip(packet.destination.ip()).map(|vip| vip.unmatched) {
            None | Some(Unmatched::Pass) => return Refusal::Pass(reason),
            Some(policy) => policy,
        };
        if !arrival.client {
            return Refusal::Drop(Reason::WrongInterface);
        }
        if self.is_martian(packet) {
            return Refusal::Drop(Reason::MartianSource);
        }
        let dropped = Refusal::Drop(Reason::Unmatched);
        if policy == Unmatched::Drop {
            return dropped;
        }
        match (packet.content, packet.number) {
            (Content::Tcp, _) if packet.is_rst() => dropped,
            (Content::Tcp, _) => Refusal::Reset(Reason::Unmatched),
            (Content::Udp, _) => Refusal::IcmpError(Cause::NoPort, Reason::Unmatched),
            (_, number::ICMP | number::ICMPV6 | number::NO_NEXT_HEADER) => dropped,
            _ => Refusal::IcmpError(Cause::NoProtocol, Reason::Unmatched),
        }
    }
}
