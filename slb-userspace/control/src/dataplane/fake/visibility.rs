//! What packets find, and what programs that began earlier may still use. It may be cleared or reused only after a
//! grace period.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::super::state::{MapState, Operation};
use slb_common::abi::ids::{AccessListId, BackendId, TableId};

/// The kind of object that an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ObjectKind {
    Service,
    AccessList,
    Table,
    Server,
    NextHop,
}

/// An object in a map, by its index there.
pub(super) type Object = (ObjectKind, u32);

/// Everything that packets reach from the index. Flows name any server, so all servers' next hops count.
pub(super) fn visible(state: &MapState) -> BTreeSet<Object> {
    let mut visible = BTreeSet::new();
    for (id, entry) in &state.index.entries {
        visible.insert((ObjectKind::Service, id.index()));
        if entry.access_list_id() != AccessListId::EMPTY {
            visible.insert((ObjectKind::AccessList, entry.access_list));
        }
        if entry.table() != TableId::NONE {
            visible.insert((ObjectKind::Table, entry.lookup_table));
        }
    }
    for (id, table) in &state.tables {
        if visible.contains(&(ObjectKind::Table, id.index())) {
            visible
                .extend(table.spec.members.iter().map(|member| (ObjectKind::Server, member.backend.index())));
            let previous_backends =
                table.slot_migration.previous_backends().map(|(_, previous_backend)| previous_backend);
            visible.extend(
                previous_backends
                    .filter(|previous_backend| *previous_backend != BackendId::NONE)
                    .map(|previous_backend| (ObjectKind::Server, previous_backend.index())),
            );
        }
    }
    let hops = state.backends.values().map(|backend| backend.next_hop);
    visible.extend(hops.filter(|hop| *hop != 0).map(|hop| (ObjectKind::NextHop, hop)));
    visible
}

/// Refuses to clear or reuse an object that a program may still see.
pub(super) fn expect_unseen(operation: &Operation, state: &MapState, seen: &BTreeSet<Object>) -> Result<()> {
    let parts: Vec<Object> = match operation {
        Operation::PutNextHop(id, _) | Operation::ClearNextHop(id) => vec![(ObjectKind::NextHop, id.index())],
        Operation::PutBackends(backends) => {
            let is_new = backends.iter().filter(|put| put.is_new && state.backends.contains_key(&put.id));
            is_new.map(|put| (ObjectKind::Server, put.id.index())).collect()
        }
        Operation::PutAccessList(id, _) | Operation::ClearAccessList(id, _) => {
            vec![(ObjectKind::AccessList, id.index())]
        }
        Operation::ClearBackend(id) => vec![(ObjectKind::Server, id.index())],
        Operation::ClearTable(id) => vec![(ObjectKind::Table, id.index())],
        Operation::PutService { id, is_new: true, .. } | Operation::ClearService(id) => {
            vec![(ObjectKind::Service, id.index())]
        }
        _ => Vec::new(),
    };
    match parts.into_iter().find(|part| seen.contains(part)) {
        Some((kind, id)) => bail!("{kind:?} {id} may still be seen by a program: no grace period has passed"),
        None => Ok(()),
    }
}
