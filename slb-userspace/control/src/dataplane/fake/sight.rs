//! What packets find, and what programs that began earlier may still use. It may be cleared or reused only after a
//! grace period.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use slb_common::abi::lookup_table::NO_BACKEND;

use super::super::state::{NO_TABLE, Operation, State};

/// The kind of object that an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    Table,
    Server,
    NextHop,
}

/// An object in a map.
pub(super) type Part = (Kind, u32);

/// Everything that packets reach from the index. Flows name any server, so all servers' next hops count.
pub(super) fn visible(state: &State) -> BTreeSet<Part> {
    let mut visible = BTreeSet::new();
    for (id, entry) in &state.index.entries {
        visible.insert((Kind::Service, *id));
        if entry.lookup_table != NO_TABLE {
            visible.insert((Kind::Table, entry.lookup_table));
        }
    }
    for (id, table) in &state.tables {
        if visible.contains(&(Kind::Table, *id)) {
            visible.extend(table.plan.members.iter().map(|member| (Kind::Server, member.backend)));
            let previous_backends =
                table.slot_migration.previous_backends().map(|(_, previous_backend)| previous_backend);
            visible.extend(
                previous_backends
                    .filter(|previous_backend| *previous_backend != NO_BACKEND)
                    .map(|previous_backend| (Kind::Server, previous_backend)),
            );
        }
    }
    let hops = state.backends.values().map(|backend| backend.next_hop);
    visible.extend(hops.filter(|hop| *hop != 0).map(|hop| (Kind::NextHop, hop)));
    visible
}

/// Refuses to clear or reuse an object that a program may still see.
pub(super) fn expect_unseen(operation: &Operation, state: &State, seen: &BTreeSet<Part>) -> Result<()> {
    let parts: Vec<Part> = match operation {
        Operation::PutNextHop(id, _) | Operation::ClearNextHop(id) => vec![(Kind::NextHop, *id)],
        Operation::PutBackends(backends) => {
            let fresh = backends.iter().filter(|put| put.fresh && state.backends.contains_key(&put.id));
            fresh.map(|put| (Kind::Server, put.id)).collect()
        }
        Operation::ClearBackend(id) => vec![(Kind::Server, *id)],
        Operation::ClearTable(id) => vec![(Kind::Table, *id)],
        Operation::PutService { id, fresh: true, .. } | Operation::ClearService(id) => {
            vec![(Kind::Service, *id)]
        }
        _ => Vec::new(),
    };
    match parts.into_iter().find(|part| seen.contains(part)) {
        Some((kind, id)) => bail!("{kind:?} {id} may still be seen by a program: no grace period has passed"),
        None => Ok(()),
    }
}
