//! When flow-table GC passes begin: as soon as a pass is useful, within a small share of a CPU. The share rises to half
//! where longer pauses would lose affinity entries or miss failures of new connections.

use std::time::Duration;

use tokio::time::Instant;

use super::update_rate::RETRY;

/// Passes take at most 1/50 of a CPU.
const MAX_CPU_DIVISOR: u32 = 50;
/// Passes that cannot be postponed take at most half of a CPU.
const MAX_NEEDED_CPU_DIVISOR: u32 = 2;

/// Schedule of GC passes.
#[derive(Debug)]
pub(super) struct GcSchedule {
    due: Instant,
    /// When the last completed pass began.
    last: Instant,
    /// CPU time of the last completed pass.
    cost: Duration,
    state: PassState,
}

/// State of the last pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PassState {
    Completed,
    /// It runs. Another one is due after it, at the earliest at this time.
    Running(Option<NextPass>),
    /// It has failed: the retry is scheduled.
    Failed,
}

/// A pass that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NextPass {
    time: Instant,
    delay: MaxDelay,
}

/// How long a pass may be postponed after the last one, to limit its cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum MaxDelay {
    /// Not at all.
    None,
    /// At most so long, or twice its cost.
    Within(Duration),
    /// As long as its cost requires.
    Any,
}

/// Cost of a GC pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassCost {
    /// When it began.
    pub(super) begun: Instant,
    /// How long it took.
    pub(super) took: Duration,
    /// CPU time that it used.
    pub(super) processor: Duration,
}

impl GcSchedule {
    /// The first pass is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, last: now, cost: Duration::ZERO, state: PassState::Completed }
    }

    /// When the next pass is due; `None` while one runs.
    pub(super) fn due(&self) -> Option<Instant> {
        (!matches!(self.state, PassState::Running(_))).then_some(self.due)
    }

    /// A pass is useful by `time`. It may be postponed, to limit its cost, to at most `max_delay` after the last one,
    /// or to twice its CPU time.
    pub(super) fn schedule_by(&mut self, time: Instant, max_delay: Option<Duration>) {
        self.schedule(NextPass { time, delay: max_delay.map_or(MaxDelay::Any, MaxDelay::Within) });
    }

    /// Work waits for a pass that begins from now on.
    pub(super) fn schedule_now(&mut self, now: Instant) {
        self.schedule(NextPass { time: now, delay: MaxDelay::None });
    }

    fn schedule(&mut self, next: NextPass) {
        match &mut self.state {
            PassState::Completed => {
                let pause = match next.delay {
                    MaxDelay::None => return self.due = self.due.min(next.time),
                    MaxDelay::Within(limit) => (self.cost * MAX_CPU_DIVISOR).min(limit),
                    MaxDelay::Any => self.cost * MAX_CPU_DIVISOR,
                };
                let pause = pause.max(self.cost * MAX_NEEDED_CPU_DIVISOR);
                self.due = self.due.min(next.time).max(self.last + pause);
            }
            PassState::Running(after) => {
                *after = Some(after.map_or(next, |other| NextPass {
                    time: next.time.min(other.time),
                    delay: next.delay.min(other.delay),
                }));
            }
            PassState::Failed => {}
        }
    }

    /// A pass begins.
    pub(super) fn begin(&mut self) {
        self.state = PassState::Running(None);
    }

    /// The pass has failed.
    pub(super) fn fail(&mut self, now: Instant) {
        (self.due, self.state) = (now + RETRY, PassState::Failed);
    }

    /// The pass has completed. The next one is useful after `next` and may be postponed to at most `max_delay` after it
    /// began.
    pub(super) fn end(&mut self, cost: PassCost, next: Duration, max_delay: Option<Duration>) {
        let PassCost { begun, processor, .. } = cost;
        let due = begun + next;
        let before = std::mem::replace(&mut self.state, PassState::Completed);
        (self.due, self.last, self.cost) = (due, begun, processor);
        self.schedule_by(due, max_delay);
        if let PassState::Running(Some(next)) = before {
            self.schedule(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A schedule after one pass with this CPU time, and when that pass began.
    fn cost(cost: Duration, next: Duration, max_delay: Option<Duration>) -> (GcSchedule, Instant) {
        let begun = Instant::now();
        let mut schedule = GcSchedule::new(begun);
        assert_eq!(schedule.due(), Some(begun));
        schedule.begin();
        schedule.end(PassCost { begun, took: 2 * cost, processor: cost }, next, max_delay);
        (schedule, begun)
    }

    #[test]
    fn gc_passes_take_a_small_share_of_a_cpu() {
        let (mut schedule, begun) = cost(SECOND / 5, SECOND, None);
        schedule.schedule_by(begun + SECOND, None);
        assert_eq!(schedule.due(), Some(begun + 10 * SECOND));
        schedule.schedule_now(begun + SECOND);
        assert_eq!(schedule.due(), Some(begun + SECOND));
    }

    #[test]
    fn costly_gc_pass_delays_no_pass_with_a_deadline() {
        let (schedule, begun) = cost(SECOND, 2 * SECOND, Some(3 * SECOND));
        assert_eq!(schedule.due(), Some(begun + 3 * SECOND));
        let (mut schedule, begun) = cost(SECOND / 100, 2 * SECOND, Some(2 * SECOND));
        assert_eq!(schedule.due(), Some(begun + 2 * SECOND));
        schedule.schedule_by(begun, Some(2 * SECOND));
        assert_eq!(schedule.due(), Some(begun + SECOND / 2));
    }

    #[test]
    fn gc_passes_take_at_most_half_of_a_cpu() {
        let (schedule, begun) = cost(3 * SECOND, SECOND, Some(SECOND));
        assert_eq!(schedule.due(), Some(begun + 6 * SECOND));
    }

    #[test]
    fn new_deadline_brings_the_next_gc_pass_forward() {
        let (mut schedule, begun) = cost(SECOND, SECOND, None);
        assert_eq!(schedule.due(), Some(begun + 50 * SECOND));
        schedule.schedule_by(begun + 9 * SECOND, Some(2 * SECOND));
        assert_eq!(schedule.due(), Some(begun + 9 * SECOND));
    }

    #[test]
    fn work_that_comes_during_a_gc_pass_gets_the_next_one() {
        let (mut schedule, begun) = cost(SECOND, 60 * SECOND, None);
        let done = PassCost { begun: begun + SECOND, took: SECOND, processor: SECOND };
        schedule.begin();
        schedule.schedule_by(begun + 60 * SECOND, Some(5 * SECOND));
        schedule.schedule_now(begun + 2 * SECOND);
        schedule.schedule_by(begun + 70 * SECOND, None);
        assert_eq!(schedule.due(), None, "one runs");
        schedule.end(done, 60 * SECOND, None);
        assert_eq!(schedule.due(), Some(begun + 2 * SECOND));
        schedule.begin();
        schedule.schedule_by(begun + 3 * SECOND, Some(5 * SECOND));
        schedule.end(done, 60 * SECOND, None);
        assert_eq!(schedule.due(), Some(begun + 6 * SECOND), "5 s after the last one");
    }

    #[test]
    fn failed_gc_pass_is_retried_after_a_pause() {
        let begun = Instant::now();
        let mut schedule = GcSchedule::new(begun);
        schedule.begin();
        schedule.schedule_now(begun);
        schedule.fail(begun);
        schedule.schedule_now(begun);
        schedule.schedule_by(begun, None);
        assert_eq!(schedule.due(), Some(begun + RETRY));
        schedule.begin();
        schedule.end(PassCost { begun, took: SECOND, processor: SECOND }, SECOND, None);
        schedule.schedule_now(begun);
        assert_eq!(schedule.due(), Some(begun));
    }
}
