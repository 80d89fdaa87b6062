//! Slot migration: which slots of a server table migrate, their previous backends, and when a migration ends. Pure.
//!
//! Invariant: a live flow without a flow-table entry is served by its slot's previous backend. A slot that is not
//! listed here does not migrate: its current backend, which the table names, is also its previous backend.
//!
//! A slot is listed when its current backend changes. From then on the packet path tracks its flows: new flows with the
//! current backend, mid-stream packets with the previous one. Every untracked flow has expired after the whole idle
//! time since the last change. The current backend then becomes the previous backend too. The slot is removed from the
//! list once no tracked flow of it is pinned to another backend.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use slb_common::abi::ids::BackendId;

use crate::slot::Slot;

/// Tracked flows of a slot that are pinned to another backend than the current one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PinnedElsewhere {
    /// Whether there is such a flow.
    pub any: bool,
    /// Earliest last packet of the evictable flows among them, as time since boot. `None` if none is evictable.
    pub evictable_since: Option<Duration>,
}

impl PinnedElsewhere {
    /// Used if entries could not be read: there may be such flows, and they may be of any age.
    pub const UNKNOWN: Self = Self { any: true, evictable_since: Some(Duration::ZERO) };

    /// Counts one more flow. `last_packet` is the time of its last packet if it is evictable.
    pub fn note(&mut self, last_packet: Option<Duration>) {
        self.any = true;
        self.evictable_since = match (self.evictable_since, last_packet) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// The migrating slots of one server table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotMigration {
    /// Shared by the actual and the desired state while they are equal.
    slots: Arc<BTreeMap<Slot, MigratingSlot>>,
}

/// A migrating slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MigratingSlot {
    /// Id of the backend that serves the slot's untracked flows; [`BackendId::NONE`] if none does.
    previous_backend: BackendId,
    /// Time since boot at which the slot was last reassigned.
    since: Duration,
}

impl SlotMigration {
    /// Migrating slots read from the maps, with their previous backends. The maps do not store when a slot was
    /// reassigned, so each counts as reassigned at `now`.
    pub fn from_maps(previous_backends: impl IntoIterator<Item = (Slot, BackendId)>, now: Duration) -> Self {
        let migrating = |(slot, previous_backend)| (slot, MigratingSlot { previous_backend, since: now });
        Self { slots: Arc::new(previous_backends.into_iter().map(migrating).collect()) }
    }

    /// Whether no slot migrates.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Number of migrating slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The previous backend of a migrating slot, or [`BackendId::NONE`] if it has none. `None` if the slot does not
    /// migrate.
    pub fn previous_backend(&self, slot: Slot) -> Option<BackendId> {
        self.slots.get(&slot).map(|migrating| migrating.previous_backend)
    }

    /// The migrating slots with their previous backends, by slot.
    pub fn previous_backends(&self) -> impl Iterator<Item = (Slot, BackendId)> + '_ {
        self.slots.iter().map(|(slot, migrating)| (*slot, migrating.previous_backend))
    }

    /// Records that `new` replaces `old`, a table of the same length. Both list the current backend of each slot.
    /// `exists` says whether a backend still has an entry.
    pub fn change(
        &mut self,
        old: &[BackendId],
        new: &[BackendId],
        exists: impl Fn(BackendId) -> bool,
        now: Duration,
    ) {
        let slots = Arc::make_mut(&mut self.slots);
        for (slot, (&before, &after)) in Slot::all().zip(old.iter().zip(new)) {
            if before == after && slots.is_empty() {
                continue;
            }
            match slots.get_mut(&slot) {
                Some(migrating) => {
                    if !exists(migrating.previous_backend) {
                        // The previous backend's flows ended with it.
                        migrating.previous_backend = after;
                    }
                    if before != after {
                        migrating.since = now;
                    }
                }
                None if before != after && before != BackendId::NONE && exists(before) => {
                    slots.insert(slot, MigratingSlot { previous_backend: before, since: now });
                }
                None => {}
            }
        }
    }

    /// Makes every slot migrate, because new flows may be pinned to another backend, or no longer are. The previous
    /// backend of a slot that did not migrate is its current one, from `current_backends`.
    pub fn migrate_all(
        &mut self,
        current_backends: &[BackendId],
        exists: impl Fn(BackendId) -> bool,
        now: Duration,
    ) {
        let slots = Arc::make_mut(&mut self.slots);
        for (slot, &current_backend) in Slot::all().zip(current_backends) {
            let previous_backend = if exists(current_backend) { current_backend } else { BackendId::NONE };
            // Also for slots that migrate already: flows of a previous backend that was current backend until now are
            // untracked.
            slots.entry(slot).or_insert(MigratingSlot { previous_backend, since: now }).since = now;
        }
    }

    /// Replaces previous backends that no longer exist by the current ones. For a table whose slots were not
    /// reassigned.
    pub fn replace_missing(
        &mut self,
        current_backend: impl Fn(Slot) -> BackendId,
        exists: impl Fn(BackendId) -> bool,
    ) {
        for (slot, migrating) in Arc::make_mut(&mut self.slots) {
            if !exists(migrating.previous_backend) {
                migrating.previous_backend = current_backend(*slot);
            }
        }
    }

    /// Makes the current backend the previous one too, if the previous backend `serves_nothing`. A slot without a
    /// current backend keeps its previous one, so that its packets can still be reset.
    pub fn leave_released(
        &mut self,
        current_backend: impl Fn(Slot) -> BackendId,
        serves_nothing: impl Fn(BackendId) -> bool,
    ) {
        if !self.slots.values().any(|migrating| serves_nothing(migrating.previous_backend)) {
            return;
        }
        for (slot, migrating) in Arc::make_mut(&mut self.slots) {
            let current_backend = current_backend(*slot);
            if current_backend != BackendId::NONE && serves_nothing(migrating.previous_backend) {
                migrating.previous_backend = current_backend;
            }
        }
    }

    /// Whether a slot was last reassigned more than `idle` ago.
    pub fn is_due(&self, idle: Duration, now: Duration) -> bool {
        self.slots.values().any(|migrating| now.saturating_sub(migrating.since) > idle)
    }

    /// Restarts the wait of every slot at `now`, because an entry was evicted or flushed. Its flow may belong to any
    /// previous backend.
    pub fn restart_wait(&mut self, now: Duration) {
        if !self.is_empty() {
            Arc::make_mut(&mut self.slots).values_mut().for_each(|migrating| migrating.since = now);
        }
    }

    /// Ends migrations of slots that were last reassigned more than `idle` ago and have no flow pinned to another
    /// backend, as `elsewhere` says.
    pub fn complete(
        &mut self,
        current_backend: impl Fn(Slot) -> BackendId,
        elsewhere: impl Fn(Slot) -> PinnedElsewhere,
        idle: Duration,
        now: Duration,
    ) {
        Arc::make_mut(&mut self.slots).retain(|slot, migrating| {
            let due = migrating.since + idle;
            if now <= due {
                return true;
            }
            let has_other_backend = migrating.previous_backend != current_backend(*slot);
            let PinnedElsewhere { any, evictable_since } = elsewhere(*slot);
            // Such a flow may predate the change and must find its previous backend after an eviction. A flow first
            // seen after `due` does not predate it.
            if has_other_backend && evictable_since.is_some_and(|seen| seen <= due) {
                return true;
            }
            // Two passes: the next one sees the flows that become tracked before this previous backend is active.
            migrating.previous_backend = current_backend(*slot);
            has_other_backend || any
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(900);
    const NONE: u32 = BackendId::NONE.index();

    fn ids<const N: usize>(indexes: [u32; N]) -> [BackendId; N] {
        indexes.map(BackendId::new)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn none(_: Slot) -> PinnedElsewhere {
        PinnedElsewhere::default()
    }

    fn previous_backends(slot_migration: &SlotMigration) -> Vec<(usize, u32)> {
        slot_migration.previous_backends().map(|(slot, backend)| (slot.position(), backend.index())).collect()
    }

    #[test]
    fn reassigned_slot_keeps_its_oldest_previous_backend() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&ids([1, 1, 2]), &ids([1, 2, 2]), |_| true, at(0));
        assert_eq!(previous_backends(&slot_migration), [(1, 1)]);
        slot_migration.change(&ids([1, 2, 2]), &ids([1, 3, 2]), |_| true, at(1));
        assert_eq!(previous_backends(&slot_migration), [(1, 1)]);
    }

    #[test]
    fn slot_of_a_removed_server_does_not_migrate() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&ids([1, 2]), &ids([2, 2]), |id| id != BackendId::new(1), at(0));
        assert!(slot_migration.is_empty());
    }

    #[test]
    fn removed_previous_backend_is_replaced_by_the_current_backend() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&ids([1]), &ids([2]), |_| true, at(0));
        slot_migration.change(&ids([2]), &ids([3]), |id| id != BackendId::new(1), at(1));
        assert_eq!(previous_backends(&slot_migration), [(0, 3)]);
        slot_migration.replace_missing(|_| BackendId::new(3), |_| true);
        assert_eq!(previous_backends(&slot_migration), [(0, 3)]);
        slot_migration.replace_missing(|_| BackendId::new(4), |id| id != BackendId::new(3));
        assert_eq!(previous_backends(&slot_migration), [(0, 4)]);
    }

    #[test]
    fn previous_backend_that_serves_nothing_is_replaced_by_current_one() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&ids([1, 1, 2]), &ids([2, NONE, 3]), |_| true, at(0));
        slot_migration
            .leave_released(|slot| ids([2, NONE, 3])[slot.position()], |id| id == BackendId::new(1));
        assert_eq!(previous_backends(&slot_migration), [(0, 2), (1, 1), (2, 2)]);
    }

    #[test]
    fn slots_with_flows_at_unknown_servers_migrate_until_none_is_left() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&ids([1, 2]), &ids([2, 2]), |_| true, at(0));
        slot_migration.migrate_all(&ids([2, 2, 3, NONE]), |id| id != BackendId::new(3), at(0));
        assert_eq!(previous_backends(&slot_migration), [(0, 1), (1, 2), (2, NONE), (3, NONE)]);
        let one = |slot| PinnedElsewhere { any: slot == Slot::new(1), evictable_since: None };
        slot_migration.complete(|_| BackendId::new(2), one, IDLE, at(901));
        slot_migration.complete(|_| BackendId::new(2), one, IDLE, at(902));
        assert_eq!(previous_backends(&slot_migration), [(1, 2)]);
        slot_migration.complete(|_| BackendId::new(2), none, IDLE, at(903));
        assert!(slot_migration.is_empty());
    }

    #[test]
    fn after_idle_timeout_a_slot_waits_only_for_pinned_flows() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&ids([1, 1]), &ids([2, 2]), |_| true, at(0));
        let one = |slot| PinnedElsewhere { any: slot == Slot::new(1), evictable_since: None };
        assert!(!slot_migration.is_due(IDLE, at(900)));
        slot_migration.complete(|_| BackendId::new(2), none, IDLE, at(900));
        assert_eq!(previous_backends(&slot_migration), [(0, 1), (1, 1)]);
        assert!(slot_migration.is_due(IDLE, at(901)));
        slot_migration.complete(|_| BackendId::new(2), one, IDLE, at(901));
        assert_eq!(
            previous_backends(&slot_migration),
            [(0, 2), (1, 2)],
            "served by its previous backend until now"
        );
        slot_migration.complete(|_| BackendId::new(2), one, IDLE, at(902));
        assert_eq!(previous_backends(&slot_migration), [(1, 2)]);
        slot_migration.complete(|_| BackendId::new(2), none, IDLE, at(903));
        assert!(slot_migration.is_empty());
    }

    #[test]
    fn slot_waits_for_flows_that_eviction_may_return_to_previous_backend() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&ids([1]), &ids([2]), |_| true, at(0));
        slot_migration.restart_wait(at(800));
        slot_migration.complete(|_| BackendId::new(2), none, IDLE, at(1700));
        assert_eq!(previous_backends(&slot_migration), [(0, 1)], "expired at 800");
        let seen = |seconds| {
            move |_| {
                let mut elsewhere = PinnedElsewhere::default();
                elsewhere.note(Some(at(seconds)));
                elsewhere.note(Some(at(1900)));
                elsewhere.note(None);
                elsewhere
            }
        };
        slot_migration.complete(|_| BackendId::new(2), seen(1700), IDLE, at(2000));
        assert_eq!(previous_backends(&slot_migration), [(0, 1)], "could expire");
        slot_migration.complete(|_| BackendId::new(2), |_| PinnedElsewhere::UNKNOWN, IDLE, at(2000));
        assert_eq!(previous_backends(&slot_migration), [(0, 1)], "could not be read");
        slot_migration.complete(|_| BackendId::new(2), seen(1701), IDLE, at(2000));
        assert_eq!(
            previous_backends(&slot_migration),
            [(0, 2)],
            "picked up too late to have begun before the change"
        );
    }

    #[test]
    fn slot_reassigned_again_restarts_its_wait() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&ids([1]), &ids([2]), |_| true, at(0));
        slot_migration.change(&ids([2]), &ids([1]), |_| true, at(800));
        slot_migration.complete(|_| BackendId::new(1), none, IDLE, at(1000));
        assert_eq!(
            previous_backends(&slot_migration),
            [(0, 1)],
            "flows that went to 2 are tracked, and found"
        );
    }
}
