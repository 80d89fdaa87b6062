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
        flow::Link,
        service::Service,
        stats::{Action, Reason},
    },
    net::{
        frame::Frame,
        headers::{EthernetAddresses, protocol},
        parse::{Packet, parse},
    },
};
use select::{Chosen, Reply};
use tables::{Direction, Tables};

/// What is to be done with the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it back out of the interface it came in.
    Transmit,
    /// Send it out of the interface with this index, as [`Tables::redirect`] has prepared.
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
        Ok(Sent { verdict, action, reason }) => (verdict, action, reason as u32),
        Err(Refusal::Pass(reason)) => (Verdict::Pass, Action::Pass, reason),
        Err(Refusal::Drop(reason)) => (Verdict::Drop, Action::Drop, reason),
    };
    tables.count(action, reason);
    verdict
}

struct Sent {
    verdict: Verdict,
    action: Action,
    reason: Reason,
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
fn decide<T: Tables>(frame: &mut Frame<'_>, ifindex: u32, tables: &T) -> Result<Sent, Refusal> {
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
            Ok(Sent { verdict: Verdict::Transmit, action: Action::Answer, reason: Reason::Echo })
        }
        Some(service) => to_server(frame, ifindex, &packet, service, tables).map_err(drop),
        None => to_client(frame, ifindex, &packet, tables),
    }
}

#[inline(always)]
fn to_server<T: Tables>(
    frame: &mut Frame<'_>,
    ifindex: u32,
    packet: &Packet,
    service: &Service,
    tables: &T,
) -> Result<Sent, Reason> {
    if packet.hop_limit <= 1 {
        return Err(Reason::HopLimit);
    }
    let link = client_link(frame, ifindex).ok_or(Reason::Truncated)?;
    let Chosen { backend, hop, is_new } = select::to_server(packet, link, service, tables)?;
    let verdict = leave(ifindex, hop.ifindex, packet, tables)?;
    nat::to_server(frame, packet, &backend.address, backend.port).ok_or(Reason::Truncated)?;
    readdress(frame, hop.destination, hop.source).ok_or(Reason::Truncated)?;
    tables.count_service(service.reference.id(), Direction::In, frame.len(), is_new);
    tables.count_backend(backend.reference.id(), Direction::In, frame.len(), is_new);
    Ok(Sent { verdict, action: Action::Forward, reason: Reason::ToServer })
}

#[inline(always)]
fn to_client<T: Tables>(
    frame: &mut Frame<'_>,
    ifindex: u32,
    packet: &Packet,
    tables: &T,
) -> Result<Sent, Refusal> {
    if !matches!(packet.protocol, protocol::TCP | protocol::UDP) {
        return Err(pass(Reason::NotOurs));
    }
    let Reply { service, backend, client } =
        select::to_client(packet, tables).ok_or(pass(Reason::NotOurs))?;
    if packet.hop_limit <= 1 {
        return Err(drop(Reason::HopLimit));
    }
    let verdict = leave(ifindex, client.ifindex, packet, tables).map_err(drop)?;
    nat::to_client(frame, packet, &service.address, service.port).ok_or(drop(Reason::Truncated))?;
    readdress(frame, client.peer, client.own).ok_or(drop(Reason::Truncated))?;
    tables.count_service(service.reference.id(), Direction::Out, frame.len(), false);
    tables.count_backend(backend.id(), Direction::Out, frame.len(), false);
    Ok(Sent { verdict, action: Action::Forward, reason: Reason::ToClient })
}

/// How a frame leaves through the interface `out`.
#[inline(always)]
fn leave<T: Tables>(ifindex: u32, out: u32, packet: &Packet, tables: &T) -> Result<Verdict, Reason> {
    if out == ifindex {
        return Ok(Verdict::Transmit);
    }
    if packet.is_tagged() {
        return Err(Reason::VlanCrossing);
    }
    if tables.redirect(out) { Ok(Verdict::Redirect(out)) } else { Err(Reason::NoInterface) }
}

#[inline(always)]
fn readdress(frame: &mut Frame<'_>, destination: Mac, source: Mac) -> Option<()> {
    let ethernet = frame.header_mut::<EthernetAddresses>(0)?;
    ethernet.destination = destination.bytes();
    ethernet.source = source.bytes();
    Some(())
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
