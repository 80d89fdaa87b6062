//! The slow path: parses a frame, and names the program that decides on it.

use core::borrow::Borrow as _;

use super::{
    frame_calls::FrameCalls,
    listener,
    metadata::Metadata,
    parse::{Fragmentation, Packet},
    path::{Verdict, conclude},
    path_calls::PathCalls,
    refusal::Refusal,
};
use crate::{
    abi::{
        programs::TailCalled,
        service::{ServiceIndex, policy},
        stats::Reason,
    },
    net::headers::protocol,
};

/// Parses a frame. The verdict is for frames without a later program.
#[inline(always)]
pub fn slow<G: FrameCalls, T: PathCalls>(
    head: &mut G,
    ifindex: u32,
    maps: &T,
) -> Result<Verdict, TailCalled> {
    let decided = match (maps.index(), head.parse()) {
        (None, _) => Refusal::pass(Reason::NotOurs),
        (_, None) => Refusal::pass(Reason::NotReady),
        (Some(index), Some(metadata)) => {
            let metadata = metadata.borrow();
            if metadata.packet.is_tagged() {
                head.arrive_by(maps.vlan_device(ifindex, metadata.packet.vlan));
            }
            if metadata.is_sound() {
                metadata.packet.begin_fragments(maps);
            }
            Refusal::Next(next_program(metadata, index, maps))
        }
    };
    conclude(Err(decided), head, maps)
}

#[inline(always)]
fn next_program<T: PathCalls>(metadata: &Metadata, index: &ServiceIndex, maps: &T) -> TailCalled {
    let packet = &metadata.packet;
    let (vip, port) = (&packet.destination, packet.destination_port);
    if is_icmp(packet) && (metadata.is_sound() || metadata.is_refused_for(Reason::OtherProtocol)) {
        TailCalled::Icmp
    } else if !metadata.is_sound() {
        TailCalled::Refused
    } else if packet.fragmentation == Fragmentation::LATER {
        TailCalled::Fragment
    } else if let Some(service) = listener::find::<false, T>(index, vip, port, packet.protocol, maps) {
        // Only TCP listeners have this policy.
        if service.policy & policy::SYN_COOKIES != 0 { TailCalled::SynCookie } else { TailCalled::ToServer }
    } else {
        TailCalled::ToClient
    }
}

const fn is_icmp(packet: &Packet) -> bool {
    matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6)
}
