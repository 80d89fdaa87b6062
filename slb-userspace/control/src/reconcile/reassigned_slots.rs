//! Computes which slots of the desired tables migrate.

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

use super::{Reconciler, ResizedTable};
use crate::{
    dataplane::{
        DataPlane,
        state::{BATCH, State, Table, build_all},
    },
    drain::leaves_slots,
    slot_migration::SlotMigration,
    table_split::{parted, successors},
};

impl<D: DataPlane> Reconciler<D> {
    /// Computes the slot migrations of the desired tables. A table of unknown content that proves equal to the desired
    /// one is replaced by it in `held`.
    ///
    /// # Errors
    /// A table cannot be read.
    pub(super) fn hand_over(
        &mut self,
        held: &mut Arc<State>,
        wanted: &mut State,
        now: Duration,
    ) -> Result<()> {
        let State { tables, backends, services, .. } = wanted;
        // A vector, because it is asked for every reassigned slot.
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
                let current_backends = table.current_backends();
                table.slot_migration.forget(|slot| current_backends[slot as usize], exists);
            }
            if table
                .slot_migration
                .previous_backends()
                .any(|(_, previous_backend)| left.contains(&previous_backend))
            {
                let current_backends = table.current_backends();
                table.slot_migration.pass_on(|slot| current_backends[slot as usize], |id| left.contains(&id));
            }
        }
        for (id, old) in parted(held, services) {
            let Some(table) = tables.get_mut(&id) else { continue };
            let (before, previous_backends) = self.plane.table(old).context("cannot read a table")?;
            let after = table.current_backends();
            if self.are_alike(&before, &after) {
                let successor = successors(&held.backends, backends, old, id);
                let previous_backends = previous_backends
                    .into_iter()
                    .map(|(slot, previous_backend)| (slot, successor(previous_backend)));
                table.slot_migration = SlotMigration::found(previous_backends, now);
                let before: Vec<u32> = before.iter().map(|server| successor(*server)).collect();
                table.slot_migration.change(&before, &after, exists, now);
            }
        }
        // A table that was found in the maps and has no server looks like no table.
        for id in scattered.iter().filter(|id| !held.tables.contains_key(id)) {
            if let Some(table) = tables.get_mut(id) {
                let current_backends = table.current_backends();
                table.slot_migration.look_for_all(&current_backends, exists, now);
            }
        }
        let mut found = Vec::new();
        for part in replaced.chunks(BATCH) {
            build_all(part_of(tables, part));
            for id in part {
                let (Some(old), Some(table)) = (held.tables.get(id), tables.get_mut(id)) else { continue };
                let change = Change { is_remembered: remembered.contains(id), left: &left, now };
                if self.replace(*id, old, table, change, exists)? {
                    table.current_backends = None;
                    found.push((*id, table.clone()));
                }
                if scattered.contains(id) {
                    let current_backends = table.current_backends();
                    table.slot_migration.look_for_all(&current_backends, exists, now);
                }
            }
            if replaced.len() > BATCH {
                // Building them again costs less time than keeping all of them costs memory.
                part_of(tables, part).for_each(|table| table.current_backends = None);
            }
        }
        if !found.is_empty() {
            Arc::make_mut(held).tables.extend(found);
        }
        Ok(())
    }

    /// Computes the slot migrations when `table`, which has its current backends, replaces `old`. Returns whether a
    /// table of unknown content in the data plane equals `table`.
    fn replace(
        &mut self,
        id: u32,
        old: &Table,
        table: &mut Table,
        change: Change<'_>,
        exists: impl Fn(u32) -> bool + Copy,
    ) -> Result<bool> {
        let Change { is_remembered, left, now } = change;
        // Reading it takes much less time than building it.
        let (before, previous_backends) = self.plane.table(id).context("cannot read a table")?;
        let found = if old.is_known() {
            old.slot_migration.clone()
        } else {
            SlotMigration::found(previous_backends, now)
        };
        let after = table.current_backends();
        if !self.are_alike(&before, &after) {
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

    /// Whether two tables have equally many slots, so that slots correspond. Otherwise notes the new size.
    fn are_alike(&mut self, before: &[u32], after: &[u32]) -> bool {
        // A table is empty if no server takes new flows.
        if before.len() != after.len() && !before.is_empty() {
            self.resized.push(ResizedTable { before: before.len(), after: after.len() });
        }
        before.len() == after.len()
    }
}

/// Further inputs of a table's change.
#[derive(Clone, Copy)]
struct Change<'a> {
    /// Whether every flow of the table has an entry, so that no slot needs to migrate.
    is_remembered: bool,
    /// Terminating servers that are previous backends no longer ([`leaves_slots`]).
    left: &'a BTreeSet<u32>,
    now: Duration,
}

/// Tables whose services pin all flows to their backend, before and after the change. Their untracked flows do not
/// exist, so slots need not migrate.
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

/// Tables of `dsr` and `ipip` whose services begin or cease to pin new flows to another backend. Tracked flows must be
/// found from now on, and untracked ones belong to the backend of their slot.
fn scattered(held: &State, wanted: &BTreeMap<u32, Service>) -> BTreeSet<u32> {
    // In mode `nat` every flow is tracked anyway.
    let goes_elsewhere = |service: &Service| {
        service.mode != mode::NAT && (service.policy & policy::ELSEWHERE != 0 || service.rehashed != 0)
    };
    let is_scattered = |(id, service): &(&u32, &Service)| {
        let held = held.services.get(id).filter(|held| held.handle == service.handle);
        held.is_some_and(|held| goes_elsewhere(held) != goes_elsewhere(service))
    };
    wanted.iter().filter(is_scattered).map(|(_, service)| service.lookup_table).collect()
}

/// The tables with these ids. `ids` must be sorted.
fn part_of<'a>(tables: &'a mut BTreeMap<u32, Table>, ids: &[u32]) -> impl Iterator<Item = &'a mut Table> {
    tables.iter_mut().filter(|(id, _)| ids.binary_search(id).is_ok()).map(|(_, table)| table)
}
