//! The reference: judges one packet after the other.

mod access;
mod fragments;
mod limits;
mod listener_limits;
mod related;
mod select;
mod source;
mod to_client;
mod to_server;
mod unmatched;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use self::{
    fragments::{FragmentKey, Record},
    limits::{Generated, Limits},
    listener_limits::Buckets,
};
use crate::{
    answers::{Cause, is_one_host},
    flow::{Clock, Flow},
    outcome::{Action, Expected, Group, Reason, Verdict},
    packet::{Content, Packet, number, parse},
    tunnel::TunnelFlow,
    world::{Interface, Protocol, ServerState, Tag, Vip, World},
};

/// The slots that a flow's hash selects, in the order in which they are tried: positions in a world's servers.
///
/// Hash functions and lookup tables are the product's, so the driver computes this. An entry is `None` if the slot is
/// empty.
pub trait Slots {
    /// The servers of the slots of a client endpoint's flow. `listener` is a position in the world's listeners, `table`
    /// in its tables.
    fn of(&self, listener: usize, table: usize, client: SocketAddr) -> [Option<usize>; TRIES];
}

/// Slots tried for a flow of mode `nat`.
pub const TRIES: usize = 3;

/// Counters of a listener, a VIP or a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes of their frames.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes of their frames.
    pub bytes_out: u64,
    /// Flows that have begun.
    pub new_flows: u64,
}

/// Who is counted, by position in the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counted {
    /// A listener.
    Listener(usize),
    /// A VIP: echo requests.
    Vip(usize),
    /// A server.
    Server(usize),
}

/// Client endpoint, protocol and listener of a flow.
type FlowKey = (SocketAddr, Protocol, usize);

/// The reference, with the history of one sequence.
#[derive(Debug)]
pub struct Reference<'s, S> {
    world: World,
    slots: &'s S,
    now: u32,
    flows: HashMap<FlowKey, Flow>,
    /// Where first fragments went.
    fragments: HashMap<FragmentKey, Record>,
    limits: Limits,
    buckets: Buckets,
    /// What tells flows in tunnels apart, as seen, by listener and client endpoint.
    tunnel_flows: HashMap<(usize, SocketAddr), TunnelFlow>,
    traffic: BTreeMap<Counted, Traffic>,
}

/// What the product did with a packet, as far as it is the product's choice.
#[expect(missing_debug_implementations, reason = "a function has none")]
pub struct Seen<'a> {
    /// The frame that it sent: an outer IPv6 header has a flow label, an outer UDP header a source port.
    pub frame: &'a [u8],
    /// The source of the flow of a client endpoint, a protocol and a listener: its position, and of a range the port
    /// ([`position`](crate::world::position), [`port_of`](crate::world::port_of)).
    pub source: &'a dyn Fn(SocketAddr, Protocol, usize) -> Option<SocketAddr>,
}

/// How a packet is sent on.
struct Sent {
    out: u32,
    action: Action,
    reason: Reason,
    frame: Vec<u8>,
    group: Option<Group>,
}

/// Why a packet is not sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Pass(Reason),
    Drop(Reason),
    IcmpError(Cause, Reason),
    Reset(Reason),
    /// No listener takes it, and it answers no flow.
    Unmatched,
}

impl<'s, S: Slots> Reference<'s, S> {
    /// A reference without history.
    pub fn new(world: &World, slots: &'s S) -> Self {
        Self {
            world: world.clone(),
            slots,
            now: 0,
            flows: HashMap::new(),
            fragments: HashMap::new(),
            limits: Limits::default(),
            buckets: Buckets::default(),
            tunnel_flows: HashMap::new(),
            traffic: BTreeMap::new(),
        }
    }

    /// Sets the clock, in jiffies.
    pub fn set_time(&mut self, now: u32) {
        self.now = now;
    }

    /// Changes the state of a server.
    pub fn set_server(&mut self, server: usize, state: ServerState) {
        self.world.servers[server].state = state;
    }

    /// All counters.
    pub const fn traffic(&self) -> &BTreeMap<Counted, Traffic> {
        &self.traffic
    }

    /// What must happen to a frame that arrives on the interface `ifindex`.
    ///
    /// Flow label and outer source port must be the same for all packets of a flow, and so must a source.
    pub fn judge(&mut self, frame: &[u8], ifindex: u32, seen: &Seen<'_>) -> Expected {
        match self.sent(frame, ifindex, seen) {
            Ok(Sent { out, action, reason, frame, group }) => {
                let verdict = if out == ifindex { Verdict::Transmit } else { Verdict::Redirect(out) };
                Expected { verdict, action, reason, frame: Some(frame), group }
            }
            Err(Refusal::Pass(reason)) => {
                let frame = Some(frame.to_vec());
                Expected { verdict: Verdict::Pass, action: Action::Pass, reason, frame, group: None }
            }
            Err(Refusal::Drop(reason)) => {
                Expected { verdict: Verdict::Drop, action: Action::Drop, reason, frame: None, group: None }
            }
            Err(refusal) => unreachable!("{refusal:?} was answered"),
        }
    }

    fn sent(&mut self, frame: &[u8], ifindex: u32, seen: &Seen<'_>) -> Result<Sent, Refusal> {
        let Some(arrival) = self.world.interface(ifindex).cloned() else {
            return Err(Refusal::Pass(Reason::OtherHost));
        };
        let is_own = |mac: &[u8; 6]| frame.starts_with(mac);
        if frame.len() >= 14 && frame[0] & 1 == 0 && !arrival.macs.iter().any(is_own) {
            return Err(Refusal::Pass(Reason::OtherHost));
        }
        let packet = match parse(frame) {
            Ok(packet) => packet,
            Err(refused) => return Err(self.refused(&refused, &arrival)),
        };
        if packet.is_later_fragment() {
            return self.follow(&packet, &arrival, frame.len(), seen.frame);
        }
        self.begin_fragments(&packet);
        let decided = match (packet.content, packet.protocol()) {
            (Content::EchoRequest, _) => self.echo(&packet, &arrival, frame.len()),
            (_, Some(protocol)) => match self.world.listener(packet.destination, protocol) {
                Some(listener) => self.request(&packet, listener, &arrival, frame.len(), seen),
                None => self.reply(&packet, protocol, &arrival, frame.len()),
            },
            _ if matches!(packet.number, number::ICMP | number::ICMPV6) => {
                self.related(&packet, &arrival, frame.len(), seen.frame)
            }
            _ => Err(Refusal::Unmatched),
        };
        match decided {
            Err(Refusal::Unmatched) => {
                let refusal = self.unmatched(&packet, &arrival);
                self.answered(&packet, ifindex, refusal)
            }
            Err(refusal) => self.answered(&packet, ifindex, refusal),
            sent => sent,
        }
    }

    /// The answer to the sender, where there is one.
    fn answered(&mut self, packet: &Packet, out: u32, refusal: Refusal) -> Result<Sent, Refusal> {
        let (reason, frame) = match refusal {
            Refusal::IcmpError(cause, reason) => {
                let kind = match reason {
                    Reason::Unmatched => Generated::Unmatched,
                    _ if self.world.vip(packet.destination.ip()).is_none() => Generated::ErrorsToServers,
                    Reason::TooBig => Generated::TooBig,
                    _ => Generated::HopLimit,
                };
                (reason, packet.icmp_error(cause).filter(|_| self.may_send(kind)))
            }
            Refusal::Reset(reason) => {
                let kind = if reason == Reason::Unmatched { Generated::Unmatched } else { Generated::Resets };
                // RFC 9293, 3.10.7.1: a RST is not answered.
                let may = !packet.is_rst() && packet.fragment.is_none() && self.may_send(kind);
                (reason, may.then(|| packet.reset_back()).flatten())
            }
            refusal => return Err(refusal),
        };
        let frame = frame.ok_or(Refusal::Drop(reason))?;
        let is_reply = packet
            .protocol()
            .is_some_and(|protocol| self.world.listener(packet.destination, protocol).is_none());
        let group = match reason {
            Reason::HopLimit if is_reply => Some(Group::ReplyWithoutHops),
            Reason::TooBig if is_reply => Some(Group::ReplyTooBig),
            _ => None,
        };
        Ok(Sent { out, action: Action::Answer, reason, frame, group })
    }

    fn echo(&mut self, packet: &Packet, arrival: &Interface, bytes: usize) -> Result<Sent, Refusal> {
        let is_vip = |vip: &Vip| vip.ip == packet.destination.ip() && vip.echo;
        let vip = self.world.vips.iter().position(is_vip).ok_or(Refusal::Unmatched)?;
        self.check_arrival(packet, arrival)?;
        if !self.may_send(Generated::Echo) {
            return Err(Refusal::Drop(Reason::Echo));
        }
        let traffic = self.traffic.entry(Counted::Vip(vip)).or_default();
        traffic.packets_in += 1;
        traffic.bytes_in += bytes as u64;
        Ok(Sent {
            out: arrival.index,
            action: Action::Answer,
            reason: Reason::Echo,
            frame: packet.echo_reply(),
            group: None,
        })
    }

    /// Packets for VIPs arrive on interfaces of clients, and from single hosts that are no VIPs.
    fn check_arrival(&self, packet: &Packet, arrival: &Interface) -> Result<(), Refusal> {
        if !arrival.client {
            Err(Refusal::Drop(Reason::WrongInterface))
        } else if self.is_martian(packet) {
            Err(Refusal::Drop(Reason::MartianSource))
        } else {
            Ok(())
        }
    }

    fn is_martian(&self, packet: &Packet) -> bool {
        let source = packet.source.ip();
        !is_one_host(source) || self.world.vip(source).is_some() || self.world.locals.contains(&source)
    }

    fn may_send(&mut self, kind: Generated) -> bool {
        self.limits.may_send(kind, self.now, self.world.hz)
    }

    fn clock(&self, listener: usize) -> Clock {
        Clock { now: self.now, hz: self.world.hz, idle: self.world.listening(listener).idle }
    }

    /// Whether a frame may leave by the interface `out`, with this tag. The host takes part in a VLAN by a device for it:
    /// without one, the frames of the VLAN stay in it and on their interface.
    fn check_egress(
        &self,
        packet: &Packet,
        arrival: &Interface,
        out: u32,
        tag: Option<Tag>,
    ) -> Result<(), Refusal> {
        let takes_part = !packet.is_tagged() || self.world.vlan_device(packet, arrival).is_some();
        let stays = out == arrival.index && tag.is_none_or(|tag| packet.tag() == Some(tag));
        if !takes_part {
            return if stays { Ok(()) } else { Err(Refusal::Drop(Reason::VlanCrossing)) };
        }
        let exists = out == arrival.index || self.world.interface(out).is_some();
        if exists { Ok(()) } else { Err(Refusal::Drop(Reason::NoInterface)) }
    }
}
