//! Detection time: until a dead server is unhealthy, and until a recovered one is healthy, compared with the promised
//! bounds.
//!
//! Servers of every kind are killed or silenced, and recover; the daemon's own code probes them. Each server is probed
//! at another phase of the interval. The figures therefore include the wait for the first probe after the change, as in
//! production.

mod servers;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use slb_config::model::{
    CertificateCheck, CheckKind, ExpectedStatus, HealthCheck, HttpCheck, HttpMethod, UdpCheck,
};
use slb_userspace::health::{Health, ProbePaths, Supervisor, Target, TargetEvent, Via};
use tokio::{
    runtime,
    sync::mpsc,
    time::{sleep, timeout_at},
};

use self::servers::{ServerKind, TargetServer};
use super::super::{machine::Machine, stats::median};
use crate::{
    leftovers::RunId,
    net::{Namespace, run as command},
    test_lock::TestLock,
};

const HEALTHY: u8 = 3;
const UNHEALTHY: u8 = 3;
/// How long the test waits beyond the upper bound.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct DetectionOptions {
    /// Servers of each kind; each fails and recovers once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=200))]
    pub tries: u8,
    /// Probe every second with a timeout of one second, instead of the defaults of each kind.
    #[arg(long)]
    pub quick: bool,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct DetectionReport {
    /// The machine.
    pub machine: Machine,
    /// One row per kind of check and kind of failure.
    pub rows: Vec<DetectionRow>,
}

/// Figures of one kind of check and one kind of failure; times are in seconds.
#[derive(Debug, Serialize)]
pub struct DetectionRow {
    /// Kind of the check.
    pub check: &'static str,
    /// Kind of the failure.
    pub breaks: &'static str,
    /// Interval of the check.
    pub interval: f64,
    /// Timeout of the check.
    pub timeout: f64,
    /// Until a failed server is unhealthy.
    pub failure: DetectionTimes,
    /// Until a recovered server is healthy.
    pub recovery: DetectionTimes,
}

/// Times of one kind of change.
#[derive(Debug, Serialize)]
pub struct DetectionTimes {
    /// Detection window: from the start of the first probe that meets the change.
    pub window: f64,
    /// Upper bound from the change itself: the window plus the longest wait for that probe.
    pub at_most: f64,
    /// Shortest measured time from the change.
    pub min: f64,
    /// Median of the measured times.
    pub median: f64,
    /// Longest measured time.
    pub max: f64,
    /// Number of measurements.
    pub tries: usize,
}

/// A kind of check, and a kind of failure.
#[derive(Debug, Clone, Copy)]
struct DetectionCase {
    check: &'static str,
    server: ServerKind,
    is_killed: bool,
}

const CASES: [DetectionCase; 9] = [
    DetectionCase { check: "tcp", server: ServerKind::Tcp, is_killed: true },
    DetectionCase { check: "tcp", server: ServerKind::Tcp, is_killed: false },
    DetectionCase { check: "http", server: ServerKind::Http, is_killed: true },
    DetectionCase { check: "http", server: ServerKind::Http, is_killed: false },
    DetectionCase { check: "https", server: ServerKind::Https, is_killed: true },
    DetectionCase { check: "https", server: ServerKind::Https, is_killed: false },
    DetectionCase { check: "udp, reply", server: ServerKind::Udp, is_killed: false },
    DetectionCase { check: "udp", server: ServerKind::Udp, is_killed: true },
    DetectionCase { check: "icmp", server: ServerKind::None, is_killed: false },
];

/// Runs the benchmark.
///
/// # Errors
/// The caller is not root, nftables is missing, or a change is not detected.
pub fn run(options: &DetectionOptions) -> Result<DetectionReport> {
    let _test_lock = TestLock::alone()?;
    let prefix = RunId::next().prefix();
    let [here, there] =
        ["prober", "servers"].map(|role| Namespace::create(&format!("{prefix}-{role}")).map(Arc::new));
    let (here, there) = (here?, there?);
    here.ip(&format!("link add eth0 type veth peer name eth0 netns {}", there.name()))?;
    here.ip("addr add 10.92.0.1/16 dev eth0\nlink set eth0 up")?;
    let servers = (1..).zip(&CASES).flat_map(|(number, _)| (1..=options.tries).map(move |n| host(number, n)));
    let addresses: Vec<_> = servers.map(|host| format!("addr add {host}/16 dev eth0")).collect();
    there.ip(&format!("{}\nlink set eth0 up", addresses.join("\n")))?;
    // One host stands for many machines: it would rate-limit "port unreachable" to one per second for all of them.
    there.sysctl("net/ipv4/icmp_ratelimit", "0")?;
    here.on_thread(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(measure(options, &there))
    })
}

/// Address of server n of a case.
fn host(case: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 92, case, n)
}

impl DetectionCase {
    fn health_check(&self, quick: bool) -> HealthCheck {
        let http = HttpCheck {
            method: HttpMethod::Head,
            path: "/".to_owned(),
            host: None,
            expect: vec![ExpectedStatus::Class(2)],
            tls: (self.server == ServerKind::Https).then_some(CertificateCheck::Any),
        };
        let kind = match self.server {
            ServerKind::Tcp => CheckKind::Tcp,
            ServerKind::Http | ServerKind::Https => CheckKind::Http(http),
            ServerKind::Udp if self.is_killed => {
                CheckKind::Udp(UdpCheck { request: b"ping".to_vec(), expect: None })
            }
            ServerKind::Udp => {
                CheckKind::Udp(UdpCheck { request: b"ping".to_vec(), expect: Some(b"ping".to_vec()) })
            }
            ServerKind::None => CheckKind::Icmp,
        };
        // Default interval and timeout of each kind, unless `quick`.
        let (interval, timeout) = match (quick, self.server) {
            (true, _) => (1, 1),
            (false, ServerKind::Udp) => (5, 10),
            (false, _) => (2, 5),
        };
        HealthCheck {
            kind,
            port: None,
            interval: Duration::from_secs(interval),
            timeout: Duration::from_secs(timeout),
            healthy_threshold: HEALTHY,
            unhealthy_threshold: UNHEALTHY,
            passive: None,
        }
    }

    /// Detection window and upper bound of a failure.
    fn failure(&self, check: &HealthCheck) -> [Duration; 2] {
        let window = check.timeout * u32::from(UNHEALTHY) + check.interval * (u32::from(UNHEALTHY) - 1);
        [window, window + check.interval]
    }

    /// Detection window and upper bound of a recovery.
    fn recovery(&self, check: &HealthCheck) -> [Duration; 2] {
        let window = check.interval * (u32::from(HEALTHY) - 1);
        // A probe in progress without an answer must time out first.
        let wait = if self.is_killed { check.interval } else { check.interval.max(check.timeout) };
        [window, window + wait]
    }
}

async fn measure(options: &DetectionOptions, there: &Arc<Namespace>) -> Result<DetectionReport> {
    let all = || (1_u8..).zip(CASES);
    let hosts = |case: u8| (1..=options.tries).map(move |n| host(case, n));
    let mut servers = BTreeMap::new();
    for (number, case) in all() {
        servers.insert(number, TargetServer::start(there, case.server, hosts(number).collect()).await?);
    }

    let (events, mut verdicts) = mpsc::channel(1_024);
    let mut supervisor = Supervisor::new(events, ProbePaths::default());
    let checks: BTreeMap<u8, HealthCheck> =
        all().map(|(number, case)| (number, case.health_check(options.quick))).collect();
    let longest = checks.values().map(|check| check.interval).max().context("no check")?;
    let mut wanted = BTreeMap::new();
    for n in 1..=options.tries {
        for (number, case) in all() {
            let address = SocketAddr::from((host(number, n), case.server.port()));
            wanted.insert(Target::new(address, Via::Direct, &checks[&number]), None);
        }
        supervisor.set_targets(wanted.clone());
        sleep(longest / u32::from(options.tries)).await;
    }
    let count = wanted.len();
    found(&mut verdicts, count, Health::Healthy, Instant::now() + PATIENCE).await?;

    let latest = |of: fn(&DetectionCase, &HealthCheck) -> [Duration; 2]| {
        all().map(|(number, case)| of(&case, &checks[&number])[1]).max().unwrap_or_default()
    };
    let silent: Vec<String> =
        all().filter(|(_, case)| !case.is_killed).map(|(n, _)| format!("10.92.{n}.0/24")).collect();
    let silence = format!(
        "table ip detection {{\n  chain input {{\n    type filter hook input priority 0;\n    \
         ip daddr {{ {} }} drop\n  }}\n}}\n",
        silent.join(", ")
    );
    let nft = |arguments: &[&str], text: &str| command(there.command("nft").args(arguments), text).map(drop);

    let mut broken = BTreeMap::new();
    for (number, _) in all().filter(|(_, case)| case.is_killed) {
        broken.insert(number, Instant::now());
        if let Some(server) = servers.get_mut(&number) {
            server.kill(there).await?;
        }
    }
    broken.extend(all().filter(|(_, case)| !case.is_killed).map(|(number, _)| (number, Instant::now())));
    nft(&["-f", "-"], &silence)?;
    let dead = found(
        &mut verdicts,
        count,
        Health::Unhealthy,
        Instant::now() + latest(DetectionCase::failure) + PATIENCE,
    )
    .await?;

    let mut mended = BTreeMap::new();
    for (number, case) in all().filter(|(_, case)| case.is_killed) {
        mended.insert(number, Instant::now());
        let server = TargetServer::start(there, case.server, hosts(number).collect()).await?;
        servers.insert(number, server);
    }
    mended.extend(all().filter(|(_, case)| !case.is_killed).map(|(number, _)| (number, Instant::now())));
    nft(&["delete", "table", "ip", "detection"], "")?;
    let well = found(
        &mut verdicts,
        count,
        Health::Healthy,
        Instant::now() + latest(DetectionCase::recovery) + PATIENCE,
    )
    .await?;

    let rows = all().map(|(number, case)| {
        let check = &checks[&number];
        Ok(DetectionRow {
            check: case.check,
            breaks: if case.is_killed { "killed" } else { "silenced" },
            interval: check.interval.as_secs_f64(),
            timeout: check.timeout.as_secs_f64(),
            failure: DetectionTimes::of(case.failure(check), broken[&number], &dead, number)?,
            recovery: DetectionTimes::of(case.recovery(check), mended[&number], &well, number)?,
        })
    });
    Ok(DetectionReport { machine: Machine::new()?, rows: rows.collect::<Result<_>>()? })
}

/// Waits until all targets are in this state; returns when each was.
async fn found(
    verdicts: &mut mpsc::Receiver<TargetEvent>,
    count: usize,
    health: Health,
    deadline: Instant,
) -> Result<BTreeMap<SocketAddr, Instant>> {
    let mut found = BTreeMap::new();
    while found.len() < count {
        let event = timeout_at(deadline.into(), verdicts.recv()).await;
        let event =
            event.with_context(|| format!("{} of {count} servers are not found out", count - found.len()))?;
        let TargetEvent { target, news } = event.context("the supervisor has ended")?;
        ensure!(news.health() == Some(health), "{}: {news:?}", target.address);
        found.insert(target.address, Instant::now());
    }
    Ok(found)
}

impl DetectionTimes {
    /// Times of the servers of one case, relative to its change.
    fn of(
        [window, at_most]: [Duration; 2],
        change: Instant,
        found: &BTreeMap<SocketAddr, Instant>,
        case: u8,
    ) -> Result<Self> {
        let is_its = |address: &SocketAddr| matches!(address.ip(), IpAddr::V4(ip) if ip.octets()[2] == case);
        let times = found.iter().filter(|(address, _)| is_its(address));
        let mut times: Vec<f64> = times.map(|(_, at)| at.duration_since(change).as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        Ok(Self {
            window: window.as_secs_f64(),
            at_most: at_most.as_secs_f64(),
            min: *times.first().context("no server")?,
            median: median(&times).context("no server")?,
            max: *times.last().context("no server")?,
            tries: times.len(),
        })
    }
}

impl fmt::Display for DetectionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, processor, cores, .. } = &self.machine;
        writeln!(f, "Linux {kernel}, {processor}, {cores} cores")?;
        writeln!(
            f,
            "Thresholds {HEALTHY}/{UNHEALTHY}. Seconds; the window begins with the first probe that sees the change,"
        )?;
        writeln!(f, "\"at most\" and what is measured with the change itself.")?;
        writeln!(f, "{:32} | {:^44} | {:^44}", "", "until found dead", "until found well")?;
        let heads = format!("{:>7} {:>8}  {:>26}", "window", "at most", "min / median / max (n)");
        writeln!(f, "{:11} {:9} {:>5} {:>4} | {heads:44} | {heads:44}", "check", "server", "every", "for")?;
        for (index, row) in self.rows.iter().enumerate() {
            let DetectionRow { check, breaks, interval, timeout, failure, recovery } = row;
            write!(f, "{check:11} {breaks:9} {interval:>5} {timeout:>4} | {failure:44} | {recovery:44}")?;
            if index + 1 < self.rows.len() {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for DetectionTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { window, at_most, min, median, max, tries } = self;
        let measured = format!("{min:.2} / {median:.2} / {max:.2} ({tries})");
        f.pad(&format!("{window:>7} {at_most:>8}  {measured:>26}"))
    }
}
