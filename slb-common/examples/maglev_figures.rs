//! Prints what the server tables reach beside what they are to reach: balance, disruption, time to build.
//!
//! `cargo run --release -p slb-common --features user --example maglev_figures`

use std::hint::black_box;
use std::time::{Duration, Instant};

use slb_common::maglev::measure::{Reassignment, slots_per_member};
use slb_common::maglev::{MAX_SIZE, Member, build};

const SEEDS: u64 = 8;

fn main() {
    let rising: Vec<u8> = (1..=100).collect();
    let equal = vec![50; 100];
    println!("{MAX_SIZE} slots, {SEEDS} seeds; every one of 100 servers removed or doubled in turn\n");
    println!("{:<58} {:>10}  reached", "", "goal");
    row("equal weights, 100 servers: max - min", "<= 1", &format!("{} slots", spread(&equal)));
    row("equal weights, 1,000 servers: max - min", "<= 1", &format!("{} slots", spread(&[50; 1_000])));
    let (off, least) = off_ideal(&rising);
    row("weights 1-100, 100 servers: off the ideal", "<= 2", &format!("{off:.2} slots"));
    row("weights 1-100, 100 servers: slots of the least", ">= 1", &format!("{least}"));
    let removed = changes(&equal, |_| 0);
    row("remove 1 of 100: slots that change", "<= 1,100", &total(&removed));
    row("remove 1 of 100: of the surviving slots", "<= 0.65 %", &needless(&removed));
    let removed = changes(&rising, |_| 0);
    row("remove 1 of 100, weights 1-100: of the surviving slots", "<= 0.65 %", &needless(&removed));
    let doubled = changes(&equal, |weight| weight * 2);
    row("double 1 of 100: of the slots that need not move", "<= 0.65 %", &needless(&doubled));
    let cycled: Vec<u8> = (0..1_000u16).map(|n| (n % 100) as u8 + 1).collect();
    let mut skewed = vec![1; 1_000];
    skewed[0] = 100;
    for (name, weights) in
        [("equal weights", &vec![50; 1_000]), ("weights 1-100", &cycled), ("one 100, others 1", &skewed)]
    {
        row(&format!("build with 1,000 servers, {name}"), "<= 10 ms", &build_time(weights));
    }
}

fn row(what: &str, goal: &str, reached: &str) {
    println!("{what:<58} {goal:>10}  {reached}");
}

fn table(weights: &[u8], seed: u64) -> Vec<u16> {
    let names: Vec<String> =
        (0..weights.len()).map(|n| format!("10.0.{}.{}:80", n / 250, n % 250 + 1)).collect();
    let members: Vec<Member<'_>> =
        names.iter().zip(weights).map(|(name, &weight)| Member { name: name.as_bytes(), weight }).collect();
    build(MAX_SIZE, seed, &members)
}

/// The most slots between the server with the most and the one with the least.
fn spread(weights: &[u8]) -> u32 {
    let spread = |seed| {
        let slots_per_member = slots_per_member(&table(weights, seed), weights.len());
        slots_per_member.iter().max().unwrap_or(&0) - slots_per_member.iter().min().unwrap_or(&0)
    };
    (0..SEEDS).map(spread).max().unwrap_or(0)
}

/// The most slots a server is off its ideal share, and the fewest that one has.
fn off_ideal(weights: &[u8]) -> (f64, u32) {
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    let (mut off, mut least) = (0.0f64, u32::MAX);
    for seed in 0..SEEDS {
        for (slots_per_member, &weight) in
            slots_per_member(&table(weights, seed), weights.len()).into_iter().zip(weights)
        {
            off = off
                .max((f64::from(slots_per_member) - f64::from(MAX_SIZE) * f64::from(weight) / total).abs());
            least = least.min(slots_per_member);
        }
    }
    (off, least)
}

/// What moves when the weight of one server changes, for each of them and all seeds.
fn changes(weights: &[u8], changed: impl Fn(u8) -> u8) -> Vec<Reassignment> {
    let mut all = Vec::new();
    for seed in 0..SEEDS {
        let before = table(weights, seed);
        for (at, member) in (0..weights.len()).zip(0u16..) {
            let mut weights = weights.to_vec();
            weights[at] = changed(weights[at]);
            all.push(Reassignment::between(&before, &table(&weights, seed), member));
        }
    }
    all
}

fn total(moves: &[Reassignment]) -> String {
    let mean = moves.iter().map(|moved| f64::from(moved.total())).sum::<f64>() / moves.len() as f64;
    let worst = moves.iter().map(|moved| moved.total()).max().unwrap_or(0);
    format!("mean {mean:.0}, worst {worst}")
}

fn needless(moves: &[Reassignment]) -> String {
    let shares = moves.iter().map(|moved| moved.needless_share() * 100.0);
    let mean = shares.clone().sum::<f64>() / moves.len() as f64;
    format!("mean {mean:.3} %, worst {:.3} %", shares.fold(0.0, f64::max))
}

fn build_time(weights: &[u8]) -> String {
    let mut times: Vec<Duration> = (0..51)
        .map(|seed| {
            let start = Instant::now();
            black_box(table(black_box(weights), seed));
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    // On a busy machine only the fastest says what the work itself takes; the others include waiting for a CPU.
    format!(
        "fastest {:.1?}, median {:.1?}, worst {:.1?}",
        times[0],
        times[times.len() / 2],
        times[times.len() - 1]
    )
}
