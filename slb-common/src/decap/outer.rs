//! The outer header: whether a frame is a tunnel packet, and its source.

use crate::{
    abi::{
        Address,
        decap::{DecapPolicy, DecapReason},
    },
    net::{
        ethernet,
        frame::Frame,
        headers::{EthernetAddresses, ExtensionHeader, Ipv4Hdr, Ipv6Hdr, UdpHdr, ether_type, protocol},
    },
};

/// Most destination-options headers that are read. One holds the tunnel encapsulation limit (RFC 2473, 4.1.1).
const MAX_OPTION_HEADERS: usize = 2;
/// RFC 8200 sets no bound. The tunnel encapsulation limit needs eight bytes.
const MAX_OPTION_BYTES: usize = 64;

/// A tunnel packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outer {
    /// Offset of the outer IP header.
    pub(super) network: usize,
    /// Offset of the inner IP header.
    pub(super) inner: usize,
    /// Length of the outer packet behind its headers, in bytes.
    pub(super) ip_payload_len: usize,
    /// Outer source address.
    pub(super) source: Address,
    /// Whether the outer header is IPv4.
    pub(super) is_v4: bool,
    /// Whether a UDP header is at `inner`. [`super::gue::open`] finds the inner packet behind it.
    pub(super) is_gue: bool,
    /// Whether the protocol number says that the inner header is IPv4.
    pub(super) carries_v4: bool,
    /// Explicit Congestion Notification of the outer header, two bits.
    pub(super) ecn: u32,
}

impl Outer {
    /// The same values, about which the verifier then knows nothing. It follows the next steps once, not for each
    /// combination of tags, options and versions.
    #[inline(always)]
    pub(super) fn forget(self, policy: &DecapPolicy) -> Self {
        Self {
            network: policy.forget(self.network),
            inner: policy.forget(self.inner),
            ip_payload_len: policy.forget(self.ip_payload_len),
            source: self.source,
            is_v4: policy.forget(usize::from(self.is_v4)) != 0,
            is_gue: policy.forget(usize::from(self.is_gue)) != 0,
            carries_v4: policy.forget(usize::from(self.carries_v4)) != 0,
            ecn: policy.forget(self.ecn as usize) as u32,
        }
    }
}

/// Finds the inner packet.
///
/// # Errors
///
/// The frame is no tunnel packet, or its inner offset is uncertain. For each of these reasons the frame is passed.
#[inline(always)]
pub(super) fn read(frame: &Frame<'_>, policy: &DecapPolicy) -> Result<Outer, DecapReason> {
    let addresses = frame.header::<EthernetAddresses>(0).ok_or(DecapReason::BadOuter)?;
    if addresses.destination[0] & 1 != 0 {
        return Err(DecapReason::LinkMulticast);
    }
    let (kind, network) = ethernet::network(frame).ok_or(DecapReason::BadOuter)?;
    match kind {
        ether_type::IPV4 => ipv4(frame, network, policy),
        ether_type::IPV6 => ipv6(frame, network, policy),
        _ => Err(DecapReason::NotIp),
    }
}

/// Whether the UDP header at `at` is that of a GUE packet.
#[inline(always)]
fn is_gue(frame: &Frame<'_>, at: usize, policy: &DecapPolicy) -> bool {
    frame.header::<UdpHdr>(at).is_some_and(|udp| policy.is_gue(u16::from_ne_bytes(udp.dst)))
}

/// RFC 2003, 3.1; RFC 4213, 3.6.
#[inline(always)]
fn ipv4(frame: &Frame<'_>, network: usize, policy: &DecapPolicy) -> Result<Outer, DecapReason> {
    let ip = frame.header::<Ipv4Hdr>(network).ok_or(DecapReason::BadOuter)?;
    let header_len = usize::from(ip.vihl & 0xf) * 4;
    // A later fragment has no ports.
    let is_gue = ip.proto == protocol::UDP
        && u16::from_be_bytes(ip.frags) & 0x1fff == 0
        && is_gue(frame, network + header_len, policy);
    if ip.proto != protocol::IPV4 && ip.proto != protocol::IPV6 && !is_gue {
        return Err(DecapReason::NotTunnel);
    }
    let total = usize::from(u16::from_be_bytes(ip.tot_len));
    if ip.vihl >> 4 != 4
        || header_len < size_of::<Ipv4Hdr>()
        || total < header_len
        || frame.len() < network + total
    {
        return Err(DecapReason::BadOuter);
    }
    // More-fragments flag or an offset. The kernel may reassemble the packet for a tunnel of its own.
    if u16::from_be_bytes(ip.frags) & 0x3fff != 0 {
        return Err(DecapReason::Fragment);
    }
    Ok(Outer {
        network,
        inner: network + header_len,
        ip_payload_len: total - header_len,
        source: Address::v4(ip.src_addr),
        is_v4: true,
        is_gue,
        carries_v4: ip.proto == protocol::IPV4,
        ecn: u32::from(ip.tos & 3),
    })
}

/// RFC 2473, 3.
#[inline(always)]
fn ipv6(frame: &Frame<'_>, network: usize, policy: &DecapPolicy) -> Result<Outer, DecapReason> {
    let ip = frame.header::<Ipv6Hdr>(network).ok_or(DecapReason::BadOuter)?;
    let payload = usize::from(u16::from_be_bytes(ip.payload_len));
    let ecn = u32::from(ip.vcf[1] >> 4 & 3);
    let is_v6 = ip.vcf[0] >> 4 == 6;
    let source = Address::v6(ip.src_addr);
    let mut next = ip.next_hdr;
    let mut options = 0;
    for _ in 0..MAX_OPTION_HEADERS {
        if next != protocol::DESTINATION_OPTIONS {
            break;
        }
        let at = network + size_of::<Ipv6Hdr>() + options;
        let header = frame.header::<ExtensionHeader>(at).ok_or(DecapReason::BadOuter)?;
        next = header.next_header;
        options += (usize::from(header.length) + 1) * 8;
        if options > MAX_OPTION_BYTES {
            return Err(DecapReason::ExtensionHeaders);
        }
    }
    if next == protocol::FRAGMENT {
        let at = network + size_of::<Ipv6Hdr>() + options;
        next = frame.header::<ExtensionHeader>(at).ok_or(DecapReason::BadOuter)?.next_header;
        let tunnel = next == protocol::IPV4 || next == protocol::IPV6;
        return Err(if tunnel { DecapReason::Fragment } else { DecapReason::NotTunnel });
    }
    if next == protocol::DESTINATION_OPTIONS {
        return Err(DecapReason::ExtensionHeaders);
    }
    let transport = network + size_of::<Ipv6Hdr>() + options;
    let is_gue = next == protocol::UDP && is_gue(frame, transport, policy);
    if next != protocol::IPV4 && next != protocol::IPV6 && !is_gue {
        return Err(DecapReason::NotTunnel);
    }
    if !is_v6 || payload < options || frame.len() < network + size_of::<Ipv6Hdr>() + payload {
        return Err(DecapReason::BadOuter);
    }
    // Mapped addresses occur in no valid packet (RFC 4942, 2.2). This one would look like an IPv4 source.
    if source.is_v4() {
        return Err(DecapReason::SourceNotAllowed);
    }
    Ok(Outer {
        network,
        inner: transport,
        ip_payload_len: payload - options,
        source,
        is_v4: false,
        is_gue,
        carries_v4: next == protocol::IPV4,
        ecn,
    })
}
