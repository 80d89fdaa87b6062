//! The race for slots: the first server to visit a slot gets it, until its quota is full.
//!
//! Time is counted in rounds. A server with the largest weight takes one step per round, one with half that weight one
//! step every second round. Step `k` of weight `w` happens in round `ceil(k * heaviest / w)`. If servers visit a slot
//! in the same round, the order of the list decides. So all claims `(round, rank, slot)` have one order, and the table
//! grants them in it.
//!
//! Towards the end few slots are free, and nearly all steps are lost. So the walk stops when few claims are left that
//! could still be granted. These are computed and sorted, with the same result.

use super::{EMPTY, Runner, mix};

/// Fills a table of `size` slots, a prime, with the indexes of the runners. Each gets as many slots as its quota.
///
/// `runners` is sorted by descending weight. All nodes must have equal weights in the same order.
pub(super) fn fill(size: u32, runners: &[Runner]) -> Vec<u16> {
    let mut race = Race::new(size, runners);
    // For up to this many claims, sorting is cheaper than more steps.
    race.walk_until(u64::from(size / 4));
    race.grant_remaining();
    race.table
}

/// The order in which a server visits the slots: a start and a stride. With a prime number of slots every stride visits
/// all of them.
#[derive(Debug, Clone, Copy)]
struct Permutation {
    start: u32,
    stride: u32,
}

impl Permutation {
    fn new(key: u64, size: u32) -> Self {
        let size = u64::from(size);
        // Two independent draws. The golden ratio keeps key 0 from being its own second draw.
        let second = mix(key.wrapping_add(0x9e37_79b9_7f4a_7c15));
        Self { start: (key % size) as u32, stride: (1 + second % (size - 1)) as u32 }
    }

    /// Inverse of the stride modulo `size`, by Fermat's little theorem.
    fn inverse_stride(self, size: u32) -> u64 {
        let modulus = u64::from(size);
        let (mut result, mut base, mut exponent) = (1, u64::from(self.stride), size - 2);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = result * base % modulus;
            }
            base = base * base % modulus;
            exponent >>= 1;
        }
        result
    }
}

/// A server that needs more slots.
#[derive(Debug, Clone, Copy)]
struct Walker {
    /// Slot of its next step.
    at: u32,
    stride: u32,
    /// Slots that it still needs.
    remaining_quota: u32,
    /// Its index in the list of runners.
    rank: u16,
    /// The value that it writes to its slots.
    index: u16,
}

/// Walkers of one weight, which take their steps in the same rounds.
#[derive(Debug)]
struct Team {
    weight: u32,
    /// Number of the next step, from 1.
    step: u32,
    /// Round of the next step.
    round: u32,
    walkers: Vec<Walker>,
}

#[derive(Debug)]
struct Race<'a> {
    runners: &'a [Runner],
    size: u32,
    heaviest: u32,
    /// By descending weight; none is empty.
    teams: Vec<Team>,
    table: Vec<u16>,
    free: u32,
}

impl<'a> Race<'a> {
    fn new(size: u32, runners: &'a [Runner]) -> Self {
        let heaviest = runners.first().map_or(0, |runner| runner.weight);
        let mut teams: Vec<Team> = Vec::new();
        for (rank, runner) in (0u16..).zip(runners).filter(|(_, runner)| runner.quota > 0) {
            let Permutation { start, stride } = Permutation::new(runner.key, size);
            let walker =
                Walker { at: start, stride, remaining_quota: runner.quota, rank, index: runner.index };
            match teams.last_mut() {
                Some(team) if team.weight == runner.weight => team.walkers.push(walker),
                _ => teams.push(Team {
                    weight: runner.weight,
                    step: 1,
                    round: round_of(1, heaviest, runner.weight),
                    walkers: vec![walker],
                }),
            }
        }
        Self { runners, size, heaviest, teams, table: vec![EMPTY; size as usize], free: size }
    }

    /// Runs rounds until at most `claims` claims are left that could still be granted.
    fn walk_until(&mut self, claims: u64) {
        let mut walking: usize = self.teams.iter().map(|team| team.walkers.len()).sum();
        let mut round = 0;
        while walking as u64 * u64::from(self.free) > claims {
            let mut next = u32::MAX;
            let mut finished = false;
            for team in &mut self.teams {
                if team.round == round {
                    let before = team.walkers.len();
                    self.free -= team.take_step(&mut self.table);
                    walking -= before - team.walkers.len();
                    finished |= team.walkers.is_empty();
                    team.round = round_of(team.step, self.heaviest, team.weight);
                }
                next = next.min(team.round);
            }
            if finished {
                self.teams.retain(|team| !team.walkers.is_empty());
            }
            round = next;
        }
    }

    /// Grants the claims of all walkers to the free slots, in their order.
    fn grant_remaining(&mut self) {
        let free: Vec<u32> = (0..self.size).filter(|&slot| self.table[slot as usize] == EMPTY).collect();
        let mut claims = Vec::new();
        let mut remaining_quota = vec![0; self.runners.len()];
        for team in &self.teams {
            for walker in &team.walkers {
                let runner = &self.runners[usize::from(walker.rank)];
                remaining_quota[usize::from(walker.rank)] = walker.remaining_quota;
                let permutation = Permutation::new(runner.key, self.size);
                let inverse = permutation.inverse_stride(self.size);
                claims.extend(free.iter().map(|&slot| {
                    let distance = u64::from(slot + self.size - permutation.start);
                    let step = 1 + (distance * inverse % u64::from(self.size)) as u32;
                    (round_of(step, self.heaviest, team.weight), walker.rank, slot)
                }));
            }
        }
        claims.sort_unstable();
        for (_, rank, slot) in claims {
            let (slot, rank) = (&mut self.table[slot as usize], usize::from(rank));
            if *slot == EMPTY && remaining_quota[rank] > 0 {
                *slot = self.runners[rank].index;
                remaining_quota[rank] -= 1;
            }
        }
    }
}

impl Team {
    /// Moves every walker by one step and drops those that need no more slots. Returns the number of slots that were
    /// taken.
    ///
    /// Without branches: no processor could predict whether a slot is free.
    fn take_step(&mut self, table: &mut [u16]) -> u32 {
        let size = table.len() as u32;
        let (mut taken, mut finished) = (0, false);
        for walker in &mut self.walkers {
            let slot = &mut table[walker.at as usize];
            let is_free = *slot == EMPTY;
            *slot = if is_free { walker.index } else { *slot };
            walker.remaining_quota -= u32::from(is_free);
            taken += u32::from(is_free);
            finished |= walker.remaining_quota == 0;
            let next = walker.at + walker.stride;
            walker.at = next.min(next.wrapping_sub(size));
        }
        if finished {
            self.walkers.retain(|walker| walker.remaining_quota > 0);
        }
        self.step += 1;
        taken
    }
}

/// Round of a step. Below 2^24: there are at most 65,537 steps, and weights are at most 100.
fn round_of(step: u32, heaviest: u32, weight: u32) -> u32 {
    (step * heaviest).div_ceil(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maglev::quota;
    use proptest::prelude::*;

    fn runners(size: u32, weights: &[u32], seed: u64) -> Vec<Runner> {
        let mut weights = weights.to_vec();
        weights.sort_unstable_by(|a, b| b.cmp(a));
        let runner = |(index, weight)| Runner { index, weight, key: mix(seed ^ u64::from(index)), quota: 0 };
        let mut runners: Vec<Runner> = (0u16..).zip(weights).map(runner).collect();
        quota::assign_quotas(size, &mut runners);
        runners
    }

    /// The definition: all claims of all runners to all slots, sorted and granted.
    fn by_definition(size: u32, runners: &[Runner]) -> Vec<u16> {
        let mut claims = Vec::new();
        for (rank, runner) in runners.iter().enumerate() {
            let Permutation { start, stride } = Permutation::new(runner.key, size);
            let mut slot = start;
            for step in 1..=size {
                claims.push((round_of(step, runners[0].weight, runner.weight), rank, slot));
                slot = (slot + stride) % size;
            }
        }
        claims.sort_unstable();
        let mut table = vec![EMPTY; size as usize];
        let mut remaining_quota: Vec<u32> = runners.iter().map(|runner| runner.quota).collect();
        for (_, rank, slot) in claims {
            if table[slot as usize] == EMPTY && remaining_quota[rank] > 0 {
                table[slot as usize] = runners[rank].index;
                remaining_quota[rank] -= 1;
            }
        }
        table
    }

    proptest! {
        #[test]
        fn maglev_table_equals_its_reference_definition(
            size in prop::sample::select(vec![251, 257, 509, 1_009]),
            weights in prop::collection::vec(1u32..=100, 1..40),
            seed: u64,
        ) {
            let runners = runners(size, &weights, seed);
            prop_assert_eq!(fill(size, &runners), by_definition(size, &runners));
        }

        #[test]
        fn walk_stopped_at_any_claim_fills_the_same_table(
            weights in prop::collection::vec(1u32..=100, 1..40),
            seed: u64,
            claims in 0u64..20_000,
        ) {
            let runners = runners(509, &weights, seed);
            let mut race = Race::new(509, &runners);
            race.walk_until(claims);
            race.grant_remaining();
            prop_assert_eq!(race.table, fill(509, &runners));
        }

        #[test]
        fn permutation_visits_every_slot_once(key: u64) {
            let Permutation { start, stride } = Permutation::new(key, 509);
            prop_assert!(start < 509 && (1..509).contains(&stride));
            prop_assert_eq!(Permutation { start, stride }.inverse_stride(509) * u64::from(stride) % 509, 1);
        }
    }
}
