//! The source of a flow's packets towards its server (mode `full-nat`, and mode `nat` where the server is the client).
//!
//! Which one of the free sources a flow gets is the product's choice. The reference says whether it may be that one.

use std::net::{IpAddr, SocketAddr};

use super::{FlowKey, Reference, Refusal, Seen, Slots, select::Selected};
use crate::{
    flow::Flow,
    outcome::Reason,
    packet::Packet,
    world::{Mode, Protocol, ServerState},
};

/// Seconds after which the source of a finished or expired connection is free.
const REST_SECONDS: u32 = 60;
/// Seconds after which a flow that is not established loses its source, where sources are scarce.
const SCARCE_SECONDS: u32 = 1;
/// The same for datagrams that were answered.
const ANSWERED_SECONDS: u32 = 30;
/// Sources that a flow tries before they count as scarce.
const PLENTY: usize = 16;
/// A range of so many ports is searched to its end.
const SEARCHED: usize = 64;

/// Who uses a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// Another flow, or one that has ended long enough ago.
    Free,
    /// A flow that loses it if sources are scarce.
    Weak,
    Firm,
}

impl<S: Slots> Reference<'_, S> {
    /// The source that the packet of a flow gets; `None` if it keeps its own.
    pub(super) fn source_of(
        &mut self,
        packet: &Packet,
        key: FlowKey,
        selected: &Selected,
        seen: &Seen<'_>,
    ) -> Result<Option<SocketAddr>, Refusal> {
        let mode = self.world.listening(key.2).mode;
        if !matches!(mode, Mode::Nat | Mode::FullNat) || (mode == Mode::Nat && self.world.locals.is_empty()) {
            return Ok(None);
        }
        let server = self.world.endpoint(selected.server, key.2);
        match self.flows.get(&key) {
            // A RST begins no flow.
            None if mode == Mode::FullNat => return Err(Refusal::Drop(Reason::Reset)),
            None => return Ok(None),
            Some(Flow { source: Some(source), .. }) => return Ok(Some(*source)),
            Some(_) => {}
        }
        let is_one = |is: fn(&Flow) -> bool| self.flows.get(&key).is_some_and(is);
        let begins = is_one(|flow| !flow.marks.assured && !flow.marks.answered);
        let has_local = self.world.locals.iter().any(|local| local.is_ipv4() == server.is_ipv4());
        let is_translated = mode == Mode::FullNat
            || is_one(|flow| flow.is_translated)
            || (begins && has_local && server.ip() == packet.source.ip());
        if !is_translated {
            return Ok(None);
        }
        self.flows.get_mut(&key).expect("the flow was found").is_translated = true;
        let chosen = self.choice(packet, key, server, seen).ok_or(Refusal::Drop(Reason::NoSourcePort))?;
        for (other, flow) in self.flows.iter_mut().filter(|(_, flow)| flow.source == Some(chosen)) {
            if self.world.endpoint(flow.server, other.2) == server && flow.is_tcp == (key.1 == Protocol::Tcp)
            {
                flow.source = None;
            }
        }
        self.flows.get_mut(&key).expect("the flow was found").source = Some(chosen);
        Ok(Some(chosen))
    }

    /// The source that the product has chosen, if it may; else one that it may choose. `None` if there is none.
    fn choice(
        &self,
        packet: &Packet,
        key: FlowKey,
        server: SocketAddr,
        seen: &Seen<'_>,
    ) -> Option<SocketAddr> {
        let (first, last) = self.world.local_ports;
        let locals: Vec<IpAddr> = self
            .world
            .locals
            .iter()
            .copied()
            .filter(|local| local.is_ipv4() == packet.source.is_ipv4())
            .collect();
        let holder = |source| self.holder(source, server, key.1);
        let own = packet.source.port();
        let mut allowed: Vec<SocketAddr> = locals
            .iter()
            .map(|local| SocketAddr::new(*local, own))
            .filter(|source| (first..=last).contains(&own) && holder(*source) == Holder::Free)
            .collect();
        let seen = (seen.source)(key.0, key.1, key.2);
        if allowed.is_empty() {
            let all = usize::from(last - first) + 1;
            if locals.len() * all > SEARCHED {
                // Some port is free.
                let is_one = |seen: &SocketAddr| {
                    locals.contains(&seen.ip())
                        && (first..=last).contains(&seen.port())
                        && holder(*seen) == Holder::Free
                };
                return seen.filter(is_one).or_else(|| Some(SocketAddr::new(locals.first().copied()?, 0)));
            }
            let sources =
                locals.iter().flat_map(|local| (first..=last).map(|port| SocketAddr::new(*local, port)));
            let (free, taken): (Vec<_>, Vec<_>) = sources.partition(|source| holder(*source) == Holder::Free);
            let weak = taken.into_iter().filter(|source| holder(*source) == Holder::Weak);
            let may_miss_free = locals.len() * all > PLENTY || free.is_empty();
            allowed.extend(weak.filter(|_| may_miss_free));
            allowed.extend(free);
        }
        seen.filter(|seen| allowed.contains(seen)).or_else(|| allowed.first().copied())
    }

    fn holder(&self, source: SocketAddr, server: SocketAddr, protocol: Protocol) -> Holder {
        let holds = |(key, flow): &(&FlowKey, &Flow)| {
            flow.source == Some(source)
                && self.world.endpoint(flow.server, key.2) == server
                && self.world.servers[flow.server].state != ServerState::Gone
                && flow.is_tcp == (protocol == Protocol::Tcp)
        };
        let Some((_, flow)) = self.flows.iter().find(holds) else { return Holder::Free };
        let silence = flow.silence(self.now);
        let (hz, is_finished) = (self.world.hz, flow.marks.is_finished());
        let rest = if flow.is_tcp { REST_SECONDS * hz } else { 0 };
        let has_ended = is_finished || flow.is_expired(self.now.wrapping_sub(rest));
        let early = if !flow.is_tcp && flow.marks.answered { ANSWERED_SECONDS } else { SCARCE_SECONDS };
        if has_ended && silence >= rest {
            Holder::Free
        } else if !flow.marks.assured && silence >= early * hz {
            Holder::Weak
        } else {
            Holder::Firm
        }
    }

    /// The flow with this source to a server.
    pub(super) fn flow_from(
        &self,
        source: SocketAddr,
        protocol: Protocol,
        server: SocketAddr,
    ) -> Option<FlowKey> {
        let is_it = |(key, flow): &(&FlowKey, &Flow)| {
            let there = &self.world.servers[flow.server];
            flow.source == Some(source)
                && key.1 == protocol
                && self.world.endpoint(flow.server, key.2) == server
                && there.state != ServerState::Gone
        };
        self.flows.iter().find(is_it).map(|(key, _)| *key)
    }
}
