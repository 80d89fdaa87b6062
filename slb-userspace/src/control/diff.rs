//! The operations that lead from what the data plane holds to what it should hold, in an order in which every packet
//! in between finds either the old or the new, and nothing that points nowhere. Pure.

use std::collections::BTreeMap;

use crate::dataplane::state::{Index, Operation, State};

/// Works out the operations. What is pointed at comes before what points at it; what goes away goes in the reverse
/// order.
pub fn diff(held: &State, wanted: &State) -> Vec<Operation> {
    let mut operations = Vec::new();
    if held.settings != wanted.settings {
        operations.push(Operation::PutSettings(wanted.settings));
    }
    operations.extend(wanted.interfaces.difference(&held.interfaces).map(|i| Operation::PutInterface(*i)));
    operations
        .extend(changed(&held.next_hops, &wanted.next_hops).map(|(id, hop)| Operation::PutNextHop(id, *hop)));
    operations.extend(changed(&held.backends, &wanted.backends).map(|(id, backend)| Operation::PutBackend {
        id,
        backend: *backend,
        fresh: held.backends.get(&id).is_none_or(|old| old.reference != backend.reference),
    }));
    let tables: BTreeMap<_, _> =
        changed(&held.tables, &wanted.tables).map(|(id, table)| (id, table.clone())).collect();
    // Before the first flow is given to a server, its answers are recognised.
    if let Some(servers) = held.index.servers.with(&wanted.index.servers) {
        operations.push(Operation::PutIndex(Index { servers, ..held.index.clone() }));
    }
    if !tables.is_empty() {
        operations.push(Operation::PutTables(tables));
    }
    operations.extend(changed(&held.services, &wanted.services).map(|(id, service)| Operation::PutService {
        id,
        service: Box::new(*service),
        fresh: held.services.get(&id).is_none_or(|old| old.reference != service.reference),
    }));
    if held.index != wanted.index {
        operations.push(Operation::PutIndex(wanted.index.clone()));
    }
    let switched = operations.len();
    operations.extend(gone(&held.services, &wanted.services).map(Operation::ClearService));
    operations.extend(gone(&held.tables, &wanted.tables).map(Operation::ClearTable));
    operations.extend(gone(&held.backends, &wanted.backends).map(Operation::ClearBackend));
    operations.extend(gone(&held.next_hops, &wanted.next_hops).map(Operation::ClearNextHop));
    operations.extend(held.interfaces.difference(&wanted.interfaces).map(|i| Operation::RemoveInterface(*i)));
    if switched != 0 && switched != operations.len() {
        operations.insert(switched, Operation::Settle);
    }
    operations
}

fn changed<'a, T: PartialEq>(
    held: &'a BTreeMap<u32, T>,
    wanted: &'a BTreeMap<u32, T>,
) -> impl Iterator<Item = (u32, &'a T)> {
    wanted.iter().filter(|(id, value)| held.get(id) != Some(value)).map(|(id, value)| (*id, value))
}

fn gone<'a, T>(held: &'a BTreeMap<u32, T>, wanted: &'a BTreeMap<u32, T>) -> impl Iterator<Item = u32> {
    held.keys().filter(|id| !wanted.contains_key(id)).copied()
}
