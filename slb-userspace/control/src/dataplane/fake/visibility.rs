//! What packets find, and what programs that began earlier may still use. It may be cleared or reused only after a
//! grace period.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use slb_common::abi::lookup_table::NO_BACKEND;

use super::super::state::{MapState, NO_TABLE, Operation};

/// The kind of object that an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ObjectKind {
    Service,
    Table,
    Server,
    NextHop,
}

/// An object in a map.
pub(super) type Object = (ObjectKind, u32);

/// Everything that packets reach from the index. Flows name any server, so all servers' next hops count.
pub(super) fn visible(state: &MapState) -> BTreeSet<Object> {
    let mut visible = BTreeSet::new();
    for (id, entry) in &state.index.entries {
        visible.insert((ObjectKind::Service, *id));
        if entry.lookup_table != NO_TABLE {
            visible.insert((ObjectKind::Table, entry.lookup_table));
        }
    }
    for (id, table) in &state.tables {
        if visible.contains(&(ObjectKind::Table, *id)) {
            visible.extend(table.spec.members.iter().map(|member| (ObjectKind::Server, member.backend)));
            let previous_backends =
                table.slot_migration.previous_backends().map(|(_, previous_backend)| previous_backend);
            visible.extend(
                previous_backends
                    .filter(|previous_backend| *previous_backend != NO_BACKEND)
                    .map(|previous_backend| (ObjectKind::Server, previous_backend)),
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
        Operation::PutNextHop(id, _) | Operation::ClearNextHop(id) => vec![(ObjectKind::NextHop, *id)],
        Operation::PutBackends(backends) => {
            let is_new = backends.iter().filter(|put| put.is_new && state.backends.contains_key(&put.id));
            is_new.map(|put| (ObjectKind::Server, put.id)).collect()
        }
        Operation::ClearBackend(id) => vec![(ObjectKind::Server, *id)],
        Operation::ClearTable(id) => vec![(ObjectKind::Table, *id)],
        Operation::PutService { id, is_new: true, .. } | Operation::ClearService(id) => {
            vec![(ObjectKind::Service, *id)]
        }
        _ => Vec::new(),
    };
    match parts.into_iter().find(|part| seen.contains(part)) {
        Some((kind, id)) => bail!("{kind:?} {id} may still be seen by a program: no grace period has passed"),
        None => Ok(()),
    }
}
