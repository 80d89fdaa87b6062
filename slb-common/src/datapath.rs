//! The packet path: what becomes of one frame.
//!
//! Invariants: a frame is changed only after every check that could refuse it; every call counts the frame under
//! exactly one action and reason; nothing in here calls the kernel.

pub mod tables;

mod echo;
mod nat;
mod select;

use crate::{
    abi::{
        Address, Mac,
        backend::Backend,
        flow::Link,
        stats::{Action, Reason},
    },
    net::{
        frame::Frame,
        headers::{EthernetAddresses, protocol},
        parse::{Packet, parse},
    },
};
use tables::{Direction, Tables};

/// What is to be done with the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it back out of the interface it came in.
    Transmit,
    /// Send it out of the interface with this index.
    Redirect(u32),
    /// Leave it to the kernel, unchanged.
    Pass,
    /// Drop it.
    Drop,
}

/// Decides on a frame that came in through the interface `ifindex`, and rewrites it as the verdict needs.
#[inline(always)]
pub fn process<T: Tables>(frame: &mut Frame<'_>, ifindex: u32, tables: &T) -> Verdict {
    let (verdict, action, reason) = match decide(frame, ifindex, tables) {
        Ok(Decision::Answered) => (Verdict::Transmit, Action::Answer, Reason::Echo as u32),
        Ok(Decision::Sent { out, reason }) if out == ifindex => {
            (Verdict::Transmit, Action::Forward, reason as u32)
        }
        Ok(Decision::Sent { out, reason }) => (Verdict::Redirect(out), Action::Forward, reason as u32),
        Err(Refusal::Pass(reason)) => (Verdict::Pass, Action::Pass, reason),
        Err(Refusal::Drop(reason)) => (Verdict::Drop, Action::Drop, reason),
    };
    tables.count(action, reason);
    verdict
}

enum Decision {
    Answered,
    Sent { out: u32, reason: Reason },
}

/// With the number of the reason.
enum Refusal {
    Pass(u32),
    Drop(u32),
}

const fn pass(reason: Reason) -> Refusal {
    Refusal::Pass(reason as u32)
}

const fn drop(reason: Reason) -> Refusal {
    Refusal::Drop(reason as u32)
}

#[inline(always)]
fn decide<T: Tables>(frame: &mut Frame<'_>, ifindex: u32, tables: &T) -> Result<Decision, Refusal> {
    let mut packet = match parse(frame) {
        Ok(packet) => packet,
        Err(refused) => {
            let reason = tables.hide(refused.reason as u32);
            let ours = refused.destination.is_some_and(|address| is_vip(tables, &address));
            return Err(if ours { Refusal::Drop(reason) } else { Refusal::Pass(reason) });
        }
    };
    packet.network = tables.hide(packet.network as u32) as usize;
    packet.transport = tables.hide(packet.transport as u32) as usize;
    let service = tables::find(tables, &packet.destination, packet.destination_port, packet.protocol);
    match service {
        Some(_) if packet.source.same(&packet.destination) => Err(drop(Reason::Land)),
        Some(service) if matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6) => {
            echo::answer(frame, &packet).ok_or(drop(Reason::Truncated))?;
            tables.count_service(service.reference.id(), Direction::In, frame.len(), false);
            Ok(Decision::Answered)
        }
        Some(service) => {
            let link = client_link(frame, ifindex).ok_or(drop(Reason::Truncated))?;
            if packet.hop_limit <= 1 {
                return Err(drop(Reason::HopLimit));
            }
            let chosen = select::to_server(&packet, link, service, tables).map_err(drop)?;
            let out = to_server(frame, &packet, chosen.backend, tables).map_err(drop)?;
            tables.count_service(service.reference.id(), Direction::In, frame.len(), chosen.is_new);
            tables.count_backend(chosen.backend.reference.id(), Direction::In, frame.len(), chosen.is_new);
            Ok(Decision::Sent { out, reason: Reason::ToServer })
        }
        None => to_client(frame, &packet, tables),
    }
}

#[inline(always)]
fn to_server<T: Tables>(
    frame: &mut Frame<'_>,
    packet: &Packet,
    backend: &Backend,
    tables: &T,
) -> Result<u32, Reason> {
    let hop = tables.next_hop(backend.next_hop).filter(|hop| hop.ifindex != 0).ok_or(Reason::NoNextHop)?;
    nat::to_server(frame, packet, &backend.address, backend.port).ok_or(Reason::Truncated)?;
    let ethernet = frame.header_mut::<EthernetAddresses>(0).ok_or(Reason::Truncated)?;
    ethernet.destination = hop.destination.bytes();
    ethernet.source = hop.source.bytes();
    Ok(hop.ifindex)
}

#[inline(always)]
fn to_client<T: Tables>(frame: &mut Frame<'_>, packet: &Packet, tables: &T) -> Result<Decision, Refusal> {
    if !matches!(packet.protocol, protocol::TCP | protocol::UDP) {
        return Err(pass(Reason::NotOurs));
    }
    let reply = select::to_client(packet, tables).ok_or(pass(Reason::NotOurs))?;
    if packet.hop_limit <= 1 {
        return Err(drop(Reason::HopLimit));
    }
    let truncated = || drop(Reason::Truncated);
    nat::to_client(frame, packet, &reply.service.address, reply.service.port).ok_or_else(truncated)?;
    let ethernet = frame.header_mut::<EthernetAddresses>(0).ok_or_else(truncated)?;
    ethernet.destination = reply.client.peer.bytes();
    ethernet.source = reply.client.own.bytes();
    tables.count_service(reply.service.reference.id(), Direction::Out, frame.len(), false);
    tables.count_backend(reply.backend.id(), Direction::Out, frame.len(), false);
    Ok(Decision::Sent { out: reply.client.ifindex, reason: Reason::ToClient })
}

/// Whether a running listener stands on the address: then it has an echo service as well.
#[inline(always)]
fn is_vip<T: Tables>(tables: &T, address: &Address) -> bool {
    let icmp = if address.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
    tables::find(tables, address, 0, icmp).is_some()
}

#[inline(always)]
fn client_link(frame: &Frame<'_>, ifindex: u32) -> Option<Link> {
    let ethernet = frame.header::<EthernetAddresses>(0)?;
    Some(Link { ifindex, reserved: 0, peer: Mac::new(ethernet.source), own: Mac::new(ethernet.destination) })
}
