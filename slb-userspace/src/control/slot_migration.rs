//! Slots of a server table that have changed hands: who had them before, and for how long that matters. Pure.
//!
//! Invariant: whatever flow of a slot nobody remembers, and that is still in use, is with the slot's keeper. A slot that is
//! not in here is its own keeper's: the server that the table names.
//!
//! A slot gets in here when its owner changes. From then on the packet path remembers its flows, new ones with the owner,
//! older ones with the keeper. Whoever was silent for the whole idle time since the last change is gone, so after it the
//! owner is keeper too; and once no flow is remembered to be with another server, the slot is forgotten.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use slb_common::abi::lookup_table::NO_BACKEND;

/// Flows of a slot that are remembered to be with another server than its owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Whether there are any.
    pub any: bool,
    /// When the one of them was last seen that has been silent longest, of those that could be pushed out of the flow table.
    pub loose_since: Option<Duration>,
}

impl Elsewhere {
    /// Nobody knows.
    pub const UNKNOWN: Self = Self { any: true, loose_since: Some(Duration::ZERO) };

    /// Notes one more flow, and when it was last seen if it could be pushed out.
    pub fn note(&mut self, loose: Option<Duration>) {
        self.any = true;
        self.loose_since = match (self.loose_since, loose) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// The slots of one table that have changed hands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotMigration {
    /// Shared by what is in force and what is wanted, for as long as they do not differ.
    slots: Arc<BTreeMap<u32, Moved>>,
}

/// A slot that has changed hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moved {
    /// Id of the server that has the flows nobody remembers; [`NO_BACKEND`] where there are none.
    previous_backend: u32,
    /// When the slot changed hands last.
    since: Duration,
}

impl SlotMigration {
    /// Slots found in the maps, with their keepers. When they changed hands is not known: it may have been just now.
    pub fn found(previous_backends: impl IntoIterator<Item = (u32, u32)>, now: Duration) -> Self {
        let moved = |(slot, previous_backend)| (slot, Moved { previous_backend, since: now });
        Self { slots: Arc::new(previous_backends.into_iter().map(moved).collect()) }
    }

    /// Whether no slot has changed hands.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Slots that have changed hands.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The keeper of a slot that has changed hands, or [`NO_BACKEND`].
    pub fn previous_backend(&self, slot: u32) -> Option<u32> {
        self.slots.get(&slot).map(|moved| moved.previous_backend)
    }

    /// The slots that have changed hands, with their keepers.
    pub fn previous_backends(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.slots.iter().map(|(slot, moved)| (*slot, moved.previous_backend))
    }

    /// Notes that a table of owners takes the place of another one of the same length. `exists` says whether a server is
    /// still there.
    pub fn change(&mut self, old: &[u32], new: &[u32], exists: impl Fn(u32) -> bool, now: Duration) {
        let slots = Arc::make_mut(&mut self.slots);
        for (slot, (&before, &after)) in (0..).zip(old.iter().zip(new)) {
            if before == after && slots.is_empty() {
                continue;
            }
            match slots.get_mut(&slot) {
                Some(moved) => {
                    if !exists(moved.previous_backend) {
                        // Its flows have ended with it.
                        moved.previous_backend = after;
                    }
                    if before != after {
                        moved.since = now;
                    }
                }
                None if before != after && before != NO_BACKEND && exists(before) => {
                    slots.insert(slot, Moved { previous_backend: before, since: now });
                }
                None => {}
            }
        }
    }

    /// Notes that flows of every slot are to be looked for before the table is asked; what nobody remembers is with its owner, one
    /// of these, unless the slot has changed hands.
    pub fn look_for_all(&mut self, owners: &[u32], exists: impl Fn(u32) -> bool, now: Duration) {
        let slots = Arc::make_mut(&mut self.slots);
        for (slot, &owner) in (0..).zip(owners) {
            let previous_backend = if exists(owner) { owner } else { NO_BACKEND };
            // Nobody has remembered what was begun until now with a keeper that was owner, too.
            slots.entry(slot).or_insert(Moved { previous_backend, since: now }).since = now;
        }
    }

    /// Notes which servers are still there, where the table of owners has not changed.
    pub fn forget(&mut self, owner: impl Fn(u32) -> u32, exists: impl Fn(u32) -> bool) {
        for (slot, moved) in Arc::make_mut(&mut self.slots) {
            if !exists(moved.previous_backend) {
                moved.previous_backend = owner(*slot);
            }
        }
    }

    /// Makes the current backend of a slot its previous one, too, where that serves nothing any more. A slot without a current
    /// backend is left alone: its packets can still be reset.
    pub fn pass_on(&mut self, owner: impl Fn(u32) -> u32, serves_nothing: impl Fn(u32) -> bool) {
        if !self.slots.values().any(|moved| serves_nothing(moved.previous_backend)) {
            return;
        }
        for (slot, moved) in Arc::make_mut(&mut self.slots) {
            let owner = owner(*slot);
            if owner != NO_BACKEND && serves_nothing(moved.previous_backend) {
                moved.previous_backend = owner;
            }
        }
    }

    /// Whether there is a slot that changed hands longer than `idle` ago.
    pub fn is_due(&self, idle: Duration, now: Duration) -> bool {
        self.slots.values().any(|moved| now.saturating_sub(moved.since) > idle)
    }

    /// Begins all waiting anew: a flow has been forgotten, and it may be any one's of a keeper.
    pub fn wait_anew(&mut self, now: Duration) {
        if !self.is_empty() {
            Arc::make_mut(&mut self.slots).values_mut().for_each(|moved| moved.since = now);
        }
    }

    /// Ends what is over: slots that changed hands longer than `idle` ago and of which no flow is remembered with
    /// another server than the owner, as `elsewhere` says.
    pub fn sweep(
        &mut self,
        owner: impl Fn(u32) -> u32,
        elsewhere: impl Fn(u32) -> Elsewhere,
        idle: Duration,
        now: Duration,
    ) {
        Arc::make_mut(&mut self.slots).retain(|slot, moved| {
            let due = moved.since + idle;
            if now <= due {
                return true;
            }
            let is_kept_by_another = moved.previous_backend != owner(*slot);
            let Elsewhere { any, loose_since } = elsewhere(*slot);
            // Pushed out, it must find its keeper. One seen only later is none of those that had begun before the change.
            if is_kept_by_another && loose_since.is_some_and(|seen| seen <= due) {
                return true;
            }
            // In two steps: what is remembered until the owner is keeper in force, the next look at the flows will see.
            moved.previous_backend = owner(*slot);
            is_kept_by_another || any
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(900);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn none(_: u32) -> Elsewhere {
        Elsewhere::default()
    }

    fn previous_backends(slot_migration: &SlotMigration) -> Vec<(u32, u32)> {
        slot_migration.previous_backends().collect()
    }

    #[test]
    fn a_slot_that_changes_hands_keeps_its_oldest_server() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&[1, 1, 2], &[1, 2, 2], |_| true, at(0));
        assert_eq!(previous_backends(&slot_migration), [(1, 1)]);
        slot_migration.change(&[1, 2, 2], &[1, 3, 2], |_| true, at(1));
        assert_eq!(previous_backends(&slot_migration), [(1, 1)]);
    }

    #[test]
    fn a_slot_of_a_server_that_is_gone_changes_hands_at_once() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&[1, 2], &[2, 2], |id| id != 1, at(0));
        assert!(slot_migration.is_empty());
    }

    #[test]
    fn a_keeper_that_goes_leaves_the_slot_to_its_owner() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&[1], &[2], |_| true, at(0));
        slot_migration.change(&[2], &[3], |id| id != 1, at(1));
        assert_eq!(previous_backends(&slot_migration), [(0, 3)]);
        slot_migration.forget(|_| 3, |_| true);
        assert_eq!(previous_backends(&slot_migration), [(0, 3)]);
        slot_migration.forget(|_| 4, |id| id != 3);
        assert_eq!(previous_backends(&slot_migration), [(0, 4)]);
    }

    #[test]
    fn slots_leave_a_previous_backend_that_serves_nothing_for_a_current_one() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&[1, 1, 2], &[2, NO_BACKEND, 3], |_| true, at(0));
        slot_migration.pass_on(|slot| [2, NO_BACKEND, 3][slot as usize], |id| id == 1);
        assert_eq!(previous_backends(&slot_migration), [(0, 2), (1, 1), (2, 2)]);
    }

    #[test]
    fn slots_whose_flows_may_be_anywhere_are_looked_for_until_none_is() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&[1, 2], &[2, 2], |_| true, at(0));
        slot_migration.look_for_all(&[2, 2, 3, NO_BACKEND], |id| id != 3, at(0));
        assert_eq!(previous_backends(&slot_migration), [(0, 1), (1, 2), (2, NO_BACKEND), (3, NO_BACKEND)]);
        let one = |slot| Elsewhere { any: slot == 1, loose_since: None };
        slot_migration.sweep(|_| 2, one, IDLE, at(901));
        slot_migration.sweep(|_| 2, one, IDLE, at(902));
        assert_eq!(previous_backends(&slot_migration), [(1, 2)]);
        slot_migration.sweep(|_| 2, none, IDLE, at(903));
        assert!(slot_migration.is_empty());
    }

    #[test]
    fn after_the_idle_time_a_slot_waits_for_flows_elsewhere_only() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&[1, 1], &[2, 2], |_| true, at(0));
        let one = |slot| Elsewhere { any: slot == 1, loose_since: None };
        assert!(!slot_migration.is_due(IDLE, at(900)));
        slot_migration.sweep(|_| 2, none, IDLE, at(900));
        assert_eq!(previous_backends(&slot_migration), [(0, 1), (1, 1)]);
        assert!(slot_migration.is_due(IDLE, at(901)));
        slot_migration.sweep(|_| 2, one, IDLE, at(901));
        assert_eq!(previous_backends(&slot_migration), [(0, 2), (1, 2)], "kept by another until now");
        slot_migration.sweep(|_| 2, one, IDLE, at(902));
        assert_eq!(previous_backends(&slot_migration), [(1, 2)]);
        slot_migration.sweep(|_| 2, none, IDLE, at(903));
        assert!(slot_migration.is_empty());
    }

    #[test]
    fn a_slot_waits_for_flows_that_may_come_back_to_its_keeper() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&[1], &[2], |_| true, at(0));
        slot_migration.wait_anew(at(800));
        slot_migration.sweep(|_| 2, none, IDLE, at(1700));
        assert_eq!(previous_backends(&slot_migration), [(0, 1)], "forgotten at 800");
        let seen = |seconds| {
            move |_| {
                let mut elsewhere = Elsewhere::default();
                elsewhere.note(Some(at(seconds)));
                elsewhere.note(Some(at(1900)));
                elsewhere.note(None);
                elsewhere
            }
        };
        slot_migration.sweep(|_| 2, seen(1700), IDLE, at(2000));
        assert_eq!(previous_backends(&slot_migration), [(0, 1)], "could be forgotten");
        slot_migration.sweep(|_| 2, |_| Elsewhere::UNKNOWN, IDLE, at(2000));
        assert_eq!(previous_backends(&slot_migration), [(0, 1)], "could not be read");
        slot_migration.sweep(|_| 2, seen(1701), IDLE, at(2000));
        assert_eq!(
            previous_backends(&slot_migration),
            [(0, 2)],
            "taken up too late to have begun before the change"
        );
    }

    #[test]
    fn a_slot_that_changes_again_waits_anew() {
        let mut slot_migration = SlotMigration::default();
        slot_migration.change(&[1], &[2], |_| true, at(0));
        slot_migration.change(&[2], &[1], |_| true, at(800));
        slot_migration.sweep(|_| 1, none, IDLE, at(1000));
        assert_eq!(
            previous_backends(&slot_migration),
            [(0, 1)],
            "flows that went to 2 are remembered, and found"
        );
    }
}
