//! A server's packet: finds the flow that it answers (modes `nat`, `full-nat`).

use std::net::SocketAddr;

use super::{Counted, FlowKey, Generated, Reference, Refusal, Sent, Slots, fragments::Record};
use crate::{
    answers::Cause,
    flow::NO_MAC,
    outcome::{Action, Reason},
    packet::{Content, Packet, flag},
    rewrite::End,
    world::{Hop, Interface, Mode, Protocol, Server, ServerState, World, position},
};

impl<S: Slots> Reference<'_, S> {
    pub(super) fn reply(
        &mut self,
        packet: &Packet,
        protocol: Protocol,
        arrival: &Interface,
        bytes: usize,
    ) -> Result<Sent, Refusal> {
        if !arrival.server {
            return Err(Refusal::Unmatched);
        }
        let key =
            self.answered_flow(packet.destination, protocol, packet.source).ok_or(Refusal::Unmatched)?;
        let (client, _, listener) = key;
        let is_finished = self.answer(packet, key, arrival)?;
        let flow = &self.flows[&key];
        let (path, number) = (flow.path, flow.server);
        if packet.hop_limit <= 1 {
            return Err(Refusal::IcmpError(Cause::HopLimit, Reason::HopLimit));
        }
        let Some(out) = self.world.exit(path.interface) else {
            return Err(Refusal::Drop(Reason::NoInterface));
        };
        if path.mac == NO_MAC {
            return Err(Refusal::Drop(Reason::NoClientHop));
        }
        let (own, mtu) = (out.own, out.mtu);
        // A RST is small.
        if packet.len > mtu.into() && !is_finished {
            return Err(Refusal::IcmpError(Cause::TooBig(mtu.into()), Reason::TooBig));
        }
        self.check_egress(packet, arrival, out.interface, out.tag)?;
        self.check_bytes_out(listener, bytes)?;
        self.record(packet, Record::to_client(listener, number, (path, client), self.now), is_finished);
        let (reset, reason);
        let packet = if is_finished {
            let may = packet.fragment.is_none() && self.may_send(Generated::Resets);
            reset = may.then(|| packet.forward_reset()).flatten().ok_or(Refusal::Drop(Reason::Reset))?;
            reason = Reason::Reset;
            &reset
        } else {
            reason = Reason::ToClient;
            packet
        };
        let vip = self.world.listening(listener).at;
        let frame = packet.translated([(End::Source, vip), (End::Destination, client)], path.mac, own);
        for counted in [Counted::Listener(position(listener)), Counted::Server(number)] {
            let traffic = self.traffic.entry(counted).or_default();
            traffic.packets_out += 1;
            traffic.bytes_out += frame.len() as u64;
        }
        let frame = self.world.in_vlan(frame, packet, arrival, out.tag);
        let group = packet.tag_change(&frame);
        Ok(Sent { out: out.interface, action: Action::Forward, reason, frame, group })
    }

    /// The flow that a packet of this server endpoint to `to` answers: a source, or a client endpoint.
    pub(super) fn answered_flow(
        &self,
        to: SocketAddr,
        protocol: Protocol,
        server: SocketAddr,
    ) -> Option<FlowKey> {
        if self.world.locals.contains(&to.ip()) {
            return self.flow_from(to, protocol, server);
        }
        self.answered_listener(to, protocol, server).map(|listener| (to, protocol, listener))
    }

    /// The listener through which the client endpoint has a flow with this server endpoint.
    fn answered_listener(&self, client: SocketAddr, protocol: Protocol, server: SocketAddr) -> Option<usize> {
        let of_client = self.flows.iter().filter(|(key, _)| (key.0, key.1) == (client, protocol));
        let answered = of_client.filter(|((.., listener), flow)| {
            self.world.listening(*listener).mode == Mode::Nat
                && !flow.is_translated
                && self.world.servers[flow.server].state != ServerState::Gone
                && self.world.endpoint(flow.server, *listener) == server
                && !flow.marks.reused
                // A datagram does not show whether an expired flow continues.
                && (flow.is_tcp || !flow.is_expired(self.now))
        });
        answered.map(|((.., listener), _)| *listener).min()
    }

    /// Updates the flow. Returns whether its connection is finished, so that the client receives a RST.
    fn answer(&mut self, packet: &Packet, key: FlowKey, arrival: &Interface) -> Result<bool, Refusal> {
        let (clock, segment) = (self.clock(key.2), packet.segment);
        let flow = self.flows.get_mut(&key).expect("the flow was found");
        let server = self.world.servers[flow.server];
        server.check_way(packet, arrival, &self.world)?;
        if segment.has(flag::SYN) && flow.refuses_syn_ack(clock.now) {
            flow.marks.reused = true;
            return Err(Refusal::Unmatched);
        }
        if packet.content != Content::Tcp {
            flow.answered_by_datagram(clock);
            return Ok(false);
        }
        let is_terminating = server.state == ServerState::Terminating;
        if is_terminating || (flow.is_expired(clock.now) && flow.is_reset_due(segment, clock)) {
            if !packet.is_rst() && flow.marks.reset {
                return Err(Refusal::Reset(Reason::Reset));
            }
            flow.mark_reset();
            return Ok(!packet.is_rst());
        }
        if flow.answered_by(segment, server.state == ServerState::Up, clock) {
            Ok(false)
        } else {
            Err(Refusal::Reset(Reason::Reset))
        }
    }
}

impl Server {
    /// What servers send arrives by the way to them, or where there are no clients. The way without a VLAN is that of
    /// untagged frames, and of one tag that means nothing to the host.
    pub(super) fn check_way(
        &self,
        packet: &Packet,
        arrival: &Interface,
        world: &World,
    ) -> Result<(), Refusal> {
        let is_foreign = packet.tag().is_some() && world.vlan_device(packet, arrival).is_none();
        let is_in_vlan = |hop: Hop| match hop.tag {
            Some(tag) => packet.tag() == Some(tag),
            None => !packet.is_tagged() || is_foreign,
        };
        let is_way = |hop: Hop| hop.interface == arrival.index && is_in_vlan(hop);
        match self.hop {
            Some(hop) if !is_way(hop) && (arrival.client || !arrival.server) => {
                Err(Refusal::Drop(Reason::WrongInterface))
            }
            _ => Ok(()),
        }
    }
}
