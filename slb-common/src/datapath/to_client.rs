//! Packets of servers (modes `nat`, `full-nat`): to the client of the flow that they answer.

use core::borrow::Borrow as _;

use super::{
    frame_calls::FrameCalls,
    icmp_error::{IcmpError, IcmpMessage},
    macs::readdress,
    maps::Direction,
    nat,
    parse::Packet,
    path::{Egress, PacketPath, Verdict, conclude},
    path_calls::PathCalls,
    refusal::Refusal,
    reply::{self, Reply},
};
use crate::abi::{
    MacPair,
    interface::SERVER,
    programs::TailCalled,
    stats::{GeneratedPacket, Reason},
    token_bucket::Limit,
};
use crate::net::vlan::Vlan;

/// Decides on a packet that the slow path has parsed, and that no listener takes.
#[inline(always)]
pub fn to_client<G: FrameCalls, T: PathCalls>(
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
    let packet = &metadata.borrow().packet;
    if path.roles & SERVER == 0 { path.no_flow(packet) } else { path.to_client::<true, G>(head, packet) }
}

impl<T: PathCalls, const FAST: bool> PacketPath<'_, T, FAST> {
    /// Decides on a packet that may answer a flow. Without `SOURCE` it leaves packets to local addresses to another
    /// program.
    #[inline(always)]
    pub(super) fn to_client<const SOURCE: bool, G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
    ) -> Result<Egress, Refusal> {
        let Self { ifindex, index, maps, .. } = *self;
        let numbered;
        let packet = if FAST {
            numbered = packet.numbered(&head.frame()).ok_or(Refusal::drop(Reason::Truncated))?;
            &numbered
        } else {
            packet
        };
        let Some(reply) = reply::to_client::<FAST, SOURCE, T>(packet, ifindex, index, maps)? else {
            // Its frame has changed already.
            if !FAST && packet.flags.is_rewritten() {
                return Err(Refusal::drop(Reason::NotReady));
            }
            return self.no_flow(packet);
        };
        self.send_to_client::<SOURCE, G>(head, packet, &reply)
    }

    /// Rewrites a server's packet and sends it to its client.
    #[inline(always)]
    pub(super) fn send_to_client<const SOURCE: bool, G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        reply: &Reply<'_>,
    ) -> Result<Egress, Refusal> {
        let maps = self.maps;
        let Reply { service, backend, client, out, is_finished, end, source, offset } = *reply;
        if packet.hop_limit <= 1 {
            return Err(Refusal::IcmpError(IcmpError {
                reason: Reason::HopLimit,
                message: IcmpMessage::hop_limit(packet.source.is_v4()),
            }));
        }
        let out = out.ok_or(Refusal::drop(Reason::NoInterface))?;
        let macs = MacPair::of(client.mac(), out.mac());
        if client.mac() == 0 {
            return Err(Refusal::drop(Reason::NoClientHop));
        }
        // The RST that a segment of a finished connection becomes is small.
        if !out.takes(packet.len) && !is_finished {
            return Err(Refusal::IcmpError(IcmpError {
                reason: Reason::TooBig,
                message: IcmpMessage::too_big(packet.source.is_v4(), out.mtu().into()),
            }));
        }
        let (exit, vlan) = if FAST { (out.ifindex(), Vlan::NONE) } else { out.exit() };
        let verdict = self.egress_verdict(exit, vlan, packet)?;
        let bytes = head.frame().len();
        self.charge_bandwidth(service.handle.id(), service.policy, Limit::BandwidthOut, bytes)?;
        let mut reason = Reason::ToClient;
        if !FAST && is_finished {
            self.rewrite_to_rst(head, packet, false, GeneratedPacket::Resets)?;
            reason = Reason::Reset;
        } else {
            Self::untag(head)?;
        }
        let mut frame = head.frame();
        let vip_port = if SOURCE { service.port_for(packet.source_port) } else { service.port };
        if SOURCE && source.is_allocated() {
            let (address, port) = end.endpoint();
            nat::both_ends(&mut frame, packet, (&service.address, vip_port), (&address, port))
        } else {
            nat::to_client(&mut frame, packet, &service.address, vip_port)
        }
        .ok_or(Refusal::drop(Reason::Truncated))?;
        let is_translated = if FAST { SOURCE && source.is_of_cookie() } else { packet.flags.is_translated() };
        if is_translated {
            // A RST in place of a keep-alive, whose number the client has acknowledged.
            let is_refusal = !FAST && is_finished && packet.flags.is_rewritten();
            let offset = if FAST { offset } else { head.offset().wrapping_add(is_refusal.into()) };
            if !head.translate_number(packet.transport, offset, false) {
                return Err(Refusal::drop(Reason::Truncated));
            }
            frame = head.frame();
        }
        readdress(&mut frame, &macs).ok_or(Refusal::drop(Reason::Truncated))?;
        if !FAST && let Some(server) = maps.backend(backend) {
            self.record_to_client(packet, server.handle, reply);
        }
        let bytes = frame.len();
        Self::set_vlan(head, vlan, packet)?;
        maps.count_service(service.handle.id(), Direction::Out, bytes, false);
        maps.count_backend(backend, Direction::Out, bytes, false);
        Ok(Egress::forward(verdict, reason))
    }
}
