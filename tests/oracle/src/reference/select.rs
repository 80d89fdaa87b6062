//! Selects the server of a client's packet.

use std::net::SocketAddr;

use super::{FlowKey, Reference, Refusal, Slots, TRIES};
use crate::{
    flow::{Beginning, Clock, Flow, Path},
    outcome::Reason,
    packet::{Content, Packet},
    world::{Listener, Mode, Protocol, ServerState, port_of, position},
};

/// The server of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selected {
    /// A position in the world's servers.
    pub(super) server: usize,
    pub(super) is_new: bool,
    /// Whether the packet goes to the server as a RST.
    pub(super) is_finished: bool,
    /// Whether its connection ID has chosen the server.
    pub(super) is_named: bool,
}

impl Selected {
    const fn known(server: usize) -> Self {
        Self { server, is_new: false, is_finished: false, is_named: false }
    }
}

/// What a flow says about a packet of its client endpoint.
enum Known {
    Goes(Selected),
    /// The flow has ended, or its server has.
    Anew,
    /// The packet belongs to another connection.
    Another,
}

/// Whether all flows of a listener have entries.
fn is_tracked(listener: &Listener) -> bool {
    listener.mode.sees_replies() || listener.track
}

/// Client endpoints have at most this many flows by other listeners; a further one could not be told from them.
const CONFLICTS: usize = 4;

impl<S: Slots> Reference<'_, S> {
    pub(super) fn select(
        &mut self,
        packet: &Packet,
        number: usize,
        arrival: Path,
    ) -> Result<Selected, Refusal> {
        let listener = self.world.listening(number);
        let protocol = listener.protocol;
        let is_migrating = match listener.table {
            Some(table) => self.world.tables[table].previous.is_some(),
            None if !listener.mode.sees_replies() && !listener.track => {
                return Err(Refusal::Drop(Reason::NotReady));
            }
            None => false,
        };
        let named = self.named(packet, &listener);
        if let Some(server) = named
            && !is_tracked(&listener)
        {
            self.check_hop(server)?;
            return Ok(Selected { is_named: true, ..Selected::known(server) });
        }
        if !is_tracked(&listener) && !is_migrating {
            let slots = self.slots_of(packet, number, &listener)?;
            let server = self.current(packet, slots[0])?;
            self.check_hop(server)?;
            let is_new = packet.segment.is_syn() && !packet.is_rst();
            return Ok(Selected { is_new, ..Selected::known(server) });
        }
        let key = (packet.source, protocol, number);
        // The entry has another server than the connection.
        if let (Some(named), Some(flow)) = (named, self.flows.get(&key))
            && flow.server != named
        {
            return self.begin(packet, key, &listener, arrival, false);
        }
        match self.known(packet, key, &listener, arrival)? {
            Some(Known::Goes(selected)) => Ok(selected),
            Some(Known::Another) => {
                let (server, _) = self.by_hash(packet, key, &listener)?;
                self.check_hop(server)?;
                let is_finished =
                    self.world.servers[server].state == ServerState::Terminating && !packet.is_rst();
                Ok(Selected { is_finished, ..Selected::known(server) })
            }
            Some(Known::Anew) => self.begin(packet, key, &listener, arrival, false),
            None => self.begin(packet, key, &listener, arrival, true),
        }
    }

    /// The server that the packet's connection ID names, if it may have the packet.
    fn named(&self, packet: &Packet, listener: &Listener) -> Option<usize> {
        let (id, may_begin) = packet.server_id(listener.quic?)?;
        if may_begin && is_tracked(listener) {
            return None;
        }
        let (_, server) = self.world.quic_servers(listener.table?).find(|(named, _)| *named == id)?;
        let state = self.world.servers[server].state;
        let may_have = if may_begin { state == ServerState::Up } else { state.is_alive() };
        may_have.then_some(server)
    }

    /// Checks that a flow to a named server can be told from others, and that its replies return.
    fn check_named(&self, packet: &Packet, key: FlowKey, server: usize) -> Result<(), Refusal> {
        let at = self.world.endpoint(server, key.2);
        if !self.world.listening(key.2).mode.sees_replies() {
            return Ok(());
        }
        let has_local = self.world.locals.iter().any(|local| local.is_ipv4() == at.is_ipv4());
        if at.ip() == packet.source.ip() && !has_local {
            return Err(Refusal::Drop(Reason::Hairpin));
        }
        if self.conflicting(key).contains(&at) {
            return Err(Refusal::Drop(Reason::PortConflict));
        }
        Ok(())
    }

    fn check_hop(&self, server: usize) -> Result<(), Refusal> {
        match self.world.servers[server].hop {
            Some(_) => Ok(()),
            None => Err(Refusal::Drop(Reason::NoNextHop)),
        }
    }

    fn slots_of(
        &self,
        packet: &Packet,
        number: usize,
        listener: &Listener,
    ) -> Result<[Option<usize>; TRIES], Refusal> {
        let table = listener.table.ok_or(Refusal::Drop(Reason::NotReady))?;
        let slots = self.slots.of(position(number), table, packet.source);
        let members = &self.world.tables[table].members;
        let is_permitted = |server: &Option<usize>| match server {
            Some(server) => members.contains(server),
            None => members.is_empty(),
        };
        assert!(slots.iter().all(is_permitted), "the table of {listener:?} names {slots:?}");
        Ok(slots)
    }

    /// The current backend of a slot, if it may have the packet.
    fn current(&self, packet: &Packet, slot: Option<usize>) -> Result<usize, Refusal> {
        let server = slot.ok_or(Refusal::Drop(Reason::NoServer))?;
        let state = self.world.servers[server].state;
        if state.is_alive() {
            return Ok(server);
        }
        if !packet.is_mid_stream() || state == ServerState::Gone {
            return Err(Refusal::Drop(Reason::NoServer));
        }
        if state == ServerState::Terminating && !packet.is_rst() {
            return Err(Refusal::Reset(Reason::Reset));
        }
        Ok(server)
    }

    /// What the flow in the table says; `None` if there is none.
    fn known(
        &mut self,
        packet: &Packet,
        key: FlowKey,
        listener: &Listener,
        arrival: Path,
    ) -> Result<Option<Known>, Refusal> {
        let (clock, segment) = (self.clock(key.2), packet.segment);
        let Some(flow) = self.flows.get_mut(&key) else { return Ok(None) };
        let (is_expired, is_mid_stream) = (flow.is_expired(clock.now), packet.is_mid_stream());
        let sees_replies = listener.mode.sees_replies();
        if is_expired && !(sees_replies && is_mid_stream) {
            return Ok(Some(Known::Anew));
        }
        if !sees_replies
            && is_mid_stream
            && !flow.marks.assured
            && !flow.marks.picked_up
            && !flow.finishes(segment)
        {
            let is_done = flow.silence(clock.now) >= clock.hz;
            return Ok(Some(if is_done { Known::Anew } else { Known::Another }));
        }
        let server = self.world.servers[flow.server];
        if !stays(flow, packet, server.state, clock) {
            return Ok(Some(Known::Anew));
        }
        let is_terminating = server.state == ServerState::Terminating;
        if is_mid_stream && (is_terminating || (is_expired && flow.is_reset_due(segment, clock))) {
            let is_finished = !packet.is_rst();
            if (is_finished && flow.marks.reset) || server.hop.is_none() {
                return Err(Refusal::Reset(Reason::Reset));
            }
            flow.mark_reset();
            return Ok(Some(Known::Goes(Selected { is_finished, ..Selected::known(flow.server) })));
        }
        if server.hop.is_none() {
            return Err(Refusal::Drop(Reason::NoNextHop));
        }
        flow.asked(segment, arrival, clock);
        Ok(Some(Known::Goes(Selected::known(flow.server))))
    }

    /// Selects a server for a packet without a flow. `is_first` says whether the table has none, not even an ended one.
    fn begin(
        &mut self,
        packet: &Packet,
        key: FlowKey,
        listener: &Listener,
        arrival: Path,
        is_first: bool,
    ) -> Result<Selected, Refusal> {
        let sees_replies = listener.mode.sees_replies();
        // The flow's server is gone, and no other one can continue the connection.
        if sees_replies && packet.is_mid_stream() && !is_first {
            return Err(Refusal::Reset(Reason::Reset));
        }
        if !packet.is_rst() && self.conflicting(key).len() >= CONFLICTS {
            return Err(Refusal::Drop(Reason::ClientPortBusy));
        }
        let is_tcp = packet.content == Content::Tcp;
        let is_syn = packet.segment.is_syn();
        let is_new = (is_syn && !packet.is_rst()) || (sees_replies && !is_tcp);
        // A flow that has lost its server is no new one.
        let now = self.now;
        let has_ended = |flow: &Flow| flow.marks.is_finished() || flow.is_expired(now);
        if is_new && self.flows.get(&key).is_none_or(has_ended) {
            self.check_new_connection(key.2)?;
        }
        let named = self.named(packet, listener);
        let (server, previous) = match named {
            Some(server) => {
                self.check_named(packet, key, server)?;
                (server, None)
            }
            None => self.by_hash(packet, key, listener)?,
        };
        self.check_hop(server)?;
        let is_finished = packet.is_mid_stream()
            && self.world.servers[server].state == ServerState::Terminating
            && !packet.is_rst();
        let selected = Selected { server, is_new, is_finished, is_named: named.is_some() };
        // The hash finds the flow of a slot whose previous backend is the current one, too.
        let is_found = !sees_replies && is_first && !listener.track && is_syn && previous == Some(server);
        // A RST begins no flow.
        if is_found || packet.is_rst() {
            return Ok(selected);
        }
        if listener.mode == Mode::Nat {
            self.release_reused(key, server);
        }
        let segment = packet.segment;
        let mut flow =
            Flow::begun(Beginning { server, is_tcp, sees_replies, arrival, segment }, self.clock(key.2));
        flow.marks.reset = is_finished;
        self.flows.insert(key, flow);
        Ok(selected)
    }

    /// The server that the hash selects, and the previous backend of its slot.
    pub(super) fn by_hash(
        &self,
        packet: &Packet,
        key: FlowKey,
        listener: &Listener,
    ) -> Result<(usize, Option<usize>), Refusal> {
        let slots = self.slots_of(packet, key.2, listener)?;
        let sees_replies = listener.mode.sees_replies();
        let is_tcp = listener.protocol == Protocol::Tcp;
        let may_be_old = if is_tcp { packet.is_mid_stream() } else { !sees_replies && !listener.follow };
        let table = listener.table.map(|table| &self.world.tables[table]);
        let is_there = |server: &usize| self.world.servers[*server].state != ServerState::Gone;
        let previous = table.and_then(|table| table.previous).filter(is_there);
        let conflicting = self.conflicting(key);
        for slot in slots {
            let server = match previous {
                Some(previous) if may_be_old && (is_tcp || self.world.servers[previous].state.is_alive()) => {
                    previous
                }
                _ => self.current(packet, slot)?,
            };
            let at = self.world.endpoint(server, key.2);
            if !sees_replies {
                return Ok((server, previous));
            }
            let has_local = self.world.locals.iter().any(|local| local.is_ipv4() == at.is_ipv4());
            if at.ip() == packet.source.ip() && !has_local {
                return Err(Refusal::Drop(Reason::Hairpin));
            }
            if packet.is_rst() || !conflicting.contains(&at) {
                return Ok((server, previous));
            }
        }
        Err(Refusal::Drop(Reason::PortConflict))
    }

    /// The server endpoints of other live flows of the client endpoint whose replies SLB sees. Sources tell flows apart,
    /// and so do the ports of servers behind a range.
    fn conflicting(&self, (client, protocol, listener): FlowKey) -> Vec<SocketAddr> {
        if self.world.listening(listener).mode != Mode::Nat {
            return Vec::new();
        }
        let range_port = port_of(listener);
        let is_live = |flow: &Flow| {
            !flow.is_translated
                && !flow.is_ended(self.now)
                && self.world.servers[flow.server].state != ServerState::Gone
        };
        let flows = self.flows.iter().filter(|(key, flow)| {
            (key.0, key.1) == (client, protocol)
                && key.2 != listener
                && self.world.listening(key.2).mode == Mode::Nat
                && is_live(flow)
        });
        flows
            .map(|(key, flow)| self.world.endpoint(flow.server, key.2))
            .filter(|at| range_port == 0 || at.port() == range_port)
            .collect()
    }

    /// Marks other ended flows of the client endpoint with the same server endpoint: a new flow has it now.
    fn release_reused(&mut self, (client, protocol, listener): FlowKey, server: usize) {
        let at = self.world.endpoint(server, listener);
        let others = self.flows.iter_mut().filter(|(key, _)| (key.0, key.1) == (client, protocol));
        for (key, flow) in others.filter(|(key, _)| key.2 != listener) {
            if !flow.is_translated
                && flow.is_ended(self.now)
                && self.world.servers[flow.server].state != ServerState::Gone
                && self.world.endpoint(flow.server, key.2) == at
            {
                flow.marks.reused = true;
            }
        }
    }
}

/// Whether a packet stays with its flow's server.
fn stays(flow: &Flow, packet: &Packet, state: ServerState, clock: Clock) -> bool {
    if state == ServerState::Gone {
        return false;
    }
    if packet.content != Content::Tcp {
        return state.is_alive();
    }
    if packet.is_mid_stream() {
        return true;
    }
    if state == ServerState::Terminating || flow.has_ended_for_syn(clock) {
        return false;
    }
    state == ServerState::Up || (state == ServerState::Drains && flow.lets_server_decide())
}
