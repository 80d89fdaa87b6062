//! `slb-fuzz`: compares the packet path with the oracle. `cargo xtask fuzz` builds and starts it.

use std::{process::ExitCode, thread, time::Instant};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use slb_oracle::generator::Extent;
use slb_packet_host::fuzz::{Plan, Tally, on_the_host};
use slb_tests::packets::fuzz::in_the_kernel;

/// Fewer packets may miss an outcome that is rare.
const PACKETS_OF_ALL_OUTCOMES: u64 = 400_000;

/// Compares the packet path with the oracle.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the packet path runs. The kernel needs root.
    place: Place,
    /// Packets to compare, at least.
    #[arg(long)]
    packets: u64,
    /// Seed of configurations and sequences.
    #[arg(long)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    /// On the host, over tables in memory.
    Host,
    /// In the kernel, by `BPF_PROG_TEST_RUN`, and on the host.
    Kernel,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { place, packets, seed } = *arguments;
    let begun = Instant::now();
    let tally = match place {
        Place::Host => host(Plan { seed, packets, extent: Extent::Host })?,
        Place::Kernel => in_the_kernel(Plan { seed, packets, extent: Extent::Kernel })?,
    };
    print!("{tally}");
    println!("no mismatch; seed {seed}, {:.1} s", begun.elapsed().as_secs_f64());
    let missed = tally.missed(if place == Place::Host { Extent::Host } else { Extent::Kernel });
    if packets >= PACKETS_OF_ALL_OUTCOMES && !missed.is_empty() {
        bail!("no packet reached: {}", missed.join(", "));
    }
    Ok(())
}

fn host(plan: Plan) -> Result<Tally> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    on_the_host(plan, threads).or_else(|failures| {
        let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
        bail!("packet path and oracle disagree:\n{}", failures.join("\n\n"))
    })
}
