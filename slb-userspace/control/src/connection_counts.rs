//! Connection counts of servers, for least connections (`wlc`). Pure.
//!
//! The data path counts the flows that it sees begin and end. It does not see flows expire or be evicted, so each GC
//! pass corrects the counts.

use std::collections::{BTreeMap, BTreeSet};

use slb_common::abi::{
    Handle,
    ids::{BackendId, TableId},
    service::{IndexEntry, Service, policy},
};

use crate::dataplane::state::{FlowRecord, MapState};

/// Open flows by server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ConnectionCounts(BTreeMap<Handle, u64>);

impl ConnectionCounts {
    /// Zero for each server in a table of a `wlc` service.
    pub(super) fn none(actual: &MapState) -> Self {
        let matters =
            actual.services.values().filter(|service| service.policies().has(policy::LEAST_CONNECTIONS));
        let tables: BTreeSet<TableId> = matters.map(Service::table).collect();
        let servers = actual.backends.values().filter(|backend| tables.contains(&backend.table()));
        Self(servers.map(|backend| (backend.handle, 0)).collect())
    }

    /// The counts by server id.
    pub(super) fn by_id(&self) -> BTreeMap<BackendId, u64> {
        self.0.iter().map(|(server, count)| (BackendId::of(*server), *count)).collect()
    }

    /// Counts a flow of a `wlc` service, unless it has expired or its client has ended it.
    pub(super) fn note(&mut self, flow: &FlowRecord, entry: &IndexEntry) {
        if entry.policies().has(policy::LEAST_CONNECTIONS)
            && flow.left.is_some()
            && !flow.is_closing
            && let Some(count) = self.0.get_mut(&flow.backend)
        {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use slb_common::abi::{
        backend::Backend,
        ids::{ServiceId, ServiceTag},
    };

    use super::*;

    #[test]
    fn live_flows_count_for_least_connections_only() {
        let mut actual = MapState::default();
        for (id, policy) in
            [(1, policy::LEAST_CONNECTIONS | policy::TRACK), (2, policy::ROUND_ROBIN | policy::TRACK)]
        {
            actual
                .services
                .insert(ServiceId::new(id), Service { lookup_table: id, policy, ..Service::default() });
            for id in [10 * id, 10 * id + 1] {
                let handle = Handle::new(id, 1);
                actual.backends.insert(
                    BackendId::new(id),
                    Backend { lookup_table: id / 10, handle, ..Backend::default() },
                );
            }
        }
        let flow = |server| FlowRecord::sample(ServiceTag::new(1), Handle::new(server, 1));
        let mut found = ConnectionCounts::none(&actual);
        let counts = |counts: [(u32, u64); 2]| counts.map(|(id, count)| (BackendId::new(id), count)).into();
        assert_eq!(found.by_id(), counts([(10, 0), (11, 0)]));
        let entry = |policy| IndexEntry { policy, ..IndexEntry::default() };
        found.note(&flow(11), &entry(policy::LEAST_CONNECTIONS));
        found.note(&flow(11), &entry(policy::LEAST_CONNECTIONS));
        found.note(&FlowRecord { is_closing: true, ..flow(11) }, &entry(policy::LEAST_CONNECTIONS));
        found.note(&FlowRecord { left: None, ..flow(10) }, &entry(policy::LEAST_CONNECTIONS));
        found.note(&flow(20), &entry(policy::ROUND_ROBIN));
        found.note(&flow(99), &entry(policy::LEAST_CONNECTIONS));
        let before = Handle::new(10, 0);
        found.note(&FlowRecord { backend: before, ..flow(10) }, &entry(policy::LEAST_CONNECTIONS));
        assert_eq!(found.by_id(), counts([(10, 0), (11, 2)]));
    }
}
