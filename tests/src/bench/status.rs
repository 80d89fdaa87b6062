//! The cost of `slb status` and of metrics: how long a caller waits, and how much many callers delay the detection of a
//! dead server.

use std::{
    fmt,
    io::{self, Read as _},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use slb_api::{client, types::ApiHealth};

use super::{generated::load_balancers, machine::Machine};
use crate::{
    World,
    config::{CHECK_INTERVAL, Group, UNHEALTHY_THRESHOLD},
    server::Service,
    test_lock::TestLock,
    wait::wait_for,
};

/// Name of additional groups, before their numbers.
const TABLE: &str = "t";
/// Index of the server that dies.
const VICTIM: usize = 0;
/// Path of the metrics.
const METRICS: &str = "/v1/metrics";
/// Number of timed requests of each kind.
const DOCUMENTS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(60);
/// Time in seconds in which the daemon is to answer with 1,000 listeners of 100 servers.
const GOAL: f64 = 0.2;
/// The same for metrics.
const METRICS_GOAL: f64 = 0.5;
/// Scrapers that repeat their request at once: more than a pair of Prometheus servers.
const SCRAPERS: u32 = 3;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct StatusOptions {
    /// Server tables in addition to those of the watched servers.
    #[arg(long, default_value_t = 1000)]
    pub tables: u32,
    /// Servers of each of these tables.
    #[arg(long, default_value_t = 100)]
    pub servers: u16,
    /// Callers of `slb status` that repeat their request at once.
    #[arg(long, default_value_t = 12)]
    pub callers: u32,
    /// Entries of the flow table, which every status reads.
    #[arg(long, default_value_t = 262_144)]
    pub flow_table_entries: u32,
    /// Failures of the server per case.
    #[arg(long, default_value_t = 3)]
    pub tries: u8,
}

/// All figures of a run. Times are in seconds.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// The machine.
    pub machine: Machine,
    /// Server tables in addition to the watched ones.
    pub tables: u32,
    /// Servers of each of these tables.
    pub servers: u16,
    /// Entries of the flow table.
    pub flow_table_entries: u32,
    /// Median time until a single caller has the status document.
    pub document: f64,
    /// Size of the document in bytes.
    pub bytes: usize,
    /// Median wait of a single `slb status`, which also parses the document.
    pub alone: f64,
    /// Median time until a single scraper has all metrics.
    pub metrics: f64,
    /// Their size in bytes.
    pub metrics_bytes: usize,
    /// Upper bound of detection without callers: the unhealthy threshold and one more interval.
    pub expected: f64,
    /// Longest detection time without callers.
    pub quiet: f64,
    /// Number of callers.
    pub callers: u32,
    /// Longest detection time with callers.
    pub asked: f64,
    /// Status documents per second that all callers got together.
    pub documents: f64,
    /// Longest detection time while scrapers read metrics all the time.
    pub scraped: f64,
    /// Scrapes per second of all scrapers together.
    pub scrapes: f64,
}

/// Runs the benchmark.
///
/// # Errors
/// The caller is not root, or the daemon does not start or does not report the dead server.
pub fn run(options: &StatusOptions) -> Result<StatusReport> {
    let mut world = World::new(&[100, 100], TestLock::alone()?)?;
    world.plan.flow_table_entries = options.flow_table_entries;
    // 1,024 more than needed, for the watched servers.
    let needed = options.tables * u32::from(options.servers) + 1024;
    world.plan.max_servers = Some(needed);
    let first_vip = Ipv4Addr::new(203, 0, 113, 0);
    world.plan.additional_load_balancers = load_balancers(TABLE, first_vip, options.tables);
    world.plan.groups = (0..options.tables).map(|number| group(number, options.servers)).collect();
    world.start()?;
    let socket = world.plan.socket.clone();
    let ask = move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(client::status(&socket))?.context("no daemon answers").map(drop)
    };
    let (mut bytes, mut metrics_bytes) = (0, 0);
    let document = median(|| {
        bytes = read_document(&world.plan.socket, "/v1/status")?;
        Ok(())
    })?;
    let alone = median(&ask)?;
    let metrics = median(|| {
        metrics_bytes = read_document(&world.plan.socket, METRICS)?;
        Ok(())
    })?;
    let quiet = detection(&mut world, options.tries)?;
    let (asked, documents) = detection_beside(&mut world, options.tries, options.callers, ask)?;
    let socket = world.plan.socket.clone();
    let scrape = || read_document(&socket, METRICS).map(drop);
    let (scraped, scrapes) = detection_beside(&mut world, options.tries, SCRAPERS, scrape)?;
    Ok(StatusReport {
        machine: Machine::new()?,
        tables: options.tables,
        servers: options.servers,
        flow_table_entries: options.flow_table_entries,
        document,
        bytes,
        alone,
        metrics,
        metrics_bytes,
        expected: CHECK_INTERVAL.as_secs_f64() * f64::from(UNHEALTHY_THRESHOLD + 1),
        quiet,
        callers: options.callers,
        asked,
        documents,
        scraped,
        scrapes,
    })
}

/// Median time of a request in seconds.
fn median(mut ask: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut waits = Vec::new();
    for _ in 0..DOCUMENTS {
        // The daemon pauses between status documents; without the wait it would be included.
        thread::sleep(Duration::from_secs(2));
        let begun = Instant::now();
        ask()?;
        waits.push(begun.elapsed().as_secs_f64());
    }
    waits.sort_unstable_by(f64::total_cmp);
    Ok(waits[waits.len() / 2])
}

/// Detection while callers repeat a request, and the answers per second of all of them together.
fn detection_beside(
    world: &mut World,
    tries: u8,
    callers: u32,
    ask: impl Fn() -> Result<()> + Sync,
) -> Result<(f64, f64)> {
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let (longest, answers) = thread::scope(|scope| -> Result<_> {
        for _ in 0..callers {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if ask().is_ok() {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let begun = Instant::now();
        let longest = detection(world, tries);
        over.store(true, Ordering::Relaxed);
        Ok((longest?, answered.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()))
    })?;
    ensure!(callers == 0 || answers > 0.0, "no caller was answered");
    Ok((longest, answers))
}

/// Reads a document without parsing it. Returns its size in bytes.
fn read_document(socket: &Path, path: &str) -> Result<usize> {
    let mut stream = UnixStream::connect(socket)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: slb\r\nconnection: close\r\n\r\n");
    io::Write::write_all(&mut stream, request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", answer.get(..100));
    Ok(answer.len())
}

/// Longest time until the daemon's log names a dead server as unhealthy.
fn detection(world: &mut World, tries: u8) -> Result<f64> {
    const LINE: &str = "unhealthy server=";
    let mut longest = 0.0_f64;
    for _ in 0..tries {
        let before = world.log().matches(LINE).count();
        world.kill_servers(VICTIM);
        let begun = Instant::now();
        wait_for("a dead server to be noticed", PATIENCE, || {
            Ok((world.log().matches(LINE).count() > before).then_some(()))
        })?;
        longest = longest.max(begun.elapsed().as_secs_f64());
        world.start_servers(VICTIM)?;
        for service in Service::ALL {
            world.wait_for_health_of(service, VICTIM, ApiHealth::Healthy)?;
        }
    }
    Ok(longest)
}

/// Group of the listener with this number: each listener has its own, and thus its own server table.
fn group(number: u32, servers: u16) -> Group {
    Group {
        name: format!("{TABLE}{number}"),
        servers: (0..servers).map(|server| (([10, 90, 1, 10], 2000 + server).into(), 100)).collect(),
        ..Group::default()
    }
}

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, processor, cores, .. } = &self.machine;
        writeln!(f, "Linux {kernel}, {processor}, {cores} cores")?;
        writeln!(
            f,
            "{} more tables of {} servers, {} entries of the flow table:",
            self.tables, self.servers, self.flow_table_entries
        )?;
        writeln!(
            f,
            "  a status document, one caller        {:8.3} s (goal {GOAL:.1}), {:.1} MB",
            self.document,
            self.bytes as f64 / 1e6
        )?;
        writeln!(f, "  the same, parsed by `slb status`     {:8.3} s", self.alone)?;
        writeln!(
            f,
            "  all metrics, one scraper             {:8.3} s (goal {METRICS_GOAL:.1}), {:.1} MB",
            self.metrics,
            self.metrics_bytes as f64 / 1e6
        )?;
        writeln!(
            f,
            "  a dead server, no request            {:8.3} s at most (promised: {:.1})",
            self.quiet, self.expected
        )?;
        writeln!(
            f,
            "  a dead server, {:3} ask all the time  {:8.3} s at most; {:.1} documents a second",
            self.callers, self.asked, self.documents
        )?;
        write!(
            f,
            "  a dead server, {SCRAPERS:3} scrape all the time {:6.3} s at most; {:.1} scrapes a second",
            self.scraped, self.scrapes
        )
    }
}
