//! Balance, disruption and determinism of whole tables.

use super::measure::{Reassignment, slots_per_member};
use super::*;
use proptest::prelude::*;

/// Names like those of real servers.
fn names(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("10.0.{}.{}:80", n / 250, n % 250 + 1).into_bytes()).collect()
}

fn members<'a>(names: &'a [Vec<u8>], weights: &[u8]) -> Vec<Member<'a>> {
    names.iter().zip(weights).map(|(name, &weight)| Member { name, weight }).collect()
}

/// The change of one of 100 equal servers that reassigns most slots needlessly.
fn worst_of_all(seed: u64, changed_weight: u8) -> Reassignment {
    let names = names(100);
    let equal = members(&names, &[50; 100]);
    let before = build(MAX_SIZE, seed, &equal);
    (0..100u16)
        .map(|changed| {
            let mut members = equal.clone();
            members[usize::from(changed)].weight = changed_weight;
            Reassignment::between(&before, &build(MAX_SIZE, seed, &members), changed)
        })
        .max_by_key(|moved| moved.needless)
        .expect("100 changes")
}

#[test]
fn removing_any_of_100_moves_few_other_slots() {
    for seed in [0, 42] {
        let worst = worst_of_all(seed, 0);
        assert!((655..=656).contains(&worst.needed), "{worst:?}");
        // The needed slots differ by one at most, so the most needless moves are the most moves, too.
        assert!(worst.total() < 1_100, "{worst:?}");
        assert!(worst.needless_share() <= 0.0065, "{worst:?}");
    }
}

#[test]
fn doubling_any_weight_of_100_moves_few_other_slots() {
    for seed in [0, 42] {
        let worst = worst_of_all(seed, 100);
        assert!(worst.needless_share() <= 0.0065, "{worst:?}");
    }
}

#[test]
fn removing_any_of_100_different_weights_moves_few_other_slots() {
    let names = names(100);
    let weights: Vec<u8> = (1..=100).collect();
    let all = members(&names, &weights);
    let before = build(MAX_SIZE, 7, &all);
    for removed in 0..100u16 {
        let mut members = all.clone();
        members[usize::from(removed)].weight = 0;
        let moved = Reassignment::between(&before, &build(MAX_SIZE, 7, &members), removed);
        assert!(moved.needless_share() <= 0.0065, "{removed}: {moved:?}");
    }
}

#[test]
fn weights_from_1_to_100_get_their_ideal_share() {
    let (names, weights) = (names(100), (1..=100).collect::<Vec<u8>>());
    let table = build(MAX_SIZE, 1, &members(&names, &weights));
    for (slots_per_member, weight) in slots_per_member(&table, 100).into_iter().zip(weights) {
        let ideal = f64::from(MAX_SIZE) * f64::from(weight) / 5_050.0;
        assert!(
            (f64::from(slots_per_member) - ideal).abs() < 1.0,
            "weight {weight}: {slots_per_member} of {ideal}"
        );
    }
}

#[test]
fn table_without_weights_is_empty() {
    assert_eq!(build(251, 0, &[]), [EMPTY; 251]);
    let idle = Member { name: b"10.0.0.1:80", weight: 0 };
    assert_eq!(build(251, 0, &[idle]), [EMPTY; 251]);
}

#[test]
fn servers_with_equal_names_share_slots_evenly() {
    // Two equal names are a caller's mistake. They stand in for a collision of two keys.
    let twice = [Member { name: b"a", weight: 1 }, Member { name: b"a", weight: 1 }];
    let slots_per_member = slots_per_member(&build(251, 0, &twice), 2);
    assert_eq!(slots_per_member.iter().sum::<u32>(), 251);
    assert!(slots_per_member[0].abs_diff(slots_per_member[1]) == 1, "{slots_per_member:?}");
}

#[test]
fn tables_are_the_same_in_every_version() {
    // Nodes of different versions share flows during an upgrade. If this fails, the change breaks their agreement.
    let names = names(10);
    let table = build(MAX_SIZE, 0x5eed, &members(&names, &[100, 50, 25, 1, 100, 7, 0, 33, 90, 64]));
    assert_eq!(table[..16], [5, 9, 8, 4, 2, 8, 9, 5, 0, 2, 4, 0, 0, 0, 2, 4]);
    let digest = table.iter().fold(0, |digest, &slot_member| mix(digest ^ u64::from(slot_member)));
    assert_eq!(digest, 0x06b8_1d81_f89c_131a);
}

#[test]
fn only_primes_within_the_range_are_sizes() {
    assert!([251, 257, 65_521, 65_537].into_iter().all(is_table_size));
    assert!(![0, 2, 241, 252, 65_536, 65_539].into_iter().any(is_table_size));
}

#[test]
#[should_panic(expected = "a table cannot have 1000 slots")]
fn build_panics_on_an_invalid_table_size() {
    let _ = build(1_000, 0, &[]);
}

prop_compose! {
    /// A small table's size, a seed and the weights of its members.
    fn inputs()(
        size in prop::sample::select(vec![251, 509, 1_009, 4_093]),
        seed: u64,
        weights in prop::collection::vec(prop_oneof![1 => Just(0u8), 4 => 0u8..=100], 1..120),
    ) -> (u32, u64, Vec<u8>) {
        (size, seed, weights)
    }
}

proptest! {
    #[test]
    fn table_is_independent_of_member_order((size, seed, weights) in inputs(), turn: prop::sample::Index) {
        let names = names(weights.len());
        let listed = members(&names, &weights);
        let mut other = listed.clone();
        other.rotate_left(turn.index(weights.len()));
        other[turn.index(weights.len())..].reverse();
        let slot_members = |members: &[Member<'_>]| -> Vec<Option<Vec<u8>>> {
            let name = |&slot_member: &u16| members.get(usize::from(slot_member)).map(|member| member.name.to_vec());
            build(size, seed, members).iter().map(name).collect()
        };
        prop_assert_eq!(slot_members(&listed), slot_members(&other));
    }

    #[test]
    fn every_slot_belongs_to_a_server_with_weight((size, seed, weights) in inputs()) {
        let names = names(weights.len());
        let table = build(size, seed, &members(&names, &weights));
        prop_assert_eq!(table.len(), size as usize);
        if weights.iter().any(|&weight| weight > 0) {
            prop_assert!(table.iter().all(|&slot_member| weights[usize::from(slot_member)] > 0));
            let slots_per_member = slots_per_member(&table, weights.len());
            prop_assert!(slots_per_member.iter().zip(&weights).all(|(&slots_per_member, &weight)| (slots_per_member > 0) == (weight > 0)));
        } else {
            prop_assert!(table.iter().all(|&slot_member| slot_member == EMPTY));
        }
    }

    #[test]
    fn heavier_server_never_owns_fewer_slots((size, seed, weights) in inputs()) {
        let names = names(weights.len());
        let slots_per_member = slots_per_member(&build(size, seed, &members(&names, &weights)), weights.len());
        let mut pairs: Vec<(u8, u32)> = weights.into_iter().zip(slots_per_member).collect();
        pairs.sort_unstable();
        for pair in pairs.windows(2) {
            prop_assert!(pair[0].1 <= pair[1].1, "{:?}", pair);
            prop_assert!(pair[0].0 < pair[1].0 || pair[1].1 - pair[0].1 <= 1, "{:?}", pair);
        }
    }

    #[test]
    fn equal_weights_differ_by_one_slot_at_most(count in 1usize..250, weight in 1u8..=100, seed: u64) {
        let names = names(count);
        let slots_per_member = slots_per_member(&build(251, seed, &members(&names, &vec![weight; count])), count);
        prop_assert!(slots_per_member.iter().max().unwrap() - slots_per_member.iter().min().unwrap() <= 1, "{:?}", slots_per_member);
    }

    #[test]
    fn slot_counts_are_within_one_of_the_ideal_share(weights in prop::collection::vec(25u8..=100, 1..50), seed: u64) {
        let names = names(weights.len());
        let total: u32 = weights.iter().map(|&weight| u32::from(weight)).sum();
        let table = build(251, seed, &members(&names, &weights));
        for (slots_per_member, &weight) in slots_per_member(&table, weights.len()).into_iter().zip(&weights) {
            let ideal = 251.0 * f64::from(weight) / f64::from(total);
            prop_assert!((f64::from(slots_per_member) - ideal).abs() < 1.0, "weight {}: {} of {}", weight, slots_per_member, ideal);
        }
    }

    #[test]
    fn weight_0_is_the_same_as_not_listed((size, seed, weights) in inputs()) {
        let names = names(weights.len());
        let all = members(&names, &weights);
        let listed: Vec<usize> = (0..all.len()).filter(|&at| all[at].weight > 0).collect();
        let fewer: Vec<Member<'_>> = listed.iter().map(|&at| all[at]).collect();
        let back = |&slot_member: &u16| listed.get(usize::from(slot_member)).map_or(EMPTY, |&at| at as u16);
        let table: Vec<u16> = build(size, seed, &fewer).iter().map(back).collect();
        prop_assert_eq!(build(size, seed, &all), table);
    }

    #[test]
    fn scaling_all_weights_keeps_the_table(weights in prop::collection::vec(0u8..=33, 1..60), seed: u64) {
        let names = names(weights.len());
        let tripled: Vec<u8> = weights.iter().map(|weight| weight * 3).collect();
        prop_assert_eq!(
            build(509, seed, &members(&names, &weights)),
            build(509, seed, &members(&names, &tripled))
        );
    }

    #[test]
    fn different_seeds_make_different_tables(seed: u64) {
        let names = names(8);
        let members = members(&names, &[10; 8]);
        prop_assert_ne!(build(251, seed, &members), build(251, seed.wrapping_add(1), &members));
    }

    #[test]
    fn server_that_returns_restores_the_table((size, seed, weights) in inputs(), at: prop::sample::Index, weight in 1u8..=100) {
        // Needless moves are also bounded in small tables with many servers.
        let names = names(weights.len());
        let at = at.index(weights.len());
        let mut all = members(&names, &weights);
        all[at].weight = weight;
        let before = build(size, seed, &all);
        let rest = all.iter().filter(|member| member.weight > 0).count() as u32 - 1;
        all[at].weight = 0;
        let without = build(size, seed, &all);
        if rest > 0 {
            let moved = Reassignment::between(&before, &without, at as u16);
            prop_assert_eq!(moved.needed, slots_per_member(&before, weights.len())[at]);
            prop_assert!(moved.needless <= size / 2, "{:?} of {}", moved, size);
        }
        all[at].weight = weight;
        prop_assert_eq!(build(size, seed, &all), before);
    }
}
