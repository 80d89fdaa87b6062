//! `slb-bench`: measures SLB, alone and next to other programs in the same run.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use slb_tests::{
    bench::{
        control,
        health::{self, detection},
        packet::{self, flood},
        pps, stall, status, syn_flood, tcp,
    },
    supervise::supervise,
};

/// Name of this program in its messages.
const PROGRAM: &str = "slb-bench";

/// Argument that marks the inner process.
const INNER: &str = "--inner";

/// Measures SLB. Needs root. Leaves nothing behind.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    #[arg(long, global = true, hide = true)]
    inner: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// What one packet costs, in nanoseconds, beside programs that do next to nothing.
    Packet(Packet),
    /// A flood of new flows over established ones, none of which may move.
    Flood(Flood),
    /// A flood of SYNs that are answered by SYN cookies, beside real clients.
    SynFlood(SynFlood),
    /// What a change of configuration costs: tables, a start with many listeners, one weight.
    Control(Control),
    /// A round of health checks of many servers: its time, processor time and memory.
    Health(Health),
    /// Time until a dead server is unhealthy, and until a recovered one is healthy, for each kind of health check.
    Detection(Detection),
    /// Cost of `slb status`: its duration, and how much many callers delay the detection of a dead server.
    Status(Status),
    /// Longest stall of the event loop while passes over a large flow table run.
    Stall(Stall),
    /// Frames per second on one processor, beside MAC swap, kernel forwarding and nftables.
    Pps(pps::PpsOptions),
    /// Requests, connections and bytes per second through real TCP stacks, beside kernel forwarding, nftables and
    /// proxies.
    Tcp(tcp::TcpOptions),
}

#[derive(Debug, Args)]
struct Flood {
    /// Seconds of each flood.
    #[arg(long, default_value_t = flood::FloodOptions::default().seconds)]
    seconds: u64,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SynFlood {
    #[command(flatten)]
    options: syn_flood::SynFloodOptions,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Health {
    #[command(flatten)]
    options: health::HealthOptions,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Detection {
    #[command(flatten)]
    options: detection::DetectionOptions,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Status {
    #[command(flatten)]
    options: status::StatusOptions,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Stall {
    #[command(flatten)]
    options: stall::StallOptions,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Control {
    /// Number of listeners, each with its own server group.
    #[arg(long, default_value_t = control::ControlOptions::default().listeners)]
    listeners: u32,
    /// Servers per group.
    #[arg(long, default_value_t = control::ControlOptions::default().servers)]
    servers: u32,
    /// Number of weight changes.
    #[arg(long, default_value_t = control::ControlOptions::default().changes)]
    changes: u32,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Packet {
    /// Slices of each program per workload and load.
    #[arg(long, default_value_t = packet::PacketOptions::default().rounds)]
    rounds: u32,
    /// Number of loads of SLB's program per workload; the median of the loads counts.
    #[arg(long, default_value_t = packet::PacketOptions::default().loads)]
    loads: u32,
    /// Packets per slice, a multiple of 1024.
    #[arg(long, value_name = "PACKETS", default_value_t = packet::PacketOptions::default().slice)]
    slice: u64,
    /// Measure only workloads whose name contains this; may be given several times.
    #[arg(long = "workload", value_name = "FILTER")]
    workloads: Vec<String>,
    /// Measure this pinned XDP program too; may be given several times.
    #[arg(long, value_name = "NAME=PATH", value_parser = pinned)]
    pinned: Vec<(String, PathBuf)>,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// List the workloads and exit.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if arguments.inner || !arguments.bench.leaves_things() {
        arguments.bench.run().map(|()| ExitCode::SUCCESS)
    } else {
        supervise(INNER)
    };
    done.unwrap_or_else(|error| {
        eprintln!("{PROGRAM}: {error:#}");
        ExitCode::FAILURE
    })
}

impl Bench {
    /// Whether killing the process would leave namespaces or pins behind.
    fn leaves_things(&self) -> bool {
        match self {
            Self::Packet(packet) => !packet.list,
            Self::Control(_) | Self::Flood(_) | Self::Health(_) | Self::Detection(_) | Self::Status(_) => {
                true
            }
            Self::SynFlood(_) | Self::Stall(_) | Self::Pps(_) | Self::Tcp(_) => true,
        }
    }

    fn run(self) -> Result<()> {
        match self {
            Self::Packet(packet) => packet.run()?,
            Self::Control(control) => control.run()?,
            Self::Flood(Flood { seconds, json }) => {
                show(&flood::run(&flood::FloodOptions { seconds })?, json.as_deref())?;
            }
            Self::SynFlood(SynFlood { options, json }) => {
                show(&syn_flood::run(&options)?, json.as_deref())?;
            }
            Self::Health(Health { options, json }) => show(&health::run(&options)?, json.as_deref())?,
            Self::Detection(Detection { options, json }) => {
                show(&detection::run(&options)?, json.as_deref())?;
            }
            Self::Status(Status { options, json }) => show(&status::run(&options)?, json.as_deref())?,
            Self::Stall(Stall { options, json }) => show(&stall::run(&options)?, json.as_deref())?,
            Self::Pps(options) => show(&pps::run(&options)?, options.json.as_deref())?,
            Self::Tcp(options) => show(&tcp::run(&options)?, options.json.as_deref())?,
        }
        Ok(())
    }
}

impl Packet {
    fn run(self) -> Result<()> {
        if self.list {
            packet::all().iter().for_each(|workload| println!("{}", workload.name));
            return Ok(());
        }
        let options = packet::PacketOptions {
            rounds: self.rounds,
            loads: self.loads,
            slice: self.slice,
            workloads: self.workloads,
            pinned: self.pinned,
        };
        let report = packet::run(&options)?;
        show(&report, self.json.as_deref())
    }
}

impl Control {
    fn run(self) -> Result<()> {
        let Self { listeners, servers, changes, json } = self;
        show(&control::run(&control::ControlOptions { listeners, servers, changes })?, json.as_deref())
    }
}

/// Prints a report, and writes it to a file if one is given.
fn show(report: &(impl Display + Serialize), file: Option<&Path>) -> Result<()> {
    println!("{report}");
    if let Some(path) = file {
        let text = serde_json::to_string_pretty(report)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Parses `NAME=PATH`.
fn pinned(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(path)))
        }
        _ => Err("not of the form NAME=PATH".to_owned()),
    }
}
