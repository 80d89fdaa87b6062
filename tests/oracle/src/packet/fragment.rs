//! Fragments of TCP segments and UDP datagrams (RFC 791, 3.2; RFC 8200, 4.5).

use std::net::{IpAddr, SocketAddr};

use etherparse::TcpHeaderSlice;

use super::{Content, Offsets, Packet, Refused, Segment, number};
use crate::{bytes::word, world::Protocol};

/// Where a fragment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// Identification.
    pub(crate) id: u32,
    /// Its offset in units of eight bytes.
    pub(crate) units: u16,
}

impl Fragment {
    pub(crate) fn is_first(self) -> bool {
        self.units == 0
    }
}

/// Reads what is behind the IP headers of a fragment.
pub(crate) fn read(
    frame: Vec<u8>,
    at: Offsets,
    [source, destination]: [IpAddr; 2],
    number: u8,
    hop_limit: u8,
    fragment: Fragment,
) -> Result<Packet, Refused> {
    let (protocol, content) = match number {
        number::TCP => (Protocol::Tcp, Content::Tcp),
        number::UDP => (Protocol::Udp, Content::Udp),
        _ => return Err(Refused::fragment(destination, None)),
    };
    let (header, room) = (&frame[at.transport..], at.network + at.len - at.transport);
    let (mut ports, mut segment) = ([0; 2], Segment::default());
    if fragment.is_first() {
        let port = word(header, 2);
        let malformed = || {
            Refused::fragment(destination, port.map(|port| (SocketAddr::new(destination, port), protocol)))
        };
        // All of the transport header is in it (RFC 1858, 3; RFC 7112).
        let here = &header[..room];
        match protocol {
            Protocol::Tcp => {
                segment = Segment::of(&TcpHeaderSlice::from_slice(here).map_err(|_| malformed())?, room);
            }
            Protocol::Udp if room < 8 => return Err(malformed()),
            // RFC 8200, 8.1: with a checksum.
            Protocol::Udp if destination.is_ipv6() && here[6..8] == [0, 0] => return Err(malformed()),
            Protocol::Udp => {}
        }
        ports = [0, 2].map(|at| word(here, at).unwrap_or_default());
    } else if protocol == Protocol::Tcp && fragment.units == 1 {
        // It would overwrite the flags of the first one (RFC 3128).
        return Err(Refused::fragment(destination, None));
    }
    Ok(Packet {
        network: at.network,
        transport: at.transport,
        len: at.len,
        source: SocketAddr::new(source, ports[0]),
        destination: SocketAddr::new(destination, ports[1]),
        number,
        hop_limit,
        content,
        segment,
        fragment: Some(fragment),
        frame,
    })
}
