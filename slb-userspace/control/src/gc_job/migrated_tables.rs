//! Tables whose slot migrations end with a GC pass.

use std::{ops::Bound, time::Duration};

use slb_common::abi::ids::{BackendId, TableId};

use super::{CurrentBackends, GcJob, PinnedFlows};
use crate::{
    dataplane::state::{MapState, ServerTable, TABLE_BATCH},
    slot::Slot,
    slot_migration::PinnedElsewhere,
};

/// A due table as it is after the pass.
#[derive(Debug, Clone)]
pub(crate) struct MigratedTable {
    /// Its id.
    pub(crate) id: TableId,
    /// The table.
    pub(crate) table: ServerTable,
    /// Whether any slot has another previous backend, or no longer migrates.
    pub(crate) has_changed: bool,
}

/// The next tables whose slot migrations may end, [`TABLE_BATCH`] at most. Each pass takes up after the last one.
pub(super) fn due_tables(job: &GcJob) -> Vec<TableId> {
    let is_due = |(id, table): &(&TableId, &ServerTable)| {
        table.slot_migration.is_due(idle_time(&job.state, **id), job.now)
    };
    let after = job.state.tables.range((Bound::Excluded(job.last_due), Bound::Unbounded));
    let all = after.chain(job.state.tables.range(..=job.last_due));
    all.filter(is_due).map(|(id, _)| *id).take(TABLE_BATCH).collect()
}

/// The due tables as they are after the pass. An unread entry may be a flow of any slot.
pub(super) fn migrated_tables(
    job: &GcJob,
    current_backends: &CurrentBackends,
    pinned: &PinnedFlows,
    is_complete: bool,
) -> Vec<MigratedTable> {
    let migrated = current_backends.iter().filter_map(|(&id, current_backends)| {
        let before = job.state.tables.get(&id)?;
        let mut table = before.clone();
        let current_backend =
            |slot: Slot| current_backends.get(slot.position()).copied().unwrap_or(BackendId::NONE);
        let pinned_elsewhere = |slot| match pinned.get(&(id, slot)) {
            _ if !is_complete => PinnedElsewhere::UNKNOWN,
            pinned => pinned.copied().unwrap_or_default(),
        };
        table.slot_migration.complete(current_backend, pinned_elsewhere, idle_time(&job.state, id), job.now);
        let was = before.slot_migration.previous_backends();
        let has_changed = !was.eq(table.slot_migration.previous_backends());
        table.current_backends = Some(current_backends.clone());
        Some(MigratedTable { id, table, has_changed })
    });
    migrated.collect()
}

/// Time after which untracked flows of a table have expired: the longest idle timeout of its services, plus slack. A
/// change starts the wait before its tables are active.
pub(crate) fn idle_time(state: &MapState, table: TableId) -> Duration {
    const SLACK: u64 = 10;
    let services = state.services.values().filter(|service| service.table() == table);
    let idle = services.map(|service| u32::from(service.idle_timeout)).max().unwrap_or(0);
    Duration::from_secs(u64::from(idle) + SLACK)
}
