//! When flow-table GC passes run: as soon as a pass is useful, within a small share of time. The share rises to half
//! where longer pauses would lose affinity entries or miss failures of new connections.

use std::time::Duration;

use tokio::time::Instant;

use super::update_rate::RETRY;

/// Passes take at most 1/50 of a processor's time.
const MAX_CPU_DIVISOR: u32 = 50;
/// Passes that cannot be postponed take at most half of the daemon's time. The event loop does nothing else
/// meanwhile.
const MAX_TIME_DIVISOR: u32 = 2;
/// Consecutive failed passes after which work that waits for a pass proceeds without one.
const MAX_FAILURES: u32 = 3;

/// Schedule of GC passes.
#[derive(Debug)]
pub(super) struct GcSchedule {
    due: Instant,
    /// When the last completed pass began.
    last: Instant,
    /// Minimum time from `last` to the next pass, for every pass.
    min_interval: Duration,
    /// Minimum time from `last` to the next pass, for passes that may be postponed.
    cost_interval: Duration,
    /// Failed passes since the last completed one.
    failed: u32,
}

/// Cost of a GC pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassCost {
    /// When it began.
    pub(super) begun: Instant,
    /// When it ended.
    pub(super) ended: Instant,
    /// CPU time that it used.
    pub(super) processor: Duration,
}

/// What work that waits for a GC pass is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GcDecision {
    /// Make a pass now.
    RunPass,
    /// Keep waiting: a pass has failed, and the next one is not due.
    KeepWaiting,
    /// Proceed without a pass: too many have failed.
    ProceedWithout,
}

impl GcSchedule {
    /// The first pass is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, last: now, min_interval: Duration::ZERO, cost_interval: Duration::ZERO, failed: 0 }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// What work that waits for a pass is to do.
    pub(super) fn wait(&self, now: Instant) -> GcDecision {
        match self.failed {
            0 => GcDecision::RunPass,
            failed if failed > MAX_FAILURES => GcDecision::ProceedWithout,
            _ if now < self.due => GcDecision::KeepWaiting,
            _ => GcDecision::RunPass,
        }
    }

    /// A pass is useful by `time`. It may be postponed, to limit its cost, to at most `max_delay` after the last one,
    /// or to twice its duration.
    pub(super) fn schedule_by(&mut self, time: Instant, max_delay: Option<Duration>) {
        if self.failed > 0 {
            // The retry is already scheduled.
            return;
        }
        let cost_interval =
            max_delay.map_or(self.cost_interval, |max_delay| self.cost_interval.min(max_delay));
        self.due = self.due.min(time).max(self.last + cost_interval.max(self.min_interval));
    }

    /// Work waits for a pass: it is due at once unless passes fail.
    pub(super) fn schedule_now(&mut self, now: Instant) {
        if self.failed == 0 {
            self.due = now;
        }
    }

    /// A pass begins. It counts as failed until [`Self::end`].
    pub(super) fn begin(&mut self, now: Instant) {
        self.due = now + RETRY;
        self.failed += 1;
    }

    /// A pass has completed. The next one is useful after `next` and may be postponed to at most `max_delay` after it.
    pub(super) fn end(&mut self, cost: PassCost, next: Duration, max_delay: Option<Duration>) {
        let PassCost { begun, ended, processor } = cost;
        let due = begun + next;
        *self = Self {
            due,
            last: begun,
            min_interval: (ended - begun) * MAX_TIME_DIVISOR,
            // Only CPU time counts: a preempted pass costs no more.
            cost_interval: processor * MAX_CPU_DIVISOR,
            failed: 0,
        };
        self.schedule_by(due, max_delay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A schedule after one pass of this duration, and when that pass began.
    fn cost(cost: Duration, next: Duration, max_delay: Option<Duration>) -> (GcSchedule, Instant) {
        let begun = Instant::now();
        let mut schedule = GcSchedule::new(begun);
        assert_eq!(schedule.due(), begun);
        schedule.begin(begun);
        schedule.end(PassCost { begun, ended: begun + cost, processor: cost }, next, max_delay);
        (schedule, begun)
    }

    #[test]
    fn gc_passes_take_a_small_share_of_the_time() {
        let (mut schedule, begun) = cost(SECOND / 5, SECOND, None);
        schedule.schedule_by(begun + SECOND, None);
        assert_eq!(schedule.due(), begun + 10 * SECOND);
        schedule.schedule_now(begun + SECOND);
        assert_eq!(schedule.due(), begun + SECOND);
    }

    #[test]
    fn slow_gc_pass_delays_no_pass_with_a_deadline() {
        let (schedule, begun) = cost(SECOND, 2 * SECOND, Some(3 * SECOND));
        assert_eq!(schedule.due(), begun + 3 * SECOND);
        let (mut schedule, begun) = cost(SECOND / 100, 2 * SECOND, Some(2 * SECOND));
        assert_eq!(schedule.due(), begun + 2 * SECOND);
        schedule.schedule_by(begun, Some(2 * SECOND));
        assert_eq!(schedule.due(), begun + SECOND / 2);
    }

    #[test]
    fn preempted_gc_pass_costs_only_its_processor_time() {
        let begun = Instant::now();
        let mut schedule = GcSchedule::new(begun);
        let cost = PassCost { begun, ended: begun + SECOND, processor: SECOND / 100 };
        schedule.end(cost, SECOND / 2, None);
        assert_eq!(schedule.due(), begun + 2 * SECOND, "half of the time was not the daemon's");
        schedule.end(PassCost { ended: begun + SECOND / 8, ..cost }, SECOND / 10, None);
        assert_eq!(schedule.due(), begun + SECOND / 2);
    }

    #[test]
    fn gc_passes_take_at_most_half_of_the_time() {
        let (schedule, begun) = cost(3 * SECOND, SECOND, Some(SECOND));
        assert_eq!(schedule.due(), begun + 6 * SECOND);
    }

    #[test]
    fn new_deadline_brings_the_next_gc_pass_forward() {
        let (mut schedule, begun) = cost(SECOND, SECOND, None);
        assert_eq!(schedule.due(), begun + 50 * SECOND);
        schedule.schedule_by(begun + 9 * SECOND, Some(2 * SECOND));
        assert_eq!(schedule.due(), begun + 9 * SECOND);
    }

    /// After a failed pass, waiting work neither gets the next pass early nor waits for ever.
    #[test]
    fn failed_gc_passes_are_spaced_and_waited_for_a_limited_time() {
        let begun = Instant::now();
        let mut schedule = GcSchedule::new(begun);
        assert_eq!(schedule.wait(begun), GcDecision::RunPass);
        let mut now = begun;
        for _ in 0..MAX_FAILURES {
            schedule.begin(now);
            schedule.schedule_now(now);
            schedule.schedule_by(now, None);
            schedule.schedule_by(now + 60 * SECOND, Some(SECOND));
            assert_eq!((schedule.due(), schedule.wait(now)), (now + RETRY, GcDecision::KeepWaiting));
            now = schedule.due();
            assert_eq!(schedule.wait(now), GcDecision::RunPass);
        }
        schedule.begin(now);
        schedule.schedule_now(now);
        assert_eq!((schedule.due(), schedule.wait(now)), (now + RETRY, GcDecision::ProceedWithout));
        now = schedule.due();
        schedule.begin(now);
        assert_eq!(
            (schedule.due(), schedule.wait(now)),
            (now + RETRY, GcDecision::ProceedWithout),
            "and goes on to be tried"
        );
        schedule.end(PassCost { begun: now, ended: now, processor: SECOND }, SECOND, None);
        assert_eq!(schedule.wait(now), GcDecision::RunPass);
    }
}
