use std::{fs, iter};

use tokio::time::timeout;

use super::*;
use crate::health::{Health, state::HealthCheckState, testing::target};
use slb_config::model::CheckKind;

const TIMEOUT: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between two saves.
const TICK: Duration = Duration::from_millis(500);

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn server(check: CheckKind) -> Target {
    target("10.0.0.1:80".parse().unwrap(), check, TIMEOUT)
}

/// A server that answers after `answer`. Daemons run one after the other, each for a time of `lives`, and the last one
/// forever.
struct Case<'a> {
    lives: &'a [f64],
    /// Seconds between two daemons.
    down: f64,
    answer: Duration,
    threshold: u8,
}

const HANGS: Duration = Duration::from_secs(1_000_000);

impl Case<'_> {
    /// Total running time of the daemons when the server becomes unhealthy.
    fn unhealthy_after(&self) -> Option<Duration> {
        let directory = tempfile::tempdir().unwrap();
        let mut target = server(CheckKind::Tcp);
        target.check.unhealthy_threshold = self.threshold;
        let (mut begin, mut lived) = (Instant::now(), Duration::ZERO);
        for life in self.lives.iter().copied().map(seconds).chain(iter::once(Duration::from_secs(100))) {
            let failures = Failures::open(Some(directory.path()));
            let counter = failures.counter(&target);
            let mut state =
                HealthCheckState::new(&target.check, Some(Health::Healthy)).after(counter.failures());
            let mut tick = TICK;
            let mut save_until = |now: Duration| {
                while tick <= now {
                    failures.save(begin + tick).unwrap();
                    tick += TICK;
                }
            };
            // Shortly after the saves.
            let mut start = seconds(0.001);
            while start < life {
                save_until(start);
                let patience = counter.start(begin + start);
                let (end, result) = if self.answer < patience {
                    (start + self.answer, Health::Healthy)
                } else {
                    (start + patience, Health::Unhealthy)
                };
                save_until(end.min(life));
                if end > life {
                    break;
                }
                let observed = state.observe(result);
                counter.verdict(state.failures());
                if observed == Some(Health::Unhealthy) {
                    return Some(lived + end);
                }
                start = end.max(start + INTERVAL);
            }
            save_until(life);
            begin += life + seconds(self.down);
            lived += life;
        }
        None
    }
}

#[test]
fn one_restart_never_makes_silence_count_sooner() {
    for threshold in [1, 3] {
        let case =
            |lives: &[f64], down| Case { lives, down, answer: HANGS, threshold }.unhealthy_after().unwrap();
        let undisturbed = case(&[], 0.0);
        for restart in [0.3, 0.6, 1.6, 2.9, 4.9, 5.6, 11.0] {
            for down in [0.0, 30.0] {
                let at = case(&[restart], down);
                assert!(
                    (undisturbed..=undisturbed + TIMEOUT).contains(&at),
                    "restart after {restart} s, {down} s without a daemon: {at:?}"
                );
            }
        }
    }
}

#[test]
fn hanging_server_becomes_unhealthy_despite_restarts_before_timeouts() {
    for life in [1.0, 1.3, 2.0, 3.0, 4.9] {
        let case = Case { lives: &[life; 200], down: 0.2, answer: HANGS, threshold: 3 };
        let at = case.unhealthy_after().expect("it becomes unhealthy");
        // Waiting time since the last save is lost with the daemon.
        let lost = life / (life - 0.5);
        let most = (TIMEOUT * 2).mul_f64(lost * 3.0) + seconds(life * 3.0);
        assert!((TIMEOUT * 6 - seconds(life * 3.0)..=most).contains(&at), "restarts every {life} s: {at:?}");
    }
}

#[test]
fn answering_server_stays_healthy_under_restarts() {
    for (life, answer) in
        [(1.0, 0.3), (2.0, 0.7), (3.0, 2.9), (4.0, 3.0), (5.4, 4.8), (6.0, 4.9), (7.5, 3.0), (60.0, 4.9)]
    {
        for down in [0.0, 30.0] {
            let case = Case { lives: &[life; 60], down, answer: seconds(answer), threshold: 1 };
            assert_eq!(case.unhealthy_after(), None, "answer after {answer} s, restarts every {life} s");
        }
    }
    // The daemon restarts before the answer arrives.
    for lives in [[2.9, 2.9], [0.5, 2.9], [2.9, 1.0]] {
        let case = Case { lives: &lives, down: 30.0, answer: seconds(3.0), threshold: 1 };
        assert_eq!(case.unhealthy_after(), None, "{lives:?}");
    }
}

#[test]
fn time_without_a_daemon_does_not_count_as_silence() {
    let directory = tempfile::tempdir().unwrap();
    let target = server(CheckKind::Tcp);
    let now = Instant::now();
    let failures = Failures::open(Some(directory.path()));
    let counter = failures.counter(&target);
    counter.verdict(2);
    assert_eq!(counter.start(now), TIMEOUT);
    failures.save(now + Duration::from_secs(3)).unwrap();
    let open = || Failures::open(Some(directory.path())).counter(&target);
    assert_eq!((open().failures(), open().start(now + Duration::from_secs(300))), (2, TIMEOUT));
    failures.save(now + Duration::from_secs(7)).unwrap();
    assert_eq!(open().start(now), Duration::from_secs(3));
    failures.save(now + Duration::from_secs(30)).unwrap();
    assert_eq!(open().start(now), GRACE, "the server has time to answer");
}

#[test]
fn probes_ended_by_the_daemon_do_not_count_as_silence() {
    let failures = Failures::default();
    let target = server(CheckKind::Tcp);
    let (now, before) = (Instant::now(), failures.counter(&target));
    before.verdict(2);
    before.start(now);
    // A reload that changes the source address of probes.
    let after = failures.counter(&target);
    assert_eq!(
        persistent(&failures.counts().by_target, now + TIMEOUT).into_values().next(),
        Some(FailureRecord { failures: 2, silence: Duration::ZERO })
    );
    before.verdict(0);
    assert_eq!(after.failures(), 2, "the counter before counts no more");
}

#[test]
fn probe_without_a_verdict_keeps_the_silence_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let target = server(CheckKind::Tcp);
    let now = Instant::now();
    let failures = Failures::open(Some(directory.path()));
    failures.counter(&target).start(now);
    failures.save(now + Duration::from_secs(7)).unwrap();
    let failures = Failures::open(Some(directory.path()));
    let counter = failures.counter(&target);
    counter.start(now);
    counter.no_verdict();
    assert_eq!(counter.start(now), Duration::from_secs(3));
    counter.verdict(1);
    assert_eq!(counter.start(now), TIMEOUT);
}

#[test]
fn counter_of_a_dropped_target_writes_nothing() {
    let failures = Failures::default();
    let target = server(CheckKind::Tcp);
    let before = failures.counter(&target);
    failures.retain_targets(iter::empty());
    before.verdict(2);
    before.start(Instant::now());
    assert!(failures.counts().by_target.is_empty());
    let after = failures.counter(&target);
    before.verdict(2);
    assert_eq!(after.failures(), 0);
}

#[test]
fn quickly_answered_probes_cause_no_writes() {
    let directory = tempfile::tempdir().unwrap();
    let failures = Failures::open(Some(directory.path()));
    let counter = failures.counter(&server(CheckKind::Tcp));
    let begin = Instant::now();
    let at = |milliseconds| begin + Duration::from_millis(milliseconds);
    counter.start(at(1_000));
    failures.save(at(1_499)).unwrap();
    assert!(!directory.path().join(FILE).exists());
    counter.verdict(0);
    failures.save(at(2_000)).unwrap();
    assert!(!directory.path().join(FILE).exists());
    counter.start(at(3_000));
    failures.save(at(3_500)).unwrap();
    assert!(directory.path().join(FILE).exists());
}

/// Whether a result waits to be saved at once.
async fn is_urgent(failures: &Failures) -> bool {
    timeout(Duration::ZERO, failures.urgent()).await.is_ok()
}

#[tokio::test]
async fn failing_server_becomes_unhealthy_despite_frequent_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let mut target = server(CheckKind::Tcp);
    target.check.unhealthy_threshold = 3;
    for run in 1.. {
        let failures = Failures::open(Some(directory.path()));
        let counter = failures.counter(&target);
        let mut state = HealthCheckState::new(&target.check, Some(Health::Healthy)).after(counter.failures());
        counter.start(Instant::now());
        let observed = state.observe(Health::Unhealthy);
        counter.verdict(state.failures());
        if observed == Some(Health::Unhealthy) {
            assert_eq!(run, 3);
            return;
        }
        // The daemon is killed before its next save.
        assert!(is_urgent(&failures).await, "run {run}");
        failures.save(Instant::now()).unwrap();
    }
}

#[tokio::test]
async fn verdict_missing_from_the_failure_file_is_urgent() {
    let directory = tempfile::tempdir().unwrap();
    let failures = Failures::open(Some(directory.path()));
    let counter = failures.counter(&server(CheckKind::Tcp));
    let begin = Instant::now();
    counter.start(begin);
    counter.verdict(0);
    assert!(!is_urgent(&failures).await, "a server that answers");
    counter.start(begin);
    failures.save(begin + TIMEOUT / 2).unwrap();
    assert!(!is_urgent(&failures).await);
    counter.verdict(0);
    assert!(is_urgent(&failures).await, "the silence in the file is over");
    failures.save(begin + TIMEOUT / 2).unwrap();
    counter.verdict(1);
    assert!(is_urgent(&failures).await);
    failures.save(begin + TIMEOUT / 2).unwrap();
    counter.verdict(1);
    assert!(!is_urgent(&failures).await, "nothing new");
}

#[test]
fn failure_counts_survive_a_restart_and_an_invalid_file_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let target = server(CheckKind::Tcp);
    let open = || Failures::open(Some(directory.path()));
    let of = |failures: &Failures| failures.counter(&target).failures();
    let failures = open();
    let counter = failures.counter(&target);
    counter.verdict(2);
    failures.save(Instant::now()).unwrap();
    assert_eq!(of(&open()), 2);
    counter.verdict(0);
    failures.save(Instant::now()).unwrap();
    assert_eq!(of(&open()), 0);
    fs::write(directory.path().join(FILE), "{").unwrap();
    assert_eq!(of(&open()), 0);
    assert_eq!(of(&Failures::open(None)), 0);
}

#[test]
fn out_of_range_failure_counts_are_clamped() {
    let directory = tempfile::tempdir().unwrap();
    let target = server(CheckKind::Tcp);
    let record = FailureRecord { failures: u8::MAX, silence: Duration::MAX };
    let text = serde_json::to_vec(&FailureDocument { targets: [(key(&target), record)].into() }).unwrap();
    fs::write(directory.path().join(FILE), text).unwrap();
    let failures = Failures::open(Some(directory.path()));
    let counter = failures.counter(&target);
    assert_eq!((counter.failures(), counter.start(Instant::now())), (MAX_FAILURES, GRACE));
    failures.save(Instant::now() + TIMEOUT).unwrap();
}

#[test]
fn failure_entries_have_stable_keys_and_leave_with_their_targets() {
    let directory = tempfile::tempdir().unwrap();
    let kept = server(CheckKind::Tcp);
    let gone = target("[fd00::2]:80".parse().unwrap(), CheckKind::Icmp, TIMEOUT);
    let failures = Failures::open(Some(directory.path()));
    failures.counter(&kept).verdict(2);
    failures.counter(&gone).verdict(1);
    failures.save(Instant::now()).unwrap();
    let keys = || {
        let text = fs::read(directory.path().join(FILE)).unwrap();
        serde_json::from_slice::<FailureDocument>(&text).unwrap().targets.into_keys().collect::<Vec<_>>()
    };
    let settings = "every 1s, timeout 5s, healthy after 1, unhealthy after 1, passive off";
    let tcp = format!("10.0.0.1:80 directly: tcp on port the server's {settings}");
    let icmp = format!("[fd00::2]:0 directly: icmp on port the server's {settings}");
    assert_eq!(keys(), [tcp.clone(), icmp]);

    let failures = Failures::open(Some(directory.path()));
    failures.retain_targets([&kept].into_iter());
    failures.save(Instant::now()).unwrap();
    assert_eq!(keys(), [tcp]);
    assert_eq!(Failures::open(Some(directory.path())).counter(&kept).failures(), 2);
}

#[test]
fn failure_file_is_not_written_through_a_symbolic_link() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other");
    fs::write(&other, "mine").unwrap();
    std::os::unix::fs::symlink(&other, directory.path().join("failures.part")).unwrap();
    let failures = Failures::open(Some(directory.path()));
    failures.counter(&server(CheckKind::Tcp)).verdict(2);
    assert!(failures.save(Instant::now()).is_err());
    assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
}
