//! Update rate limiter. The first change after a quiet period is applied almost at once; changes of the following
//! second are merged. However often servers flap, tables are built once per second at most. New next hops are applied
//! sooner, because their servers would receive nothing, or frames with a wrong address.

use std::time::Duration;

use tokio::time::Instant;

/// Changes that arrive within this time are applied together.
const GATHER: Duration = Duration::from_millis(10);
/// Minimum time between a change that built tables and the next change.
const SPACING: Duration = Duration::from_secs(1);
/// The same before a change for a new next hop.
const URGENT_SPACING: Duration = Duration::from_millis(100);
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
    pub(super) fn free(&self, now: Instant) -> Instant {
        self.built.map_or(now, |(built, _)| now.max(built + SPACING))
    }

    /// A change is needed.
    pub(super) fn soon(&mut self, now: Instant) {
        self.by(self.free(now + GATHER));
    }

    /// A change is needed for a new or changed next hop.
    pub(super) fn urgent(&mut self, now: Instant) {
        let soon = now + GATHER;
        let free = self.built.map_or(soon, |(built, took)| {
            let pause = (took * (MAX_SHARE_OF_TIME - 1)).clamp(URGENT_SPACING, SPACING);
            soon.max(built + pause)
        });
        self.by(free);
    }

    fn by(&mut self, time: Instant) {
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }

    /// A partly applied change must be reverted: the next one is due at once.
    pub(super) fn at_once(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// Everything that needed a change before `begun` has been applied, or part of it before an error. `has_built`:
    /// whether tables were built.
    pub(super) fn changed(&mut self, has_built: Result<bool, ()>, begun: Instant, now: Instant) {
        self.due = has_built.is_err().then(|| now + RETRY);
        if has_built.unwrap_or(true) {
            self.built = Some((now, now.saturating_duration_since(begun)));
        }
    }

    /// A change has failed: it is retried after [`RETRY`].
    pub(super) fn failed(&mut self, now: Instant) {
        self.changed(Err(()), now, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_change_is_at_once_and_others_come_together_a_second_later() {
        let (mut pace, begun) = (UpdateRate::default(), Instant::now());
        let at = |ms: u32| begun + ms * MS;
        pace.soon(at(0));
        pace.soon(at(5));
        assert_eq!(pace.due(), Some(at(10)));
        pace.changed(Ok(true), at(11), at(11));
        assert_eq!((pace.due(), pace.free(at(12))), (None, at(1011)));
        pace.soon(at(100));
        pace.soon(at(900));
        assert_eq!(pace.due(), Some(at(1011)));
        pace.changed(Ok(false), at(1012), at(1012));
        pace.soon(at(1020));
        assert_eq!(pace.due(), Some(at(1030)), "no table was built");
        pace.changed(Ok(true), at(1031), at(1031));
        pace.soon(at(9000));
        assert_eq!(pace.due(), Some(at(9010)), "a quiet time");
    }

    #[test]
    fn next_hop_that_has_come_does_not_wait_for_the_next_second() {
        let (mut pace, begun) = (UpdateRate::default(), Instant::now());
        let at = |ms: u32| begun + ms * MS;
        pace.changed(Ok(true), at(0), at(1));
        pace.soon(at(40));
        assert_eq!(pace.due(), Some(at(1001)));
        pace.urgent(at(50));
        assert_eq!(pace.due(), Some(at(101)));
        pace.changed(Ok(true), at(101), at(102));
        pace.urgent(at(500));
        assert_eq!(pace.due(), Some(at(510)));
        pace.changed(Ok(true), at(510), at(610));
        pace.urgent(at(620));
        assert_eq!(pace.due(), Some(at(1010)), "a change that takes long");
        pace.changed(Ok(true), at(1010), at(3010));
        pace.urgent(at(3020));
        assert_eq!(pace.due(), Some(at(4010)), "as any other change");
    }

    #[test]
    fn what_fails_is_tried_again_and_spaced_as_if_it_had_not() {
        let (mut pace, begun) = (UpdateRate::default(), Instant::now());
        pace.failed(begun);
        assert_eq!((pace.due(), pace.free(begun)), (Some(begun + RETRY), begun + SPACING));
        pace.soon(begun + 10 * MS);
        assert_eq!(pace.due(), Some(begun + RETRY));
        pace.at_once(begun + 20 * MS);
        assert_eq!(pace.due(), Some(begun + 20 * MS));
    }

    /// A change is needed every few milliseconds, for a minute.
    #[test]
    fn tables_are_built_once_a_second_at_most() {
        let (mut pace, begun) = (UpdateRate::default(), Instant::now());
        let mut built: Vec<Instant> = Vec::new();
        for ms in 0..60_000 {
            let now = begun + ms * MS;
            if ms % 7 == 0 {
                pace.soon(now);
            }
            if pace.due().is_some_and(|due| due <= now) {
                pace.changed(Ok(true), now, now);
                built.push(now);
            }
        }
        assert!(built.windows(2).all(|pair| pair[1] - pair[0] >= SPACING));
        assert!((59..=60).contains(&built.len()), "{} builds", built.len());
    }
}
