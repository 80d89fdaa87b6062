//! What health checks cost: a round of TCP probes of many servers, as the daemon makes them.
//!
//! Servers are addresses of the loopback interface in a namespace; the processor time of their part, which the kernel
//! spends on behalf of this process, is in the figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use nix::sys::{
    resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit},
    time::TimeVal,
};
use serde::Serialize;
use slb_userspace::{
    config::model::{CheckKind, HealthCheck},
    health::{Event, Paths, Supervisor, Target, Via},
};
use tokio::{net::TcpListener, runtime, sync::mpsc, time::timeout};

use super::{control::memory, machine::Machine};
use crate::{
    leftovers::{self, RunId},
    net::Namespace,
};

const PORT: u16 = 8080;
/// Longer than any round: each target is probed once.
const ROUND: Duration = Duration::from_secs(50);

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Servers.
    #[arg(long, default_value_t = 10_000)]
    pub targets: u32,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Servers.
    pub targets: u32,
    /// From the start to the last verdict, in seconds.
    pub round: f64,
    /// Processor time of that, in seconds.
    pub processor: f64,
    /// Most memory that the process has used, in bytes, and what it had used before.
    pub peak_bytes: (u64, u64),
}

/// Measures.
///
/// # Errors
/// Not root, or a probe fails.
pub fn run(options: &Options) -> Result<Report> {
    let _turn = leftovers::turn()?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let namespace = Namespace::create(&format!("{}-health", RunId::next().prefix()))?;
    namespace.ip("link set lo up")?;
    // One thread for servers and probes.
    namespace.on_thread(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(measure(options))
    })
}

async fn measure(options: &Options) -> Result<Report> {
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
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    let addresses =
        (first..first + options.targets).map(|bits| SocketAddr::from((Ipv4Addr::from(bits), PORT)));
    let wanted: BTreeMap<_, _> =
        addresses.map(|address| (Target::new(address, Via::Direct, &check), None)).collect();

    let (events, mut verdicts) = mpsc::channel(1_024);
    let mut supervisor = Supervisor::new(events, Paths::default());
    let (before, used) = (memory("VmHWM")?, processor_time()?);
    let begun = Instant::now();
    supervisor.set_targets(wanted);
    let mut healthy = BTreeSet::new();
    while healthy.len() < options.targets as usize {
        let next = timeout(ROUND, verdicts.recv()).await.context("a probe is not made")?;
        let Event { target, healthy: well, detail } = next.context("the supervisor has ended")?;
        ensure!(well, "{}: {detail:?}", target.address);
        healthy.insert(target.address);
    }
    Ok(Report {
        machine: Machine::new()?,
        targets: options.targets,
        round: begun.elapsed().as_secs_f64(),
        processor: processor_time()? - used,
        peak_bytes: (memory("VmHWM")?, before),
    })
}

/// What this process has used of processors, in seconds.
fn processor_time() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, processor, cores, .. } = &self.machine;
        let (peak, before) = self.peak_bytes;
        writeln!(f, "Linux {kernel}, {processor}, {cores} cores")?;
        writeln!(f, "{} servers, TCP, on one core:", self.targets)?;
        writeln!(f, "  one round             {:8.2} s", self.round)?;
        writeln!(f, "  processor time of it  {:8.2} s, that of the servers' part included", self.processor)?;
        write!(f, "  memory, at most       {:8.1} MB, {:.1} before", peak as f64 / 1e6, before as f64 / 1e6)
    }
}
