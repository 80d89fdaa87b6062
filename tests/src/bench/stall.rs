//! Stalls of the event loop: the waits of a caller whose request the event loop answers at once, while scans of a large
//! flow table run one after the other, and while the slot migrations of many server tables end.

use std::{
    fmt,
    net::Ipv4Addr,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use slb_api::{
    client,
    flows::{Flush, Flushed},
};
use tokio::runtime::{Builder, Runtime};

use super::{generated::load_balancers, machine::Machine};
use crate::{World, config::Group, test_lock::TestLock, wait::wait_for};

/// `established_timeout` of the listeners whose tables migrate.
const ESTABLISHED_TIMEOUT: &str = "10s";
/// Longest time until slot migrations end: that timeout, slack, and the pauses between GC passes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Names of the generated load balancers and groups begin with this.
const TABLE: &str = "t";
/// Servers of each generated group.
const SERVERS: u16 = 16;
/// What the daemon logs at level debug at the end of each GC pass.
const PASS_ENDED: &str = "reassigned slots, and live flows";

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct StallOptions {
    /// Entries of the flow table, a power of two. The kernel reserves 64 bytes for each.
    #[arg(long, default_value_t = 1 << 24)]
    pub flow_table_entries: u32,
    /// Seconds of each measurement: without and with scans.
    #[arg(long, default_value_t = 15)]
    pub seconds: u64,
    /// Server tables whose slot migrations end together.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub tables: u32,
}

/// All figures of a run. Times are in milliseconds.
#[derive(Debug, Serialize)]
pub struct StallReport {
    /// The machine.
    pub machine: Machine,
    /// Entries of the flow table.
    pub flow_table_entries: u32,
    /// Without requests that read the flow table.
    pub quiet: Waits,
    /// While a caller counts all entries again and again (`slb flows flush --all --dry-run`).
    pub counting: Waits,
    /// Scans that this caller got.
    pub scans: u64,
    /// Server tables whose slots migrate.
    pub tables: u32,
    /// From the end of the reload that makes slots migrate until the GC passes have ended all slot migrations.
    pub migrating: Waits,
}

/// Waits of a caller.
#[derive(Debug, Serialize)]
pub struct Waits {
    /// Number of requests.
    pub requests: usize,
    /// Median.
    pub median: f64,
    /// 999th of 1000.
    pub p999: f64,
    /// Longest.
    pub longest: f64,
}

/// Runs the benchmark.
///
/// # Errors
/// The caller is not root, the daemon does not start, or it does not answer.
pub fn run(options: &StallOptions) -> Result<StallReport> {
    let mut world = World::new(&[100, 100], TestLock::alone()?)?;
    world.plan.flow_table_entries = options.flow_table_entries;
    world.plan.additional_load_balancers =
        load_balancers(TABLE, Ipv4Addr::new(203, 0, 113, 0), options.tables);
    for balancer in &mut world.plan.additional_load_balancers {
        balancer.listeners.iter_mut().for_each(|it| it.established_timeout = Some(ESTABLISHED_TIMEOUT));
    }
    world.plan.groups = (0..options.tables).map(group).collect();
    world.log_level("info,slb_userspace::daemon::event_loop::gc_pass=debug");
    world.start()?;
    let socket = world.plan.socket.clone();
    let length = Duration::from_secs(options.seconds);
    let quiet = waits(&socket, lasting(length))?;
    let (over, scans) = (AtomicBool::new(false), AtomicU64::new(0));
    let counting = thread::scope(|scope| -> Result<_> {
        let counts = scope.spawn(|| -> Result<()> {
            let runtime = runtime()?;
            while !over.load(Ordering::Relaxed) {
                let all = Flush { all: true, dry_run: true, ..Flush::default() };
                let _: Flushed = runtime.block_on(client::post(&socket, "/v1/flows/flush", &all))?;
                scans.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let counting = waits(&socket, lasting(length));
        over.store(true, Ordering::Relaxed);
        counts.join().expect("the caller does not panic").context("cannot count the flow table's entries")?;
        counting
    })?;
    let scans = scans.into_inner();
    ensure!(scans > 0, "no scan of the flow table ended within {} s", options.seconds);
    let migrating = migrations(&mut world)?;
    Ok(StallReport {
        machine: Machine::new()?,
        flow_table_entries: options.flow_table_entries,
        quiet,
        counting,
        scans,
        tables: options.tables,
        migrating,
    })
}

/// A group with its own server table.
fn group(number: u32) -> Group {
    Group {
        name: format!("{TABLE}{number}"),
        servers: (0..SERVERS).map(|server| (([10, 90, 1, 10], 2000 + server).into(), 100)).collect(),
        ..Group::default()
    }
}

/// Halves the weight of a server of each generated group, and waits until no slot migrates.
fn migrations(world: &mut World) -> Result<Waits> {
    world.plan.groups.iter_mut().for_each(|group| group.servers[0].1 /= 2);
    world.reload()?;
    let (socket, over) = (world.plan.socket.clone(), AtomicBool::new(false));
    let begun = world.log().lines().count();
    thread::scope(|scope| {
        let caller = scope.spawn(|| waits(&socket, || !over.load(Ordering::Relaxed)));
        let mut has_migrated = false;
        let ended = wait_for("the end of all slot migrations", PATIENCE, || {
            let log = world.log();
            let passes = log.lines().skip(begun).filter(|line| line.contains(PASS_ENDED));
            let is_idle = |line: &str| line.contains("moved=0 ");
            has_migrated |= passes.clone().any(|line| !is_idle(line));
            Ok((has_migrated && passes.last().is_some_and(is_idle)).then_some(()))
        });
        over.store(true, Ordering::Relaxed);
        let migrating = caller.join().expect("the caller does not panic");
        ended.and(migrating)
    })
}

/// Whether less than this time has passed since the first call.
fn lasting(length: Duration) -> impl FnMut() -> bool {
    let mut begun = None;
    move || begun.get_or_insert_with(Instant::now).elapsed() < length
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Repeats a request that the event loop refuses at once: to confirm a configuration, although none awaits that.
fn waits(socket: &Path, mut goes_on: impl FnMut() -> bool) -> Result<Waits> {
    let runtime = runtime()?;
    let mut waits = Vec::new();
    while goes_on() {
        let asked = Instant::now();
        let answer: Result<Value> = runtime.block_on(client::post(socket, "/v1/confirm", &()));
        waits.push(asked.elapsed().as_secs_f64() * 1e3);
        let refusal = answer.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(refusal.contains("nothing waits to be confirmed"), "not the expected refusal: {refusal}");
        thread::sleep(Duration::from_millis(1));
    }
    waits.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    Ok(Waits { requests: waits.len(), median: at(0.5), p999: at(0.999), longest: at(1.0) })
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, median, p999, longest } = self;
        write!(
            f,
            "median {median:7.2} ms, 999 of 1000 {p999:7.2} ms, longest {longest:7.2} ms, {requests} requests"
        )
    }
}

impl fmt::Display for StallReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, processor, cores, .. } = &self.machine;
        writeln!(f, "Linux {kernel}, {processor}, {cores} cores")?;
        writeln!(
            f,
            "{} entries of the flow table; a caller waits for the event loop:",
            self.flow_table_entries
        )?;
        writeln!(f, "  no scan of the table    {}", self.quiet)?;
        writeln!(f, "  {:4} scans of the table  {}", self.scans, self.counting)?;
        write!(f, "  {:4} tables migrate      {}", self.tables, self.migrating)
    }
}
