//! Stalls of the event loop: the waits of a caller whose request the event loop answers at once, while
//! passes over a large flow table run one after the other.

use std::{
    fmt,
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

use super::machine::Machine;
use crate::{World, test_lock::TestLock};

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct StallOptions {
    /// Entries of the flow table, a power of two. The kernel reserves 64 bytes for each.
    #[arg(long, default_value_t = 1 << 24)]
    pub flow_table_entries: u32,
    /// Seconds of each measurement: without and with passes.
    #[arg(long, default_value_t = 15)]
    pub seconds: u64,
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
    world.start()?;
    let socket = world.plan.socket.clone();
    let length = Duration::from_secs(options.seconds);
    let quiet = waits(&socket, length)?;
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
        let counting = waits(&socket, length);
        over.store(true, Ordering::Relaxed);
        counts.join().expect("the caller does not panic").context("cannot count the flow table's entries")?;
        counting
    })?;
    let scans = scans.into_inner();
    ensure!(scans > 0, "no scan of the flow table ended within {} s", options.seconds);
    let machine = Machine::new()?;
    Ok(StallReport { machine, flow_table_entries: options.flow_table_entries, quiet, counting, scans })
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Repeats a request that the event loop refuses at once: to confirm a configuration, although none awaits that.
fn waits(socket: &Path, length: Duration) -> Result<Waits> {
    let (runtime, begun) = (runtime()?, Instant::now());
    let mut waits = Vec::new();
    while begun.elapsed() < length {
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
        write!(f, "  {:4} scans of the table  {}", self.scans, self.counting)
    }
}
