//! Hash-function transition: a listener changes between `maglev` and `maglev-client`. Pure.
//!
//! For the idle time every flow is tracked. Mid-stream packets without an entry follow the old hash. After the idle
//! time no untracked flow of the old hash is left.

use slb_common::abi::{
    mode::Mode,
    policy_set::PolicySet,
    service::{Service, policy},
    time::BootSecs,
};

/// Seconds that a change may take until it is active.
const SLACK: u32 = 10;

/// Returns the policy of a service, the start of its transition, if there is one, and the end of it. `actual` is its
/// actual entry and `configured` its configured policy. `idle` is the idle timeout in seconds.
pub(super) fn hash_transition(
    actual: Option<&Service>,
    configured: PolicySet,
    mode: Mode,
    idle: u32,
    now: BootSecs,
) -> (PolicySet, Option<BootSecs>, Option<BootSecs>) {
    // In mode `nat` every flow is tracked anyway.
    let Some(actual) = actual.filter(|actual| !mode.sees_replies() && !actual.sees_replies()) else {
        return (configured, None, None);
    };
    let has_changed = actual.policies().has(policy::BY_CLIENT) != configured.has(policy::BY_CLIENT);
    let since = if has_changed { Some(now) } else { actual.hash_change() };
    let end = since.map(|since| since.plus(idle + SLACK)).filter(|end| now < *end);
    if end.is_none() {
        return (configured, None, None);
    }
    let was_other = actual.policies().has(policy::HASH_TRANSITION);
    let other = if was_other == has_changed { 0 } else { policy::HASH_TRANSITION };
    (configured.with(policy::TRACK | other), since, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: u32 = 900;
    const BY_FLOW: u32 = 0;
    const BY_CLIENT: u32 = policy::BY_CLIENT;
    const OTHER: u32 = policy::TRACK | policy::HASH_TRANSITION;

    fn actual(policy: u32, hash_changed_at: u32) -> Service {
        Service { policy, hash_changed_at, mode: Mode::Dsr.number(), ..Service::default() }
    }

    /// The transition at `now`, with times as words of the maps.
    fn transition(
        actual: Option<&Service>,
        configured: u32,
        mode: Mode,
        now: u32,
    ) -> (u32, u32, Option<u32>) {
        let configured = PolicySet::new(configured);
        let (policies, since, end) = hash_transition(actual, configured, mode, IDLE, BootSecs::new(now));
        (policies.bits(), BootSecs::word(since), end.map(|end| BootSecs::word(Some(end))))
    }

    fn next(actual: &Service, configured: u32, now: u32) -> (u32, u32, Option<u32>) {
        transition(Some(actual), configured, Mode::Dsr, now)
    }

    #[test]
    fn hash_transition_lasts_for_the_idle_timeout() {
        let (policy, since, end) = next(&actual(BY_FLOW, 0), BY_CLIENT, 100);
        assert_eq!((policy, since, end), (BY_CLIENT | OTHER, 100, Some(1010)));
        let during = actual(policy, since);
        assert_eq!(next(&during, BY_CLIENT, 1009), (BY_CLIENT | OTHER, 100, Some(1010)));
        assert_eq!(next(&during, BY_CLIENT, 1010), (BY_CLIENT, 0, None));
    }

    #[test]
    fn hash_change_during_a_transition_leaves_all_flows_tracked() {
        let during = actual(BY_CLIENT | OTHER, 100);
        assert_eq!(next(&during, BY_FLOW, 300), (policy::TRACK, 300, Some(1210)));
        assert_eq!(next(&actual(policy::TRACK, 300), BY_CLIENT, 400).0, BY_CLIENT | OTHER);
    }

    #[test]
    fn no_hash_transition_without_change_or_in_mode_nat() {
        assert_eq!(next(&actual(BY_CLIENT, 0), BY_CLIENT, 100), (BY_CLIENT, 0, None));
        assert_eq!(transition(None, BY_CLIENT, Mode::Dsr, 100), (BY_CLIENT, 0, None));
        assert_eq!(transition(Some(&actual(BY_FLOW, 0)), BY_CLIENT, Mode::Nat, 100), (BY_CLIENT, 0, None));
    }
}
