//! Handshake outcomes: counts what becomes of clients' new connections during a GC pass. Pure.
//!
//! An entry does not show whether an untracked connection continues or a new one begins. If a server resets or ignores
//! such a connection, that counts as a failed handshake.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use slb_common::abi::{backend::Backend, service::IndexEntry};

use super::desired::{Desired, Health};
use crate::dataplane::state::{FlowRecord, Handshake, HandshakeOutcome, State, backend_address};
use crate::outlier_detection::{Pool, SILENCE, Signals, Watched};

/// Time between two GC passes while the outlier detector is active.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// The pools with an ejection policy, by table, with empty signals. `tables` lists pool indexes with their table ids.
pub(super) fn watched(desired: &Desired, tables: &[(usize, u32)]) -> BTreeMap<u32, Pool> {
    let pools = tables.iter().filter_map(|(pool, table)| {
        let pool = desired.pools.get(*pool)?;
        let servers = pool.servers.iter().map(|(address, server)| {
            let can_serve = server.takes_new() || server.stands_by();
            let is_used = server.weight > 0 && server.aside.is_none();
            let is_judged = is_used && server.health != Health::Unchecked;
            (*address, Watched { is_judged, can_serve, signals: Signals::default() })
        });
        Some((*table, Pool { terms: pool.passive?, servers: servers.collect() }))
    });
    pools.collect()
}

/// Handshake outcomes of one GC pass.
pub(super) struct Handshakes<'a> {
    watched: &'a BTreeMap<u32, Pool>,
    held: &'a State,
    /// By table id and server.
    counts: BTreeMap<(u32, SocketAddr), Signals>,
}

impl<'a> Handshakes<'a> {
    pub(super) fn new(watched: &'a BTreeMap<u32, Pool>, held: &'a State) -> Self {
        Self { watched, held, counts: BTreeMap::new() }
    }

    /// Counts a flow if its handshake is recent enough.
    pub(super) fn note(&mut self, flow: &FlowRecord, entry: &IndexEntry) {
        let Some(Handshake { age, stage }) = flow.opening else { return };
        let Some(pool) = self.watched.get(&entry.lookup_table) else { return };
        if u64::from(age) > pool.terms.within.as_secs() {
            return;
        }
        let backend = self.held.backends.get(&flow.backend.id());
        // Outcomes of a removed server no longer matter.
        let stays =
            |backend: &&Backend| backend.handle == flow.backend && backend.flags & Backend::REMOVED == 0;
        let Some(backend) = backend.filter(stays) else { return };
        let signals = self.counts.entry((entry.lookup_table, backend_address(backend))).or_default();
        match stage {
            HandshakeOutcome::Answered => signals.answered += 1,
            HandshakeOutcome::Refused => signals.refused += 1,
            HandshakeOutcome::Asked if age >= SILENCE => signals.silent += 1,
            HandshakeOutcome::Asked | HandshakeOutcome::GivenUp => {}
        }
    }

    /// The pools with their counted outcomes.
    pub(super) fn pools(self) -> Vec<Pool> {
        let Self { watched, counts, .. } = self;
        let mut pools = watched.clone();
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
    use slb_common::abi::Handle;

    use super::*;
    use crate::outlier_detection::EjectionPolicy;
    use crate::{
        dataplane::state::to_address,
        desired::{Known, desired},
    };
    use slb_config::samples::forwarding;

    const TERMS: EjectionPolicy =
        EjectionPolicy { failures: 5, within: Duration::from_secs(10), first: Duration::from_secs(10) };
    const TABLE: u32 = 4;

    fn address() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 8080))
    }

    fn held(flags: u8) -> State {
        let mut state = State::default();
        let backend = Backend {
            address: to_address(address().ip()),
            port: address().port().to_be(),
            handle: Handle::new(3, 7),
            flags,
            ..Backend::default()
        };
        state.backends.insert(3, backend);
        state
    }

    fn flow(age: u32, stage: HandshakeOutcome) -> FlowRecord {
        FlowRecord { opening: Some(Handshake { age, stage }), ..FlowRecord::sample(1, Handle::new(3, 7)) }
    }

    fn pool() -> Pool {
        let server = Watched { is_judged: true, can_serve: true, signals: Signals::default() };
        Pool { terms: TERMS, servers: [(address(), server)].into() }
    }

    /// The signals counted for these flows in this table.
    fn counted(held: &State, table: u32, flows: &[FlowRecord]) -> Signals {
        let watched = BTreeMap::from([(TABLE, pool())]);
        let mut handshakes = Handshakes::new(&watched, held);
        let entry = IndexEntry { lookup_table: table, ..IndexEntry::default() };
        flows.iter().for_each(|flow| handshakes.note(flow, &entry));
        handshakes.pools()[0].servers[&address()].signals
    }

    #[test]
    fn connections_count_by_what_has_come_of_them() {
        let held = held(Backend::ALIVE | Backend::NEW);
        let all = [
            flow(0, HandshakeOutcome::Answered),
            flow(10, HandshakeOutcome::Answered),
            flow(11, HandshakeOutcome::Answered),
            flow(0, HandshakeOutcome::Refused),
            flow(11, HandshakeOutcome::Refused),
            flow(2, HandshakeOutcome::Asked),
            flow(3, HandshakeOutcome::Asked),
            flow(10, HandshakeOutcome::Asked),
            flow(11, HandshakeOutcome::Asked),
            flow(5, HandshakeOutcome::GivenUp),
            FlowRecord { opening: None, ..flow(5, HandshakeOutcome::Refused) },
            FlowRecord { backend: Handle::new(3, 6), ..flow(5, HandshakeOutcome::Refused) },
        ];
        assert_eq!(counted(&held, TABLE, &all), Signals { answered: 2, refused: 1, silent: 2 });
        assert_eq!(counted(&held, TABLE + 1, &all), Signals::default(), "of another table");
    }

    #[test]
    fn one_that_leaves_is_not_blamed() {
        let held = held(Backend::ALIVE | Backend::REMOVED);
        assert_eq!(counted(&held, TABLE, &[flow(0, HandshakeOutcome::Refused)]), Signals::default());
    }

    #[test]
    fn who_gets_no_connections_in_a_table_is_not_judged_by_it() {
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
        let desired = desired(&config, Known::default());
        let pools = watched(&desired, &[(0, TABLE), (1, TABLE + 1)]);
        let judged = |table| pools[&table].servers[&address()].is_judged;
        assert_eq!((judged(TABLE), judged(TABLE + 1)), (false, true));
    }

    /// One pool must not decide whether another one can spare a server.
    #[test]
    fn each_table_is_a_pool() {
        let held = held(Backend::ALIVE | Backend::NEW);
        let watched = BTreeMap::from([(TABLE, pool()), (TABLE + 1, pool()), (TABLE + 2, pool())]);
        let mut handshakes = Handshakes::new(&watched, &held);
        for lookup_table in [TABLE, TABLE, TABLE + 2, TABLE + 3] {
            handshakes.note(
                &flow(1, HandshakeOutcome::Refused),
                &IndexEntry { lookup_table, ..IndexEntry::default() },
            );
        }
        let pools = handshakes.pools();
        let refused: Vec<_> = pools.iter().map(|pool| pool.servers[&address()].signals.refused).collect();
        assert_eq!(refused, [2, 0, 1]);
    }
}
