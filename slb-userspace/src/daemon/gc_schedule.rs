//! When flow-table GC passes run: as soon as a pass is useful, within a small share of time. The share rises to half
//! where longer pauses would lose affinity entries or miss failures of new connections.

use std::time::Duration;

use tokio::time::Instant;

use super::update_rate::RETRY;

/// Passes take at most 1/50 of a processor's time.
const PART: u32 = 50;
/// Passes that cannot be postponed take at most half of the daemon's time. The control loop does nothing else
/// meanwhile.
const LARGEST_PART: u32 = 2;
/// Consecutive failed passes after which work that waits for a pass proceeds without one.
const PATIENCE: u32 = 3;

/// Schedule of GC passes.
#[derive(Debug)]
pub(super) struct GcSchedule {
    due: Instant,
    /// When the last completed pass began.
    last: Instant,
    /// Minimum time from `last` to the next pass, for every pass.
    least: Duration,
    /// Minimum time from `last` to the next pass, for passes that may be postponed.
    pause: Duration,
    /// Failed passes since the last completed one.
    failed: u32,
}

/// Cost of a GC pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took {
    /// When it began.
    pub(super) begun: Instant,
    /// When it ended.
    pub(super) ended: Instant,
    /// CPU time that it used.
    pub(super) processor: Duration,
}

/// What work that waits for a GC pass is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Make a pass now.
    Over,
    /// Keep waiting: a pass has failed, and the next one is not due.
    On,
    /// Proceed without a pass: too many have failed.
    InVain,
}

impl GcSchedule {
    /// The first pass is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, last: now, least: Duration::ZERO, pause: Duration::ZERO, failed: 0 }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// What work that waits for a pass is to do.
    pub(super) fn wait(&self, now: Instant) -> Wait {
        match self.failed {
            0 => Wait::Over,
            failed if failed > PATIENCE => Wait::InVain,
            _ if now < self.due => Wait::On,
            _ => Wait::Over,
        }
    }

    /// A pass is useful by `time`. It may be postponed, to limit its cost, to at most `most` after the last one, or to
    /// twice its duration.
    pub(super) fn by(&mut self, time: Instant, most: Option<Duration>) {
        if self.failed > 0 {
            // The retry is already scheduled.
            return;
        }
        let pause = most.map_or(self.pause, |most| self.pause.min(most));
        self.due = self.due.min(time).max(self.last + pause.max(self.least));
    }

    /// Work waits for a pass: it is due at once unless passes fail.
    pub(super) fn at_once(&mut self, now: Instant) {
        if self.failed == 0 {
            self.due = now;
        }
    }

    /// A pass begins. It counts as failed until [`Self::end`].
    pub(super) fn begin(&mut self, now: Instant) {
        self.due = now + RETRY;
        self.failed += 1;
    }

    /// A pass has completed. The next one is useful after `next` and may be postponed to at most `most` after it.
    pub(super) fn end(&mut self, took: Took, next: Duration, most: Option<Duration>) {
        let Took { begun, ended, processor } = took;
        let due = begun + next;
        *self = Self {
            due,
            last: begun,
            least: (ended - begun) * LARGEST_PART,
            // Only CPU time counts: a preempted pass costs no more.
            pause: processor * PART,
            failed: 0,
        };
        self.by(due, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A schedule after one pass of this duration, and when that pass began.
    fn took(took: Duration, next: Duration, most: Option<Duration>) -> (GcSchedule, Instant) {
        let begun = Instant::now();
        let mut looks = GcSchedule::new(begun);
        assert_eq!(looks.due(), begun);
        looks.begin(begun);
        looks.end(Took { begun, ended: begun + took, processor: took }, next, most);
        (looks, begun)
    }

    #[test]
    fn looks_take_a_small_part_of_the_time() {
        let (mut looks, begun) = took(SECOND / 5, SECOND, None);
        looks.by(begun + SECOND, None);
        assert_eq!(looks.due(), begun + 10 * SECOND);
        looks.at_once(begun + SECOND);
        assert_eq!(looks.due(), begun + SECOND);
    }

    #[test]
    fn a_slow_look_puts_off_none_that_is_needed_in_time() {
        let (looks, begun) = took(SECOND, 2 * SECOND, Some(3 * SECOND));
        assert_eq!(looks.due(), begun + 3 * SECOND);
        let (mut looks, begun) = took(SECOND / 100, 2 * SECOND, Some(2 * SECOND));
        assert_eq!(looks.due(), begun + 2 * SECOND);
        looks.by(begun, Some(2 * SECOND));
        assert_eq!(looks.due(), begun + SECOND / 2);
    }

    #[test]
    fn a_look_that_was_held_up_costs_what_it_has_worked() {
        let begun = Instant::now();
        let mut looks = GcSchedule::new(begun);
        let took = Took { begun, ended: begun + SECOND, processor: SECOND / 100 };
        looks.end(took, SECOND / 2, None);
        assert_eq!(looks.due(), begun + 2 * SECOND, "half of the time was not the daemon's");
        looks.end(Took { ended: begun + SECOND / 8, ..took }, SECOND / 10, None);
        assert_eq!(looks.due(), begun + SECOND / 2);
    }

    #[test]
    fn looks_never_take_more_than_half_of_the_time() {
        let (looks, begun) = took(3 * SECOND, SECOND, Some(SECOND));
        assert_eq!(looks.due(), begun + 6 * SECOND);
    }

    #[test]
    fn what_is_needed_in_time_from_now_on_puts_off_none_from_now_on() {
        let (mut looks, begun) = took(SECOND, SECOND, None);
        assert_eq!(looks.due(), begun + 50 * SECOND);
        looks.by(begun + 9 * SECOND, Some(2 * SECOND));
        assert_eq!(looks.due(), begun + 9 * SECOND);
    }

    /// After a failed pass, waiting work neither gets the next pass early nor waits for ever.
    #[test]
    fn looks_that_fail_are_a_second_apart_and_waited_for_for_a_while() {
        let begun = Instant::now();
        let mut looks = GcSchedule::new(begun);
        assert_eq!(looks.wait(begun), Wait::Over);
        let mut now = begun;
        for _ in 0..PATIENCE {
            looks.begin(now);
            looks.at_once(now);
            looks.by(now, None);
            looks.by(now + 60 * SECOND, Some(SECOND));
            assert_eq!((looks.due(), looks.wait(now)), (now + RETRY, Wait::On));
            now = looks.due();
            assert_eq!(looks.wait(now), Wait::Over);
        }
        looks.begin(now);
        looks.at_once(now);
        assert_eq!((looks.due(), looks.wait(now)), (now + RETRY, Wait::InVain));
        now = looks.due();
        looks.begin(now);
        assert_eq!((looks.due(), looks.wait(now)), (now + RETRY, Wait::InVain), "and goes on to be tried");
        looks.end(Took { begun: now, ended: now, processor: SECOND }, SECOND, None);
        assert_eq!(looks.wait(now), Wait::Over);
    }
}
