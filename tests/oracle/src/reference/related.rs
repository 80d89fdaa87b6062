//! ICMP errors about packets of flows: they go to the end that has sent the embedded packet.

use super::{Counted, FlowKey, Reference, Refusal, Sent, Slots};
use crate::{
    embedded::{Embedded, Unread},
    flow::NO_MAC,
    outcome::{Action, Group, Reason},
    packet::{Content, Packet, Segment},
    rewrite::End,
    tunnel::TunnelFlow,
    world::{Interface, Mode, Protocol, ServerState, position},
};

impl<S: Slots> Reference<'_, S> {
    /// An ICMP message other than an echo request. It changes no flow.
    pub(super) fn related(
        &mut self,
        packet: &Packet,
        arrival: &Interface,
        bytes: usize,
        seen: &[u8],
    ) -> Result<Sent, Refusal> {
        const FORGED: Refusal = Refusal::Drop(Reason::ForgedIcmp);
        let to = packet.destination.ip();
        let is_for_vip = self.world.vip(to).is_some();
        let is_for_tunnel = self.world.is_tunnel_source(to);
        if is_for_vip && packet.embedded_sender().is_some_and(|sender| sender != to) {
            return Err(FORGED);
        }
        // A tunnel must leave room for an IPv6 packet of 1,280 bytes.
        let least = match (is_for_tunnel, to.is_ipv4()) {
            (true, true) => 1300,
            (true, false) => 1320,
            (false, true) => 576,
            (false, false) => 1280,
        };
        let embedded = match packet.embedded(least, is_for_tunnel) {
            Ok(embedded) => embedded,
            Err(Unread::TinyMtu(_)) if is_for_vip || is_for_tunnel => return Err(FORGED),
            Err(Unread::TinyMtu(Some(embedded))) if embedded.sender.ip() == to => {
                self.translating_flow(packet, &embedded, arrival)?;
                return Err(FORGED);
            }
            Err(_) => return Err(Refusal::Unmatched),
        };
        if embedded.sender.ip() != to {
            return Err(Refusal::Unmatched);
        }
        if is_for_vip {
            self.error_to_server(packet, &embedded, arrival, bytes, seen)
        } else {
            self.error_to_client(packet, &embedded, arrival)
        }
    }

    fn error_to_server(
        &mut self,
        packet: &Packet,
        embedded: &Embedded,
        arrival: &Interface,
        bytes: usize,
        seen: &[u8],
    ) -> Result<Sent, Refusal> {
        let (client, protocol) = (embedded.receiver, embedded.protocol);
        let number = self.world.listener(embedded.sender, protocol).ok_or(Refusal::Unmatched)?;
        self.check_arrival(packet, arrival)?;
        self.check_access(client.ip(), number)?;
        let mode = self.world.listening(number).mode;
        let (server_number, how) = self.sender_of(packet, (client, protocol, number))?;
        let server = self.world.servers[server_number];
        let hop = server.hop.ok_or(Refusal::Drop(Reason::NoNextHop))?;
        if packet.hop_limit <= 1 && mode != Mode::Dsr {
            return Err(Refusal::Drop(Reason::HopLimit));
        }
        if packet.len + mode.overhead(server.at) > hop.mtu as usize {
            return Err(Refusal::Drop(Reason::TooBig));
        }
        let (_, sender) = packet.macs();
        if mode == Mode::Dsr && sender == hop.peer {
            return Err(Refusal::Drop(Reason::Loop));
        }
        self.check_egress(packet, arrival, hop.interface, hop.tag)?;
        let frame = match mode {
            Mode::Nat | Mode::FullNat => {
                let source = self.flows.get(&(client, protocol, number)).and_then(|flow| flow.source);
                let ends = source.map(|source| (End::Source, source));
                let endpoint = self.world.endpoint(server_number, number);
                let ends = ends.into_iter().chain([(End::Destination, endpoint)]);
                packet.translated_error(embedded, ends, hop.peer, hop.own)
            }
            Mode::Dsr => packet.readdressed(hop.peer, hop.own),
            Mode::Ipip | Mode::Gue => {
                // That of the flow's packets: routers choose the same path by it.
                let seen = TunnelFlow::read(seen, mode);
                let known = *self.tunnel_flows.entry((number, client)).or_insert(seen);
                packet.encapsulated(&self.world, mode, server.at.ip(), &hop, known)
            }
        };
        let frame = self.world.in_vlan(frame, packet, arrival, hop.tag);
        for counted in [Counted::Listener(position(number)), Counted::Server(server_number)] {
            let traffic = self.traffic.entry(counted).or_default();
            traffic.packets_in += 1;
            traffic.bytes_in += bytes as u64;
        }
        let group = match (mode, how) {
            (Mode::Nat, _) => Group::ErrorToServerNat,
            (Mode::FullNat, _) => Group::ErrorToServerFullNat,
            (Mode::Dsr, NamedBy::Flow) => Group::ErrorToServerDsrByFlow,
            (Mode::Dsr, NamedBy::Hash) => Group::ErrorToServerDsrByHash,
            (Mode::Ipip, NamedBy::Flow) => Group::ErrorToServerIpipByFlow,
            (Mode::Ipip, NamedBy::Hash) => Group::ErrorToServerIpipByHash,
            (Mode::Gue, NamedBy::Flow) => Group::ErrorToServerGueByFlow,
            (Mode::Gue, NamedBy::Hash) => Group::ErrorToServerGueByHash,
            (_, NamedBy::MigratingSlot) => Group::ErrorToPreviousServer,
        };
        let reason = Reason::ToServer;
        Ok(Sent { out: hop.interface, action: Action::Forward, reason, frame, group: Some(group) })
    }

    /// The server that has sent a packet to the flow's client: that of the flow, else in the modes without replies that
    /// of the hash, as for a segment of an established connection.
    fn sender_of(&self, packet: &Packet, key: FlowKey) -> Result<(usize, NamedBy), Refusal> {
        let listener = self.world.listening(key.2);
        let flow =
            self.flows.get(&key).filter(|flow| listener.mode != Mode::FullNat || flow.source.is_some());
        let flow = flow.map(|flow| flow.server);
        if let Some(server) = flow.filter(|server| self.world.servers[*server].state != ServerState::Gone) {
            return Ok((server, NamedBy::Flow));
        }
        if listener.mode.sees_replies() {
            return Err(Refusal::Unmatched);
        }
        let content = if key.1 == Protocol::Tcp { Content::Tcp } else { Content::Udp };
        let of_client = Packet { source: key.0, content, segment: Segment::default(), ..packet.clone() };
        match self.by_hash(&of_client, key, &listener) {
            Ok((server, previous)) if previous == Some(server) => Ok((server, NamedBy::MigratingSlot)),
            Ok((server, _)) => Ok((server, NamedBy::Hash)),
            // RFC 1122, 3.2.2: nothing answers an ICMP error.
            Err(Refusal::Reset(reason)) => Err(Refusal::Drop(reason)),
            Err(refusal) => Err(refusal),
        }
    }

    /// The flow of mode `nat` that has sent a packet to its server.
    fn translating_flow(
        &self,
        packet: &Packet,
        embedded: &Embedded,
        arrival: &Interface,
    ) -> Result<FlowKey, Refusal> {
        if !arrival.server {
            return Err(Refusal::Unmatched);
        }
        let Embedded { sender, receiver: server, protocol, .. } = *embedded;
        let key = self.answered_flow(sender, protocol, server).ok_or(Refusal::Unmatched)?;
        self.world.servers[self.flows[&key].server].check_way(packet, arrival, &self.world)?;
        Ok(key)
    }

    fn error_to_client(
        &mut self,
        packet: &Packet,
        embedded: &Embedded,
        arrival: &Interface,
    ) -> Result<Sent, Refusal> {
        let key = self.translating_flow(packet, embedded, arrival)?;
        let (flow, listener) = (&self.flows[&key], key.2);
        let (path, number) = (flow.path, flow.server);
        if packet.hop_limit <= 1 {
            return Err(Refusal::Drop(Reason::HopLimit));
        }
        let out = self.world.exit(path.interface).ok_or(Refusal::Drop(Reason::NoInterface))?;
        if path.mac == NO_MAC {
            return Err(Refusal::Drop(Reason::NoClientHop));
        }
        if packet.len > out.mtu.into() {
            return Err(Refusal::Drop(Reason::TooBig));
        }
        self.check_egress(packet, arrival, out.interface, out.tag)?;
        let vip = self.world.listening(listener).at;
        let ends = [(End::Source, vip), (End::Destination, key.0)];
        let frame = packet.translated_error(embedded, ends, path.mac, out.own);
        for counted in [Counted::Listener(position(listener)), Counted::Server(number)] {
            let traffic = self.traffic.entry(counted).or_default();
            traffic.packets_out += 1;
            traffic.bytes_out += frame.len() as u64;
        }
        let (action, reason) = (Action::Forward, Reason::ToClient);
        let frame = self.world.in_vlan(frame, packet, arrival, out.tag);
        Ok(Sent { out: out.interface, action, reason, frame, group: Some(Group::ErrorToClient) })
    }
}

/// What has named the server of an ICMP error.
#[derive(Debug, Clone, Copy)]
enum NamedBy {
    Flow,
    Hash,
    /// The hash, whose slot has a previous backend.
    MigratingSlot,
}
