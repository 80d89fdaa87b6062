//! How many flows servers have, where that decides who gets the next one. Pure.
//!
//! The packet path counts what it sees begin and end. It sees neither a flow that falls silent nor one that is pushed out, so
//! each look at the flow table puts the counts right.

use std::collections::{BTreeMap, BTreeSet};

use slb_common::abi::{
    Reference,
    service::{IndexEntry, policy},
};

use crate::dataplane::state::{Remembered, State};

/// Flows of servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Loads(BTreeMap<Reference, u64>);

impl Loads {
    /// None of any server where it matters.
    pub(super) fn none(held: &State) -> Self {
        let matters = held.services.values().filter(|service| service.policy & policy::LEAST != 0);
        let tables: BTreeSet<u32> = matters.map(|service| service.ring).collect();
        let servers = held.backends.values().filter(|backend| tables.contains(&backend.ring));
        Self(servers.map(|backend| (backend.reference, 0)).collect())
    }

    /// The same by the ids of servers.
    pub(super) fn by_id(&self) -> BTreeMap<u32, u64> {
        self.0.iter().map(|(server, load)| (server.id(), *load)).collect()
    }

    /// Counts a flow.
    pub(super) fn note(&mut self, flow: &Remembered, entry: &IndexEntry) {
        if entry.policy & policy::LEAST != 0
            && flow.left.is_some()
            && !flow.is_ending
            && let Some(load) = self.0.get_mut(&flow.backend)
        {
            *load += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use slb_common::abi::{backend::Backend, service::Service};

    use super::*;

    #[test]
    fn flows_that_go_on_count_where_it_matters() {
        let mut held = State::default();
        for (id, policy) in [(1, policy::LEAST | policy::TRACK), (2, policy::TURNS | policy::TRACK)] {
            held.services.insert(id, Service { ring: id, policy, ..Service::default() });
            for id in [10 * id, 10 * id + 1] {
                let reference = Reference::new(id, 1);
                held.backends.insert(id, Backend { ring: id / 10, reference, ..Backend::default() });
            }
        }
        let flow = |server| Remembered::sample(1, Reference::new(server, 1));
        let mut loads = Loads::none(&held);
        assert_eq!(loads.by_id(), BTreeMap::from([(10, 0), (11, 0)]));
        let entry = |policy| IndexEntry { policy, ..IndexEntry::default() };
        loads.note(&flow(11), &entry(policy::LEAST));
        loads.note(&flow(11), &entry(policy::LEAST));
        loads.note(&Remembered { is_ending: true, ..flow(11) }, &entry(policy::LEAST));
        loads.note(&Remembered { left: None, ..flow(10) }, &entry(policy::LEAST));
        loads.note(&flow(20), &entry(policy::TURNS));
        loads.note(&flow(99), &entry(policy::LEAST));
        let before = Reference::new(10, 0);
        loads.note(&Remembered { backend: before, ..flow(10) }, &entry(policy::LEAST));
        assert_eq!(loads.by_id(), BTreeMap::from([(10, 0), (11, 2)]));
    }
}
