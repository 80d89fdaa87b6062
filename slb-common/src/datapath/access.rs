//! Which clients may reach a listener: no martian sources, and none that the listener's access list denies.
//!
//! Every packet to the listener is checked, so a changed access list applies to established connections at once. Of an
//! ICMP error, the client that the embedded packet went to is checked, not the router that sends it. Echo requests and
//! replies are not checked. A denied client receives no answer.

use super::{maps::Maps, parse::Packet, refusal::Refusal};
use crate::abi::{
    programs::TailCalled,
    service::{IndexEntry, ServiceIndex, policy},
    stats::Reason,
};

/// Checks the access list in the fast path. Without `SOURCE` it leaves services with QUIC to another program: one test
/// for both, so that no other service pays for it.
#[inline(always)]
pub(super) fn check_fast<const SOURCE: bool, T: Maps>(
    packet: &Packet,
    service: &IndexEntry,
    index: &ServiceIndex,
    maps: &T,
) -> Result<(), Refusal> {
    const LISTED: u32 = policy::ALLOW_LISTED | policy::DENY_LISTED;
    if service.policy & (LISTED | if SOURCE { 0 } else { policy::QUIC }) == 0 {
        return Ok(());
    }
    if !SOURCE && service.policy & policy::QUIC != 0 {
        return Err(Refusal::Next(TailCalled::FullNat));
    }
    if !denies(packet, service, maps) {
        return Ok(());
    }
    // The slow path counts packets from martian sources as such.
    Err(if index.may_be_martian(&packet.source) { Refusal::DECLINE } else { Reason::AccessDenied.into() })
}

/// No reason to refuse a source: no packet is refused for this one.
pub(super) const ADMITTED: u32 = Reason::ToServer as u32;

/// Number of the reason for which a source is refused, or [`ADMITTED`]. A BPF subprogram
/// ([`PathCalls::source_refusal`](super::path_calls::PathCalls::source_refusal)).
#[inline(always)]
pub fn source_refusal<T: Maps>(packet: &Packet, service: &IndexEntry, maps: &T) -> u32 {
    let Some(index) = maps.index() else { return Reason::NotReady as u32 };
    if index.is_martian(&packet.source) {
        return Reason::MartianSource as u32;
    }
    if service.has_access_list() && denies(packet, service, maps) {
        return Reason::AccessDenied as u32;
    }
    ADMITTED
}

/// Checks the client of a packet that an ICMP error embeds, with its ends exchanged.
#[inline(always)]
pub(super) fn check_embedded<T: Maps>(
    embedded: &Packet,
    service: &IndexEntry,
    maps: &T,
) -> Result<(), Refusal> {
    let is_denied = service.has_access_list() && denies(embedded, service, maps);
    if is_denied { Err(Reason::AccessDenied.into()) } else { Ok(()) }
}

#[inline(always)]
fn denies<T: Maps>(packet: &Packet, service: &IndexEntry, maps: &T) -> bool {
    service.denies(maps.is_listed(service.access_list, &packet.source))
}
