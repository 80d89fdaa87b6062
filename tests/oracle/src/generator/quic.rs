//! Listeners with QUIC, and datagrams whose connection IDs name their servers, or nearly.

use super::frame::Content;
use crate::{
    choices::Choices,
    world::{Protocol, Quic, World},
};

pub(super) fn of_listener(choices: &mut impl Choices, protocol: Protocol) -> Option<Quic> {
    let has_quic = protocol == Protocol::Udp && choices.rarely(2);
    has_quic.then(|| Quic { length: choices.pick(&[1, 2, 2, 3, 4]), rotation: choices.pick(&[0, 0, 1, 6]) })
}

/// The same, mostly with a QUIC packet as the datagram.
pub(super) fn datagram(choices: &mut impl Choices, world: &World, quic: Quic, content: Content) -> Content {
    let Content::Udp(ports, payload, has_checksum) = content else { return content };
    if choices.rarely(8) {
        return Content::Udp(ports, payload, has_checksum);
    }
    let rotation = if choices.rarely(12) { choices.pick(&[0, 3, 7]) } else { quic.rotation };
    let id = choices.below(world.servers.len() as u32 + 2) + if choices.rarely(16) { 256 } else { 0 };
    let octets = id.to_be_bytes();
    let mut cid = vec![rotation << 5 | choices.pick(&[0, 7, 31])];
    cid.extend(&octets[4 - usize::from(quic.length)..]);
    cid.extend(vec![0x42; choices.below(5) as usize]);
    let mut packet = match choices.below(3) {
        0 => vec![choices.pick(&[0x40, 0x7f, 0])],
        _ => {
            let version = choices.pick(&[1_u32, 1, 0x6b33_43cf, 0x0a0a_0a0a, 0]);
            let len = if choices.rarely(12) { choices.below(256) as u8 } else { cid.len() as u8 };
            let first = choices.pick(&[0xc0_u8, 0xd0, 0xe0, 0xe0, 0xf0, 0xf0]);
            [&[first][..], &version.to_be_bytes(), &[len]].concat()
        }
    };
    packet.extend(cid);
    if choices.rarely(12) {
        packet.truncate(choices.below(packet.len() as u32 + 1) as usize);
    } else {
        packet.extend(payload);
    }
    Content::Udp(ports, packet, has_checksum)
}
