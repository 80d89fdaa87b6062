//! Table split: listeners that shared a table get tables of their own, which inherit its migrating slots. Pure.

use std::collections::BTreeMap;

use slb_common::abi::{
    backend::Backend,
    ids::{BackendId, ServiceId, TableId},
    service::Service,
};

use crate::dataplane::state::{MapState, backend_address};

/// For each new table, the table that its listeners leave: new id -> old id.
pub(super) fn split_tables(
    actual: &MapState,
    desired: &BTreeMap<ServiceId, Service>,
) -> BTreeMap<TableId, TableId> {
    let from = |(id, service): (&ServiceId, &Service)| {
        let before = actual.services.get(id).filter(|before| before.handle == service.handle)?;
        let is_new = service.table() != TableId::NONE && !actual.tables.contains_key(&service.table());
        (is_new && before.table() != service.table()).then_some((service.table(), before.table()))
    };
    desired.iter().filter_map(from).collect()
}

/// Tables that the index still names although the services do not. An interrupted change leaves such a difference.
pub(super) fn abandoned_tables(actual: &MapState) -> impl Iterator<Item = TableId> {
    actual.index.entries.values().filter_map(|entry| {
        let service = actual.services.get(&entry.service_id())?;
        (service.tag() == entry.tag() && service.table() != entry.table()).then_some(entry.table())
    })
}

/// Maps the id of a server in table `old` to its id in table `new`; [`BackendId::NONE`] if it has no entry there.
pub(super) fn successors(
    actual: &BTreeMap<BackendId, Backend>,
    desired: &BTreeMap<BackendId, Backend>,
    old: TableId,
    new: TableId,
) -> impl Fn(BackendId) -> BackendId {
    let mut ids = BTreeMap::new();
    for (id, backend) in desired.iter().filter(|(_, backend)| backend.table() == new) {
        let is_removed = backend.flags & Backend::REMOVED != 0;
        let entry = ids.entry(backend_address(backend)).or_insert((is_removed, *id));
        // Prefers a configured server to a removed one.
        *entry = (*entry).min((is_removed, *id));
    }
    let of = |(id, backend): (&BackendId, &Backend)| Some((*id, ids.get(&backend_address(backend))?.1));
    let there: BTreeMap<BackendId, BackendId> =
        actual.iter().filter(|(_, backend)| backend.table() == old).filter_map(of).collect();
    move |id| there.get(&id).copied().unwrap_or(BackendId::NONE)
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
        let actual = BTreeMap::from(
            [(1, server(1, 0, 3)), (2, server(2, 0, 3)), (3, server(1, 9, 3))]
                .map(|(id, backend)| (BackendId::new(id), backend)),
        );
        let mut desired = actual.clone();
        desired.insert(BackendId::new(4), server(1, 5, Backend::REMOVED));
        desired.insert(BackendId::new(5), server(1, 5, 3));
        let successor = successors(&actual, &desired, TableId::new(0), TableId::new(5));
        assert_eq!(
            [BackendId::new(1), BackendId::new(2), BackendId::new(3), BackendId::NONE].map(successor),
            [BackendId::new(5), BackendId::NONE, BackendId::NONE, BackendId::NONE]
        );
    }

    #[test]
    fn table_split_maps_a_new_table_to_the_previous_one() {
        let mut actual = MapState::default();
        actual.tables.extend([0, 1].map(|id| (TableId::new(id), ServerTable::default())));
        for (id, lookup_table) in [(1, 0), (2, 0), (3, 1), (4, TableId::NONE.index())] {
            actual.services.insert(ServiceId::new(id), Service { lookup_table, ..Service::default() });
        }
        let mut desired = actual.services.clone();
        desired.get_mut(&ServiceId::new(2)).unwrap().lookup_table = 7;
        desired.get_mut(&ServiceId::new(3)).unwrap().lookup_table = 0;
        desired.insert(ServiceId::new(5), Service { lookup_table: 8, ..Service::default() });
        assert_eq!(split_tables(&actual, &desired), BTreeMap::from([(TableId::new(7), TableId::new(0))]));
    }
}
