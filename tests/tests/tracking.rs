//! Model test: flows stay with their servers, under random clients, servers and daemons.
//!
//! Run n has the seed n, counted from 0 or from `SLB_TRACKING_SEED`, so runs are reproducible. `SLB_TRACKING_TIMES`
//! multiplies their number. A failure prints the seed and the last lines of its log. To repeat that run first, set
//! `SLB_TRACKING_SEED` to its seed.

use std::time::{Duration, Instant};

use slb_tests::packets::frames::flag;
use slb_tests::tracking::{
    flood,
    model_test::{Counts, ModelTest},
    servers::{Scheduling, Setting},
};

/// Random sequences in one run of the test.
const RUNS: u64 = 160;
/// Steps of a sequence.
const STEPS: usize = 600;

fn setting(n: u64) -> Setting {
    let (mode, always_tracked) =
        [("dsr", false), ("ipip", false), ("dsr", true), ("nat", false), ("dsr", false)][n as usize % 5];
    let drain = [None, Some(60), None, Some(900)][n as usize / 5 % 4];
    Setting {
        mode,
        always_tracked,
        follows_current: n / 5 % 3 == 2,
        shared: (n / 15).is_multiple_of(2),
        drain,
        scheduling: Scheduling::TABLE,
        datagrams: Scheduling::TABLE,
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

fn add(a: Counts, b: Counts) -> Counts {
    Counts {
        flows: a.flows + b.flows,
        packets: a.packets + b.packets,
        bound: a.bound + b.bound,
        lost: a.lost + b.lost,
        kept: a.kept + b.kept,
        answers: a.answers + b.answers,
        ended: a.ended + b.ended,
        changes: a.changes + b.changes,
        starts: a.starts + b.starts,
    }
}

#[test]
fn flows_stay_with_their_servers() {
    let begun = Instant::now();
    let first = variable("SLB_TRACKING_SEED", 0);
    let plays = RUNS * variable("SLB_TRACKING_TIMES", 1);
    let seeds = first..first + plays;
    let counts = seeds.map(|seed| ModelTest::random(setting(seed), seed, STEPS)).fold(Counts::default(), add);
    println!("{plays} plays from seed {first} in {:.1?}: {counts:?}", begun.elapsed());
}

/// With every scheduler: Maglev in every mode, the others in one mode where SLB sees answers and in one where it does
/// not.
#[test]
fn a_flood_moves_no_established_flow() {
    let first = variable("SLB_TRACKING_SEED", 0);
    let (mut counts, mut flooded) = (Counts::default(), 0);
    let mut run = |seed, scheduling| {
        let setting = Setting { scheduling, datagrams: scheduling, drain: None, ..setting(seed) };
        let (played, packets) = flood::run(setting, seed);
        let keeps = scheduling.persistence > 0;
        assert_eq!(played.kept > 0, keeps, "{setting:?}: {} flows were kept to a server", played.kept);
        counts = add(counts, played);
        flooded += packets;
    };
    (first..first + 5).for_each(|seed| run(seed, Scheduling::TABLE));
    for (n, scheduling) in (0..).zip(&Scheduling::ALL[1..]) {
        [0, 3].into_iter().for_each(|mode| run(first + 5 * n + mode, *scheduling));
    }
    println!("{flooded} packets of floods, besides {counts:?}");
}

/// A slot whose current backend is the previous one again tracks no new flow, unless the client endpoint has an entry
/// already: its packets would match that entry.
#[test]
fn reopened_connection_does_not_match_entry_of_last_one() {
    let mut model = ModelTest::new(setting(0), 0, 2048, 2);
    for weight in [0, 100] {
        model.desired[0].weight = weight;
        model.activate();
        for number in 0..100 {
            model.open(number);
            model.continue_flow(number, flag::ACK);
            model.continue_flow(number, flag::RST | flag::ACK);
        }
    }
}

/// The SYN of a client endpoint belongs to its last flow while that one has an entry. While the model waits until no
/// flow is tracked, it must not revive flows that it has ended because a slot waits for them.
#[test]
fn idle_period_revives_no_flow_of_an_earlier_hash() {
    for seed in 0..20 {
        let mut model = ModelTest::new(setting(0), seed, 2048, 4);
        for number in 0..200 {
            model.open(number);
            model.continue_flow(number, flag::ACK);
        }
        model.setting.scheduling = Scheduling { scheduler: "maglev-client", persistence: 0 };
        model.activate();
        // The transition ends soon after the wait begins: that change is applied while old entries exist.
        for _ in 0..2 {
            model.continue_all();
            model.pass(Duration::from_secs(300));
        }
        model.run_until_idle();
    }
}

/// Flows of a draining server are terminated at the deadline, and not before.
#[test]
fn drain_terminates_flows_at_deadline_and_not_before() {
    for n in 0..5 {
        for removed in [false, true] {
            let mut model = ModelTest::new(Setting { drain: Some(60), ..setting(n) }, n, 2048, 2);
            for number in 0..100 {
                model.open(number);
                model.continue_flow(number, flag::ACK);
            }
            if removed {
                model.desired[0].exists = false;
            } else {
                model.desired[0].weight = 0;
            }
            model.activate();
            let leaves = model.streams.values().filter(|flow| flow.server == 0).count() as u64;
            assert!((1..100).contains(&leaves), "{leaves}");
            for _ in 0..5 {
                model.pass(Duration::from_millis(11_500));
                model.continue_all();
            }
            assert_eq!(model.counts.ended, 0, "before");
            model.pass(Duration::from_secs(3));
            model.continue_all();
            assert_eq!(model.counts.ended, leaves);
            assert!(model.streams.values().all(|flow| flow.server == 1));
        }
    }
}
