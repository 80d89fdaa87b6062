//! `cargo xtask bench`: builds SLB and its benchmarks with the profile of an installation, and runs the benchmark as
//! root.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    privileged::{BENCH, become_program},
    setup::Extent,
};

/// A subcommand of `slb-bench`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Benchmark {
    /// Nanoseconds of one packet; beside programs that do next to nothing.
    Packet,
    /// Frames per second on one processor; beside MAC swap, kernel forwarding, nftables.
    Pps,
    /// TCP through real stacks; beside kernel forwarding, nftables, HAProxy, nginx.
    Tcp,
    /// A flood of new flows over established ones.
    Flood,
    /// A flood of SYNs, answered by SYN cookies, beside real clients.
    SynFlood,
    /// Tables, a start with many listeners, one weight among them.
    Control,
    /// A round of health checks of 10,000 servers.
    Health,
    /// Time until a dead server is unhealthy, and until a recovered one is healthy, for each kind of health check.
    Detection,
    /// Cost of `slb status`, and how much many callers delay the detection of a dead server.
    Status,
    /// Longest stall of the event loop while passes over a large flow table run, and while slot migrations end.
    Stall,
}

/// Builds everything, and runs the benchmark as root with these arguments.
pub(crate) fn run(benchmark: Benchmark, arguments: &[OsString]) -> Result<ExitCode> {
    let (name, extent) = match benchmark {
        Benchmark::Packet => ("packet", Extent::Needed),
        Benchmark::Pps => ("pps", Extent::Bench),
        Benchmark::Tcp => ("tcp", Extent::Bench),
        Benchmark::Flood => ("flood", Extent::Needed),
        Benchmark::SynFlood => ("syn-flood", Extent::Needed),
        Benchmark::Control => ("control", Extent::Needed),
        Benchmark::Health => ("health", Extent::Needed),
        Benchmark::Detection => ("detection", Extent::Bench),
        Benchmark::Status => ("status", Extent::Needed),
        Benchmark::Stall => ("stall", Extent::Needed),
    };
    let arguments: Vec<OsString> = [name.into()].into_iter().chain(arguments.iter().cloned()).collect();
    become_program(BENCH, &arguments, extent)
}
