//! How many sources (mode `full-nat`) flows have of each local address towards each server endpoint. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use slb_common::abi::{Handle, ids::BackendId, protocol::IpProtocol, service::IndexEntry};

use crate::dataplane::state::{FlowRecord, MapState, to_ip};

/// Percentage of a local address's ports from which they count as nearly used up.
const NEARLY_FULL_PERCENT: u32 = 80;
/// Percentage below which they no longer do.
const RELIEVED_PERCENT: u32 = 70;

/// A server endpoint and a protocol: towards another one, each source can be used again.
pub type ServerEndpoint = (SocketAddr, IpProtocol);

/// Used ports of local addresses towards a server endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourcePorts {
    /// Ports that flows have.
    pub used: u32,
    /// Ports that flows may have. 0 for an address that new flows do not choose.
    pub ports: u32,
}

impl SourcePorts {
    /// Percentage of the ports that is used; 0 without ports.
    pub const fn percent(self) -> u32 {
        match (self.used as u64 * 100).checked_div(self.ports as u64) {
            Some(percent) => percent as u32,
            None => 0,
        }
    }
}

/// Used ports by server endpoint and local address.
pub type SourceUsage = BTreeMap<(ServerEndpoint, IpAddr), SourcePorts>;

/// Sources counted in one GC pass. It has an entry for each server, protocol and local address in use, and behind a port
/// range for each port.
#[derive(Debug, Default)]
pub(super) struct SourceCounter {
    /// By server, port of a range's flow in network byte order, protocol and slot.
    by_server: HashMap<(Handle, u16, IpProtocol, u8), u32>,
    /// Slots of local addresses that any flow has, also one without a service.
    slots: BTreeSet<u8>,
}

impl SourceCounter {
    /// Counts a flow. `entry` is that of its service.
    pub(super) fn note(&mut self, flow: &FlowRecord, entry: Option<&IndexEntry>) {
        if flow.source.is_none() {
            return;
        }
        self.slots.insert(flow.source.local());
        if let Some(protocol) = entry.and_then(IndexEntry::protocol).filter(|_| flow.source.is_allocated()) {
            let key = (flow.backend, flow.range_port, protocol, flow.source.local());
            *self.by_server.entry(key).or_default() += 1;
        }
    }

    /// Slots of local addresses in `state` that new flows do not choose, and that no flow has.
    pub(super) fn unused(&self, state: &MapState) -> BTreeSet<u8> {
        let locals = &state.index.locals;
        let slots = locals.addresses().map(|(slot, _)| slot);
        slots.filter(|slot| !locals.candidates.contains(slot) && !self.slots.contains(slot)).collect()
    }

    /// Used ports by server endpoint, over all its tables.
    pub(super) fn usage(&self, state: &MapState) -> SourceUsage {
        let locals = &state.index.locals;
        let mut usage = SourceUsage::new();
        for ((handle, port, protocol, slot), used) in &self.by_server {
            let backend = state.backends.get(&BackendId::of(*handle));
            let (Some(backend), Some(local)) =
                (backend.filter(|backend| backend.handle == *handle), locals.slots.get(slot))
            else {
                continue;
            };
            let ports = u32::from(local.last_port).saturating_sub(u32::from(local.first_port)) + 1;
            let ports = if locals.candidates.contains(slot) { ports } else { 0 };
            let server = SocketAddr::new(to_ip(&backend.address), u16::from_be(backend.port_for(*port)));
            let key = ((server, *protocol), to_ip(&local.address));
            usage.entry(key).or_insert(SourcePorts { used: 0, ports }).used += used;
        }
        usage
    }
}

/// The ports of a local address towards a server endpoint are nearly used up, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceChange {
    /// The server endpoint.
    pub server: ServerEndpoint,
    /// The local address.
    pub local: IpAddr,
    /// Used ports now.
    pub ports: SourcePorts,
    /// Whether they are nearly used up.
    pub is_scarce: bool,
}

/// Local addresses whose ports were nearly used up after the last GC pass, by server endpoint.
#[derive(Debug, Default)]
pub struct ScarceSources(BTreeSet<(ServerEndpoint, IpAddr)>);

impl ScarceSources {
    /// Takes the usage after a GC pass. Returns the changes.
    pub fn update(&mut self, usage: &SourceUsage) -> Vec<SourceChange> {
        let mut changes = Vec::new();
        let none = SourcePorts { used: 0, ports: 0 };
        let known = self.0.iter().filter(|key| !usage.contains_key(key)).map(|key| (*key, none));
        let known: Vec<_> = known.collect();
        for ((server, local), ports) in usage.iter().map(|(key, ports)| (*key, *ports)).chain(known) {
            let was_scarce = self.0.contains(&(server, local));
            let least = if was_scarce { RELIEVED_PERCENT } else { NEARLY_FULL_PERCENT };
            let is_scarce = ports.percent() >= least;
            if is_scarce != was_scarce {
                changes.push(SourceChange { server, local, ports, is_scarce });
            }
            if is_scarce {
                self.0.insert((server, local));
            } else {
                self.0.remove(&(server, local));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use slb_common::abi::{
        Address,
        backend::Backend,
        ids::{ServiceTag, TableId},
        local_address::LocalAddress,
        source::Source,
    };

    use super::*;

    fn tcp() -> IndexEntry {
        IndexEntry { protocol: IpProtocol::Tcp.number(), ..IndexEntry::default() }
    }

    fn flow(server: u32, source: Source) -> FlowRecord {
        FlowRecord { source, ..FlowRecord::sample(ServiceTag::new(1), Handle::new(server, 7)) }
    }

    /// Two server entries of one endpoint and one of another; local addresses in slots 3 and 9, of which the second is
    /// no choice.
    fn state() -> MapState {
        let mut state = MapState::default();
        for (id, port) in [(1_u32, 80_u16), (2, 80), (3, 81)] {
            let backend = Backend {
                address: Address::v4([10, 0, 0, 1]),
                port: port.to_be(),
                handle: Handle::new(id, 7),
                lookup_table: TableId::new(id).index(),
                ..Backend::default()
            };
            state.backends.insert(BackendId::new(id), backend);
        }
        for slot in [3, 9] {
            let local = LocalAddress {
                address: Address::v4([192, 0, 2, slot]),
                first_port: 1000,
                last_port: 1099,
                reserved: 0,
            };
            state.index.locals.slots.insert(slot, local);
        }
        state.index.locals.candidates.insert(3);
        state
    }

    #[test]
    fn sources_are_counted_by_endpoint_and_local_address() {
        let (state, entry) = (state(), tcp());
        let mut counter = SourceCounter::default();
        for (server, source) in [
            (1, Source::candidate(3, 1).allocated()),
            (2, Source::candidate(3, 2).allocated()),
            (3, Source::candidate(3, 1).allocated()),
            (3, Source::candidate(9, 1).allocated()),
            (3, Source::candidate(3, 5)),
            (1, Source::NONE),
        ] {
            counter.note(&flow(server, source), Some(&entry));
        }
        let server = |port| (SocketAddr::from(([10, 0, 0, 1], port)), IpProtocol::Tcp);
        let local = |n| IpAddr::from([192, 0, 2, n]);
        let expected = [
            ((server(80), local(3)), SourcePorts { used: 2, ports: 100 }),
            ((server(81), local(3)), SourcePorts { used: 1, ports: 100 }),
            ((server(81), local(9)), SourcePorts { used: 1, ports: 0 }),
        ];
        assert_eq!(counter.usage(&state), SourceUsage::from(expected));
        assert_eq!(counter.unused(&state), BTreeSet::new());
    }

    #[test]
    fn each_port_behind_a_range_is_an_endpoint() {
        let mut state = state();
        state.backends.get_mut(&BackendId::new(1)).unwrap().port = 0;
        let mut counter = SourceCounter::default();
        for port in [8000_u16, 8000, 8001] {
            let to = FlowRecord { range_port: port.to_be(), ..flow(1, Source::candidate(3, 1).allocated()) };
            counter.note(&to, Some(&tcp()));
        }
        let key =
            |port| ((SocketAddr::from(([10, 0, 0, 1], port)), IpProtocol::Tcp), IpAddr::from([192, 0, 2, 3]));
        let expected =
            [(8000, 2), (8001, 1)].map(|(port, used)| (key(port), SourcePorts { used, ports: 100 }));
        assert_eq!(counter.usage(&state), SourceUsage::from(expected));
    }

    #[test]
    fn slot_is_unused_without_flow_and_choice() {
        let state = state();
        let mut counter = SourceCounter::default();
        assert_eq!(counter.unused(&state), BTreeSet::from([9]));
        // Also a flow whose service is gone may go on.
        counter.note(&flow(1, Source::candidate(9, 1)), None);
        assert_eq!(counter.unused(&state), BTreeSet::new());
    }

    #[test]
    fn scarce_ports_are_reported_once() {
        let mut scarce = ScarceSources::default();
        let key = ((SocketAddr::from(([10, 0, 0, 1], 80)), IpProtocol::Tcp), IpAddr::from([192, 0, 2, 1]));
        let mut note = |used: u32| {
            let usage = SourceUsage::from([(key, SourcePorts { used, ports: 1000 })]);
            scarce.update(&usage).iter().map(|change| change.is_scarce).collect::<Vec<_>>()
        };
        let none: &[bool] = &[];
        assert_eq!([799, 800, 999, 700].map(&mut note), [none, &[true], none, none]);
        assert_eq!([699, 750, 800].map(&mut note), [&[false][..], none, &[true]]);
        assert_eq!(scarce.update(&SourceUsage::new()).len(), 1, "all have ended");
        assert!(scarce.update(&SourceUsage::new()).is_empty());
        assert_eq!(SourcePorts { used: 5, ports: 0 }.percent(), 0);
    }
}
