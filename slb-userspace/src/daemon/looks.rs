//! When the flow table is looked at: as soon as a look is of use, and all looks together for a small part of the time, unless
//! clients would be forgotten for that.

use std::time::Duration;

use tokio::time::Instant;

use super::pace::RETRY;

/// Looks take one part in so many of the time.
const PART: u32 = 50;
/// Looks that may fail, a second apart, before a change is put in force without.
const PATIENCE: u32 = 3;

/// The times of looks.
#[derive(Debug)]
pub(super) struct Looks {
    due: Instant,
    /// When the last one began that has come to its end.
    last: Instant,
    /// Time from then on without another one.
    pause: Duration,
    /// How many have failed since.
    failed: u32,
}

impl Looks {
    /// The first one is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, last: now, pause: Duration::ZERO, failed: 0 }
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Whether looks that are waited for have failed too often.
    pub(super) fn fail(&self) -> bool {
        self.failed > PATIENCE
    }

    /// A look is of use by then, and not to be put off for longer than `most` after the last one.
    pub(super) fn by(&mut self, time: Instant, most: Option<Duration>) {
        let pause = most.map_or(self.pause, |most| self.pause.min(most));
        self.due = self.due.min(time).max(self.last + pause);
    }

    /// Something waits for a look, whatever that takes.
    pub(super) fn at_once(&mut self, now: Instant) {
        self.due = now;
    }

    /// A look begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.due = now + RETRY;
        self.failed += 1;
    }

    /// A look that began at `begun` has come to its end. The next one is of use after the time `next`, and not to be put off
    /// for longer than `most`.
    pub(super) fn end(&mut self, begun: Instant, now: Instant, next: Duration, most: Option<Duration>) {
        (self.last, self.pause, self.failed) = (begun, (now - begun) * PART, 0);
        self.due = begun + next;
        self.by(self.due, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn looks_take_a_small_part_of_the_time() {
        let begun = Instant::now();
        let mut looks = Looks::new(begun);
        assert_eq!(looks.due(), begun);
        looks.begin(begun);
        looks.end(begun, begun + SECOND / 5, SECOND, None);
        looks.by(begun + SECOND, None);
        assert_eq!(looks.due(), begun + 10 * SECOND);
        looks.at_once(begun + SECOND);
        assert_eq!(looks.due(), begun + SECOND);
    }

    #[test]
    fn a_slow_look_puts_off_none_that_keeps_clients() {
        let begun = Instant::now();
        let mut looks = Looks::new(begun);
        looks.begin(begun);
        looks.end(begun, begun + SECOND, 2 * SECOND, Some(2 * SECOND));
        assert_eq!(looks.due(), begun + 2 * SECOND);
        looks.begin(begun);
        looks.end(begun, begun + SECOND / 100, 2 * SECOND, Some(2 * SECOND));
        looks.by(begun, Some(2 * SECOND));
        assert_eq!(looks.due(), begun + SECOND / 2);
    }

    #[test]
    fn clients_that_are_kept_from_now_on_need_looks_from_now_on() {
        let begun = Instant::now();
        let mut looks = Looks::new(begun);
        looks.begin(begun);
        looks.end(begun, begun + SECOND, SECOND, None);
        assert_eq!(looks.due(), begun + 50 * SECOND);
        looks.by(begun + 9 * SECOND, Some(2 * SECOND));
        assert_eq!(looks.due(), begun + 9 * SECOND);
    }

    #[test]
    fn a_look_that_fails_is_tried_again_and_not_waited_for_for_ever() {
        let begun = Instant::now();
        let mut looks = Looks::new(begun);
        for _ in 0..PATIENCE {
            looks.begin(begun);
            assert_eq!((looks.due(), looks.fail()), (begun + RETRY, false));
        }
        looks.begin(begun);
        assert!(looks.fail());
        looks.end(begun, begun, SECOND, None);
        assert!(!looks.fail());
    }
}
