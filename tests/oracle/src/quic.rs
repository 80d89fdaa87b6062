//! QUIC connection IDs that name a server (RFC 8999 and QUIC-LB).

use crate::{
    bytes::word,
    packet::{Content, Packet},
    world::Quic,
};

/// Length of a UDP header.
const UDP: usize = 8;
/// Version, and bits of the type, of handshake packets.
const HANDSHAKE: [([u8; 4], u8); 2] = [([0, 0, 0, 1], 0x20), ([0x6b, 0x33, 0x43, 0xcf], 0x30)];

impl Packet {
    /// The server ID of a datagram, and whether it may begin a connection.
    pub(crate) fn server_id(&self, quic: Quic) -> Option<(u32, bool)> {
        if self.content != Content::Udp {
            return None;
        }
        let stated = usize::from(word(&self.frame, self.transport + 4)?);
        let end = (self.transport + stated).min(self.network + self.len);
        let payload = self.frame.get(self.transport + UDP..end)?;
        let (first, rest) = payload.split_first()?;
        let (cid, may_begin) = if *first < 0x80 {
            (rest, false)
        } else {
            let (version, rest) = rest.split_first_chunk::<4>()?;
            let (len, rest) = rest.split_first()?;
            let is_handshake = HANDSHAKE.contains(&(*version, first & 0x30));
            (&rest[..rest.len().min(usize::from(*len))], !is_handshake)
        };
        let (head, rest) = cid.split_first()?;
        let id = rest.get(..usize::from(quic.length))?;
        let id = id.iter().fold(0, |id, octet| id << 8 | u32::from(*octet));
        (head >> 5 == quic.rotation).then_some((id, may_begin))
    }
}
