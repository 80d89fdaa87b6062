//! Rates of token buckets, on one processor and on several.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    vec::Vec,
};

use proptest::prelude::*;

use super::*;

const SECOND_NS: u64 = 1_000_000_000;
/// Nanoseconds at the begin of a test: a bucket at 0 was full long ago.
const BEGIN: u64 = 1000 * SECOND_NS;

fn take(buckets: &TokenBuckets, limit: Limit, rate: u32, amount: u32, now: u64) -> bool {
    buckets.take(limit, limit.cost(rate, amount), now)
}

/// Takes packets of these sizes, in turn, one each `gap` nanoseconds. Returns the amount that passes in ten seconds, the
/// first 400 ms not counted.
fn passed(limit: Limit, rate: u32, sizes: &[u32], gap: u64) -> u64 {
    let buckets = TokenBuckets::default();
    let (warm, end) = (BEGIN + 2 * SECOND_NS / 5, BEGIN + 2 * SECOND_NS / 5 + 10 * SECOND_NS);
    let mut passed = 0;
    let mut now = BEGIN;
    for size in sizes.iter().cycle() {
        if now >= end {
            break;
        }
        if take(&buckets, limit, rate, *size, now) && now >= warm {
            passed += u64::from(*size);
        }
        now += gap;
    }
    passed
}

/// Bytes that a limit of `rate` kilobits per second lets pass in ten seconds.
fn bytes_of(rate: u32) -> u64 {
    u64::from(rate) * 10_000 / 8
}

fn is_within(percent: u64, value: u64, of: u64) -> bool {
    value.abs_diff(of) * 100 <= of * percent
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bandwidth_is_right_within_1_percent_for_any_packet_sizes(
        rate in 10_000_u32..1_000_000,
        sizes in prop::collection::vec(60_u32..1514, 1..50),
        excess in 2_u64..20,
    ) {
        let mean = sizes.iter().map(|size| u64::from(*size)).sum::<u64>() / sizes.len() as u64;
        // Nanoseconds between packets that are `excess` times the rate.
        let gap = (mean * 8 * SECOND_NS / (u64::from(rate) * 1000) / excess).max(1);
        let passed = passed(Limit::BandwidthIn, rate, &sizes, gap);
        prop_assert!(is_within(1, passed, bytes_of(rate)), "{passed} of {}", bytes_of(rate));
    }

    #[test]
    fn connections_are_right_within_1_percent(rate in 100_u32..20_000, excess in 2_u64..20) {
        let passed = passed(Limit::NewConnections, rate, &[1], SECOND_NS / u64::from(rate) / excess);
        prop_assert!(is_within(1, passed, 10 * u64::from(rate)), "{passed} of {}", 10 * rate);
    }

    #[test]
    fn what_is_below_the_limit_passes(rate in 10_000_u32..1_000_000, size in 60_u32..1514) {
        let gap = u64::from(size) * 8 * SECOND_NS / (u64::from(rate) * 1000) + 1;
        let buckets = TokenBuckets::default();
        for n in 0..10_000 {
            prop_assert!(take(&buckets, Limit::BandwidthOut, rate, size, BEGIN + n * gap), "packet {n}");
        }
    }
}

/// Amount that passes at once, at this moment.
fn at_once(buckets: &TokenBuckets, limit: Limit, rate: u32, amount: u32, now: u64) -> u64 {
    (0..1_000_000).take_while(|_| take(buckets, limit, rate, amount, now)).count() as u64 * u64::from(amount)
}

#[test]
fn full_bucket_holds_200_ms_and_one_packet() {
    let buckets = TokenBuckets::default();
    // 100 Mbit/s are 2.5 MB in 200 ms.
    assert_eq!(at_once(&buckets, Limit::BandwidthIn, 100_000, 1000, BEGIN), 2_501_000);
    assert_eq!(at_once(&buckets, Limit::BandwidthIn, 100_000, 1000, BEGIN), 0, "empty");
    assert_eq!(at_once(&buckets, Limit::BandwidthOut, 100_000, 1000, BEGIN), 2_501_000, "another bucket");
    assert_eq!(at_once(&buckets, Limit::NewConnections, 1000, 1, BEGIN), 201, "another bucket");
    let later = BEGIN + SECOND_NS / 10;
    assert_eq!(at_once(&buckets, Limit::BandwidthIn, 100_000, 1000, later), 1_250_000, "half full again");
    assert_eq!(at_once(&buckets, Limit::BandwidthIn, 100_000, 1000, later + 3600 * SECOND_NS), 2_501_000);
}

#[test]
fn smallest_limits_let_single_packets_and_connections_pass() {
    let buckets = TokenBuckets::default();
    let connection = |now| take(&buckets, Limit::NewConnections, 1, 1, now);
    assert!(connection(BEGIN) && !connection(BEGIN + 1));
    assert!(!connection(BEGIN + 3 * SECOND_NS / 4) && connection(BEGIN + SECOND_NS));
    // The largest frame costs half a second at 1 Mbit/s.
    assert!(take(&buckets, Limit::BandwidthIn, 1000, 65_549, BEGIN));
    assert!(!take(&buckets, Limit::BandwidthIn, 1000, 60, BEGIN + 3 * SECOND_NS / 10));
    assert!(take(&buckets, Limit::BandwidthIn, 1000, 60, BEGIN + SECOND_NS / 2));
}

#[test]
fn changed_rate_holds_for_the_next_packet() {
    let buckets = TokenBuckets::default();
    at_once(&buckets, Limit::BandwidthIn, 1000, 1500, BEGIN);
    // 20 ms later there is room for 8 ms or more, in which 1 Gbit/s let 1 MB pass.
    let passed = at_once(&buckets, Limit::BandwidthIn, 1_000_000, 1500, BEGIN + SECOND_NS / 50);
    assert!((1_000_000..=2_501_500).contains(&passed), "{passed}");
}

#[test]
fn clock_that_wraps_around_interrupts_nothing() {
    let buckets = TokenBuckets::default();
    let wrap = u64::MAX / NANOSECOND;
    for now in [0, wrap / 2, wrap - 10, wrap.wrapping_add(10), wrap + SECOND_NS, wrap + wrap / 2 + SECOND_NS]
    {
        assert!(take(&buckets, Limit::BandwidthIn, 1_000_000, 1500, now), "{now}");
    }
}

/// Threads take packets as fast as they can; each attempt advances the clock, which they share.
#[test]
fn rate_is_right_when_processors_race_for_a_bucket() {
    const RATE: u32 = 1_000_000;
    const STEP: u64 = 3000;
    let (buckets, clock) = (TokenBuckets::default(), AtomicU64::new(BEGIN));
    let (warm, end) = (BEGIN + SECOND_NS, BEGIN + 11 * SECOND_NS);
    let taken: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u32)
            .map(|n| {
                let (buckets, clock) = (&buckets, &clock);
                scope.spawn(move || {
                    let (mut taken, size) = (0, 900 + 150 * n);
                    loop {
                        let now = clock.fetch_add(STEP, Ordering::Relaxed);
                        if now >= end {
                            return taken;
                        }
                        if take(buckets, Limit::BandwidthIn, RATE, size, now) && now >= warm {
                            taken += u64::from(size);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert!(is_within(1, taken, bytes_of(RATE)), "{taken} of {}", bytes_of(RATE));
}

/// The first packets after a pause: every processor finds a full bucket.
#[test]
fn processors_that_find_a_full_bucket_at_once_are_all_charged() {
    for _ in 0..200 {
        let buckets = TokenBuckets::default();
        let taken: u64 = thread::scope(|scope| {
            let take = || at_once(&buckets, Limit::NewConnections, 1000, 1, BEGIN);
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert!((201..=204).contains(&taken), "{taken}: each processor may owe one connection");
    }
}

#[test]
fn flood_begins_over_the_limit_and_ends_ten_seconds_later() {
    const BEGIN: u64 = 5_000_000_000_000;
    const RATE: u32 = 100;
    let buckets = TokenBuckets::default();
    assert!(!buckets.flood().is_active(BEGIN) && !buckets.flood().may_be_answered(BEGIN));
    // A bucket holds 200 ms, and one more.
    let at_once = (0..1000).take_while(|_| !buckets.is_flood(RATE, BEGIN)).count();
    assert_eq!(at_once, 21);
    let flood = buckets.flood();
    let (end, grace) = (BEGIN + SynFlood::HOLD, BEGIN + SynFlood::HOLD + SynFlood::GRACE);
    assert!(flood.is_active(end) && !flood.is_active(end + 1));
    assert!(flood.may_be_answered(grace) && !flood.may_be_answered(grace + 1));
    // Below the limit it goes on to its end, above it is renewed.
    assert!(buckets.is_flood(RATE, end - 1));
    assert!(!buckets.is_flood(RATE, end + 1));
    while !buckets.is_flood(RATE, end + 2) {}
    assert!(flood.is_active(end + 2 + SynFlood::HOLD));
    // Another processor's clock may be behind.
    assert!(flood.is_active(end) && SynFlood::is_active_at(end + 2, end));
}
