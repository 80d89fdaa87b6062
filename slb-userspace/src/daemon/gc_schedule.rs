//! When the flow table is looked at: as soon as a look is of use, and all looks together for a small part of the time; for up to
//! half of it where clients would be forgotten, or failures not seen, for that.

use std::time::Duration;

use tokio::time::Instant;

use super::update_rate::RETRY;

/// Looks take one part in so many of a processor's time.
const PART: u32 = 50;
/// Looks that must not be put off take one part in so many of the daemon's time: it does nothing else meanwhile.
const LARGEST_PART: u32 = 2;
/// Looks that may fail, one after the other, before what waits for one goes on without.
const PATIENCE: u32 = 3;

/// The times of looks.
#[derive(Debug)]
pub(super) struct GcSchedule {
    due: Instant,
    /// When the last one began that has come to its end.
    last: Instant,
    /// Least time from then on to the next one.
    least: Duration,
    /// The same where it may be put off.
    pause: Duration,
    /// How many have failed since.
    failed: u32,
}

/// What a look has taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took {
    /// When it began.
    pub(super) begun: Instant,
    /// When it was over.
    pub(super) ended: Instant,
    /// For how long a processor has worked for it.
    pub(super) processor: Duration,
}

/// What something that waits for a look is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Look now.
    Over,
    /// Wait on: a look has failed, and the next one is not due.
    On,
    /// Go on without.
    InVain,
}

impl GcSchedule {
    /// The first one is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, last: now, least: Duration::ZERO, pause: Duration::ZERO, failed: 0 }
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// What is to be done about something that waits for a look.
    pub(super) fn wait(&self, now: Instant) -> Wait {
        match self.failed {
            0 => Wait::Over,
            failed if failed > PATIENCE => Wait::InVain,
            _ if now < self.due => Wait::On,
            _ => Wait::Over,
        }
    }

    /// A look is of use by then, and not to be put off for longer than `most` after the last one, but for what that one took.
    pub(super) fn by(&mut self, time: Instant, most: Option<Duration>) {
        if self.failed > 0 {
            // It is tried again in time.
            return;
        }
        let pause = most.map_or(self.pause, |most| self.pause.min(most));
        self.due = self.due.min(time).max(self.last + pause.max(self.least));
    }

    /// Something waits for a look. It comes at once unless looks fail.
    pub(super) fn at_once(&mut self, now: Instant) {
        if self.failed == 0 {
            self.due = now;
        }
    }

    /// A look begins. If it is not heard of any more, it has failed.
    pub(super) fn begin(&mut self, now: Instant) {
        self.due = now + RETRY;
        self.failed += 1;
    }

    /// A look has come to its end. The next one is of use after the time `next`, and not to be put off for longer than `most`.
    pub(super) fn end(&mut self, took: Took, next: Duration, most: Option<Duration>) {
        let Took { begun, ended, processor } = took;
        let due = begun + next;
        *self = Self {
            due,
            last: begun,
            least: (ended - begun) * LARGEST_PART,
            // One that has been held up costs no more.
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

    /// Looks of which one, begun at the time that is returned, has taken so long.
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

    /// A look fails, and whatever waits for it neither has the next one before its time nor waits for ever.
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
