//! Tests with real servers on the loopback address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::{
    net::{TcpListener, TcpSocket},
    time::timeout,
};

use super::*;
use crate::health::Via;
use slb_config::model::{CheckKind, ExpectedStatus, HealthCheck, HttpCheck, HttpMethod};

const DEADLINE: Duration = Duration::from_secs(30);

fn check(threshold: u8) -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Tcp,
        port: None,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        healthy_threshold: threshold,
        unhealthy_threshold: threshold,
        passive: None,
    }
}

/// A port of the loopback address that stays reserved while servers on it start and stop.
struct Port {
    address: SocketAddr,
    _reservation: TcpSocket,
}

impl Port {
    fn reserve() -> Self {
        let reservation = Self::socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Self { address: reservation.local_addr().unwrap(), _reservation: reservation }
    }

    fn listen(&self) -> TcpListener {
        Self::socket(self.address).listen(64).unwrap()
    }

    fn socket(address: SocketAddr) -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(address).unwrap();
        socket
    }
}

fn only(target: &Target, previous: Option<Health>) -> BTreeMap<Target, Option<Health>> {
    BTreeMap::from([(target.clone(), previous)])
}

async fn next(events: &mut mpsc::Receiver<TargetEvent>) -> TargetEvent {
    timeout(DEADLINE, events.recv()).await.expect("an event before the deadline").expect("a sender")
}

/// The event of a server that does not listen.
fn refused() -> TargetUpdate {
    TargetUpdate::Unhealthy("connection refused".to_owned())
}

/// Accepts `count` connections and closes them.
async fn serve(listener: &TcpListener, count: usize) {
    for _ in 0..count {
        timeout(DEADLINE, listener.accept()).await.expect("a probe before the deadline").unwrap();
    }
}

async fn ended(task: &tokio::task::AbortHandle) {
    timeout(DEADLINE, async {
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the task ends");
}

#[tokio::test]
async fn supervisor_follows_a_server_up_down_and_up_again() {
    let port = Port::reserve();
    let listener = port.listen();
    let target = Target::new(port.address, Via::Direct, &check(3));
    let (sender, mut events) = mpsc::channel(16);
    let mut supervisor = Supervisor::new(sender, ProbePaths::default());
    supervisor.set_targets(only(&target, None));

    let up = TargetEvent { target: target.clone(), news: TargetUpdate::Healthy };
    assert_eq!(next(&mut events).await, up);

    drop(listener);
    let down = TargetEvent { target, news: refused() };
    assert_eq!(next(&mut events).await, down);

    let listener = port.listen();
    serve(&listener, 3).await;
    assert_eq!(next(&mut events).await, up);
}

#[tokio::test]
async fn first_result_decides_at_once_and_thresholds_later() {
    let port = Port::reserve();
    // A second probe would run only an hour later.
    let slow = HealthCheck { interval: Duration::from_secs(3_600), ..check(3) };
    let target = Target::new(port.address, Via::Direct, &slow);
    let (sender, mut events) = mpsc::channel(16);
    let mut supervisor = Supervisor::new(sender, ProbePaths::default());

    supervisor.set_targets(only(&target, None));
    assert_eq!(next(&mut events).await.news, refused());

    supervisor.set_targets(BTreeMap::new());
    let _listener = port.listen();
    supervisor.set_targets(only(&target, Some(Health::Unhealthy)));
    assert_eq!(next(&mut events).await.news, TargetUpdate::Healthy);
}

#[tokio::test]
async fn restored_healthy_target_falls_only_at_the_threshold() {
    let port = Port::reserve();
    let slow = HealthCheck { interval: Duration::from_secs(3_600), ..check(2) };
    let fast = check(2);
    let [slow, fast] = [slow, fast].map(|check| Target::new(port.address, Via::Direct, &check));
    let (sender, mut events) = mpsc::channel(16);
    let mut supervisor = Supervisor::new(sender, ProbePaths::default());
    let wanted =
        BTreeMap::from([(slow.clone(), Some(Health::Healthy)), (fast.clone(), Some(Health::Healthy))]);
    supervisor.set_targets(wanted);
    // Both fail their first probe, and only the fast one has a second.
    assert_eq!(next(&mut events).await.target, fast);
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn unchanged_target_continues_and_removed_target_stops() {
    let (first, second) = (Port::reserve(), Port::reserve());
    let [first, second] = [&first, &second].map(|port| Target::new(port.address, Via::Direct, &check(1)));
    let (sender, mut events) = mpsc::channel(16);
    let mut supervisor = Supervisor::new(sender, ProbePaths::default());
    let both = BTreeMap::from([(first.clone(), None), (second.clone(), None)]);
    supervisor.set_targets(both);
    for _ in 0..2 {
        next(&mut events).await;
    }
    let id = |supervisor: &Supervisor| supervisor.tasks[&first].0.id();
    let before = id(&supervisor);
    let removed = supervisor.tasks[&second].0.abort_handle();

    supervisor.set_targets(only(&first, Some(Health::Healthy)));
    assert_eq!(supervisor.tasks.len(), 1);
    assert_eq!(id(&supervisor), before);
    ended(&removed).await;

    let last = supervisor.tasks[&first].0.abort_handle();
    drop(supervisor);
    ended(&last).await;
    assert!(events.recv().await.is_none(), "no sender is left, and no event is repeated");
}

#[tokio::test]
async fn unprobed_target_is_reported_once_for_each_reason() {
    let target = Target::new("192.0.2.1:80".parse().unwrap(), Via::Direct, &check(2));
    let (sender, mut events) = mpsc::channel(16);
    let mut prober = Prober {
        state: HealthCheckState::new(&target.check, None),
        counter: Failures::default().counter(&target),
        target,
        events: sender,
        paths: Arc::new(ProbePaths::default()),
        permits: Arc::new(Semaphore::new(1)),
        at_once: 1,
        not_probed: None,
        due: Instant::now(),
    };
    let no_probe_path = |why: &str| Err(ProbeError::NoProbePath(why.to_owned()));
    let refuses = || Err(ProbeError::Refused);
    let not_probed = |why: &str| vec![TargetUpdate::NotProbed(format!("not probed: {why}"))];
    for (outcome, expected) in [
        (no_probe_path("a"), not_probed("a")),
        (no_probe_path("a"), vec![]),
        (no_probe_path("b"), not_probed("b")),
        (Ok(()), vec![TargetUpdate::Healthy]),
        (no_probe_path("b"), not_probed("b")),
        (no_probe_path("b"), vec![]),
        (Ok(()), vec![TargetUpdate::Probed]),
        (Ok(()), vec![]),
        (refuses(), vec![]),
        (no_probe_path("b"), not_probed("b")),
        // Proves neither an answer nor a failure: counting continues.
        (refuses(), vec![refused()]),
        (no_probe_path("b"), not_probed("b")),
        (refuses(), vec![TargetUpdate::Probed]),
    ] {
        assert!(prober.take(outcome).await);
        let said: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.news).collect();
        assert_eq!(said, expected);
    }
}

/// A server whose kernel accepts connections and that never answers, with its check.
fn hanging(timeout: Duration, unhealthy_threshold: u8) -> (Port, TcpListener, Target) {
    let port = Port::reserve();
    let listener = port.listen();
    let http = HttpCheck {
        method: HttpMethod::Head,
        path: "/".to_owned(),
        host: None,
        expect: vec![ExpectedStatus::Class(2)],
        tls: None,
    };
    let check = HealthCheck { kind: CheckKind::Http(http), timeout, ..check(unhealthy_threshold) };
    let target = Target::new(port.address, Via::Direct, &check);
    (port, listener, target)
}

#[tokio::test]
async fn silence_over_a_restart_counts_once() {
    let (directory, timeout) = (tempfile::tempdir().unwrap(), Duration::from_secs(2));
    let (_port, _listener, target) = hanging(timeout, 2);
    let (sender, mut events) = mpsc::channel(16);
    let run = || {
        let failures = Failures::open(Some(directory.path()));
        let mut supervisor = Supervisor::new(sender.clone(), ProbePaths::default()).with_failures(failures);
        supervisor.set_targets(only(&target, Some(Health::Healthy)));
        supervisor
    };
    let begin = Instant::now();
    let first = run();
    // By then its silence has been saved.
    sleep(Duration::from_millis(1_200)).await;
    drop(first);
    let _second = run();
    assert_eq!(next(&mut events).await.news, TargetUpdate::Unhealthy("no answer within 2s".to_owned()));
    // As late as without a restart, plus the lost probe at most.
    let took = begin.elapsed();
    assert!(took >= timeout * 2, "unhealthy after {took:?}");
}

#[tokio::test]
async fn long_silence_before_a_restart_ends_the_probe_after_it_early() {
    let (directory, timeout) = (tempfile::tempdir().unwrap(), Duration::from_secs(60));
    let (_port, _listener, target) = hanging(timeout, 1);
    let before = Failures::open(Some(directory.path()));
    before.counter(&target).start(Instant::now());
    before.save(Instant::now() + timeout * 2).unwrap();
    let (sender, mut events) = mpsc::channel(16);
    let failures = Failures::open(Some(directory.path()));
    let mut supervisor = Supervisor::new(sender, ProbePaths::default()).with_failures(failures);
    let begin = Instant::now();
    supervisor.set_targets(only(&target, Some(Health::Healthy)));
    assert!(matches!(next(&mut events).await.news, TargetUpdate::Unhealthy(_)));
    let took = begin.elapsed();
    assert!(took < timeout / 2, "unhealthy after {took:?}");
}

#[tokio::test]
async fn failures_of_unused_targets_are_dropped() {
    let patient = HealthCheck { interval: Duration::from_secs(3_600), ..check(5) };
    let [kept, gone] =
        [1, 2].map(|port| Target::new((Ipv4Addr::LOCALHOST, port).into(), Via::Direct, &patient));
    let failures = Failures::default();
    failures.counter(&kept).verdict(2);
    failures.counter(&gone).verdict(2);
    let (sender, _events) = mpsc::channel(16);
    let mut supervisor = Supervisor::new(sender, ProbePaths::default()).with_failures(failures.clone());
    supervisor.set_targets(only(&kept, Some(Health::Healthy)));
    assert_eq!([kept, gone].map(|target| failures.counter(&target).failures()), [2, 0]);
}

#[tokio::test]
async fn slow_receiver_loses_no_event() {
    let ports: Vec<Port> = (0..20).map(|_| Port::reserve()).collect();
    let wanted: BTreeMap<_, _> =
        ports.iter().map(|p| (Target::new(p.address, Via::Direct, &check(1)), None)).collect();
    let (sender, mut events) = mpsc::channel(1);
    let mut supervisor = Supervisor::new(sender, ProbePaths::default());
    supervisor.set_targets(wanted.clone());
    // The channel holds one event, so all other tasks must wait.
    while events.is_empty() {
        tokio::task::yield_now().await;
    }
    let mut seen = BTreeMap::new();
    for _ in 0..20 {
        seen.insert(next(&mut events).await.target, None);
    }
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn probe_task_ends_when_the_receiver_is_dropped() {
    let port = Port::reserve();
    let target = Target::new(port.address, Via::Direct, &check(1));
    let (sender, events) = mpsc::channel(1);
    let mut supervisor = Supervisor::new(sender, ProbePaths::default());
    supervisor.set_targets(only(&target, None));
    drop(events);
    ended(&supervisor.tasks[&target].0.abort_handle()).await;
}

#[tokio::test]
async fn more_targets_than_permits_are_all_probed() {
    let port = Port::reserve();
    let wanted: BTreeMap<_, _> = (0..50u8)
        .map(|host| {
            (
                Target::new(
                    SocketAddr::new(Ipv4Addr::new(127, 0, 1, host).into(), port.address.port()),
                    Via::Direct,
                    &check(1),
                ),
                None,
            )
        })
        .collect();
    let (sender, mut events) = mpsc::channel(1);
    let mut supervisor = Supervisor::with_limit(sender, ProbePaths::default(), 2);
    supervisor.set_targets(wanted);
    for _ in 0..50 {
        assert_eq!(next(&mut events).await.news, refused());
    }
}

#[tokio::test]
async fn silent_servers_delay_no_other_check() {
    const SILENT: u32 = 3_000;
    descriptors::raise().unwrap();
    if probes_at_once(descriptors::limit()) <= SILENT as usize {
        eprintln!("skipped: this process may have {} files open", descriptors::limit());
        return;
    }
    // With a backlog of zero one connection fills the queue, and the kernel drops every further SYN.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
    let full = socket.listen(0).unwrap();
    let port = full.local_addr().unwrap().port();
    let first = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let patient = HealthCheck { timeout: Duration::from_secs(3_600), ..check(1) };
    let hosts = u32::from(Ipv4Addr::new(127, 2, 0, 1))..;
    let silent = hosts.take(SILENT as usize).map(|host| SocketAddr::from((Ipv4Addr::from(host), port)));
    let silent = silent.map(|address| (Target::new(address, Via::Direct, &patient), None));
    let (sender, mut events) = mpsc::channel(16);
    let mut supervisor = Supervisor::new(sender, ProbePaths::default());
    let mut wanted: BTreeMap<_, _> = silent.collect();
    supervisor.set_targets(wanted.clone());

    let alive = Port::reserve();
    let _listener = alive.listen();
    let alive = Target::new(alive.address, Via::Direct, &check(1));
    wanted.insert(alive.clone(), None);
    // After the other probes.
    let under_way = || supervisor.at_once - supervisor.permits.available_permits();
    while under_way() < SILENT as usize && supervisor.permits.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    supervisor.set_targets(wanted);
    assert_eq!(next(&mut events).await, TargetEvent { target: alive, news: TargetUpdate::Healthy });
    drop(first);
}

#[test]
fn concurrent_probes_are_limited_by_descriptors() {
    assert_eq!(probes_at_once(1_024), 128);
    assert_eq!(probes_at_once(20_048), 9_000);
    assert!(probes_at_once(u64::MAX) > 1 << 28);
}

#[test]
fn check_uses_its_own_port_if_set() {
    let check = HealthCheck { port: Some(8_080), ..check(1) };
    let host: IpAddr = "192.0.2.1".parse().unwrap();
    let target = Target::new(SocketAddr::new(host, 80), Via::Direct, &check);
    assert_eq!(target.address.port(), 8_080);
    // Two endpoints of a host that are checked on the same port share one target.
    assert_eq!(target, Target::new(SocketAddr::new(host, 443), Via::Direct, &check));
}

#[test]
fn jitter_shortens_an_interval_by_at_most_5_percent() {
    let interval = Duration::from_secs(1);
    for _ in 0..1_000 {
        let jittered = jittered(interval);
        assert!(jittered <= interval && jittered >= interval * 19 / 20, "{jittered:?}");
    }
}
