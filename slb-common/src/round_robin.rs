//! The order of servers in the table of a (weighted) round-robin service.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Scale at which two different quotients differ, if their denominators are at most 100.
const SCALE: u64 = 1 << 16;

/// The member of each slot. Weights are 1 to 100. After any number of slots each member has had its share by weight,
/// less than one slot more or less.
///
/// Each turn of a member has a time window, as in the queueing discipline WF2Q (Bennett and Zhang, INFOCOM 1996). Of
/// the turns whose window has begun, the one whose window ends first is next.
///
/// # Panics
///
/// There are no members, or more than 65,535.
pub fn build(slots: u32, weights: &[u8]) -> Vec<u16> {
    assert!(!weights.is_empty(), "no members");
    let members = u16::try_from(weights.len()).expect("few members");
    let all: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    // Slot from which a turn may happen, rounded up.
    let begin = |turn: u64, weight: u64| (turn * all).div_ceil(weight);
    let mut waiting: BinaryHeap<_> = (0..members).map(|member| Reverse((0, member, 0))).collect();
    let mut begun = BinaryHeap::new();
    let mut round_robin = Vec::with_capacity(slots as usize);
    for slot in 0..u64::from(slots) {
        while let Some(Reverse((from, member, turn))) = waiting.peek().copied()
            && from <= slot
        {
            waiting.pop();
            let weight = u64::from(weights[usize::from(member)]);
            begun.push(Reverse(((turn + 1) * SCALE / weight, member, turn)));
        }
        // Never empty: as many turns have happened as slots have passed.
        let Some(Reverse((_, member, turn))) = begun.pop() else { break };
        round_robin.push(member);
        let weight = u64::from(weights[usize::from(member)]);
        waiting.push(Reverse((begin(turn + 1, weight), member, turn + 1)));
    }
    round_robin
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_weights_are_cycled_in_order() {
        assert_eq!(build(7, &[1, 1, 1]), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(build(4, &[100]), [0; 4]);
    }

    #[test]
    fn heavier_servers_are_interleaved_with_lighter_ones() {
        assert_eq!(build(6, &[2, 1]), [0, 1, 0, 0, 1, 0]);
        assert_eq!(build(8, &[3, 1]), [0, 1, 0, 0, 0, 1, 0, 0]);
        let weights: Vec<u8> = [100].into_iter().chain([1; 50]).collect();
        let mut rows = build(4001, &weights);
        rows.dedup();
        assert!(rows.len() > 2 * 4001 * 50 / 150 - 10, "the light ones in a row");
    }

    proptest! {
        #[test]
        fn every_slice_of_round_robin_is_shared_by_weight(
            weights in prop::collection::vec(prop_oneof![Just(1_u8), 1_u8..=100], 1..40),
            from in 0_usize..2000,
            len in 1_usize..2000,
        ) {
            let round_robin = build(4001, &weights);
            let all: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (member, weight) in (0_u16..).zip(&weights) {
                let had = round_robin[from..from + len].iter().filter(|turn| **turn == member).count() as f64;
                let share = f64::from(*weight) / all * len as f64;
                prop_assert!((had - share).abs() < 2.0 + 1e-9, "member {member} had {had} of {share}");
            }
        }
    }
}
