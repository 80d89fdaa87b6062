//! Hash-function transition: a listener changes between `maglev` and `maglev-client`. Pure.
//!
//! For the idle time every flow is tracked. Mid-stream packets without an entry follow the old hash. After the idle
//! time no untracked flow of the old hash is left.

use slb_common::abi::service::{Service, mode, policy};

/// Seconds that a change may take until it is active.
const SLACK: u32 = 10;

/// Returns the policy of a service, the start of its transition (0 for none) and the end of it. `held` is its actual
/// entry and `wanted` its configured policy. `idle` is the idle timeout in seconds. `now` and both times are seconds
/// since boot.
pub(super) fn rehashed(
    held: Option<&Service>,
    wanted: u32,
    mode: u8,
    idle: u32,
    now: u32,
) -> (u32, u32, Option<u32>) {
    // In mode `nat` every flow is tracked anyway.
    let Some(held) = held.filter(|held| mode != mode::NAT && held.mode != mode::NAT) else {
        return (wanted, 0, None);
    };
    let has_changed = (held.policy ^ wanted) & policy::BY_CLIENT != 0;
    let since = if has_changed { now } else { held.rehashed };
    let end = since + idle + SLACK;
    if since == 0 || now >= end {
        return (wanted, 0, None);
    }
    let was_other = held.policy & policy::OTHER_HASH != 0;
    let other = if was_other == has_changed { 0 } else { policy::OTHER_HASH };
    (wanted | policy::TRACK | other, since, Some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: u32 = 900;
    const BY_FLOW: u32 = 0;
    const BY_CLIENT: u32 = policy::BY_CLIENT;
    const OTHER: u32 = policy::TRACK | policy::OTHER_HASH;

    fn held(policy: u32, rehashed: u32) -> Service {
        Service { policy, rehashed, mode: mode::DSR, ..Service::default() }
    }

    fn next(held: &Service, wanted: u32, now: u32) -> (u32, u32, Option<u32>) {
        rehashed(Some(held), wanted, mode::DSR, IDLE, now)
    }

    #[test]
    fn a_change_of_the_hash_lasts_for_the_idle_time() {
        let (policy, since, end) = next(&held(BY_FLOW, 0), BY_CLIENT, 100);
        assert_eq!((policy, since, end), (BY_CLIENT | OTHER, 100, Some(1010)));
        let during = held(policy, since);
        assert_eq!(next(&during, BY_CLIENT, 1009), (BY_CLIENT | OTHER, 100, Some(1010)));
        assert_eq!(next(&during, BY_CLIENT, 1010), (BY_CLIENT, 0, None));
    }

    #[test]
    fn what_is_changed_back_is_found_by_its_hash_and_the_rest_is_remembered() {
        let during = held(BY_CLIENT | OTHER, 100);
        assert_eq!(next(&during, BY_FLOW, 300), (policy::TRACK, 300, Some(1210)));
        assert_eq!(next(&held(policy::TRACK, 300), BY_CLIENT, 400).0, BY_CLIENT | OTHER);
    }

    #[test]
    fn nothing_happens_where_nothing_changes_or_all_is_remembered() {
        assert_eq!(next(&held(BY_CLIENT, 0), BY_CLIENT, 100), (BY_CLIENT, 0, None));
        assert_eq!(rehashed(None, BY_CLIENT, mode::DSR, IDLE, 100), (BY_CLIENT, 0, None));
        assert_eq!(rehashed(Some(&held(BY_FLOW, 0)), BY_CLIENT, mode::NAT, IDLE, 100), (BY_CLIENT, 0, None));
    }
}
