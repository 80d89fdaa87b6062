//! Operations that turn the actual state into the desired one. After each of them a packet finds the old or the new
//! state, and no dangling id. Pure.

use std::collections::BTreeMap;

use slb_common::abi::backend::Backend;

use crate::dataplane::state::{IndexContent, MapState, Operation, PutBackend};

/// Returns the operations in order. An object is written before the objects that name it, and removed after them.
pub fn diff(actual: &MapState, desired: &MapState) -> Vec<Operation> {
    let mut operations = Vec::new();
    if actual.settings != desired.settings {
        operations.push(Operation::PutSettings(desired.settings));
    }
    operations.extend(desired.interfaces.difference(&actual.interfaces).map(|i| Operation::PutInterface(*i)));
    operations.extend(
        changed(&actual.next_hops, &desired.next_hops).map(|(id, hop)| Operation::PutNextHop(id, *hop)),
    );
    let is_terminating = |put: &PutBackend| !put.is_new && put.backend.flags & Backend::TERMINATING != 0;
    // A server becomes terminating only once no table gives it new flows.
    let (terminating, backends): (Vec<_>, Vec<_>) = changed(&actual.backends, &desired.backends)
        .map(|(id, backend)| PutBackend {
            id,
            backend: *backend,
            is_new: actual.backends.get(&id).is_none_or(|old| old.handle != backend.handle),
        })
        .partition(is_terminating);
    // They are written after the grace period, and a program may still use the next hop that they leave.
    let leaves_hop = terminating.iter().any(|put| {
        actual.backends.get(&put.id).is_some_and(|backend| backend.next_hop != put.backend.next_hop)
    });
    if !backends.is_empty() {
        operations.push(Operation::PutBackends(backends));
    }
    let tables: BTreeMap<_, _> =
        changed(&actual.tables, &desired.tables).map(|(id, table)| (id, table.clone())).collect();
    // Answers of a server must be recognised before it receives its first flow.
    if let Some(servers) = actual.index.servers.with(&desired.index.servers) {
        operations.push(Operation::PutIndex(IndexContent { servers, ..actual.index.clone() }));
    }
    // As a table, an ID gives flows to a server.
    operations.extend(put_quic_servers(actual, desired));
    if !tables.is_empty() {
        operations.push(Operation::PutTables(tables));
    }
    operations.extend(changed(&actual.services, &desired.services).map(|(id, service)| {
        Operation::PutService {
            id,
            service: Box::new(*service),
            is_new: actual.services.get(&id).is_none_or(|old| old.handle != service.handle),
        }
    }));
    operations.extend(
        changed(&actual.access_lists, &desired.access_lists)
            .map(|(id, networks)| Operation::PutAccessList(id, networks.clone())),
    );
    if actual.index != desired.index {
        operations.push(Operation::PutIndex(desired.index.clone()));
    }
    let switched = operations.len();
    operations.extend(removed(&actual.services, &desired.services).map(Operation::ClearService));
    operations.extend(removed(&actual.tables, &desired.tables).map(Operation::ClearTable));
    let lists = removed(&actual.access_lists, &desired.access_lists);
    operations.extend(lists.map(|id| Operation::ClearAccessList(id, actual.access_lists[&id].clone())));
    if !terminating.is_empty() {
        operations.push(Operation::PutBackends(terminating));
    }
    // A program that reads an ID now compares the handle with the server's entry.
    let quic_servers: Vec<_> = removed(&actual.quic_servers, &desired.quic_servers).collect();
    if !quic_servers.is_empty() {
        operations.push(Operation::ClearQuicServers(quic_servers));
    }
    operations.extend(removed(&actual.backends, &desired.backends).map(Operation::ClearBackend));
    let hops: Vec<_> = removed(&actual.next_hops, &desired.next_hops).map(Operation::ClearNextHop).collect();
    if leaves_hop && !hops.is_empty() {
        operations.push(Operation::GracePeriod);
    }
    operations.extend(hops);
    operations
        .extend(actual.interfaces.difference(&desired.interfaces).map(|i| Operation::RemoveInterface(*i)));
    // An earlier change, or a failed one, may have stopped the use of what is cleared. A program may still see it.
    if operations[switched..].iter().any(|last| switched != 0 || clears(last)) {
        operations.insert(switched, Operation::GracePeriod);
    }
    operations
}

/// Writes new QUIC server IDs. Old ones stay until the packet path no longer needs them; but if failed changes have left
/// more IDs than servers, old ones make room first. The map has room for two IDs for each server.
fn put_quic_servers(actual: &MapState, desired: &MapState) -> Vec<Operation> {
    let new: Vec<_> =
        changed(&actual.quic_servers, &desired.quic_servers).map(|(key, server)| (key, *server)).collect();
    if new.is_empty() {
        return Vec::new();
    }
    let old: Vec<_> = removed(&actual.quic_servers, &desired.quic_servers).collect();
    let clears = actual.quic_servers.len() > actual.backends.len() && !old.is_empty();
    let clear = clears.then_some(Operation::ClearQuicServers(old));
    clear.into_iter().chain([Operation::PutQuicServers(new)]).collect()
}

/// Whether an operation clears an entry that packets are forwarded by.
const fn clears(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::ClearService(_)
            | Operation::ClearTable(_)
            | Operation::ClearBackend(_)
            | Operation::ClearNextHop(_)
            | Operation::ClearAccessList(..)
    )
}

/// Desired entries that are missing or different in the actual state.
fn changed<'a, I: Ord + Copy, T: PartialEq>(
    actual: &'a BTreeMap<I, T>,
    desired: &'a BTreeMap<I, T>,
) -> impl Iterator<Item = (I, &'a T)> {
    beside(desired, actual).filter(|(_, value, old)| *old != Some(*value)).map(|(id, value, _)| (id, value))
}

/// Ids of actual entries that are not desired.
fn removed<'a, I: Ord + Copy, T>(
    actual: &'a BTreeMap<I, T>,
    desired: &'a BTreeMap<I, T>,
) -> impl Iterator<Item = I> {
    beside(actual, desired).filter(|(_, _, new)| new.is_none()).map(|(id, _, _)| id)
}

/// All of `these`, each with the entry of `those` under the same id. A single merge pass, as there may be 100,000
/// entries.
fn beside<'a, I: Ord + Copy, T>(
    these: &'a BTreeMap<I, T>,
    those: &'a BTreeMap<I, T>,
) -> impl Iterator<Item = (I, &'a T, Option<&'a T>)> {
    let mut those = those.iter().peekable();
    these.iter().map(move |(id, value)| {
        while those.next_if(|(other, _)| *other < id).is_some() {}
        (*id, value, those.next_if(|(other, _)| *other == id).map(|(_, other)| other))
    })
}
