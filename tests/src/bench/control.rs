//! The cost of control: building a server table, a start with many listeners, a change of one weight.
//!
//! All steps are the daemon's own code: it parses and validates a configuration, computes the desired state, and writes
//! it to the maps of the loaded program. Only health and neighbours are given; otherwise a start would wait for the
//! network.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use slb_common::abi::{MacPair, backend::NextHop, ids::BackendId, lookup_table::LookupTable};
use slb_config::model::Config;
use slb_control::{
    dataplane::state::{TableMember, TableSpec},
    desired::{ObservedInputs, desired},
    ids::MapLimits,
    model::ServerRoute,
    reconcile::Reconciler,
    targets::destinations,
};
use slb_userspace::dataplane::bpf::{
    loader::{self, MapSizes},
    maps::Maps,
};

use super::{generated::load_balancers, machine::Machine, stats::Summary};
use crate::{
    config::Group,
    packets::{kernel, world},
    test_lock::TestLock,
};

/// Size of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct ControlOptions {
    /// Number of listeners, each with its own server group.
    pub listeners: u32,
    /// Servers per group.
    pub servers: u32,
    /// Number of weight changes.
    pub changes: u32,
}

impl Default for ControlOptions {
    fn default() -> Self {
        Self { listeners: 1_000, servers: 100, changes: 20 }
    }
}

/// Figures of a run; times are in milliseconds.
#[derive(Debug, Serialize)]
pub struct ControlReport {
    /// The machine.
    pub machine: Machine,
    /// Number of listeners, each with its own server group.
    pub listeners: u32,
    /// Servers per group.
    pub servers: u32,
    /// Time to build a server table of 65,537 slots for 1,000 servers.
    pub table: Summary,
    /// Time to parse and validate the configuration.
    pub parse: f64,
    /// Time from the parsed configuration to the complete state in the maps.
    pub start: f64,
    /// Time from a parsed configuration with one changed weight to the new state in the maps.
    pub weight: Summary,
    /// Peak memory of this process, in bytes.
    pub peak_bytes: u64,
    /// Memory of this process at the end, in bytes.
    pub resident_bytes: u64,
    /// Memory of all server tables, in bytes.
    pub table_bytes: u64,
    /// Memory of one server table, in bytes.
    pub bytes_per_table: usize,
}

/// Runs the benchmark.
///
/// # Errors
/// The caller is not root, or the maps do not hold the desired state.
pub fn run(options: &ControlOptions) -> Result<ControlReport> {
    let _test_lock = TestLock::alone()?;
    let table = tables();
    kernel::in_namespace(|| measure(options, table))
}

fn measure(options: &ControlOptions, table: Summary) -> Result<ControlReport> {
    let pins = kernel::own_pins()?;
    let servers = options.listeners * options.servers;
    let sizes = MapSizes { flows: 1 << 16, backends: (2 * servers).max(1 << 14) };
    let _program = loader::load(pins.pins(), sizes)?;
    let maps = Maps::open(pins.pins())?;
    let limits =
        MapLimits { interfaces: [world::LO].into(), hz: world::HZ, max_backends: maps.max_backends() };
    let mut reconciler = Reconciler::new(maps, limits);

    let begun = Instant::now();
    let config = parse(&text(options, 100))?;
    let parse_time = milliseconds(begun.elapsed());
    let next_hops = next_hops(&config);
    let known = ObservedInputs { next_hops: Some(&next_hops), ..ObservedInputs::default() };

    let begun = Instant::now();
    let assigned = reconciler.reconcile(&desired(&config, known), Duration::ZERO)?;
    let start = milliseconds(begun.elapsed());
    ensure!(assigned.state.backends.len() == servers as usize, "not every server is in the maps");
    ensure!(assigned.tables.len() == options.listeners as usize, "not every listener has a table");
    let empty = assigned.state.tables.values().filter(|table| table.spec.members.is_empty()).count();
    ensure!(empty == 0, "{empty} tables are empty");
    drop(assigned);

    let mut times = Vec::new();
    for change in 1..=options.changes {
        let config = parse(&text(options, 100 - (change % 100) as u8))?;
        let begun = Instant::now();
        let operations = reconciler.reconcile(&desired(&config, known), begun.elapsed())?.operations;
        times.push(milliseconds(begun.elapsed()));
        // One server entry and one table.
        ensure!(operations == 2, "change {change}: {operations} operations for one weight");
    }
    let bytes_per_table = size_of::<LookupTable>();
    Ok(ControlReport {
        machine: Machine::new()?,
        listeners: options.listeners,
        servers: options.servers,
        table,
        parse: parse_time,
        start,
        weight: Summary::of(&times).context("no changes")?,
        peak_bytes: memory("VmHWM")?,
        resident_bytes: memory("VmRSS")?,
        table_bytes: u64::from(options.listeners) * bytes_per_table as u64,
        bytes_per_table,
    })
}

/// Builds server tables of 1,000 servers.
fn tables() -> Summary {
    let member = |n: u32| TableMember {
        backend: BackendId::new(n),
        address: SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + n).into(), 80),
        weight: 1 + (n % 100) as u8,
    };
    let times: Vec<_> = (0..20)
        .map(|seed| {
            let spec = TableSpec {
                slots: 65_537,
                seed,
                members: (1..=1_000).map(member).collect(),
                ..TableSpec::default()
            };
            let begun = Instant::now();
            std::hint::black_box(spec.build());
            milliseconds(begun.elapsed())
        })
        .collect();
    Summary::of(&times).unwrap_or(Summary { min: 0.0, median: 0.0, samples: 0 })
}

/// A configuration in which the first server of the first group has this weight.
fn text(options: &ControlOptions, weight: u8) -> String {
    let mut text = "[daemon]\ninterfaces = [\"lo\"]\nmax_servers = 1048576\n".to_owned();
    for balancer in load_balancers("g", Ipv4Addr::new(198, 51, 100, 0), options.listeners) {
        text += &balancer.to_string();
    }
    for number in 0..options.listeners {
        let server = |server: u32| {
            let weight = if number == 0 && server == 0 { weight } else { 100 };
            let address = Ipv4Addr::from(0x0a00_0001 + server);
            (SocketAddr::new(address.into(), 2000 + number as u16), weight)
        };
        let servers = (0..options.servers).map(server).collect();
        text += &Group { name: format!("g{number}"), servers, ..Group::default() }.to_string();
    }
    text
}

fn parse(text: &str) -> Result<Config> {
    slb_config::parse("generated.toml", text)
        .map(|loaded| loaded.config)
        .map_err(|rejected| anyhow::anyhow!("{rejected}"))
}

fn next_hops(config: &Config) -> BTreeMap<IpAddr, Result<ServerRoute, String>> {
    let macs = MacPair::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let hop = NextHop { ifindex: world::LO, mtu: world::MTU, macs };
    destinations(config).into_iter().map(|ip| (ip, Ok(ServerRoute { hop, through_gateway: false }))).collect()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A field of `/proc/self/status`, in bytes.
pub(super) fn memory(what: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let kilobytes = line.context("no account of memory")?.trim().trim_end_matches(" kB").parse::<u64>()?;
    Ok(kilobytes * 1024)
}

impl fmt::Display for ControlReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let Machine { kernel, processor, cores, .. } = &self.machine;
        writeln!(f, "Linux {kernel}, {processor}, {cores} cores")?;
        writeln!(
            f,
            "table of 65,537 slots, 1,000 servers   {:8.1} ms in the median, {:.1} at best",
            self.table.median, self.table.min
        )?;
        writeln!(f, "{} listeners x {} servers, each group of its own:", self.listeners, self.servers)?;
        writeln!(f, "  reading the configuration            {:8.1} ms", self.parse)?;
        writeln!(f, "  start: everything active             {:8.1} ms", self.start)?;
        writeln!(
            f,
            "  one weight changed                   {:8.1} ms in the median, {:.1} at best",
            self.weight.median, self.weight.min
        )?;
        writeln!(
            f,
            "  memory of the process                {:8.1} MB, at most {:.1}",
            megabytes(self.resident_bytes),
            megabytes(self.peak_bytes)
        )?;
        write!(
            f,
            "  memory of the tables                 {:8.1} MB, {} bytes each",
            megabytes(self.table_bytes),
            self.bytes_per_table
        )
    }
}
