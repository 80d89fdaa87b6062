//! Update rate limiter. The first change after a quiet period is applied almost at once; changes of the following
//! second are merged. However often servers flap, tables are built once per second at most. New next hops are applied
//! sooner, because their servers would receive nothing, or frames with a wrong address.

use std::time::Duration;

use tokio::time::Instant;

/// Changes that arrive within this time are applied together.
const BATCH_DELAY: Duration = Duration::from_millis(10);
/// Minimum time between a change that built tables and the next change.
const MIN_SPACING: Duration = Duration::from_secs(1);
/// The same before a change for a new next hop.
const MIN_URGENT_SPACING: Duration = Duration::from_millis(100);
/// Changes for new next hops take at most 1/5 of the time.
const MAX_SHARE_OF_TIME: u32 = 5;
/// Time after which a failed change is retried.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Schedule of changes.
#[derive(Debug, Default)]
pub(super) struct UpdateRate {
    /// When tables were last built, and how long that took.
    built: Option<(Instant, Duration)>,
    /// When the next change is due, if one is needed.
    due: Option<Instant>,
}

impl UpdateRate {
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The earliest time at which the next change may be applied.
    pub(super) fn next_slot(&self, now: Instant) -> Instant {
        self.built.map_or(now, |(built, _)| now.max(built + MIN_SPACING))
    }

    /// A change is needed.
    pub(super) fn schedule_soon(&mut self, now: Instant) {
        self.schedule_by(self.next_slot(now + BATCH_DELAY));
    }

    /// A change is needed for a new or changed next hop.
    pub(super) fn schedule_urgent(&mut self, now: Instant) {
        let schedule_soon = now + BATCH_DELAY;
        let next_slot = self.built.map_or(schedule_soon, |(built, took)| {
            let pause = (took * (MAX_SHARE_OF_TIME - 1)).clamp(MIN_URGENT_SPACING, MIN_SPACING);
            schedule_soon.max(built + pause)
        });
        self.schedule_by(next_slot);
    }

    fn schedule_by(&mut self, time: Instant) {
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }

    /// A partly applied change must be reverted: the next one is due at once.
    pub(super) fn schedule_now(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// Everything that needed a change before `begun` has been applied, or part of it before an error. `has_built`:
    /// whether tables were built.
    pub(super) fn on_change(&mut self, has_built: Result<bool, ()>, begun: Instant, now: Instant) {
        self.due = has_built.is_err().then(|| now + RETRY);
        if has_built.unwrap_or(true) {
            self.built = Some((now, now.saturating_duration_since(begun)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn first_change_is_immediate_and_later_ones_wait_a_second() {
        let (mut rate, begun) = (UpdateRate::default(), Instant::now());
        let at = |ms: u32| begun + ms * MS;
        rate.schedule_soon(at(0));
        rate.schedule_soon(at(5));
        assert_eq!(rate.due(), Some(at(10)));
        rate.on_change(Ok(true), at(11), at(11));
        assert_eq!((rate.due(), rate.next_slot(at(12))), (None, at(1011)));
        rate.schedule_soon(at(100));
        rate.schedule_soon(at(900));
        assert_eq!(rate.due(), Some(at(1011)));
        rate.on_change(Ok(false), at(1012), at(1012));
        rate.schedule_soon(at(1020));
        assert_eq!(rate.due(), Some(at(1030)), "no table was built");
        rate.on_change(Ok(true), at(1031), at(1031));
        rate.schedule_soon(at(9000));
        assert_eq!(rate.due(), Some(at(9010)), "a quiet time");
    }

    #[test]
    fn new_next_hop_does_not_wait_for_the_next_second() {
        let (mut rate, begun) = (UpdateRate::default(), Instant::now());
        let at = |ms: u32| begun + ms * MS;
        rate.on_change(Ok(true), at(0), at(1));
        rate.schedule_soon(at(40));
        assert_eq!(rate.due(), Some(at(1001)));
        rate.schedule_urgent(at(50));
        assert_eq!(rate.due(), Some(at(101)));
        rate.on_change(Ok(true), at(101), at(102));
        rate.schedule_urgent(at(500));
        assert_eq!(rate.due(), Some(at(510)));
        rate.on_change(Ok(true), at(510), at(610));
        rate.schedule_urgent(at(620));
        assert_eq!(rate.due(), Some(at(1010)), "a change that takes long");
        rate.on_change(Ok(true), at(1010), at(3010));
        rate.schedule_urgent(at(3020));
        assert_eq!(rate.due(), Some(at(4010)), "as any other change");
    }

    #[test]
    fn failed_update_is_retried_and_counts_for_the_spacing() {
        let (mut rate, begun) = (UpdateRate::default(), Instant::now());
        rate.on_change(Err(()), begun, begun);
        assert_eq!((rate.due(), rate.next_slot(begun)), (Some(begun + RETRY), begun + MIN_SPACING));
        rate.schedule_soon(begun + 10 * MS);
        assert_eq!(rate.due(), Some(begun + RETRY));
        rate.schedule_now(begun + 20 * MS);
        assert_eq!(rate.due(), Some(begun + 20 * MS));
    }

    /// A change is needed every few milliseconds, for a minute.
    #[test]
    fn tables_are_built_once_a_second_at_most() {
        let (mut rate, begun) = (UpdateRate::default(), Instant::now());
        let mut built: Vec<Instant> = Vec::new();
        for ms in 0..60_000 {
            let now = begun + ms * MS;
            if ms % 7 == 0 {
                rate.schedule_soon(now);
            }
            if rate.due().is_some_and(|due| due <= now) {
                rate.on_change(Ok(true), now, now);
                built.push(now);
            }
        }
        assert!(built.windows(2).all(|pair| pair[1] - pair[0] >= MIN_SPACING));
        assert!((59..=60).contains(&built.len()), "{} builds", built.len());
    }
}
