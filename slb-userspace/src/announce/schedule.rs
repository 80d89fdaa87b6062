//! When announcements are sent: several times after the start of each, then a probe a minute. Bounded by the second,
//! so that the start of a thousand VIPs is no flood. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::dataplane::bpf::answers::VipAt;

/// Pauses after each announcement: hosts and switches may miss some while a link comes up. The first probe follows the
/// last one.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(2),
];
/// Time between two probes for another host with the VIP.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(60);
/// Most VIPs that send at once, and the pause after that: a thousand a second.
const BATCH: usize = 50;
const PACE: Duration = Duration::from_millis(50);

/// What is sent for a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The announcement with this number.
    Announce(usize),
    /// A question whether another host has it.
    Probe,
}

impl Step {
    fn next(self) -> (Duration, Self) {
        match self {
            Self::Announce(number) if number + 1 < PAUSES.len() => {
                (PAUSES[number], Self::Announce(number + 1))
            }
            Self::Announce(number) => (PAUSES[number], Self::Probe),
            Self::Probe => (PROBE_INTERVAL, Self::Probe),
        }
    }
}

/// The next step of every VIP.
#[derive(Debug)]
pub(super) struct Schedule {
    due: BTreeSet<(Instant, VipAt, Step)>,
    steps: BTreeMap<VipAt, (Instant, Step)>,
    /// End of the pause after the last batch.
    paused_until: Instant,
}

impl Schedule {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: BTreeSet::new(), steps: BTreeMap::new(), paused_until: now }
    }

    /// Announces a VIP from now on, again from the beginning.
    pub(super) fn start(&mut self, at: VipAt, now: Instant) {
        self.put(at, now, Step::Announce(0));
    }

    /// Sends nothing more for a VIP.
    pub(super) fn cancel(&mut self, at: VipAt) {
        if let Some((when, step)) = self.steps.remove(&at) {
            self.due.remove(&(when, at, step));
        }
    }

    /// When something is due; `None` for never.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(when, ..)| (*when).max(self.paused_until))
    }

    /// Takes what is due, at most one batch.
    pub(super) fn take(&mut self, now: Instant) -> Vec<(VipAt, Step)> {
        if now < self.paused_until {
            return Vec::new();
        }
        let due = self.due.iter().take_while(|(when, ..)| *when <= now).take(BATCH);
        let due: Vec<_> = due.map(|(_, at, step)| (*at, *step)).collect();
        for (at, step) in &due {
            let (pause, next) = step.next();
            self.put(*at, now + pause, next);
        }
        if !due.is_empty() {
            self.paused_until = now + PACE;
        }
        due
    }

    fn put(&mut self, at: VipAt, when: Instant, step: Step) {
        self.cancel(at);
        self.steps.insert(at, (when, step));
        self.due.insert((when, at, step));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn vip(number: u32) -> VipAt {
        (1, Ipv4Addr::from(0xc000_0200 + number).into())
    }

    /// What is sent until `end`, with the time since `begun`.
    fn sent(schedule: &mut Schedule, begun: Instant, end: Duration) -> Vec<(Duration, VipAt, Step)> {
        let mut sent = Vec::new();
        while let Some(now) = schedule.next().filter(|now| *now <= begun + end) {
            sent.extend(schedule.take(now).into_iter().map(|(at, step)| (now - begun, at, step)));
        }
        sent
    }

    #[test]
    fn announcement_is_repeated_and_then_probed() {
        let begun = Instant::now();
        let mut schedule = Schedule::new(begun);
        schedule.start(vip(1), begun);
        let steps: Vec<_> = sent(&mut schedule, begun, Duration::from_secs(80))
            .into_iter()
            .map(|(after, _, step)| (after.as_millis(), step))
            .collect();
        let announced = |number| Step::Announce(number);
        assert_eq!(
            steps,
            [
                (0, announced(0)),
                (300, announced(1)),
                (1_300, announced(2)),
                (3_300, announced(3)),
                (8_300, announced(4)),
                (10_300, Step::Probe),
                (70_300, Step::Probe)
            ]
        );
        schedule.start(vip(1), begun + Duration::from_secs(90));
        let again = schedule.take(begun + Duration::from_secs(90));
        assert_eq!(again, [(vip(1), announced(0))], "a link that comes up");
        schedule.cancel(vip(1));
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn thousand_vips_are_announced_within_a_second_and_not_at_once() {
        let begun = Instant::now();
        let mut schedule = Schedule::new(begun);
        for number in 0..1_000 {
            schedule.start(vip(number), begun);
        }
        let sent = sent(&mut schedule, begun, Duration::from_secs(30));
        let first: Vec<_> = sent.iter().filter(|(.., step)| *step == Step::Announce(0)).collect();
        assert_eq!(first.len(), 1_000);
        assert!(first.iter().all(|(after, ..)| *after < Duration::from_secs(1)), "{:?}", first.last());
        for tenth in 0..300_u128 {
            let within = sent.iter().filter(|(after, ..)| after.as_millis() / 100 == tenth).count();
            assert!(within <= 2 * BATCH, "{within} in a tenth of a second");
        }
        assert_eq!(sent.len(), 6_000, "five announcements of each and a probe");
    }
}
