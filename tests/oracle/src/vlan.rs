//! VLANs (IEEE 802.1Q): of packets, of VLAN devices, and of frames that leave.

use crate::{
    outcome::Group,
    packet::Packet,
    world::{Interface, Mac, Tag, VlanDevice, World},
};

/// How frames leave by an interface or a VLAN device.
pub(crate) struct Exit {
    pub(crate) interface: u32,
    pub(crate) tag: Option<Tag>,
    pub(crate) own: Mac,
    pub(crate) mtu: u16,
}

impl World {
    /// How frames leave by the interface or VLAN device of this index.
    pub(crate) fn exit(&self, index: u32) -> Option<Exit> {
        if let Some(interface) = self.interface(index) {
            let (own, mtu) = (interface.macs[0], interface.mtu);
            return Some(Exit { interface: index, tag: None, own, mtu });
        }
        let device = self.vlan_devices.iter().find(|device| device.index == index)?;
        let VlanDevice { below, tag, mac, mtu, .. } = *device;
        Some(Exit { interface: below, tag: Some(tag), own: mac, mtu })
    }

    /// The VLAN device that a packet arrives by.
    pub(crate) fn vlan_device(&self, packet: &Packet, arrival: &Interface) -> Option<u32> {
        let tag = packet.tag()?;
        let device =
            self.vlan_devices.iter().find(|device| device.below == arrival.index && device.tag == tag);
        device.map(|device| device.index)
    }

    /// The frame as it leaves by an exit with this tag. `out` has the tags of `packet`.
    pub(crate) fn in_vlan(
        &self,
        out: Vec<u8>,
        packet: &Packet,
        arrival: &Interface,
        tag: Option<Tag>,
    ) -> Vec<u8> {
        if tag.is_none() && self.vlan_device(packet, arrival).is_none() {
            return out;
        }
        if tag.is_some() && tag == packet.tag() {
            return out;
        }
        let tag = tag.map(|tag| [tag.kind.to_be_bytes(), tag.id.to_be_bytes()].concat());
        [&out[..12], &tag.unwrap_or_default(), &out[packet.network - 2..]].concat()
    }
}

impl Packet {
    /// How the tags of the packet differ from those of the frame that leaves.
    pub(crate) fn tag_change(&self, out: &[u8]) -> Option<Group> {
        let tagged = matches!(out.get(12..14)?, [0x81, 0x00] | [0x88, 0xa8]);
        match (self.is_tagged(), tagged) {
            (false, true) => Some(Group::TagPushed),
            (true, false) => Some(Group::TagRemoved),
            (true, true) if out[12..16] != self.frame[12..16] => Some(Group::TagReplaced),
            _ => None,
        }
    }

    /// Its only tag.
    pub(crate) fn tag(&self) -> Option<Tag> {
        let &[a, b, c, d] = self.frame.get(12..self.network - 2)? else { return None };
        Some(Tag { kind: u16::from_be_bytes([a, b]), id: u16::from_be_bytes([c & 0x0f, d]) })
    }
}
