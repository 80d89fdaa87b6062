//! The fast path, and the entry of the XDP hook.

use super::{
    frame_calls::FrameCalls,
    parse::{Packet, plain_ipv4, plain_ipv6},
    path::{Egress, PacketPath, Verdict, count},
    path_calls::PathCalls,
    refusal::{PackedRefusal, Refusal},
};
use crate::{
    abi::{
        MacPair,
        interface::{CLIENT, SERVER},
        programs::TailCalled,
        stats::Reason,
    },
    net::{
        ethernet::is_group,
        headers::{EthernetHdr, ether_type},
    },
};

/// Decides on a frame, or names the next program; the frame is unchanged then.
#[inline(always)]
pub fn fast<G: FrameCalls, T: PathCalls>(
    head: &mut G,
    ifindex: u32,
    maps: &T,
) -> Result<Verdict, TailCalled> {
    conclude(decide::<false, G, T>(head, ifindex, maps), maps)
}

/// The fast path of source-translated flows (mode `full-nat`), of mode `gue`, of port ranges, and of services with QUIC.
/// Other flows would pay for its registers and lookups.
#[inline(always)]
pub fn full_nat<G: FrameCalls, T: PathCalls>(
    head: &mut G,
    ifindex: u32,
    maps: &T,
) -> Result<Verdict, TailCalled> {
    conclude(decide::<true, G, T>(head, ifindex, maps), maps)
}

#[inline(always)]
fn conclude<T: PathCalls>(decided: Result<Egress, Refusal>, maps: &T) -> Result<Verdict, TailCalled> {
    match decided {
        Err(Refusal::Next(program)) => Err(program),
        // The fast path leaves no parsed packet behind, which an answer needs.
        Err(refusal) if PackedRefusal::of(&refusal).is_some() => Err(TailCalled::Slow),
        decided => Ok(count(decided, maps)),
    }
}

#[inline(always)]
fn decide<const SOURCE: bool, G: FrameCalls, T: PathCalls>(
    head: &mut G,
    ifindex: u32,
    maps: &T,
) -> Result<Egress, Refusal> {
    let Some(index) = maps.index() else { return Err(Refusal::pass(Reason::NotOurs)) };
    let interface = maps.interface(ifindex).ok_or(Refusal::pass(Reason::OtherHost))?;
    let frame = head.frame();
    // The slow path counts truncated frames and those to group addresses.
    let ethernet = frame.header::<EthernetHdr>(0).ok_or(Refusal::DECLINE)?;
    let macs = MacPair::from(ethernet.macs);
    let receiver = macs.receiver();
    if !interface.has_mac(receiver) {
        if is_group(receiver) {
            return Err(Refusal::DECLINE);
        }
        // A switch floods frames for other hosts, and a promiscuous NIC accepts them.
        if !maps.is_own_mac(ifindex, receiver) {
            return Err(Refusal::pass(Reason::OtherHost));
        }
    }
    let path = PacketPath::<T, true> { ifindex, roles: interface.flags(), index, maps };
    // Each address family has code of its own, with constant offsets.
    match u16::from_ne_bytes(ethernet.ether_type) {
        ether_type::IPV4 => {
            let packet = plain_ipv4(&frame).ok_or(Refusal::DECLINE)?;
            flow::<SOURCE, G, T>(&path, head, &packet)
        }
        ether_type::IPV6 => {
            let packet = plain_ipv6(&frame).ok_or(Refusal::DECLINE)?;
            flow::<SOURCE, G, T>(&path, head, &packet)
        }
        _ => Err(Refusal::DECLINE),
    }
}

/// Decides on a TCP or UDP packet.
#[inline(always)]
fn flow<const SOURCE: bool, G: FrameCalls, T: PathCalls>(
    path: &PacketPath<'_, T, true>,
    head: &mut G,
    packet: &Packet,
) -> Result<Egress, Refusal> {
    let found = if SOURCE {
        path.listener(packet, packet.destination_port)
    } else {
        path.index.find(&packet.destination, packet.destination_port, packet.protocol)
    };
    match found {
        Some(_) if path.roles & CLIENT == 0 => Err(Refusal::drop(Reason::WrongInterface)),
        Some(service) => path.to_server::<SOURCE, G>(head, packet, service),
        None if !SOURCE && path.index.has_ranges() && path.index.may_be_any_vip(&packet.destination) => {
            Err(Refusal::Next(TailCalled::FullNat))
        }
        None if path.roles & SERVER == 0 => path.no_flow(packet),
        None => path.to_client::<SOURCE, G>(head, packet),
    }
}
