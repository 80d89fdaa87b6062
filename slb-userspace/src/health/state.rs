//! Decides from a sequence of probe results whether a server is healthy.
//!
//! After a start the first decision must be fast, and must not be hasty where flows depend on it:
//!
//! | before the first result | first success | first failure |
//! |---|---|---|
//! | nothing known | healthy at once | unhealthy at once |
//! | unhealthy in an earlier run | healthy at once | unhealthy confirmed at once |
//! | healthy in an earlier run | healthy confirmed at once | counts towards the unhealthy threshold |
//!
//! Only a server that was healthy before waits: a restart of the daemon must not empty a serving group for one lost
//! packet. After the first decision only the thresholds count.

use slb_config::model::HealthCheck;
use slb_control::model::Health;

/// Health state of one target.
#[derive(Debug, Clone)]
pub struct HealthCheckState {
    healthy_threshold: u8,
    unhealthy_threshold: u8,
    health: Option<Health>,
    /// Whether a result of this run has set or confirmed `health`.
    is_decided: bool,
    /// Consecutive results that contradict `health`.
    contrary_results: u8,
}

impl HealthCheckState {
    /// Starts with the health from an earlier run, if known.
    pub fn new(check: &HealthCheck, previous: Option<Health>) -> Self {
        Self {
            healthy_threshold: check.healthy_threshold,
            unhealthy_threshold: check.unhealthy_threshold,
            health: previous,
            is_decided: false,
            contrary_results: 0,
        }
    }

    /// Continues with the consecutive failures that an earlier run counted: the next one may reach the threshold.
    #[must_use]
    pub fn after(self, failures: u8) -> Self {
        match self.health {
            Some(Health::Healthy) => Self { contrary_results: failures, ..self },
            _ => self,
        }
    }

    /// The health from results, or from an earlier run.
    pub fn health(&self) -> Option<Health> {
        self.health
    }

    /// Consecutive failures that have not made it unhealthy yet.
    pub fn failures(&self) -> u8 {
        if self.health == Some(Health::Healthy) { self.contrary_results } else { 0 }
    }

    /// Processes a result. Returns the health if this result changed it, or was the first decision of this run. A first
    /// decision that confirms the health of an earlier run is returned too.
    pub fn observe(&mut self, result: Health) -> Option<Health> {
        if self.health == Some(result) {
            self.contrary_results = 0;
            let first = !self.is_decided;
            self.is_decided = true;
            return first.then_some(result);
        }
        self.contrary_results += 1;
        if self.contrary_results < self.needed(result) {
            return None;
        }
        self.health = Some(result);
        self.is_decided = true;
        self.contrary_results = 0;
        Some(result)
    }

    /// Consecutive results needed to become `result`.
    fn needed(&self, result: Health) -> u8 {
        match (self.health, result) {
            (None, _) => 1,
            (Some(_), Health::Healthy) if !self.is_decided => 1,
            (Some(_), Health::Healthy) => self.healthy_threshold,
            (Some(_), Health::Unhealthy) => self.unhealthy_threshold,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use Health::{Healthy, Unhealthy};
    use slb_config::model::CheckKind;

    fn check(healthy_threshold: u8, unhealthy_threshold: u8) -> HealthCheck {
        HealthCheck {
            kind: CheckKind::Tcp,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            healthy_threshold,
            unhealthy_threshold,
            passive: None,
        }
    }

    fn run(check: &HealthCheck, previous: Option<Health>, results: &[Health]) -> Vec<Option<Health>> {
        let mut state = HealthCheckState::new(check, previous);
        results.iter().map(|&result| state.observe(result)).collect()
    }

    #[test]
    fn first_result_decides_unknown_health() {
        let check = check(3, 3);
        assert_eq!(run(&check, None, &[Healthy, Healthy]), [Some(Healthy), None]);
        assert_eq!(run(&check, None, &[Unhealthy, Unhealthy]), [Some(Unhealthy), None]);
    }

    #[test]
    fn first_result_decides_restored_unhealthy() {
        let check = check(3, 3);
        assert_eq!(run(&check, Some(Unhealthy), &[Healthy]), [Some(Healthy)]);
        let results = [Unhealthy, Healthy, Healthy, Healthy];
        assert_eq!(run(&check, Some(Unhealthy), &results), [Some(Unhealthy), None, None, Some(Healthy)]);
    }

    #[test]
    fn restored_healthy_survives_a_lost_probe() {
        let check = check(3, 3);
        let lost_one = [Unhealthy, Healthy, Unhealthy, Unhealthy, Unhealthy];
        let expected = [None, Some(Healthy), None, None, Some(Unhealthy)];
        assert_eq!(run(&check, Some(Healthy), &lost_one), expected);
        assert_eq!(run(&check, Some(Healthy), &[Unhealthy; 3]), [None, None, Some(Unhealthy)]);
    }

    #[test]
    fn failure_count_continues_after_a_restart() {
        let check = check(3, 3);
        let resumed = |failures| HealthCheckState::new(&check, Some(Healthy)).after(failures);
        let mut state = resumed(2);
        assert_eq!(state.failures(), 2);
        assert_eq!((state.observe(Unhealthy), state.failures()), (Some(Unhealthy), 0));
        let mut state = resumed(2);
        assert_eq!((state.observe(Healthy), state.failures()), (Some(Healthy), 0));
        assert_eq!((state.observe(Unhealthy), state.failures()), (None, 1));
        assert_eq!(HealthCheckState::new(&check, None).after(2).failures(), 0, "the first result decides");
    }

    #[test]
    fn agreeing_result_resets_the_count() {
        let results = [Healthy, Unhealthy, Unhealthy, Healthy, Unhealthy, Unhealthy, Unhealthy];
        let expected = [Some(Healthy), None, None, None, None, None, Some(Unhealthy)];
        assert_eq!(run(&check(2, 3), None, &results), expected);
    }

    /// The expected decisions, computed for each prefix from the whole history without a counter.
    fn oracle(check: &HealthCheck, previous: Option<Health>, results: &[Health]) -> Vec<Option<Health>> {
        let mut health = previous;
        let mut is_decided = false;
        let mut said = Vec::new();
        for end in 1..=results.len() {
            let history = &results[..end];
            let last_are = |n: u8, wanted| {
                history.iter().rev().take(usize::from(n)).filter(|&&r| r == wanted).count() == usize::from(n)
            };
            let now = match (is_decided, health) {
                (false, None | Some(Unhealthy)) => Some(history[0]),
                (false, Some(Healthy)) if history.contains(&Healthy) => Some(Healthy),
                (false, Some(Healthy)) => last_are(check.unhealthy_threshold, Unhealthy).then_some(Unhealthy),
                (true, Some(Healthy)) => last_are(check.unhealthy_threshold, Unhealthy).then_some(Unhealthy),
                (true, _) => last_are(check.healthy_threshold, Healthy).then_some(Healthy),
            };
            said.push(now);
            is_decided |= now.is_some();
            health = now.or(health);
        }
        said
    }

    fn health() -> impl Strategy<Value = Health> {
        prop_oneof![Just(Healthy), Just(Unhealthy)]
    }

    proptest! {
        #[test]
        fn health_state_agrees_with_the_oracle(
            up in 1u8..=10,
            down in 1u8..=10,
            previous in option::of(health()),
            // Runs of equal results, so that thresholds are reached often.
            runs in vec((health(), 1usize..=12), 0..20),
        ) {
            let results: Vec<Health> = runs.into_iter().flat_map(|(r, n)| vec![r; n]).collect();
            let check = check(up, down);
            prop_assert_eq!(run(&check, previous, &results), oracle(&check, previous, &results));
        }
    }
}
