//! Slots of each server, by the largest-remainder method.
//!
//! A server gets the whole part of its ideal share, `size * weight / total`. The remaining slots go one by one to the
//! largest fractions. So every server is less than one slot away from its ideal share, and equal weights differ by at
//! most one slot.
//!
//! Exception: a server whose ideal share is below one slot gets one, because a server with a weight must receive
//! clients. The others share the remaining slots.

use super::Runner;

/// Sets the quotas. Their sum is `size`, unless there are no runners.
///
/// `runners` is sorted by descending weight. All nodes must have equal weights in the same order.
pub(super) fn assign_quotas(size: u32, runners: &mut [Runner]) {
    let mut slots = u64::from(size);
    let mut total: u64 = runners.iter().map(|runner| u64::from(runner.weight)).sum();
    let mut sharing = runners.len();
    if slots >= runners.len() as u64 {
        // Lightest first: each slot given away reduces the shares of the heavier ones, never of those before.
        for runner in runners.iter_mut().rev() {
            if u64::from(runner.weight) * slots >= total {
                break;
            }
            runner.quota = 1;
            slots -= 1;
            total -= u64::from(runner.weight);
            sharing -= 1;
        }
    }

    let runners = &mut runners[..sharing];
    let mut left = slots;
    for runner in runners.iter_mut() {
        runner.quota = (slots * u64::from(runner.weight) / total) as u32;
        left -= u64::from(runner.quota);
    }
    let fraction = |runner: &Runner| slots * u64::from(runner.weight) % total;
    let mut by_fraction: Vec<usize> = (0..runners.len()).collect();
    // Stable sort: equal fractions keep the order that all nodes have.
    by_fraction.sort_by_key(|&at| std::cmp::Reverse(fraction(&runners[at])));
    for &at in by_fraction.iter().take(left as usize) {
        runners[at].quota += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(size: u32, weights: &[u32]) -> Vec<u32> {
        let runner = |&weight| Runner { index: 0, weight, key: 0, quota: 0 };
        let mut runners: Vec<Runner> = weights.iter().map(runner).collect();
        assign_quotas(size, &mut runners);
        runners.iter().map(|runner| runner.quota).collect()
    }

    #[test]
    fn largest_remainders_get_the_leftover_slots() {
        // Ideal: 125.5, 83.67, 41.83.
        assert_eq!(quotas(251, &[3, 2, 1]), [125, 84, 42]);
        assert_eq!(quotas(251, &[1, 1, 1]), [84, 84, 83]);
    }

    #[test]
    fn lightest_servers_get_at_least_one_slot() {
        // Ideal: 124.26, 124.26, 1.24, 1.24.
        assert_eq!(quotas(251, &[100, 100, 1, 1]), [125, 124, 1, 1]);
        // Ideal for the lightest: 0.84. The others share 250 slots: 84.18, 84.18, 81.65.
        assert_eq!(quotas(251, &[100, 100, 97, 1]), [84, 84, 82, 1]);
        // One slot for each, and one more for the heaviest.
        let mut weights = vec![100; 2];
        weights.extend([1; 249]);
        let mut expected = vec![1; 251];
        assert_eq!(quotas(251, &weights), expected);
        weights.pop();
        expected.pop();
        expected[0] = 2;
        assert_eq!(quotas(251, &weights), expected);
    }

    #[test]
    fn more_servers_than_slots_get_one_slot_each_at_most() {
        let quotas = quotas(251, &[1; 300]);
        assert_eq!(quotas.iter().sum::<u32>(), 251);
        assert!(quotas.iter().all(|&quota| quota <= 1));
    }

    #[test]
    fn quotas_of_no_server_are_empty_and_of_one_are_all_slots() {
        assert_eq!(quotas(251, &[]), []);
        assert_eq!(quotas(251, &[7]), [251]);
    }
}
