//! Table split: listeners that shared a table get tables of their own, which inherit its migrating slots. Pure.

use std::collections::BTreeMap;

use slb_common::abi::{backend::Backend, lookup_table::NO_BACKEND, service::Service};

use crate::dataplane::state::{MapState, NO_TABLE, backend_address};

/// For each new table, the table that its listeners leave: new id -> old id.
pub(super) fn split_tables(actual: &MapState, desired: &BTreeMap<u32, Service>) -> BTreeMap<u32, u32> {
    let from = |(id, service): (&u32, &Service)| {
        let before = actual.services.get(id).filter(|before| before.handle == service.handle)?;
        let is_new = service.lookup_table != NO_TABLE && !actual.tables.contains_key(&service.lookup_table);
        (is_new && before.lookup_table != service.lookup_table)
            .then_some((service.lookup_table, before.lookup_table))
    };
    desired.iter().filter_map(from).collect()
}

/// Tables that the index still names although the services do not. An interrupted change leaves such a difference.
pub(super) fn abandoned_tables(actual: &MapState) -> impl Iterator<Item = u32> {
    actual.index.entries.values().filter_map(|entry| {
        let service = actual.services.get(&entry.id())?;
        (service.handle.tag() == entry.service && service.lookup_table != entry.lookup_table)
            .then_some(entry.lookup_table)
    })
}

/// Maps the id of a server in table `old` to its id in table `new`; [`NO_BACKEND`] if it has no entry there.
pub(super) fn successors(
    actual: &BTreeMap<u32, Backend>,
    desired: &BTreeMap<u32, Backend>,
    old: u32,
    new: u32,
) -> impl Fn(u32) -> u32 {
    let mut ids = BTreeMap::new();
    for (id, backend) in desired.iter().filter(|(_, backend)| backend.lookup_table == new) {
        let is_removed = backend.flags & Backend::REMOVED != 0;
        let entry = ids.entry(backend_address(backend)).or_insert((is_removed, *id));
        // Prefers a configured server to a removed one.
        *entry = (*entry).min((is_removed, *id));
    }
    let of = |(id, backend): (&u32, &Backend)| Some((*id, ids.get(&backend_address(backend))?.1));
    let there: BTreeMap<u32, u32> =
        actual.iter().filter(|(_, backend)| backend.lookup_table == old).filter_map(of).collect();
    move |id| there.get(&id).copied().unwrap_or(NO_BACKEND)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::dataplane::state::{ServerTable, to_address};

    fn server(last: u8, lookup_table: u32, flags: u8) -> Backend {
        let address = to_address(IpAddr::from([10, 0, 0, last]));
        Backend { address, lookup_table, flags, ..Backend::default() }
    }

    #[test]
    fn table_split_maps_a_server_to_its_entry_in_the_new_table() {
        let actual = BTreeMap::from([(1, server(1, 0, 3)), (2, server(2, 0, 3)), (3, server(1, 9, 3))]);
        let mut desired = actual.clone();
        desired.insert(4, server(1, 5, Backend::REMOVED));
        desired.insert(5, server(1, 5, 3));
        let successor = successors(&actual, &desired, 0, 5);
        assert_eq!([1, 2, 3, NO_BACKEND].map(successor), [5, NO_BACKEND, NO_BACKEND, NO_BACKEND]);
    }

    #[test]
    fn table_split_maps_a_new_table_to_the_previous_one() {
        let mut actual = MapState::default();
        actual.tables.extend([(0, ServerTable::default()), (1, ServerTable::default())]);
        for (id, lookup_table) in [(1, 0), (2, 0), (3, 1), (4, NO_TABLE)] {
            actual.services.insert(id, Service { lookup_table, ..Service::default() });
        }
        let mut desired = actual.services.clone();
        desired.get_mut(&2).unwrap().lookup_table = 7;
        desired.get_mut(&3).unwrap().lookup_table = 0;
        desired.insert(5, Service { lookup_table: 8, ..Service::default() });
        assert_eq!(split_tables(&actual, &desired), BTreeMap::from([(7, 0)]));
    }
}
