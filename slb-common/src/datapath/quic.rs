//! Reads of a QUIC datagram which server its destination connection ID names. By that, the packets of a connection reach
//! its server after the client's address has changed.
//!
//! Only what all versions of QUIC share is read (RFC 8999, 5), and the type of a long header of the versions 1 and 2. A
//! server writes its ID into the connection IDs that it issues. Before its first answer the client has chosen a random
//! connection ID, which may name any server: then all packets of the handshake name that one.

use super::maps::Maps;
use crate::{
    abi::{
        Handle,
        backend::Backend,
        quic::{CidFormat, MAX_SERVER_ID_LEN},
        service::{IndexEntry, mode, policy},
    },
    net::{ethernet::priority_tags_len, frame::Frame, headers::UdpHdr},
};

/// Offset of a connection ID behind a short header (RFC 8999, 5.2).
const SHORT_HEADER: usize = 1;
/// Offset of the length of the destination connection ID behind a long header (RFC 8999, 5.1).
const CID_LEN: usize = 5;
/// First bit of a long header.
const LONG: u8 = 0x80;
/// Handshake packets of version 1 (RFC 9000, 17.2.4) and of version 2 (RFC 9369, 3.2): version, and bits of the type.
const HANDSHAKE: [(u32, u8); 2] = [(1, 0x20), (0x6b33_43cf, 0x30)];
/// Bits of the type in a long header.
const TYPE: u8 = 0x30;

/// The server that a connection ID names, and whether the packet may begin a connection, as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedServer(pub u64);

impl NamedServer {
    /// No server.
    pub const NONE: Self = Self(0);
    const VALID: u64 = 1 << 32;
    const MAY_BEGIN: u64 = 1 << 33;

    #[inline(always)]
    const fn new(id: u32, may_begin: bool) -> Self {
        Self(id as u64 | Self::VALID | (may_begin as u64 * Self::MAY_BEGIN))
    }

    /// The server ID; `None` if the connection ID names no server.
    #[inline(always)]
    pub const fn id(self) -> Option<u32> {
        if self.0 & Self::VALID != 0 { Some(self.0 as u32) } else { None }
    }

    /// Whether the client may have chosen the connection ID, to begin a connection.
    #[inline(always)]
    pub const fn may_begin(self) -> bool {
        self.0 & Self::MAY_BEGIN != 0
    }
}

/// Reads a UDP datagram. `transport` is the offset of its header in the frame without priority tags, `len` the length of
/// the IP packet from there, in bytes. A BPF subprogram
/// ([`FrameCalls::named_server`](super::frame_calls::FrameCalls::named_server)).
#[inline(always)]
pub fn read(frame: &Frame<'_>, transport: usize, len: usize, format: CidFormat) -> NamedServer {
    named(frame, transport, len, format).unwrap_or(NamedServer::NONE)
}

#[inline(always)]
fn named(frame: &Frame<'_>, transport: usize, len: usize, format: CidFormat) -> Option<NamedServer> {
    let transport = transport + priority_tags_len(frame)?;
    // The first fragment is shorter than the datagram.
    let len = len.min(usize::from(u16::from_be_bytes(frame.header::<UdpHdr>(transport)?.len)));
    let quic = transport + size_of::<UdpHdr>();
    let [first] = *frame.header::<[u8; 1]>(quic)?;
    let id_len = format.server_id_len();
    // The octet of the config rotation stands before the server ID.
    let (cid, may_begin) = if first & LONG == 0 {
        (SHORT_HEADER, false)
    } else {
        let [_, v0, v1, v2, v3, cid_len] = *frame.header::<[u8; 6]>(quic)?;
        if usize::from(cid_len) < 1 + id_len {
            return None;
        }
        let kind = (u32::from_be_bytes([v0, v1, v2, v3]), first & TYPE);
        (CID_LEN + 1, kind != HANDSHAKE[0] && kind != HANDSHAKE[1])
    };
    if len < size_of::<UdpHdr>() + cid + 1 + id_len {
        return None;
    }
    let cid = quic + cid;
    if frame.header::<[u8; 1]>(cid)?[0] >> 5 != format.config_rotation() {
        return None;
    }
    let mut id = 0;
    for n in 0..usize::from(MAX_SERVER_ID_LEN) {
        if n < id_len {
            id = id << 8 | u32::from(frame.header::<[u8; 1]>(cid + 1 + n)?[0]);
        }
    }
    Some(NamedServer::new(id, may_begin))
}

/// The server that a connection ID names; `None` if it names none, or one that may not have the packet.
///
/// The client may have chosen the connection ID of a packet that may begin a connection. A server that takes no new flows
/// gets no such packet. Where flows are tracked none counts: the entry has the handshake, during which no client may move
/// (RFC 9000, 9), and a client cannot pick a server past the scheduler.
#[inline(always)]
pub(super) fn backend<'t, T: Maps>(
    named: NamedServer,
    service: &IndexEntry,
    maps: &'t T,
) -> Option<&'t Backend> {
    let id = named.id()?;
    if named.may_begin() && (service.policy & policy::TRACK != 0 || mode::sees_replies(service.mode)) {
        return None;
    }
    let server: Handle = maps.quic_server(service.lookup_table, id)?;
    let backend = maps.backend(server.id())?;
    let needed = if named.may_begin() { Backend::ALIVE | Backend::ACCEPTS_NEW } else { Backend::ALIVE };
    // The ID may have been read before a new server got the entry.
    if backend.handle == server && backend.flags & needed == needed { Some(backend) } else { None }
}

#[cfg(test)]
mod tests;
