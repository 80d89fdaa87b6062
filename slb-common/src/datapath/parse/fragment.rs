//! Fragments of TCP segments and UDP datagrams: which one it is, and the transport header of the first one.

use super::{Packet, TcpFields};
use crate::{
    abi::stats::Reason,
    net::{
        frame::Frame,
        headers::{Ports, TcpHdr, UdpHdr, protocol},
    },
};

/// Whether a packet is whole, or which fragment it is. A number: an enumeration would be followed case by case.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragmentation(u32);

impl Fragmentation {
    /// No fragment.
    pub const WHOLE: Self = Self(0);
    /// The first fragment, which has the transport header.
    pub const FIRST: Self = Self(1);
    /// A later fragment, which has none.
    pub const LATER: Self = Self(2);
}

/// Reads a fragment whose content begins at `at` in the frame, and at `offset` in the packet, in units of eight bytes.
/// A refused first fragment has ports, if its header holds them.
#[inline(always)]
pub(super) fn parse(
    frame: &Frame<'_>,
    at: usize,
    len: usize,
    offset: u16,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let is_tcp = packet.protocol == protocol::TCP;
    if !is_tcp && packet.protocol != protocol::UDP {
        return Err(Reason::Fragment);
    }
    packet.transport = at;
    if offset != 0 {
        packet.fragmentation = Fragmentation::LATER;
        // It would replace the flags of the first fragment's TCP header (RFC 3128).
        return if is_tcp && offset == 1 { Err(Reason::Fragment) } else { Ok(()) };
    }
    packet.fragmentation = Fragmentation::FIRST;
    packet.set_ports(frame.header::<Ports>(at).ok_or(Reason::Fragment)?);
    // The whole transport header lies in the first fragment (RFC 1858, 3; RFC 7112).
    if is_tcp {
        let tcp = TcpFields::read(frame, at).ok_or(Reason::Fragment)?;
        if tcp.header_len < size_of::<TcpHdr>() || tcp.header_len > len {
            return Err(Reason::Fragment);
        }
        tcp.write_to(len, packet);
        return Ok(());
    }
    let udp = frame.header::<UdpHdr>(at).ok_or(Reason::Fragment)?;
    // RFC 8200, 8.1: over IPv6 the checksum is not optional.
    if len < size_of::<UdpHdr>() || (!packet.destination.is_v4() && udp.check == [0, 0]) {
        return Err(Reason::Fragment);
    }
    Ok(())
}
