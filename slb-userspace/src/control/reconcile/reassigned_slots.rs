//! Which slots of the wanted tables have changed hands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use slb_common::abi::{
    backend::Backend,
    service::{Service, mode, policy},
};

use super::Reconciler;
use crate::{
    control::{
        drain::leaves_slots,
        slot_migration::SlotMigration,
        table_split::{parted, successors},
    },
    dataplane::{
        DataPlane,
        state::{BATCH, State, Table, build_all},
    },
};

impl<D: DataPlane> Reconciler<D> {
    /// Works out which slots of the wanted tables have changed hands. What is held is said to be what is wanted where that
    /// is found to be so.
    pub(super) fn hand_over(&self, held: &mut Arc<State>, wanted: &mut State, now: Duration) -> Result<()> {
        let State { tables, backends, services, .. } = wanted;
        // Asked for every slot that has changed hands.
        let mut there = vec![false; backends.last_key_value().map_or(0, |(id, _)| *id as usize + 1)];
        backends.keys().for_each(|id| there[*id as usize] = true);
        let exists = |id: u32| there.get(id as usize) == Some(&true);
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let left = |(_, backend): &(&u32, &Backend)| leaves_slots(backend, seconds);
        let left: BTreeSet<u32> = backends.iter().filter(left).map(|(id, _)| *id).collect();
        let remembered = remembered(held, services);
        let scattered = scattered(held, services);
        let mut replaced = Vec::new();
        for (id, old) in &held.tables {
            let Some(table) = tables.get_mut(id) else { continue };
            if old.plan != table.plan || scattered.contains(id) {
                replaced.push(*id);
                continue;
            }
            table.slot_migration = old.slot_migration.clone();
            if !table.slot_migration.previous_backends().all(|(_, previous_backend)| exists(previous_backend))
            {
                let owners = table.owners();
                table.slot_migration.forget(|slot| owners[slot as usize], exists);
            }
            if table
                .slot_migration
                .previous_backends()
                .any(|(_, previous_backend)| left.contains(&previous_backend))
            {
                let owners = table.owners();
                table.slot_migration.pass_on(|slot| owners[slot as usize], |id| left.contains(&id));
            }
        }
        for (id, old) in parted(held, services) {
            let Some(table) = tables.get_mut(&id) else { continue };
            let (before, previous_backends) = self.plane.table(old).context("cannot read a table")?;
            let after = table.owners();
            if are_alike(&before, &after) {
                let successor = successors(&held.backends, backends, old, id);
                let previous_backends = previous_backends
                    .into_iter()
                    .map(|(slot, previous_backend)| (slot, successor(previous_backend)));
                table.slot_migration = SlotMigration::found(previous_backends, now);
                let before: Vec<u32> = before.iter().map(|server| successor(*server)).collect();
                table.slot_migration.change(&before, &after, exists, now);
            }
        }
        // An empty one that has been found looks like none.
        for id in scattered.iter().filter(|id| !held.tables.contains_key(id)) {
            if let Some(table) = tables.get_mut(id) {
                let owners = table.owners();
                table.slot_migration.look_for_all(&owners, exists, now);
            }
        }
        let mut found = Vec::new();
        for part in replaced.chunks(BATCH) {
            build_all(part_of(tables, part));
            for id in part {
                let (Some(old), Some(table)) = (held.tables.get(id), tables.get_mut(id)) else { continue };
                let change = Change { is_remembered: remembered.contains(id), left: &left, now };
                if self.replace(*id, old, table, change, exists)? {
                    table.owners = None;
                    found.push((*id, table.clone()));
                }
                if scattered.contains(id) {
                    let owners = table.owners();
                    table.slot_migration.look_for_all(&owners, exists, now);
                }
            }
            if replaced.len() > BATCH {
                // They take more room than building them again takes time.
                part_of(tables, part).for_each(|table| table.owners = None);
            }
        }
        if !found.is_empty() {
            Arc::make_mut(held).tables.extend(found);
        }
        Ok(())
    }

    /// Works out which slots change hands when `table`, which has been built, takes the place of `old`. Returns whether the
    /// data plane, of which that was not known, holds it already.
    fn replace(
        &self,
        id: u32,
        old: &Table,
        table: &mut Table,
        change: Change<'_>,
        exists: impl Fn(u32) -> bool + Copy,
    ) -> Result<bool> {
        let Change { is_remembered, left, now } = change;
        // To read it takes much less time than to build it.
        let (before, previous_backends) = self.plane.table(id).context("cannot read a table")?;
        let found = if old.is_known() {
            old.slot_migration.clone()
        } else {
            SlotMigration::found(previous_backends, now)
        };
        let after = table.owners();
        if !are_alike(&before, &after) {
            return Ok(false);
        }
        table.slot_migration = found.clone();
        if is_remembered {
            table.slot_migration.forget(|slot| after[slot as usize], exists);
        } else {
            table.slot_migration.change(&before, &after, exists, now);
        }
        table.slot_migration.pass_on(|slot| after[slot as usize], |id| left.contains(&id));
        Ok(!old.is_known() && before == after && found == table.slot_migration)
    }
}

/// What else a change of a table depends on.
#[derive(Clone, Copy)]
struct Change<'a> {
    /// Whether all of its flows have an entry.
    is_remembered: bool,
    /// Servers that are no previous backends any more.
    left: &'a BTreeSet<u32>,
    now: Duration,
}

/// Whether slots of two tables correspond.
fn are_alike(before: &[u32], after: &[u32]) -> bool {
    // Empty where no server could be chosen.
    if before.len() != after.len() && !before.is_empty() {
        tracing::warn!(
            before = before.len(),
            now = after.len(),
            "another table size: connections that are not tracked may move"
        );
    }
    before.len() == after.len()
}

/// Tables whose flows are all remembered, as they have been: nobody looks for one in the slot that it had.
fn remembered(held: &State, wanted: &BTreeMap<u32, Service>) -> BTreeSet<u32> {
    let goes_by_table = |service: &&Service| service.policy & policy::ELSEWHERE == 0;
    let by_table: BTreeSet<u32> = held
        .services
        .values()
        .chain(wanted.values())
        .filter(goes_by_table)
        .map(|service| service.lookup_table)
        .collect();
    held.tables.keys().filter(|id| !by_table.contains(id)).copied().collect()
}

/// Tables by which new flows are given servers from now on, or are no longer. What is remembered is to be found, and what is
/// not is with the server that its slot had.
fn scattered(held: &State, wanted: &BTreeMap<u32, Service>) -> BTreeSet<u32> {
    // Where answers return, all flows are remembered anyway.
    let goes_elsewhere = |service: &Service| {
        service.mode != mode::NAT && (service.policy & policy::ELSEWHERE != 0 || service.rehashed != 0)
    };
    let is_scattered = |(id, service): &(&u32, &Service)| {
        let held = held.services.get(id).filter(|held| held.handle == service.handle);
        held.is_some_and(|held| goes_elsewhere(held) != goes_elsewhere(service))
    };
    wanted.iter().filter(is_scattered).map(|(_, service)| service.lookup_table).collect()
}

/// The tables with these ids, which are sorted.
fn part_of<'a>(tables: &'a mut BTreeMap<u32, Table>, ids: &[u32]) -> impl Iterator<Item = &'a mut Table> {
    tables.iter_mut().filter(|(id, _)| ids.binary_search(id).is_ok()).map(|(_, table)| table)
}
