//! The packet path: decides on one frame, and rewrites it.
//!
//! The fast path ([`fast`]) handles untagged TCP and UDP without options whose flow needs no new entry: nearly all
//! packets. Each address family has its own code with constant offsets. Every other frame goes to the slow path
//! ([`slow`]), a BPF program behind a tail call, which starts from the beginning. Until then the frame is unchanged. Of
//! the flow table the fast path may have marked finished flows, as the slow path would do too.
//!
//! Invariants:
//!
//! - A frame that is passed has not been changed.
//! - A frame that is sent on is changed only after every check that could refuse it.
//! - Every call counts the frame under exactly one action and one reason.
//! - Maps and kernel helpers are reached through [`maps::Maps`] alone, BPF subprograms through the traits above it:
//!   [`flow_calls`], [`schedule_calls`], [`path_calls`].

pub mod flow_calls;
#[cfg(any(test, feature = "user"))]
pub mod flow_gc;
pub mod flows;
pub mod frame_calls;
pub mod icmp_error;
pub mod insert;
pub mod ipip;
pub mod maps;
pub mod parse;
pub mod path_calls;
pub mod reset;
pub mod schedule;
pub mod schedule_calls;
pub mod tracked;
pub mod unmatched;

mod client_path;
mod echo;
mod nat;
mod refusal;
mod reply;
mod select;
pub mod sequence_numbers;
mod slots;

use core::borrow::Borrow;

use crate::{
    abi::{
        MacPair,
        flow::ClientPath,
        interface::{CLIENT, Interface, SERVER},
        service::{IndexEntry, ServiceIndex, mode, policy},
        stats::{Action, GeneratedPacket, Reason},
    },
    hash::flow_label,
    net::{
        ethernet::is_group,
        frame::Frame,
        headers::{EthernetHdr, MacPairBytes, ether_type, protocol},
    },
};
use frame_calls::{FrameCalls, Parsed};
use icmp_error::{IcmpError, IcmpMessage};
use maps::{Direction, Maps};
use parse::{Packet, plain_ipv4, plain_ipv6};
use path_calls::PathCalls;
use refusal::Refusal;
use reply::Reply;
use tracked::{Request, Selection};

/// What the program does with the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Sends it back out of the interface that it arrived on.
    Transmit,
    /// Sends it out of the interface with this index, which [`Maps::redirect`] has prepared.
    Redirect(u32),
    /// Passes it to the kernel, unchanged.
    Pass,
    /// Drops it.
    Drop,
}

/// Decides on a frame that arrived on the interface `ifindex`, and rewrites it for the verdict.
#[inline(always)]
pub fn process<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Verdict {
    match fast(head, ifindex, maps) {
        Some(verdict) => verdict,
        None => slow(head, ifindex, maps),
    }
}

/// The fast path of [`process`]. Returns `None` where the slow path must decide; the frame is unchanged then.
#[inline(always)]
pub fn fast<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Option<Verdict> {
    match decide_fast(head, ifindex, maps) {
        // The fast path answers no packet.
        Err(Refusal::Decline | Refusal::IcmpError(_) | Refusal::Rst(_) | Refusal::Unmatched(_)) => None,
        decided => Some(count(decided, maps)),
    }
}

/// The slow path of [`process`], which decides on every frame.
#[inline(always)]
pub fn slow<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Verdict {
    count(decide_slow(head, ifindex, maps), maps)
}

#[inline(always)]
fn count<T: Maps>(decided: Result<Egress, Refusal>, maps: &T) -> Verdict {
    let (verdict, action, reason) = match decided {
        Ok(Egress { verdict, action, reason }) => (verdict, action, reason as u32),
        Err(Refusal::Pass(reason) | Refusal::Unmatched(reason)) => (Verdict::Pass, Action::Pass, reason),
        Err(Refusal::Drop(reason)) => (Verdict::Drop, Action::Drop, reason),
        // The slow path has answered by an ICMP error or a RST where it could. It declines nothing.
        Err(refusal @ (Refusal::IcmpError(_) | Refusal::Rst(_) | Refusal::Decline)) => {
            (Verdict::Drop, Action::Drop, refusal.reason())
        }
    };
    maps.count(action, reason);
    verdict
}

struct Egress {
    verdict: Verdict,
    action: Action,
    reason: Reason,
}

#[inline(always)]
fn decide_fast<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Result<Egress, Refusal> {
    let Some(index) = maps.index() else { return Err(Refusal::pass(Reason::NotOurs)) };
    let interface = maps.interface(ifindex).ok_or(Refusal::pass(Reason::OtherHost))?;
    let frame = head.frame();
    // The slow path counts truncated frames and those to group addresses.
    let ethernet = frame.header::<EthernetHdr>(0).ok_or(Refusal::Decline)?;
    let macs = MacPair::from(ethernet.macs);
    let receiver = macs.receiver();
    if !interface.has_mac(receiver) {
        if is_group(receiver) {
            return Err(Refusal::Decline);
        }
        // A switch floods frames for other hosts, and a promiscuous NIC accepts them.
        if !maps.is_own_mac(ifindex, receiver) {
            return Err(Refusal::pass(Reason::OtherHost));
        }
    }
    let fast_path = PacketPath::<T, true> { ifindex, roles: interface.flags(), index, maps };
    // Each address family has code of its own, with constant offsets.
    match u16::from_ne_bytes(ethernet.ether_type) {
        ether_type::IPV4 => {
            let packet = plain_ipv4(&frame).ok_or(Refusal::Decline)?;
            fast_path.flow(head, &packet)
        }
        ether_type::IPV6 => {
            let packet = plain_ipv6(&frame).ok_or(Refusal::Decline)?;
            fast_path.flow(head, &packet)
        }
        _ => Err(Refusal::Decline),
    }
}

#[inline(always)]
fn decide_slow<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Result<Egress, Refusal> {
    let Some(index) = maps.index() else { return Err(Refusal::pass(Reason::NotOurs)) };
    let roles = maps.interface(ifindex).map_or(0, Interface::flags);
    let slow_path = PacketPath::<T, false> { ifindex, roles, index, maps };
    let Some(Parsed { outcome, packet }) = head.parse() else { return Err(Refusal::pass(Reason::NotReady)) };
    let packet = packet.borrow();
    let decided = if outcome != Parsed::<G::Packet>::SOUND {
        Err(Refusal::Unmatched(outcome))
    } else if matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6) {
        slow_path.echo(head, packet)
    } else {
        slow_path.flow(head, packet)
    };
    let refusal = match decided {
        Err(Refusal::Unmatched(reason)) => slow_path.unmatched(packet, reason),
        Err(refusal) => refusal,
        sent => return sent,
    };
    match refusal {
        Refusal::IcmpError(error) => slow_path.send_icmp_error(head, packet, error),
        Refusal::Rst(reason) => slow_path.reset(head, packet, reason),
        refusal => Err(refusal),
    }
}

/// Inputs that all steps of the packet path share.
struct PacketPath<'t, T, const FAST: bool> {
    /// Index of the interface that the frame arrived on.
    ifindex: u32,
    /// Roles of that interface: [`CLIENT`] and [`SERVER`].
    roles: u16,
    index: &'t ServiceIndex,
    maps: &'t T,
}

impl<T: PathCalls, const FAST: bool> PacketPath<'_, T, FAST> {
    /// Decides on a TCP or UDP packet.
    #[inline(always)]
    fn flow<G: FrameCalls>(&self, head: &mut G, packet: &Packet) -> Result<Egress, Refusal> {
        match self.index.find(&packet.destination, packet.destination_port, packet.protocol) {
            Some(_) if self.roles & CLIENT == 0 => Err(Refusal::drop(Reason::WrongInterface)),
            // The fast path checks untracked flows itself. For tracked flows the slow path has checked when the flow
            // began.
            Some(_) if !FAST && self.index.is_martian(&packet.source) => {
                Err(Refusal::drop(Reason::MartianSource))
            }
            Some(service) => self.to_server(head, packet, service),
            None if self.roles & SERVER == 0 => self.no_flow(packet),
            None => self.to_client(head, packet),
        }
    }

    /// Answers an ICMP or `ICMPv6` echo request to a VIP.
    #[inline(always)]
    fn echo<G: FrameCalls>(&self, head: &mut G, packet: &Packet) -> Result<Egress, Refusal> {
        let found = self.index.find(&packet.destination, 0, packet.protocol);
        let service = found.filter(|vip| vip.policy & policy::NO_ECHO == 0).ok_or(Refusal::UNMATCHED)?;
        if self.roles & CLIENT == 0 {
            return Err(Refusal::drop(Reason::WrongInterface));
        }
        if self.index.is_martian(&packet.source) {
            return Err(Refusal::drop(Reason::MartianSource));
        }
        if !self.maps.may_send(GeneratedPacket::Echo, self.index.hz) {
            return Err(Refusal::drop(Reason::Echo));
        }
        let bytes = head.frame().len();
        Self::untag(head)?;
        echo::answer(&mut head.frame(), packet).ok_or(Refusal::drop(Reason::Truncated))?;
        self.maps.count_service(service.id(), Direction::In, bytes, false);
        Ok(Egress { verdict: Verdict::Transmit, action: Action::Answer, reason: Reason::Echo })
    }

    #[inline(always)]
    fn to_server<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        service: &IndexEntry,
    ) -> Result<Egress, Refusal> {
        let Self { ifindex, index, maps, .. } = *self;
        let mode = service.mode;
        // In mode `dsr` SLB does not act as a router.
        if packet.hop_limit <= 1 && mode != mode::DSR {
            return Err(Refusal::IcmpError(IcmpError {
                reason: Reason::HopLimit,
                message: IcmpMessage::hop_limit(packet.destination.is_v4()),
            }));
        }
        let frame = head.frame();
        let sender = macs(&frame).ok_or(Reason::Truncated)?.sender();
        let request = Request { packet, arrival: ClientPath::new(ifindex, sender), service, index, maps };
        let selection = match select::select_untracked::<FAST, T>(&request, mode)? {
            // The fast path has separate code for untracked flows, which is shorter.
            Some(selection) if FAST => {
                return self.forward(head, packet, sender, service, mode, &selection);
            }
            Some(selection) => selection,
            None if FAST => select::select_tracked_fast(&request, &frame)?,
            None => select::select_tracked(&request)?,
        };
        self.forward(head, packet, sender, service, mode, &selection)
    }

    /// Rewrites a packet and sends it to its server. `sender` is the source hardware address of the frame.
    #[inline(always)]
    fn forward<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        sender: u64,
        service: &IndexEntry,
        mode: u8,
        selection: &Selection<'_>,
    ) -> Result<Egress, Refusal> {
        let Selection { backend, hop, is_new, is_finished } = *selection;
        let mut frame = head.frame();
        let bytes = frame.len();
        let overhead = if mode == mode::IPIP { ipip::overhead(backend) } else { 0 };
        if packet.len + overhead > hop.mtu as usize {
            let mtu = hop.mtu.saturating_sub(overhead as u32);
            return Err(Refusal::IcmpError(IcmpError {
                reason: Reason::TooBig,
                message: IcmpMessage::too_big(packet.destination.is_v4(), mtu),
            }));
        }
        // A server that does not hold the VIP would route the packet back to SLB, in an endless loop.
        if mode == mode::DSR && sender == hop.macs.receiver() {
            return Err(Refusal::drop(Reason::Loop));
        }
        let verdict = self.egress_verdict(hop.ifindex, packet)?;
        let mut reason = Reason::ToServer;
        if !FAST {
            if is_finished {
                self.rewrite_to_rst(head, packet.network, false, GeneratedPacket::Resets)?;
                reason = Reason::Reset;
            } else {
                Self::untag(head)?;
            }
            frame = head.frame();
        }
        match mode {
            mode::NAT => {
                nat::to_server(&mut frame, packet, &backend.address, backend.port)
                    .ok_or(Reason::Truncated)?;
                readdress(&mut frame, &hop.macs).ok_or(Reason::Truncated)?;
            }
            mode::DSR => readdress(&mut frame, &hop.macs).ok_or(Reason::Truncated)?,
            mode::IPIP => {
                let flow = flow_label(service.salt, &packet.source, packet.source_port);
                ipip::encapsulate(head, packet, backend, hop, &self.index.tunnel, flow)?;
            }
            _ => return Err(Refusal::drop(Reason::NotReady)),
        }
        self.count(service, backend.handle.id(), bytes, is_new);
        Ok(Egress { verdict, action: Action::Forward, reason })
    }

    /// Answers a packet by a RST, if it is no RST itself and the rate limit allows one more.
    #[inline(always)]
    fn reset<G: FrameCalls>(&self, head: &mut G, packet: &Packet, reason: Reason) -> Result<Egress, Refusal> {
        // RFC 9293, 3.10.7.1: a RST is not answered.
        let limited =
            if reason == Reason::Unmatched { GeneratedPacket::Unmatched } else { GeneratedPacket::Resets };
        if packet.flags.rst() || self.rewrite_to_rst(head, packet.network, true, limited).is_err() {
            return Err(Refusal::drop(reason));
        }
        Ok(Egress { verdict: Verdict::Transmit, action: Action::Answer, reason })
    }

    /// Decides on a packet that no listener takes and that answers no flow. `reason` is the number of
    /// [`Reason::NotOurs`], or of the reason for which the parser refused the packet.
    #[inline(always)]
    fn unmatched(&self, packet: &Packet, reason: u32) -> Refusal {
        let decision = self.maps.unmatched(packet, reason);
        match decision.action() {
            unmatched::PASS => Refusal::Pass(reason),
            _ if self.roles & CLIENT == 0 => Refusal::drop(Reason::WrongInterface),
            unmatched::RESET => Refusal::Rst(Reason::Unmatched),
            unmatched::ICMP_ERROR => {
                Refusal::IcmpError(IcmpError { reason: Reason::Unmatched, message: decision.message() })
            }
            unmatched::MARTIAN => Refusal::drop(Reason::MartianSource),
            _ if unmatched::is_fully_parsed(reason) => Refusal::drop(Reason::Unmatched),
            _ => Refusal::Drop(reason),
        }
    }

    /// Removes priority tags from a frame that is rewritten and sent. From then on the packet's offsets are those of
    /// the frame.
    #[inline(always)]
    fn untag<G: FrameCalls>(head: &mut G) -> Result<(), Refusal> {
        if FAST || head.remove_priority_tags() { Ok(()) } else { Err(Refusal::drop(Reason::NoHeadroom)) }
    }

    /// Rewrites a segment to a RST without priority tags, if the rate limit allows one more.
    #[inline(always)]
    fn rewrite_to_rst<G: FrameCalls>(
        &self,
        head: &mut G,
        network: usize,
        back: bool,
        limited: GeneratedPacket,
    ) -> Result<(), Refusal> {
        if self.maps.may_send(limited, self.index.hz) && head.rewrite_to_rst(network, back) {
            Ok(())
        } else {
            Err(Refusal::drop(Reason::Reset))
        }
    }

    /// Answers a packet by an ICMP error, if the rate limit allows one more.
    #[inline(always)]
    fn send_icmp_error<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        error: IcmpError,
    ) -> Result<Egress, Refusal> {
        let limited = match error.reason {
            Reason::Unmatched => GeneratedPacket::Unmatched,
            Reason::TooBig => GeneratedPacket::TooBig,
            _ => GeneratedPacket::HopLimit,
        };
        // Checked first: a flood beyond the rate limit costs no further work.
        if self.maps.may_send(limited, self.index.hz)
            && head.rewrite_to_icmp_error(packet.network, error.message)
        {
            Ok(Egress { verdict: Verdict::Transmit, action: Action::Answer, reason: error.reason })
        } else {
            Err(Refusal::drop(error.reason))
        }
    }

    /// Refuses a packet that no listener takes and that answers no flow.
    #[inline(always)]
    fn no_flow(&self, packet: &Packet) -> Result<Egress, Refusal> {
        let is_not_ours = FAST && !self.index.may_be_vip(&packet.destination);
        Err(if is_not_ours { Refusal::pass(Reason::NotOurs) } else { Refusal::UNMATCHED })
    }

    #[inline(always)]
    fn to_client<G: FrameCalls>(&self, head: &mut G, packet: &Packet) -> Result<Egress, Refusal> {
        let Self { ifindex, index, maps, .. } = *self;
        let numbered;
        let packet = if FAST {
            numbered = packet.numbered(&head.frame()).ok_or(Refusal::drop(Reason::Truncated))?;
            &numbered
        } else {
            packet
        };
        let Some(reply) = reply::to_client::<FAST, T>(packet, ifindex, index, maps)? else {
            return self.no_flow(packet);
        };
        let Reply { service, backend, client, is_finished } = reply;
        if packet.hop_limit <= 1 {
            return Err(Refusal::drop(Reason::HopLimit));
        }
        let out = maps.interface_at(client.interface()).ok_or(Refusal::drop(Reason::NoInterface))?;
        let macs = MacPair::of(client.mac(), out.mac());
        if client.mac() == 0 {
            return Err(Refusal::drop(Reason::NoClientHop));
        }
        let verdict = self.egress_verdict(out.ifindex(), packet)?;
        let mut reason = Reason::ToClient;
        if !FAST && is_finished {
            self.rewrite_to_rst(head, packet.network, false, GeneratedPacket::Resets)?;
            reason = Reason::Reset;
        } else {
            Self::untag(head)?;
        }
        let mut frame = head.frame();
        nat::to_client(&mut frame, packet, &service.address, service.port)
            .ok_or(Refusal::drop(Reason::Truncated))?;
        readdress(&mut frame, &macs).ok_or(Refusal::drop(Reason::Truncated))?;
        maps.count_service(service.handle.id(), Direction::Out, frame.len(), false);
        maps.count_backend(backend, Direction::Out, frame.len(), false);
        Ok(Egress { verdict, action: Action::Forward, reason })
    }

    #[inline(always)]
    fn count(&self, service: &IndexEntry, backend: u32, bytes: usize, is_new: bool) {
        self.maps.count_service(service.id(), Direction::In, bytes, is_new);
        self.maps.count_backend(backend, Direction::In, bytes, is_new);
    }

    /// The verdict for a frame that leaves through the interface `out`.
    #[inline(always)]
    fn egress_verdict(&self, out: u32, packet: &Packet) -> Result<Verdict, Reason> {
        if out == self.ifindex {
            return Ok(Verdict::Transmit);
        }
        if packet.is_tagged() {
            return Err(Reason::VlanCrossing);
        }
        if self.maps.redirect(out) { Ok(Verdict::Redirect(out)) } else { Err(Reason::NoInterface) }
    }
}

#[inline(always)]
fn readdress(frame: &mut Frame<'_>, macs: &MacPair) -> Option<()> {
    let bytes = frame.header_mut::<MacPairBytes>(0)?;
    bytes.head = macs.head.to_ne_bytes();
    bytes.tail = macs.tail.to_ne_bytes();
    Some(())
}

#[inline(always)]
fn macs(frame: &Frame<'_>) -> Option<MacPair> {
    frame.header::<MacPairBytes>(0).map(|bytes| MacPair::from(*bytes))
}
