//! The packet path: what becomes of one frame.
//!
//! Invariants: a frame is changed only after every check that could refuse it; every call counts the frame under
//! exactly one action and reason; nothing in here calls the kernel.
//!
//! Nearly all packets are untagged TCP or UDP without options, of a flow that needs no new entry. For them there is a quick
//! path for each family, compiled apart, with every offset a constant. What it does not decide, without having changed
//! anything, and all other packets, go the full path from its beginning: the verifier sees it once.

pub mod flows;
pub mod ipip;
pub mod tables;

mod echo;
mod nat;
mod select;

use crate::{
    abi::{
        Address, Stations,
        flow::Link,
        service::{IndexEntry, ServiceIndex, mode},
        stats::{Action, Reason},
    },
    hash::mix,
    net::{
        frame::{Frame, Growing},
        headers::{StationBytes, protocol},
        parse::{Packet, parse, plain_ipv4, plain_ipv6},
    },
    opaque::hide,
};
use select::{Answered, Chosen, Reply};
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
pub fn process<G: Growing, T: Tables>(head: &mut G, ifindex: u32, tables: &T) -> Verdict {
    let (verdict, action, reason) = match decide(head, ifindex, tables) {
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
fn decide<G: Growing, T: Tables>(head: &mut G, ifindex: u32, tables: &T) -> Result<Sent, Refusal> {
    let Some(index) = tables.index() else { return Err(pass(Reason::NotOurs)) };
    let quick = Path::<T, true> { ifindex, index, tables };
    if let Some(packet) = plain_ipv4(&head.frame())
        && let Some(sent) = quick.flow(head, &packet)?
    {
        return Ok(sent);
    }
    if let Some(packet) = plain_ipv6(&head.frame())
        && let Some(sent) = quick.flow(head, &packet)?
    {
        return Ok(sent);
    }
    let full = Path::<T, false> { ifindex, index, tables };
    let frame = head.frame();
    let unknown = index.seed;
    let packet = match parse(&frame) {
        Ok(packet) => packet.hidden(unknown),
        Err(refused) => {
            let reason = hide(refused.reason as u32, unknown);
            let ours = full.is_vip(&refused.destination);
            return Err(if ours { Refusal::Drop(reason) } else { Refusal::Pass(reason) });
        }
    };
    if matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6) {
        return full.echo(head, &packet);
    }
    // The full path decides.
    full.flow(head, &packet)?.ok_or(drop(Reason::NotReady))
}

/// What all steps of a packet's path need.
struct Path<'t, T, const QUICK: bool> {
    /// The interface it came in through.
    ifindex: u32,
    index: &'t ServiceIndex,
    tables: &'t T,
}

impl<T: Tables, const QUICK: bool> Path<'_, T, QUICK> {
    /// A packet of TCP or UDP; `None` where that is not for the quick path.
    #[inline(always)]
    fn flow<G: Growing>(&self, head: &mut G, packet: &Packet) -> Result<Option<Sent>, Refusal> {
        match self.index.find(&packet.destination, packet.destination_port, packet.protocol) {
            Some(_) if packet.source.same(&packet.destination) => Err(drop(Reason::Land)),
            Some(service) => self.to_server(head, packet, service).map_err(drop),
            None => self.to_client(head, packet),
        }
    }

    /// A packet of ICMP or `ICMPv6`, which is an echo request.
    #[inline(always)]
    fn echo<G: Growing>(&self, head: &mut G, packet: &Packet) -> Result<Sent, Refusal> {
        let found = self.index.find(&packet.destination, 0, packet.protocol);
        let service = found.ok_or(pass(Reason::NotOurs))?;
        if packet.source.same(&packet.destination) {
            return Err(drop(Reason::Land));
        }
        let mut frame = head.frame();
        echo::answer(&mut frame, packet).ok_or(drop(Reason::Truncated))?;
        self.tables.count_service(service.id(), Direction::In, frame.len(), false);
        Ok(Sent { verdict: Verdict::Transmit, action: Action::Answer, reason: Reason::Echo })
    }

    #[inline(always)]
    fn to_server<G: Growing>(
        &self,
        head: &mut G,
        packet: &Packet,
        service: &IndexEntry,
    ) -> Result<Option<Sent>, Reason> {
        let Self { ifindex, index, tables } = *self;
        // In mode `dsr` SLB is no router.
        if packet.hop_limit <= 1 && service.mode != mode::DSR {
            return Err(Reason::HopLimit);
        }
        let mut frame = head.frame();
        let bytes = frame.len();
        let stations = stations(&frame).ok_or(Reason::Truncated)?;
        let link = Link { ifindex, stations };
        let chosen = select::to_server::<QUICK, T>(packet, link, service, index, tables)?;
        let Some(Chosen { backend, hop, is_new }) = chosen else { return Ok(None) };
        match service.mode {
            mode::NAT => {
                let verdict = self.leave(hop.ifindex, packet)?;
                nat::to_server(&mut frame, packet, &backend.address, backend.port)
                    .ok_or(Reason::Truncated)?;
                readdress(&mut frame, &hop.stations).ok_or(Reason::Truncated)?;
                self.count(service, backend.reference.id(), bytes, is_new);
                Ok(Some(Sent { verdict, action: Action::Forward, reason: Reason::ToServer }))
            }
            mode::DSR => {
                // A server that does not hold the VIP, and routes back to us, would otherwise get it for ever.
                if stations.sender() == hop.stations.receiver() {
                    return Err(Reason::Loop);
                }
                let verdict = self.leave(hop.ifindex, packet)?;
                readdress(&mut frame, &hop.stations).ok_or(Reason::Truncated)?;
                self.count(service, backend.reference.id(), bytes, is_new);
                Ok(Some(Sent { verdict, action: Action::Forward, reason: Reason::ToServer }))
            }
            mode::IPIP => {
                let grown = if backend.address.is_v4() { ipip::IPV4_BYTES } else { ipip::IPV6_BYTES };
                if packet.len + grown > hop.mtu as usize {
                    return Err(Reason::TooBig);
                }
                let verdict = self.leave(hop.ifindex, packet)?;
                let flow = mix(u64::from(packet.source_port) ^ packet.source.halves()[1]) as u32;
                ipip::wrap(head, packet, backend, hop, &index.tunnel, flow).map_err(
                    |failure| match failure {
                        ipip::Failure::Truncated => Reason::Truncated,
                        ipip::Failure::NoHeadroom => Reason::NoHeadroom,
                    },
                )?;
                self.count(service, backend.reference.id(), bytes, is_new);
                Ok(Some(Sent { verdict, action: Action::Forward, reason: Reason::ToServer }))
            }
            _ => Err(Reason::NotReady),
        }
    }

    #[inline(always)]
    fn to_client<G: Growing>(&self, head: &mut G, packet: &Packet) -> Result<Option<Sent>, Refusal> {
        let Self { index, tables, .. } = *self;
        let Reply { service, backend, client } = match select::to_client::<QUICK, T>(packet, index, tables) {
            Answered::Client(reply) => reply,
            Answered::Nobody => return Err(pass(Reason::NotOurs)),
            Answered::Later => return Ok(None),
        };
        if packet.hop_limit <= 1 {
            return Err(drop(Reason::HopLimit));
        }
        let verdict = self.leave(client.ifindex, packet).map_err(drop)?;
        let mut frame = head.frame();
        nat::to_client(&mut frame, packet, &service.address, service.port).ok_or(drop(Reason::Truncated))?;
        readdress(&mut frame, &client.stations.answer()).ok_or(drop(Reason::Truncated))?;
        tables.count_service(service.reference.id(), Direction::Out, frame.len(), false);
        tables.count_backend(backend, Direction::Out, frame.len(), false);
        Ok(Some(Sent { verdict, action: Action::Forward, reason: Reason::ToClient }))
    }

    #[inline(always)]
    fn count(&self, service: &IndexEntry, backend: u32, bytes: usize, is_new: bool) {
        self.tables.count_service(service.id(), Direction::In, bytes, is_new);
        self.tables.count_backend(backend, Direction::In, bytes, is_new);
    }

    /// How a frame leaves through the interface `out`.
    #[inline(always)]
    fn leave(&self, out: u32, packet: &Packet) -> Result<Verdict, Reason> {
        if out == self.ifindex {
            return Ok(Verdict::Transmit);
        }
        if packet.is_tagged() {
            return Err(Reason::VlanCrossing);
        }
        if self.tables.redirect(out) { Ok(Verdict::Redirect(out)) } else { Err(Reason::NoInterface) }
    }

    /// Whether a running listener stands on the address: then it has an echo service as well.
    #[inline(always)]
    fn is_vip(&self, address: &Address) -> bool {
        let icmp = if address.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
        self.index.find(address, 0, icmp).is_some()
    }
}

#[inline(always)]
fn readdress(frame: &mut Frame<'_>, stations: &Stations) -> Option<()> {
    let bytes = frame.header_mut::<StationBytes>(0)?;
    bytes.head = stations.head.to_ne_bytes();
    bytes.tail = stations.tail.to_ne_bytes();
    Some(())
}

#[inline(always)]
fn stations(frame: &Frame<'_>) -> Option<Stations> {
    let bytes = frame.header::<StationBytes>(0)?;
    Some(Stations { head: u64::from_ne_bytes(bytes.head), tail: u32::from_ne_bytes(bytes.tail), reserved: 0 })
}
