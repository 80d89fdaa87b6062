//! Operations that turn the actual state into the desired one. After each of them a packet finds the old or the new
//! state, and no dangling id. Pure.

use std::collections::BTreeMap;

use slb_common::abi::backend::Backend;

use crate::dataplane::state::{Index, Operation, PutBackend, State};

/// Returns the operations in order. An object is written before the objects that name it, and removed after them.
pub fn diff(held: &State, wanted: &State) -> Vec<Operation> {
    let mut operations = Vec::new();
    if held.settings != wanted.settings {
        operations.push(Operation::PutSettings(wanted.settings));
    }
    operations.extend(wanted.interfaces.difference(&held.interfaces).map(|i| Operation::PutInterface(*i)));
    operations
        .extend(changed(&held.next_hops, &wanted.next_hops).map(|(id, hop)| Operation::PutNextHop(id, *hop)));
    let is_terminating = |put: &PutBackend| !put.fresh && put.backend.flags & Backend::TERMINATING != 0;
    // A server becomes terminating only once no table gives it new flows.
    let (cut, backends): (Vec<_>, Vec<_>) = changed(&held.backends, &wanted.backends)
        .map(|(id, backend)| PutBackend {
            id,
            backend: *backend,
            fresh: held.backends.get(&id).is_none_or(|old| old.handle != backend.handle),
        })
        .partition(is_terminating);
    if !backends.is_empty() {
        operations.push(Operation::PutBackends(backends));
    }
    let tables: BTreeMap<_, _> =
        changed(&held.tables, &wanted.tables).map(|(id, table)| (id, table.clone())).collect();
    // Answers of a server must be recognised before it receives its first flow.
    if let Some(servers) = held.index.servers.with(&wanted.index.servers) {
        operations.push(Operation::PutIndex(Index { servers, ..held.index.clone() }));
    }
    if !tables.is_empty() {
        operations.push(Operation::PutTables(tables));
    }
    operations.extend(changed(&held.services, &wanted.services).map(|(id, service)| Operation::PutService {
        id,
        service: Box::new(*service),
        fresh: held.services.get(&id).is_none_or(|old| old.handle != service.handle),
    }));
    if held.index != wanted.index {
        operations.push(Operation::PutIndex(wanted.index.clone()));
    }
    let switched = operations.len();
    operations.extend(gone(&held.services, &wanted.services).map(Operation::ClearService));
    operations.extend(gone(&held.tables, &wanted.tables).map(Operation::ClearTable));
    if !cut.is_empty() {
        operations.push(Operation::PutBackends(cut));
    }
    operations.extend(gone(&held.backends, &wanted.backends).map(Operation::ClearBackend));
    operations.extend(gone(&held.next_hops, &wanted.next_hops).map(Operation::ClearNextHop));
    operations.extend(held.interfaces.difference(&wanted.interfaces).map(|i| Operation::RemoveInterface(*i)));
    // An earlier change, or a failed one, may have stopped the use of what is cleared. A program may still see it.
    if operations[switched..].iter().any(|last| switched != 0 || clears(last)) {
        operations.insert(switched, Operation::Settle);
    }
    operations
}

/// Whether an operation clears an entry that packets are forwarded by.
const fn clears(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::ClearService(_)
            | Operation::ClearTable(_)
            | Operation::ClearBackend(_)
            | Operation::ClearNextHop(_)
    )
}

/// Desired entries that are missing or different in the actual state.
fn changed<'a, T: PartialEq>(
    held: &'a BTreeMap<u32, T>,
    wanted: &'a BTreeMap<u32, T>,
) -> impl Iterator<Item = (u32, &'a T)> {
    beside(wanted, held).filter(|(_, value, old)| *old != Some(*value)).map(|(id, value, _)| (id, value))
}

/// Ids of actual entries that are not desired.
fn gone<'a, T>(held: &'a BTreeMap<u32, T>, wanted: &'a BTreeMap<u32, T>) -> impl Iterator<Item = u32> {
    beside(held, wanted).filter(|(_, _, new)| new.is_none()).map(|(id, _, _)| id)
}

/// All of `these`, each with the entry of `those` under the same id. A single merge pass, as there may be 100,000
/// entries.
fn beside<'a, T>(
    these: &'a BTreeMap<u32, T>,
    those: &'a BTreeMap<u32, T>,
) -> impl Iterator<Item = (u32, &'a T, Option<&'a T>)> {
    let mut those = those.iter().peekable();
    these.iter().map(move |(id, value)| {
        while those.next_if(|(other, _)| *other < id).is_some() {}
        (*id, value, those.next_if(|(other, _)| *other == id).map(|(_, other)| other))
    })
}
