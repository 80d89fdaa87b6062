//! Handshake outcomes: counts what becomes of clients' new connections during a GC pass. Pure.
//!
//! An entry does not show whether an untracked connection continues or a new one begins. If a server resets or ignores
//! such a connection, that counts as a failed handshake.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use slb_common::abi::{
    backend::Backend,
    health::ServerHealth,
    ids::{BackendId, TableId},
    mode::Mode,
    service::IndexEntry,
};

use super::model::Desired;
use crate::dataplane::state::{FlowRecord, Handshake, HandshakeOutcome, MapState, backend_address};
use crate::outlier_detection::{DetectorPool, DetectorServer, PassiveSignals, SILENCE};

/// Time between two GC passes while the outlier detector is active.
pub(super) const HANDSHAKE_GC_INTERVAL: Duration = Duration::from_secs(1);

/// The pools with an ejection policy, by table, with empty signals. `tables` lists pool indexes with their table ids.
pub(super) fn ejection_pools(
    desired: &Desired,
    tables: &[(usize, TableId)],
) -> BTreeMap<TableId, DetectorPool> {
    let pools = tables.iter().filter_map(|(pool, table)| {
        let pool = desired.pools.get(*pool)?;
        let servers = pool.servers.iter().map(|(address, server)| {
            let can_serve = server.accepts_new_flows() || server.is_ready_standby();
            let is_used = server.weight > 0 && server.admin_state.is_none();
            let is_counted = is_used && server.health != ServerHealth::Unchecked;
            (*address, DetectorServer { is_counted, can_serve, signals: PassiveSignals::default() })
        });
        Some((*table, DetectorPool { policy: pool.passive?, servers: servers.collect() }))
    });
    pools.collect()
}

/// Whether the client's packets have reached the server: in mode `full-nat` they do once the flow has a source.
pub(super) fn has_reached_server(flow: &FlowRecord, entry: &IndexEntry) -> bool {
    entry.mode() != Some(Mode::FullNat) || flow.source.is_allocated()
}

/// Handshake outcomes of one GC pass.
pub(super) struct Handshakes<'a> {
    ejection_pools: &'a BTreeMap<TableId, DetectorPool>,
    actual: &'a MapState,
    /// By table id and server.
    counts: BTreeMap<(TableId, SocketAddr), PassiveSignals>,
}

impl<'a> Handshakes<'a> {
    pub(super) fn new(ejection_pools: &'a BTreeMap<TableId, DetectorPool>, actual: &'a MapState) -> Self {
        Self { ejection_pools, actual, counts: BTreeMap::new() }
    }

    /// Counts a flow if its handshake is recent enough.
    pub(super) fn note(&mut self, flow: &FlowRecord, entry: &IndexEntry) {
        let Some(Handshake { age, outcome }) = flow.handshake else { return };
        if !has_reached_server(flow, entry) {
            return;
        }
        let Some(pool) = self.ejection_pools.get(&entry.table()) else { return };
        if u64::from(age) > pool.policy.within.as_secs() {
            return;
        }
        let backend = self.actual.backends.get(&BackendId::of(flow.backend));
        // Outcomes of a removed server no longer matter.
        let stays =
            |backend: &&Backend| backend.handle == flow.backend && backend.flags & Backend::REMOVED == 0;
        let Some(backend) = backend.filter(stays) else { return };
        let signals = self.counts.entry((entry.table(), backend_address(backend))).or_default();
        match outcome {
            HandshakeOutcome::Answered => signals.answered += 1,
            HandshakeOutcome::Reset => signals.refused += 1,
            HandshakeOutcome::Unanswered if age >= SILENCE => signals.silent += 1,
            HandshakeOutcome::Unanswered | HandshakeOutcome::Abandoned => {}
        }
    }

    /// The pools with their counted outcomes.
    pub(super) fn pools(self) -> Vec<DetectorPool> {
        let Self { ejection_pools, counts, .. } = self;
        let mut pools = ejection_pools.clone();
        for ((table, address), signals) in counts {
            let server = pools.get_mut(&table).and_then(|pool| pool.servers.get_mut(&address));
            if let Some(server) = server {
                server.signals = signals;
            }
        }
        pools.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use slb_common::abi::{Handle, ids::ServiceTag};

    use super::*;
    use crate::outlier_detection::EjectionPolicy;
    use crate::{
        dataplane::state::to_address,
        desired::{ObservedInputs, desired},
    };
    use slb_config::samples::forwarding;

    const POLICY: EjectionPolicy =
        EjectionPolicy { failures: 5, within: Duration::from_secs(10), first: Duration::from_secs(10) };
    const TABLE: TableId = TableId::new(4);
    const OTHER_TABLE: TableId = TableId::new(5);

    fn address() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 8080))
    }

    fn actual(flags: u8) -> MapState {
        let mut state = MapState::default();
        let backend = Backend {
            address: to_address(address().ip()),
            port: address().port().to_be(),
            handle: Handle::new(3, 7),
            flags,
            ..Backend::default()
        };
        state.backends.insert(BackendId::new(3), backend);
        state
    }

    fn flow(age: u32, outcome: HandshakeOutcome) -> FlowRecord {
        FlowRecord {
            handshake: Some(Handshake { age, outcome }),
            ..FlowRecord::sample(ServiceTag::new(1), Handle::new(3, 7))
        }
    }

    fn pool() -> DetectorPool {
        let server = DetectorServer { is_counted: true, can_serve: true, signals: PassiveSignals::default() };
        DetectorPool { policy: POLICY, servers: [(address(), server)].into() }
    }

    /// The signals counted for these flows in this table.
    fn counted(actual: &MapState, table: TableId, flows: &[FlowRecord]) -> PassiveSignals {
        let ejection_pools = BTreeMap::from([(TABLE, pool())]);
        let mut handshakes = Handshakes::new(&ejection_pools, actual);
        let entry = IndexEntry { lookup_table: table.index(), ..IndexEntry::default() };
        flows.iter().for_each(|flow| handshakes.note(flow, &entry));
        handshakes.pools()[0].servers[&address()].signals
    }

    #[test]
    fn connections_count_by_handshake_outcome() {
        let actual = actual(Backend::ALIVE | Backend::ACCEPTS_NEW);
        let all = [
            flow(0, HandshakeOutcome::Answered),
            flow(10, HandshakeOutcome::Answered),
            flow(11, HandshakeOutcome::Answered),
            flow(0, HandshakeOutcome::Reset),
            flow(11, HandshakeOutcome::Reset),
            flow(2, HandshakeOutcome::Unanswered),
            flow(3, HandshakeOutcome::Unanswered),
            flow(10, HandshakeOutcome::Unanswered),
            flow(11, HandshakeOutcome::Unanswered),
            flow(5, HandshakeOutcome::Abandoned),
            FlowRecord { handshake: None, ..flow(5, HandshakeOutcome::Reset) },
            FlowRecord { backend: Handle::new(3, 6), ..flow(5, HandshakeOutcome::Reset) },
        ];
        assert_eq!(counted(&actual, TABLE, &all), PassiveSignals { answered: 2, refused: 1, silent: 2 });
        assert_eq!(counted(&actual, OTHER_TABLE, &all), PassiveSignals::default(), "of another table");
    }

    #[test]
    fn removed_server_is_not_judged_by_handshakes() {
        let actual = actual(Backend::ALIVE | Backend::REMOVED);
        assert_eq!(counted(&actual, TABLE, &[flow(0, HandshakeOutcome::Reset)]), PassiveSignals::default());
    }

    #[test]
    fn server_without_new_flows_in_a_table_is_not_judged_by_it() {
        let listener = |port: u16, group: &str| {
            format!(
                "[[load_balancer.listener]]\nname = \"{group}\"\nprotocol = \"tcp\"\nport = {port}\n\
                 server_group = \"{group}\"\nhealth_check = {{ kind = \"tcp\", passive = {{ failures = 5, within = \"10s\" }} }}\n"
            )
        };
        let group = |name: &str, weight: u8| {
            format!(
                "[[server_group]]\nname = \"{name}\"\nservers = [\
                 {{ address = \"10.0.0.1\", port = 8080, weight = {weight} }}, {{ address = \"10.0.0.2\", port = 8080 }}]\n"
            )
        };
        let balancer = "[[load_balancer]]\nname = \"shop\"\naddresses = [\"192.0.2.10\"]\n";
        let config = forwarding(
            &(balancer.to_owned()
                + &listener(80, "a")
                + &listener(81, "b")
                + &group("a", 0)
                + &group("b", 7)),
        );
        let desired = desired(&config, ObservedInputs::default());
        let pools = ejection_pools(&desired, &[(0, TABLE), (1, OTHER_TABLE)]);
        let judged = |table| pools[&table].servers[&address()].is_counted;
        assert_eq!((judged(TABLE), judged(OTHER_TABLE)), (false, true));
    }

    /// One pool must not decide whether another one can spare a server.
    #[test]
    fn each_server_table_is_judged_as_its_own_pool() {
        let actual = actual(Backend::ALIVE | Backend::ACCEPTS_NEW);
        let ejection_pools = BTreeMap::from([4, 5, 6].map(|table| (TableId::new(table), pool())));
        let mut handshakes = Handshakes::new(&ejection_pools, &actual);
        for lookup_table in [4, 4, 6, 7] {
            handshakes.note(
                &flow(1, HandshakeOutcome::Reset),
                &IndexEntry { lookup_table, ..IndexEntry::default() },
            );
        }
        let pools = handshakes.pools();
        let refused: Vec<_> = pools.iter().map(|pool| pool.servers[&address()].signals.refused).collect();
        assert_eq!(refused, [2, 0, 1]);
    }
}
