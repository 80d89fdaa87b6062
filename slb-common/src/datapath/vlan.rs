//! VLANs of frames that are sent on. A frame leaves in the VLAN of its next hop or client path.
//!
//! The program runs on the interface below a VLAN device. A next hop or client path over a VLAN device names that
//! interface and the VLAN. Only the slow path changes tags.

use super::{
    frame_calls::FrameCalls,
    maps::Maps,
    parse::Packet,
    path::{PacketPath, Verdict},
    refusal::Refusal,
};
use crate::{abi::stats::Reason, net::vlan::Vlan};

impl<T: Maps, const FAST: bool> PacketPath<'_, T, FAST> {
    /// Index of the interface that a packet arrived on: the VLAN device, if the host has one for the packet's VLAN.
    #[inline(always)]
    pub(super) fn arrival(&self, packet: &Packet) -> u32 {
        if FAST || packet.vlan_device == 0 { self.ifindex } else { packet.vlan_device }
    }

    /// The verdict for a frame that leaves through the interface `out` in the VLAN `vlan`. A frame of a VLAN for which the
    /// host has no device leaves by the interface that it came in by and in its VLAN: else SLB would connect VLANs that
    /// the host does not route between.
    #[inline(always)]
    pub(super) fn egress_verdict(&self, out: u32, vlan: Vlan, packet: &Packet) -> Result<Verdict, Reason> {
        let stays = out == self.ifindex && (vlan.is_none() || vlan == packet.vlan);
        if packet.is_tagged() && packet.vlan_device == 0 && !stays {
            return Err(Reason::VlanCrossing);
        }
        if out == self.ifindex {
            return Ok(Verdict::Transmit);
        }
        if self.maps.redirect(out) { Ok(Verdict::Redirect(out)) } else { Err(Reason::NoInterface) }
    }

    /// Moves a rewritten frame to the VLAN in which it leaves. Keeps the tags of a frame without a VLAN device that
    /// leaves in no VLAN. Afterwards the packet's offsets are no longer those of the frame.
    #[inline(always)]
    pub(super) fn set_vlan<G: FrameCalls>(head: &mut G, vlan: Vlan, packet: &Packet) -> Result<(), Refusal> {
        if FAST || vlan == packet.vlan || (vlan.is_none() && packet.vlan_device == 0) {
            return Ok(());
        }
        if head.set_vlan(vlan) { Ok(()) } else { Err(Refusal::drop(Reason::NoHeadroom)) }
    }
}
