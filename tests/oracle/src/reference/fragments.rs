//! Later fragments: they go where the first one went.

use std::net::{IpAddr, SocketAddr};

use super::{Counted, Reference, Refusal, Sent, Slots};
use crate::{
    flow::{NO_MAC, Path},
    outcome::{Action, Group, Reason},
    packet::{Packet, Refused},
    rewrite::End,
    tunnel::TunnelFlow,
    world::{Interface, Mode, ServerState, position},
};

/// Seconds after which the fragments of a packet are given up.
const SECONDS: u32 = 30;

/// Source, destination, identification and protocol number.
pub(super) type FragmentKey = (IpAddr, IpAddr, u32, u8);

/// Where a first fragment went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    listener: usize,
    server: usize,
    to: To,
    /// When it arrived, in jiffies.
    since: u32,
}

#[derive(Debug, Clone, Copy)]
enum To {
    /// From this client endpoint, which becomes this source.
    Server(SocketAddr, SocketAddr),
    /// By this path, to this client endpoint.
    Client(Path, SocketAddr),
}

impl Record {
    pub(super) fn to_server(
        listener: usize,
        server: usize,
        [client, source]: [SocketAddr; 2],
        since: u32,
    ) -> Self {
        Self { listener, server, to: To::Server(client, source), since }
    }

    pub(super) fn to_client(
        listener: usize,
        server: usize,
        (path, client): (Path, SocketAddr),
        since: u32,
    ) -> Self {
        Self { listener, server, to: To::Client(path, client), since }
    }
}

fn key(packet: &Packet) -> Option<FragmentKey> {
    Some((packet.source.ip(), packet.destination.ip(), packet.fragment?.id, packet.number))
}

impl<S: Slots> Reference<'_, S> {
    /// The packet that had the identification of this first fragment is complete or lost.
    pub(super) fn begin_fragments(&mut self, packet: &Packet) {
        if let Some(key) = key(packet) {
            self.fragments.remove(&key);
        }
    }

    /// Notes where a first fragment is sent. Of a finished connection no fragment is.
    pub(super) fn record(&mut self, packet: &Packet, record: Record, is_finished: bool) {
        if let Some(key) = key(packet).filter(|_| !is_finished) {
            self.fragments.insert(key, record);
        }
    }

    /// A later fragment. Nothing answers it.
    pub(super) fn follow(
        &mut self,
        packet: &Packet,
        arrival: &Interface,
        bytes: usize,
        seen: &[u8],
    ) -> Result<Sent, Refusal> {
        let record = key(packet).and_then(|key| self.fragments.get(&key)).copied();
        let Some(record) = record.filter(|record| self.now - record.since < SECONDS * self.world.hz) else {
            return Err(self.refused(&Refused::fragment(packet.destination.ip(), None), arrival));
        };
        if self.world.servers[record.server].state == ServerState::Gone {
            return Err(Refusal::Drop(Reason::NoServer));
        }
        match record.to {
            To::Server(client, source) => {
                self.follow_to_server(packet, record, [client, source], arrival, bytes, seen)
            }
            To::Client(path, client) => self.follow_to_client(packet, record, (path, client), arrival, bytes),
        }
    }

    fn follow_to_server(
        &mut self,
        packet: &Packet,
        Record { listener, server: number, .. }: Record,
        [client, source]: [SocketAddr; 2],
        arrival: &Interface,
        bytes: usize,
        seen: &[u8],
    ) -> Result<Sent, Refusal> {
        if !arrival.client {
            return Err(Refusal::Drop(Reason::WrongInterface));
        }
        self.check_access(packet.source.ip(), listener)?;
        let (mode, server) = (self.world.listening(listener).mode, self.world.servers[number]);
        if packet.hop_limit <= 1 && mode != Mode::Dsr {
            return Err(Refusal::Drop(Reason::HopLimit));
        }
        let hop = server.hop.ok_or(Refusal::Drop(Reason::NoNextHop))?;
        if packet.len + mode.overhead(server.at) > hop.mtu as usize {
            return Err(Refusal::Drop(Reason::TooBig));
        }
        let (_, sender) = packet.macs();
        if mode == Mode::Dsr && sender == hop.peer {
            return Err(Refusal::Drop(Reason::Loop));
        }
        self.check_egress(packet, arrival, hop.interface, hop.tag)?;
        self.check_bytes_in(listener, bytes)?;
        let (frame, group) = match mode {
            Mode::Nat | Mode::FullNat => {
                let ends = [(End::Source, source), (End::Destination, self.world.endpoint(number, listener))];
                let group = if source == client {
                    Group::FragmentToServerNat
                } else {
                    Group::FragmentToServerFullNat
                };
                (packet.translated(ends, hop.peer, hop.own), group)
            }
            Mode::Dsr => (packet.readdressed(hop.peer, hop.own), Group::FragmentToServerDsr),
            Mode::Ipip | Mode::Gue => {
                // That of the flow, whose ports the first fragment has.
                let seen = TunnelFlow::read(seen, mode);
                let known = *self.tunnel_flows.entry((listener, client)).or_insert(seen);
                let group =
                    if mode == Mode::Gue { Group::FragmentToServerGue } else { Group::FragmentToServerIpip };
                (packet.encapsulated(&self.world, mode, server.at.ip(), &hop, known), group)
            }
        };
        let frame = self.world.in_vlan(frame, packet, arrival, hop.tag);
        for counted in [Counted::Listener(position(listener)), Counted::Server(number)] {
            let traffic = self.traffic.entry(counted).or_default();
            traffic.packets_in += 1;
            traffic.bytes_in += bytes as u64;
        }
        let reason = Reason::ToServer;
        Ok(Sent { out: hop.interface, action: Action::Forward, reason, frame, group: Some(group) })
    }

    fn follow_to_client(
        &mut self,
        packet: &Packet,
        Record { listener, server: number, .. }: Record,
        (path, client): (Path, SocketAddr),
        arrival: &Interface,
        bytes: usize,
    ) -> Result<Sent, Refusal> {
        if !arrival.server {
            return Err(Refusal::Drop(Reason::WrongInterface));
        }
        self.world.servers[number].check_way(packet, arrival, &self.world)?;
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
        self.check_bytes_out(listener, bytes)?;
        let vip = self.world.listening(listener).at;
        let ends = [(End::Source, vip), (End::Destination, client)];
        let frame = packet.translated(ends, path.mac, out.own);
        for counted in [Counted::Listener(position(listener)), Counted::Server(number)] {
            let traffic = self.traffic.entry(counted).or_default();
            traffic.packets_out += 1;
            traffic.bytes_out += frame.len() as u64;
        }
        let (action, reason) = (Action::Forward, Reason::ToClient);
        let frame = self.world.in_vlan(frame, packet, arrival, out.tag);
        Ok(Sent { out: out.interface, action, reason, frame, group: Some(Group::FragmentToClient) })
    }
}
