//! A client's packet for a listener: sends it to its server.

use super::{Counted, Generated, Reference, Refusal, Seen, Sent, Slots, fragments::Record, select::Selected};
use crate::{
    answers::Cause,
    flow::Path,
    outcome::{Action, Group, Reason},
    packet::Packet,
    rewrite::End,
    tunnel::TunnelFlow,
    world::{Interface, Mode, Protocol, position},
};

impl<S: Slots> Reference<'_, S> {
    /// `bytes` is the length of the frame that arrived.
    pub(super) fn request(
        &mut self,
        packet: &Packet,
        listener: usize,
        arrival: &Interface,
        bytes: usize,
        seen: &Seen<'_>,
    ) -> Result<Sent, Refusal> {
        self.check_arrival(packet, arrival)?;
        self.check_access(packet.source.ip(), listener)?;
        let mode = self.world.listening(listener).mode;
        if packet.hop_limit <= 1 && mode != Mode::Dsr {
            return Err(Refusal::IcmpError(Cause::HopLimit, Reason::HopLimit));
        }
        let (_, sender) = packet.macs();
        let path =
            Path { interface: self.world.vlan_device(packet, arrival).unwrap_or(arrival.index), mac: sender };
        let protocol = self.world.listening(listener).protocol;
        let was_assured = self.flows.get(&(packet.source, protocol, listener)).map(|flow| flow.marks.assured);
        let selected = self.select(packet, listener, path)?;
        let Selected { server: number, is_new, is_finished, is_named } = selected;
        // The server may take any SYN for the beginning of a connection.
        let may_open = packet.segment.is_syn() || was_assured == Some(false);
        let is_opening = is_new || (may_open && was_assured.is_some() && !is_finished && !packet.is_rst());
        let source = self.source_of(packet, (packet.source, protocol, listener), &selected, seen)?;
        let server = self.world.servers[number];
        let hop = server.hop.ok_or(Refusal::Drop(Reason::NoNextHop))?;
        let overhead = mode.overhead(server.at);
        // A RST is small.
        if packet.len + overhead > hop.mtu as usize && !is_finished {
            let mtu = hop.mtu - overhead as u32;
            return Err(Refusal::IcmpError(Cause::TooBig(mtu), Reason::TooBig));
        }
        // The server does not hold the VIP, and routes the packet back.
        if mode == Mode::Dsr && sender == hop.peer {
            return Err(Refusal::Drop(Reason::Loop));
        }
        self.check_egress(packet, arrival, hop.interface, hop.tag)?;
        self.check_bytes_in(listener, bytes)?;
        let ends = [packet.source, source.unwrap_or(packet.source)];
        self.record(packet, Record::to_server(listener, number, ends, self.now), is_finished);
        let (reset, mut reason) = (self.reset_of(packet, is_finished)?, Reason::ToServer);
        let packet = match &reset {
            Some(reset) => {
                reason = Reason::Reset;
                reset
            }
            None => packet,
        };
        let has_toa = self.world.listening(listener).toa;
        let opens = is_opening && source.is_some();
        let is_tcp = packet.protocol() == Some(Protocol::Tcp);
        let changes_options = opens && is_tcp && (has_toa || packet.segment.is_syn());
        let frame = match mode {
            Mode::Nat | Mode::FullNat => {
                let room = if has_toa { (hop.mtu as usize).saturating_sub(packet.len) } else { 0 };
                let with_option = changes_options.then(|| packet.with_client_option(room));
                let source = source.unwrap_or(packet.source);
                let packet = with_option.as_ref().unwrap_or(packet);
                packet.translated(
                    [(End::Source, source), (End::Destination, self.world.endpoint(number, listener))],
                    hop.peer,
                    hop.own,
                )
            }
            Mode::Dsr => packet.readdressed(hop.peer, hop.own),
            Mode::Ipip | Mode::Gue => {
                let seen = TunnelFlow::read(seen.frame, mode);
                let known = *self.tunnel_flows.entry((listener, packet.source)).or_insert(seen);
                packet.encapsulated(&self.world, mode, server.at.ip(), &hop, known)
            }
        };
        let frame = self.world.in_vlan(frame, packet, arrival, hop.tag);
        for counted in [Counted::Listener(position(listener)), Counted::Server(number)] {
            let traffic = self.traffic.entry(counted).or_default();
            traffic.packets_in += 1;
            traffic.bytes_in += bytes as u64;
            traffic.new_flows += u64::from(is_new);
        }
        let opening = (has_toa && changes_options).then_some(Group::ToServerWithClientOption);
        let group = opening.or_else(|| packet.tag_change(&frame));
        let group = group.or_else(|| is_named.then_some(Group::ToServerByConnectionId));
        Ok(Sent { out: hop.interface, action: Action::Forward, reason, frame, group })
    }

    /// The RST that the packet becomes if its connection is finished.
    fn reset_of(&mut self, packet: &Packet, is_finished: bool) -> Result<Option<Packet>, Refusal> {
        if !is_finished {
            return Ok(None);
        }
        let may = packet.fragment.is_none() && self.may_send(Generated::Resets);
        let reset = may.then(|| packet.forward_reset()).flatten();
        reset.map(Some).ok_or(Refusal::Drop(Reason::Reset))
    }
}
