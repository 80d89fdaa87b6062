//! Generic UDP Encapsulation (draft-ietf-intarea-gue): the UDP header and, in variant 0, the GUE header.
//!
//! Variant 1, which SLB sends, has the IP packet behind the UDP header. Variant 0 has a header of four bytes between them.
//! Its flags, extension fields and control messages are left to the kernel.
//!
//! The UDP checksum is not verified: it would cost a read of all bytes. The inner packet's checksums cover the most, but
//! not UDP over IPv4 without checksum, nor hop limit, traffic class and flow label of IPv6. A datagram without checksum is
//! accepted over IPv6, too (RFC 6935).

use super::outer::Outer;
use crate::{
    abi::decap::DecapReason,
    net::{
        frame::Frame,
        headers::{UdpHdr, protocol},
    },
};

const UDP_HEADER: usize = size_of::<UdpHdr>();
/// Length of the header of variant 0 without extension fields.
const GUE_HEADER: usize = 4;

/// Finds the inner packet of a GUE packet, whose UDP header is the payload of `outer`. Any other tunnel packet stays as it
/// is.
///
/// # Errors
///
/// UDP or GUE header contradict the outer IP header, or the GUE header says more than which protocol follows.
#[inline(always)]
pub(super) fn open(frame: &Frame<'_>, outer: Outer) -> Result<Outer, DecapReason> {
    if !outer.is_gue {
        return Ok(outer);
    }
    let udp = frame.header::<UdpHdr>(outer.inner).ok_or(DecapReason::BadOuter)?;
    let len = usize::from(u16::from_be_bytes(udp.len));
    if len > outer.ip_payload_len || len < UDP_HEADER + GUE_HEADER {
        return Err(DecapReason::BadOuter);
    }
    let at = outer.inner + UDP_HEADER;
    let [first, kind, flags @ ..] = *frame.header::<[u8; GUE_HEADER]>(at).ok_or(DecapReason::BadOuter)?;
    let (header, carries_v4) = match (first >> 4, kind) {
        (4, _) => (0, true),
        (6, _) => (0, false),
        // Variant 0, no control message; no extension fields.
        (0, protocol::IPV4 | protocol::IPV6) if first == 0 && flags == [0; 2] => {
            (GUE_HEADER, kind == protocol::IPV4)
        }
        _ => return Err(DecapReason::GueHeader),
    };
    Ok(Outer { inner: at + header, ip_payload_len: len - UDP_HEADER - header, carries_v4, ..outer })
}
