//! Servers in the status document.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use slb_common::abi::{
    Handle,
    backend::Backend,
    health::ServerHealth,
    ids::{BackendId, NextHopId, TableId},
    service::{Service, policy},
    time::BootSecs,
};

use super::{StatusContext, api_counters, readings::Readings};
use slb_api::types::{self as api, ApiHealth, ApiNextHop, ApiServer, ApiSourcePorts, DrainStatus};
use slb_control::{
    dataplane::{
        digest::{Digest, SlotSummary},
        quic_server::QuicServerKey,
        state::{MapState, backend_address, mac},
    },
    source_usage::{ServerEndpoint, SourcePorts, SourceUsage},
};

/// The servers of all tables.
pub(in crate::server) struct Servers<'a> {
    state: &'a MapState,
    readings: &'a Readings,
    context: &'a StatusContext<'a>,
    by_table: BTreeMap<TableId, Vec<(BackendId, &'a Backend)>>,
    /// Tables whose flows are all tracked.
    tracked: BTreeSet<TableId>,
    next_hops: BTreeMap<NextHopId, ApiNextHop>,
    source_ports: BTreeMap<ServerEndpoint, ApiSourcePorts>,
    quic_server_ids: BTreeMap<Handle, u32>,
}

impl<'a> Servers<'a> {
    pub(in crate::server) fn of(
        state: &'a MapState,
        readings: &'a Readings,
        context: &'a StatusContext<'a>,
    ) -> Self {
        let mut by_table: BTreeMap<TableId, Vec<(BackendId, &Backend)>> = BTreeMap::new();
        for (id, backend) in &state.backends {
            by_table.entry(backend.table()).or_default().push((*id, backend));
        }
        let next_hops = state
            .next_hops
            .iter()
            .map(|(id, hop)| (*id, ApiNextHop { interface: hop.ifindex, mac: mac(hop.macs.receiver()) }));
        let next_hops = next_hops.collect();
        let source_ports = fullest(context.sources);
        let quic_server_ids =
            state.quic_servers.iter().map(|(key, server)| (*server, key.server_id)).collect();
        let tracked = tracked(state);
        Self { state, readings, context, by_table, tracked, next_hops, source_ports, quic_server_ids }
    }

    /// Documents of the servers in a service's table. Removed servers without connections are not shown.
    pub(in crate::server) fn documents(&self, service: &Service) -> impl Iterator<Item = ApiServer> {
        let (table, protocol) = (service.table(), service.protocol());
        let summary = self.summary(table);
        let is_tracked = self.tracked.contains(&table);
        self.shown(table).map(move |(id, backend)| {
            let ports =
                protocol.and_then(|protocol| self.source_ports.get(&(backend_address(backend), protocol)));
            let server = self.document(table, id, backend, summary, is_tracked);
            ApiServer { source_ports: ports.copied(), ..server }
        })
    }

    /// Whether no server of a table receives new flows.
    pub(super) fn has_no_slots(&self, table: TableId) -> bool {
        let summary = self.summary(table);
        self.shown(table).all(|(id, _)| summary.is_none_or(|summary| summary.slots_of(id) == 0))
    }

    /// Digest of a service.
    pub(in crate::server) fn digest(&self, service: &Service) -> Digest {
        let none = SlotSummary::default();
        let summary = self.summary(service.table()).unwrap_or(&none);
        let servers = self.in_table(service.table()).map(|(_, backend)| backend);
        let digest = summary.of_service(service, servers, self.state.settings.seed);
        digest.with_server_ids(service, self.named(service.table()))
    }

    /// The servers of a table that have QUIC server IDs, in the order of these.
    fn named(&self, table: TableId) -> impl Iterator<Item = (u32, &'a Backend)> {
        let key = |server_id| QuicServerKey { table, server_id };
        let named = self.state.quic_servers.range(key(0)..=key(u32::MAX));
        named.filter_map(|(key, server)| {
            Some((key.server_id, self.state.backends.get(&BackendId::of(*server))?))
        })
    }

    /// What the slots of a table say; `None` if there is no table.
    fn summary(&self, table: TableId) -> Option<&SlotSummary> {
        let built = self.state.tables.get(&table).filter(|table| table.is_known());
        built.map(|table| table.spec.summary()).or_else(|| self.readings.tables.get(&table))
    }

    fn in_table(&self, table: TableId) -> impl Iterator<Item = (BackendId, &'a Backend)> {
        self.by_table.get(&table).into_iter().flatten().copied()
    }

    fn shown(&self, table: TableId) -> impl Iterator<Item = (BackendId, &'a Backend)> {
        self.in_table(table).filter(|(_, backend)| backend.flags & GONE != GONE)
    }

    fn document(
        &self,
        table: TableId,
        id: BackendId,
        backend: &Backend,
        summary: Option<&SlotSummary>,
        is_tracked: bool,
    ) -> ApiServer {
        let (readings, context) = (self.readings, self.context);
        let address = backend_address(backend);
        let flows = || readings.current_flows.by_server.get(&backend.handle).copied().unwrap_or(0);
        ApiServer {
            address,
            weight: backend.weight,
            quic_server_id: self.quic_server_ids.get(&backend.handle).copied(),
            health: health(backend),
            set: context.set.get(&(table, address)).cloned(),
            detail: context.details.get(&(table, address)).cloned(),
            next_hop: self.next_hops.get(&backend.next_hop_id()).cloned(),
            slots: summary.map_or(0, |summary| summary.slots_of(id)),
            counters: api_counters(readings.counters.backend(id)),
            current_flows: is_tracked.then(flows),
            draining: draining(backend, is_drained(context, table, backend), context.now),
            source_ports: None,
        }
    }
}

/// By server endpoint, the local address with the largest share of used ports. With port 0, that of the fullest port: a
/// server behind a port range.
fn fullest(usage: &SourceUsage) -> BTreeMap<ServerEndpoint, ApiSourcePorts> {
    let mut fullest: BTreeMap<_, (IpAddr, SourcePorts)> = BTreeMap::new();
    for ((server, local), ports) in usage {
        let (at, protocol) = *server;
        for server in [(at, protocol), (SocketAddr::new(at.ip(), 0), protocol)] {
            let (address, most) = fullest.entry(server).or_insert((*local, *ports));
            if (ports.percent(), ports.used) > (most.percent(), most.used) {
                (*address, *most) = (*local, *ports);
            }
        }
    }
    let document = |(server, (local_address, SourcePorts { used, ports }))| {
        (server, ApiSourcePorts { local_address, used, ports })
    };
    fullest.into_iter().map(document).collect()
}

/// Whether all flows of a service are tracked.
pub(in crate::server) fn is_tracked(service: &Service) -> bool {
    service.sees_replies() || service.policies().has(policy::TRACK)
}

/// Tables whose flows are all tracked.
fn tracked(state: &MapState) -> BTreeSet<TableId> {
    let untracked = state.services.values().filter(|service| !is_tracked(service));
    let untracked: BTreeSet<TableId> = untracked.map(Service::table).collect();
    state
        .services
        .values()
        .map(Service::table)
        .filter(|lookup_table| !untracked.contains(lookup_table))
        .collect()
}

/// Whether an administrator drains a server.
fn is_drained(context: &StatusContext<'_>, table: TableId, backend: &Backend) -> bool {
    let set = context.set.get(&(table, backend_address(backend)));
    set.is_some_and(|set| set.state == Some(api::AdminState::Draining))
}

/// The drain of a server; `None` if it is not draining.
fn draining(backend: &Backend, is_drained: bool, now: Duration) -> Option<DrainStatus> {
    let is_removed = backend.flags & Backend::REMOVED != 0;
    let left = |deadline: BootSecs| deadline.since_boot().as_secs().saturating_sub(now.as_secs());
    let seconds_left = backend.drain_deadline().map(left);
    (is_removed || is_drained || seconds_left.is_some()).then_some(DrainStatus { seconds_left, is_removed })
}

/// Flags of a removed server that stays in the maps only until the RSTs of its connections are delivered.
const GONE: u8 = Backend::REMOVED | Backend::TERMINATING;

fn health(backend: &Backend) -> ApiHealth {
    match backend.health() {
        ServerHealth::Healthy => ApiHealth::Healthy,
        ServerHealth::Unhealthy => ApiHealth::Unhealthy,
        ServerHealth::Unchecked => ApiHealth::Unchecked,
        ServerHealth::Standby => ApiHealth::Standby,
        ServerHealth::Unknown => ApiHealth::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use slb_common::abi::protocol::IpProtocol;

    use super::*;

    #[test]
    fn fullest_local_address_of_each_endpoint_is_shown() {
        let server = |n: u8| (SocketAddr::from(([10, 0, 0, n], 80)), IpProtocol::Tcp);
        let local = |n: u8| IpAddr::from([192, 0, 2, n]);
        let usage = SourceUsage::from([
            ((server(1), local(1)), SourcePorts { used: 300, ports: 1000 }),
            ((server(1), local(2)), SourcePorts { used: 290, ports: 500 }),
            ((server(1), local(3)), SourcePorts { used: 900, ports: 0 }),
            ((server(2), local(3)), SourcePorts { used: 5, ports: 0 }),
        ]);
        let expected = [
            (server(1), ApiSourcePorts { local_address: local(2), used: 290, ports: 500 }),
            (server(2), ApiSourcePorts { local_address: local(3), used: 5, ports: 0 }),
        ];
        let at_any_port =
            expected.map(|((at, protocol), ports)| ((SocketAddr::new(at.ip(), 0), protocol), ports));
        assert_eq!(fullest(&usage), expected.into_iter().chain(at_any_port).collect());
    }

    #[test]
    fn draining_server_keeps_its_health_and_shows_its_deadline() {
        let now = Duration::from_secs(1000);
        for health in [ServerHealth::Healthy, ServerHealth::Unhealthy, ServerHealth::Standby] {
            let backend = Backend { health: health.number(), ..Backend::default() };
            let leaving = Backend { deadline: 1030, flags: Backend::ALIVE, ..backend };
            let removed = Backend { flags: Backend::ALIVE | Backend::REMOVED, ..leaving };
            assert_eq!(super::health(&leaving), super::health(&backend));
            assert_eq!(super::health(&removed), super::health(&backend));
            let shown = |seconds_left, is_removed| Some(DrainStatus { seconds_left, is_removed });
            assert_eq!(draining(&backend, false, now), None);
            assert_eq!(draining(&backend, true, now), shown(None, false), "no drain_timeout");
            assert_eq!(draining(&leaving, true, now), shown(Some(30), false));
            assert_eq!(draining(&removed, false, now), shown(Some(30), true));
            assert_eq!(draining(&leaving, false, 2 * now), shown(Some(0), false));
        }
    }
}
