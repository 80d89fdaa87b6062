//! What packets find, and what programs that have begun may still use of it: a grace period must pass before that is cleared, or put to
//! another use.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use slb_common::abi::lookup_table::NO_BACKEND;

use super::super::state::{NO_TABLE, Operation, State};

/// What an id is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    Table,
    Server,
    NextHop,
}

/// An element of a map.
pub(super) type Part = (Kind, u32);

/// Everything that the index leads to. Servers are found by flows, too: all of them lead to their next hops.
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

/// Refuses to clear, or to put to another use, what a program may still see.
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
