//! `slb-demo`: SLB between real clients and servers in network namespaces, with failures.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use slb_tests::{
    demo::{self, DemoOptions},
    supervise,
};

/// Name of this program, by which running demos are found.
const PROGRAM: &str = "slb-demo";

/// Argument that marks the inner process.
const INNER: &str = "--inner";

/// Shows SLB at work between real clients and servers, and breaks things. Needs root. Leaves nothing behind.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Number of SIGKILLs of the daemon under traffic.
    #[arg(long, default_value_t = 3)]
    sigkill_rounds: u32,
    /// TCP connections on each of IPv4 and IPv6, and as many UDP flows.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    connections: u64,
    /// Leave everything up at the end, to play with, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Remove leftovers of dead runs and exit. A demo that still runs is ended only if it is named.
    #[arg(long, exclusive = true, value_name = "RUN", num_args = 0..=1)]
    cleanup: Option<Option<String>>,
    #[arg(long, hide = true)]
    inner: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if let Some(run) = arguments.cleanup {
        supervise::clean_up(PROGRAM, run.as_deref()).map(|()| ExitCode::SUCCESS)
    } else if arguments.inner {
        let options = DemoOptions {
            sigkill_rounds: arguments.sigkill_rounds,
            exchanges: arguments.connections,
            keep: arguments.keep,
            json: arguments.json,
        };
        demo::run(&options).map(|passed| if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    } else {
        supervise::supervise(INNER)
    };
    done.unwrap_or_else(|error| {
        eprintln!("{PROGRAM}: {error:#}");
        ExitCode::FAILURE
    })
}
