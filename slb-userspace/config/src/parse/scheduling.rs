//! Scheduler and session persistence of a listener.

use std::{ops::RangeInclusive, time::Duration};

use crate::{
    field::Checker,
    model::Scheduler,
    raw::{self, Scalar, Value},
};

const PERSISTENCE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Scheduler and session persistence.
#[derive(Debug, Clone, Copy)]
pub(super) struct SchedulerSettings {
    pub(super) scheduler: Scheduler,
    pub(super) session_persistence: Option<Duration>,
}

pub(super) fn build(checker: &mut Checker, raw: &raw::RawListener) -> Option<SchedulerSettings> {
    let words = Scheduler::ALL.map(|scheduler| (scheduler.name(), scheduler));
    let scheduler = raw.scheduler.as_ref();
    let scheduler =
        scheduler.map_or(Some(Scheduler::Maglev), |value| checker.choice("scheduler", value, &words));
    let session_persistence =
        checker.duration_or_none("session_persistence", raw.session_persistence.as_ref(), PERSISTENCE);
    Some(SchedulerSettings { scheduler: scheduler?, session_persistence: session_persistence? })
}

/// Whether a scheduler, as written, ignores weights.
pub(super) fn ignores_weights(value: &Value) -> bool {
    let Scalar::Text(text) = value.as_ref() else { return false };
    text == Scheduler::RoundRobin.name()
}
