//! Computes which slots of the desired tables migrate.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use slb_common::abi::{
    backend::Backend,
    ids::{BackendId, ServiceId, TableId},
    service::{Service, policy},
    time::BootSecs,
};

use super::{Reconciler, ResizedTable};
use crate::{
    dataplane::{
        DataPlane,
        state::{MapState, ServerTable, TABLE_BATCH, build_tables},
    },
    drain::has_left_slots,
    slot_migration::SlotMigration,
    table_split::{split_tables, successors},
};

impl<D: DataPlane> Reconciler<D> {
    /// Computes the slot migrations of the desired tables. A table of unknown content that proves equal to the desired
    /// one is replaced by it in `actual`.
    ///
    /// # Errors
    /// A table cannot be read.
    pub(super) fn migrate_slots(
        &mut self,
        actual: &mut Arc<MapState>,
        desired: &mut MapState,
        now: Duration,
    ) -> Result<()> {
        let MapState { tables, backends, services, .. } = desired;
        // A vector, because it is asked for every reassigned slot.
        let mut there = vec![false; backends.last_key_value().map_or(0, |(id, _)| id.index() as usize + 1)];
        backends.keys().for_each(|id| there[id.index() as usize] = true);
        let exists = |id: BackendId| there.get(id.index() as usize) == Some(&true);
        let seconds = BootSecs::of(now);
        let released = |(_, backend): &(&BackendId, &Backend)| has_left_slots(backend, seconds);
        let released: BTreeSet<BackendId> = backends.iter().filter(released).map(|(id, _)| *id).collect();
        let tracked_tables = tracked_tables(actual, services);
        let repinned_tables = repinned_tables(actual, services);
        let mut replaced = Vec::new();
        for (id, old) in &actual.tables {
            let Some(table) = tables.get_mut(id) else { continue };
            if old.spec != table.spec || repinned_tables.contains(id) {
                replaced.push(*id);
                continue;
            }
            table.slot_migration = old.slot_migration.clone();
            if !table.slot_migration.previous_backends().all(|(_, previous_backend)| exists(previous_backend))
            {
                let current_backends = table.current_backends();
                table.slot_migration.replace_missing(|slot| current_backends[slot.position()], exists);
            }
            if table
                .slot_migration
                .previous_backends()
                .any(|(_, previous_backend)| released.contains(&previous_backend))
            {
                let current_backends = table.current_backends();
                table
                    .slot_migration
                    .leave_released(|slot| current_backends[slot.position()], |id| released.contains(&id));
            }
        }
        for (id, old) in split_tables(actual, services) {
            let Some(table) = tables.get_mut(&id) else { continue };
            let (before, previous_backends) = self.plane.table(old).context("cannot read a table")?;
            let after = table.current_backends();
            if self.have_same_size(&before, &after) {
                let successor = successors(&actual.backends, backends, old, id);
                let previous_backends = previous_backends
                    .into_iter()
                    .map(|(slot, previous_backend)| (slot, successor(previous_backend)));
                table.slot_migration = SlotMigration::from_maps(previous_backends, now);
                let before: Vec<BackendId> = before.iter().map(|server| successor(*server)).collect();
                table.slot_migration.change(&before, &after, exists, now);
            }
        }
        // A table that was found in the maps and has no server looks like no table.
        for id in repinned_tables.iter().filter(|id| !actual.tables.contains_key(id)) {
            if let Some(table) = tables.get_mut(id) {
                let current_backends = table.current_backends();
                table.slot_migration.migrate_all(&current_backends, exists, now);
            }
        }
        let mut found = Vec::new();
        for part in replaced.chunks(TABLE_BATCH) {
            build_tables(tables_with(tables, part));
            for id in part {
                let (Some(old), Some(table)) = (actual.tables.get(id), tables.get_mut(id)) else { continue };
                let change =
                    TableChange { is_tracked: tracked_tables.contains(id), released: &released, now };
                if self.replace_table(*id, old, table, change, exists)? {
                    table.current_backends = None;
                    found.push((*id, table.clone()));
                }
                if repinned_tables.contains(id) {
                    let current_backends = table.current_backends();
                    table.slot_migration.migrate_all(&current_backends, exists, now);
                }
            }
            if replaced.len() > TABLE_BATCH {
                // Building them again costs less time than keeping all of them costs memory.
                tables_with(tables, part).for_each(|table| table.current_backends = None);
            }
        }
        if !found.is_empty() {
            Arc::make_mut(actual).tables.extend(found);
        }
        Ok(())
    }

    /// Computes the slot migrations when `table`, which has its current backends, replaces `old`. Returns whether a
    /// table of unknown content in the data plane equals `table`.
    fn replace_table(
        &mut self,
        id: TableId,
        old: &ServerTable,
        table: &mut ServerTable,
        change: TableChange<'_>,
        exists: impl Fn(BackendId) -> bool + Copy,
    ) -> Result<bool> {
        let TableChange { is_tracked, released, now } = change;
        // Reading it takes much less time than building it.
        let (before, previous_backends) = self.plane.table(id).context("cannot read a table")?;
        let found = if old.is_known() {
            old.slot_migration.clone()
        } else {
            SlotMigration::from_maps(previous_backends, now)
        };
        let after = table.current_backends();
        if !self.have_same_size(&before, &after) {
            return Ok(false);
        }
        table.slot_migration = found.clone();
        if is_tracked {
            table.slot_migration.replace_missing(|slot| after[slot.position()], exists);
        } else {
            table.slot_migration.change(&before, &after, exists, now);
        }
        table.slot_migration.leave_released(|slot| after[slot.position()], |id| released.contains(&id));
        Ok(!old.is_known() && *before == *after && found == table.slot_migration)
    }

    /// Whether two tables have equally many slots, so that slots correspond. Otherwise notes the new size.
    fn have_same_size(&mut self, before: &[BackendId], after: &[BackendId]) -> bool {
        // A table is empty if no server takes new flows.
        if before.len() != after.len() && !before.is_empty() {
            self.resized.push(ResizedTable { before: before.len(), after: after.len() });
        }
        before.len() == after.len()
    }
}

/// Further inputs of a table's change.
#[derive(Clone, Copy)]
struct TableChange<'a> {
    /// Whether every flow of the table has an entry, so that no slot needs to migrate.
    is_tracked: bool,
    /// Terminating servers that are previous backends no longer ([`has_left_slots`]).
    released: &'a BTreeSet<BackendId>,
    now: Duration,
}

/// Tables whose services pin all flows to their backend, before and after the change. Their untracked flows do not
/// exist, so slots need not migrate.
fn tracked_tables(actual: &MapState, desired: &BTreeMap<ServiceId, Service>) -> BTreeSet<TableId> {
    let follows_table = |service: &&Service| !service.policies().has(policy::PINNED_ELSEWHERE);
    let by_table: BTreeSet<TableId> =
        actual.services.values().chain(desired.values()).filter(follows_table).map(Service::table).collect();
    actual.tables.keys().filter(|id| !by_table.contains(id)).copied().collect()
}

/// Tables of `dsr`, `ipip` and `gue` whose services begin or cease to pin new flows to another backend. Tracked flows must be
/// found from now on, and untracked ones belong to the backend of their slot.
fn repinned_tables(actual: &MapState, desired: &BTreeMap<ServiceId, Service>) -> BTreeSet<TableId> {
    // In mode `nat` every flow is tracked anyway.
    let pins_elsewhere = |service: &Service| {
        !service.sees_replies()
            && (service.policies().has(policy::PINNED_ELSEWHERE) || service.hash_change().is_some())
    };
    let is_repinned = |(id, service): &(&ServiceId, &Service)| {
        let actual = actual.services.get(id).filter(|actual| actual.handle == service.handle);
        actual.is_some_and(|actual| pins_elsewhere(actual) != pins_elsewhere(service))
    };
    desired.iter().filter(is_repinned).map(|(_, service)| service.table()).collect()
}

/// The tables with these ids. `ids` must be sorted.
fn tables_with<'a>(
    tables: &'a mut BTreeMap<TableId, ServerTable>,
    ids: &[TableId],
) -> impl Iterator<Item = &'a mut ServerTable> {
    tables.iter_mut().filter(|(id, _)| ids.binary_search(id).is_ok()).map(|(_, table)| table)
}
