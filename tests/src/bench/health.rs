//! The cost of health checks: a round of TCP probes of many servers, as the daemon runs them.
//!
//! Servers are addresses of a namespace's loopback interface. The figures include the processor time of the servers'
//! side, which the kernel charges to this process.

pub mod detection;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use serde::Serialize;
use slb_config::model::{CheckKind, HealthCheck};
use slb_userspace::{
    descriptors,
    health::{Health, ProbePaths, Supervisor, Target, TargetEvent, TargetUpdate, Via},
};
use tokio::{net::TcpListener, runtime, sync::mpsc, time::timeout};

use super::{control::memory, machine::Machine};
use crate::{
    leftovers::RunId,
    net::{Namespace, run as command},
    test_lock::TestLock,
};

const PORT: u16 = 8080;
/// Longer than any round, so that each target is probed once.
const ROUND: Duration = Duration::from_secs(50);
/// Further servers that fall silent, while others are silent already.
const FEW: u32 = 100;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct HealthOptions {
    /// Number of servers.
    #[arg(long, default_value_t = 10_000)]
    pub targets: u32,
    /// Number of servers that fall silent after the round; a hundred more follow once these are unhealthy. Needs
    /// nftables.
    #[arg(long, default_value_t = 0)]
    pub silent: u32,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct HealthReport {
    /// The machine.
    pub machine: Machine,
    /// Number of servers.
    pub targets: u32,
    /// Seconds from the start to the last verdict.
    pub round: f64,
    /// Processor time of the round, in seconds.
    pub processor: f64,
    /// Detection of silent servers.
    pub silence: Option<Silence>,
    /// Peak memory of the process in bytes, and its memory before.
    pub peak_bytes: (u64, u64),
}

/// Detection of servers that fall silent together.
#[derive(Debug, Serialize)]
pub struct Silence {
    /// Number of silent servers.
    pub silent: u32,
    /// Upper bound in seconds, including the wait for the first probe.
    pub at_most: f64,
    /// Seconds until all of them were unhealthy.
    pub many: f64,
    /// Seconds for [`FEW`] more, while the others stayed silent.
    pub few: f64,
}

/// Runs the benchmark.
///
/// # Errors
/// The caller is not root, or a probe fails.
pub fn run(options: &HealthOptions) -> Result<HealthReport> {
    let _test_lock = TestLock::alone()?;
    descriptors::raise()?;
    ensure!(options.silent == 0 || options.silent + FEW <= options.targets, "too few targets to be silent");
    let namespace = Namespace::create(&format!("{}-health", RunId::next().prefix()))?;
    namespace.ip("link set lo up")?;
    // One thread runs servers and probes.
    namespace.on_thread(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(measure(options, &namespace))
    })
}

async fn measure(options: &HealthOptions, namespace: &Namespace) -> Result<HealthReport> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let check = HealthCheck {
        kind: CheckKind::Tcp,
        port: None,
        interval: ROUND,
        timeout: Duration::from_secs(5),
        healthy_threshold: 1,
        unhealthy_threshold: 1,
        passive: None,
    };
    let wanted = targets(options.targets, &check);

    let (events, mut verdicts) = mpsc::channel(1_024);
    let mut supervisor = Supervisor::new(events, ProbePaths::default());
    let (before, used) = (memory("VmHWM")?, processor_time()?);
    let begun = Instant::now();
    supervisor.set_targets(wanted);
    let mut healthy = BTreeSet::new();
    while healthy.len() < options.targets as usize {
        let next = timeout(ROUND, verdicts.recv()).await.context("a probe is not made")?;
        let TargetEvent { target, news } = next.context("the supervisor has ended")?;
        ensure!(news == TargetUpdate::Healthy, "{}: {news:?}", target.address);
        healthy.insert(target.address);
    }
    let mut report = HealthReport {
        machine: Machine::new()?,
        targets: options.targets,
        round: begun.elapsed().as_secs_f64(),
        processor: processor_time()? - used,
        silence: None,
        peak_bytes: (memory("VmHWM")?, before),
    };
    drop(supervisor);
    if options.silent > 0 {
        report.silence = Some(silence(options, check, namespace).await?);
    }
    Ok(report)
}

/// Address of server n.
fn host(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + n)
}

fn targets(count: u32, check: &HealthCheck) -> BTreeMap<Target, Option<Health>> {
    let addresses = (0..count).map(|n| SocketAddr::from((host(n), PORT)));
    addresses.map(|address| (Target::new(address, Via::Direct, check), None)).collect()
}

/// Drops packets to some servers, and measures how long detection takes.
async fn silence(options: &HealthOptions, check: HealthCheck, namespace: &Namespace) -> Result<Silence> {
    const THRESHOLD: u8 = 3;
    let interval = Duration::from_secs(2);
    let check =
        HealthCheck { interval, healthy_threshold: THRESHOLD, unhealthy_threshold: THRESHOLD, ..check };
    let at_most = (check.timeout + interval) * u32::from(THRESHOLD);
    let (events, mut verdicts) = mpsc::channel(1_024);
    let mut supervisor = Supervisor::new(events, ProbePaths::default());
    supervisor.set_targets(targets(options.targets, &check));
    let mut wait_for = async |count: u32, health: Health| {
        let begun = Instant::now();
        for _ in 0..count {
            let next = timeout(at_most + ROUND, verdicts.recv()).await.context("not found out")?;
            let TargetEvent { target, news } = next.context("the supervisor has ended")?;
            ensure!(news.health() == Some(health), "{}: {news:?}", target.address);
        }
        anyhow::Ok(begun.elapsed().as_secs_f64())
    };
    wait_for(options.targets, Health::Healthy).await?;
    let drop_from = |from: u32, count: u32| {
        let rules = format!(
            "table ip health {{\n  chain input {{\n    type filter hook input priority 0;\n    \
             ip daddr {}-{} tcp dport {PORT} drop\n  }}\n}}\n",
            host(from),
            host(from + count - 1)
        );
        command(namespace.command("nft").args(["-f", "-"]), &rules).map(drop)
    };
    drop_from(0, options.silent)?;
    let many = wait_for(options.silent, Health::Unhealthy).await?;
    drop_from(options.silent, FEW)?;
    let few = wait_for(FEW, Health::Unhealthy).await?;
    Ok(Silence { silent: options.silent, at_most: at_most.as_secs_f64(), many, few })
}

/// Processor time of this process, in seconds.
fn processor_time() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

impl fmt::Display for HealthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, processor, cores, .. } = &self.machine;
        let (peak, before) = self.peak_bytes;
        writeln!(f, "Linux {kernel}, {processor}, {cores} cores")?;
        writeln!(f, "{} servers, TCP, on one core:", self.targets)?;
        writeln!(f, "  one round             {:8.2} s", self.round)?;
        writeln!(f, "  processor time of it  {:8.2} s, that of the servers' part included", self.processor)?;
        if let Some(Silence { silent, at_most, many, few }) = &self.silence {
            writeln!(f, "  {silent} silent, found   {many:6.2} s after that; {at_most:.0} s at most")?;
            writeln!(f, "  {FEW} more, found      {few:8.2} s")?;
        }
        write!(f, "  memory, at most       {:8.1} MB, {:.1} before", peak as f64 / 1e6, before as f64 / 1e6)
    }
}
