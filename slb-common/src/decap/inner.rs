//! The inner packet: checks it against the outer one, and forwards it by one hop.

use super::{ecn, outer::Outer};
use crate::{
    abi::{
        Address,
        decap::{DecapPolicy, DecapReason},
    },
    net::{
        checksum::Delta,
        frame::Frame,
        headers::{Ipv4Hdr, Ipv6Hdr, ether_type},
    },
};

/// Rewrites the inner packet as one that has left a tunnel: ECN field, TTL or hop limit. Returns its Ethernet type, in
/// network byte order, and the reason for the decapsulation.
///
/// # Errors
///
/// The packet must be dropped, and is unchanged.
#[inline(always)]
pub(super) fn forward(
    frame: &mut Frame<'_>,
    outer: &Outer,
    policy: &DecapPolicy,
) -> Result<(u16, DecapReason), DecapReason> {
    // Two bytes where one would do: for one byte the compiler emits a comparison from which the verifier learns
    // nothing.
    let version = frame.header::<[u8; 2]>(outer.inner).ok_or(DecapReason::BadInner)?[0] >> 4;
    if version != if outer.carries_v4 { 4 } else { 6 } {
        return Err(DecapReason::InnerVersion);
    }
    if outer.carries_v4 {
        ipv4(frame, outer, policy)?;
        Ok((ether_type::IPV4, if outer.is_v4 { DecapReason::V4InV4 } else { DecapReason::V4InV6 }))
    } else {
        ipv6(frame, outer, policy)?;
        Ok((ether_type::IPV6, if outer.is_v4 { DecapReason::V6InV4 } else { DecapReason::V6InV6 }))
    }
}

/// RFC 791, 3.1.
#[inline(always)]
fn ipv4(frame: &mut Frame<'_>, outer: &Outer, policy: &DecapPolicy) -> Result<(), DecapReason> {
    let ip = frame.header_mut::<Ipv4Hdr>(outer.inner).ok_or(DecapReason::BadInner)?;
    let header_len = usize::from(ip.vihl & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes(ip.tot_len));
    if header_len < size_of::<Ipv4Hdr>() || total < header_len || total > outer.ip_payload_len {
        return Err(DecapReason::BadInner);
    }
    if !policy.accepts(&Address::v4(ip.dst_addr)) {
        return Err(DecapReason::DestinationNotAccepted);
    }
    if ip.ttl <= 1 {
        return Err(DecapReason::InnerHopLimit);
    }
    let congestion = ecn::combine(outer.ecn, u32::from(ip.tos)).ok_or(DecapReason::Congestion)?;
    let tos = ip.tos & !3 | congestion as u8;
    ip.check = Delta::default()
        .word(u16::from_ne_bytes([ip.vihl, ip.tos]), u16::from_ne_bytes([ip.vihl, tos]))
        .word(u16::from_ne_bytes([ip.ttl, ip.proto]), u16::from_ne_bytes([ip.ttl - 1, ip.proto]))
        .apply(ip.check);
    ip.tos = tos;
    ip.ttl -= 1;
    Ok(())
}

/// RFC 8200, 3.
#[inline(always)]
fn ipv6(frame: &mut Frame<'_>, outer: &Outer, policy: &DecapPolicy) -> Result<(), DecapReason> {
    let ip = frame.header_mut::<Ipv6Hdr>(outer.inner).ok_or(DecapReason::BadInner)?;
    let payload = usize::from(u16::from_be_bytes(ip.payload_len));
    if size_of::<Ipv6Hdr>() + payload > outer.ip_payload_len {
        return Err(DecapReason::BadInner);
    }
    let destination = Address::v6(ip.dst_addr);
    // A mapped address (RFC 4942, 2.2) would look like an IPv4 address.
    if destination.is_v4() || !policy.accepts(&destination) {
        return Err(DecapReason::DestinationNotAccepted);
    }
    if ip.hop_limit <= 1 {
        return Err(DecapReason::InnerHopLimit);
    }
    let congestion = ecn::combine(outer.ecn, u32::from(ip.vcf[1] >> 4)).ok_or(DecapReason::Congestion)?;
    ip.vcf[1] = ip.vcf[1] & !0x30 | (congestion as u8) << 4;
    ip.hop_limit -= 1;
    Ok(())
}
