//! `cargo xtask`: every command a developer or CI runs.

mod bench;
mod deb;
mod ebpf;
mod fuzz;
mod lint;
mod manual;
mod packages;
mod previous;
mod privileged;
mod process;
mod setup;
mod tarball;
mod test;
mod vm;

use std::{ffi::OsString, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, checks and shows SLB.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Finds or installs what building and testing need.
    Setup {
        /// Installs cargo-deny too, which takes minutes to build.
        #[arg(long)]
        all: bool,
        /// Installs what the benchmarks compare SLB with too: nftables, HAProxy, nginx.
        #[arg(long, conflicts_with = "all")]
        bench: bool,
        /// Installs what running Debian's kernels needs too: QEMU, busybox.
        #[arg(long, conflicts_with_all = ["all", "bench"])]
        vm: bool,
    },
    /// Builds the XDP programs and prints their contents.
    BuildEbpf {
        /// Makes the program log every verdict.
        #[arg(long)]
        debug_log: bool,
    },
    /// Shows SLB at work between network namespaces; needs root, asks for sudo.
    Demo {
        /// Arguments of the demo: `--keep`, `--json FILE`, `--help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measures what SLB costs; needs root, asks for sudo.
    Bench {
        /// What to measure.
        benchmark: bench::Benchmark,
        /// Arguments of the benchmark: `--json FILE`, `--help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Runs all tests, those that need root through sudo.
    Test {
        /// Runs only tests whose name contains this.
        filter: Option<String>,
    },
    /// Compares the packet path with the oracle, over random sequences of packets.
    Fuzz {
        #[command(flatten)]
        extent: fuzz::Extent,
    },
    /// Boots Debian's kernels under QEMU, without KVM, and runs in each the tests of the XDP programs.
    Vm {
        /// The kernel; all of them without one.
        kernel: Option<vm::Kernel>,
        /// Runs only the tests that CI runs: the verifier and the packet cases.
        #[arg(long)]
        load: bool,
        /// Runs only tests whose name contains this.
        #[arg(long)]
        filter: Option<String>,
    },
    /// Builds the Debian packages `slb` and `slb-decap` in `target/deb`.
    Deb {
        /// Debian revision of the version.
        #[arg(long, default_value = "1")]
        revision: u32,
        /// Installs, upgrades and removes them with traffic in this Debian, booted in a container: bookworm, trixie.
        #[arg(long = "try", value_name = "SUITE", conflicts_with = "revision")]
        suite: Option<String>,
    },
    /// Builds a tarball of statically linked programs in `target/tarball`.
    Tarball,
    /// Writes manual pages and shell completions of all programs to `target/manual`.
    Manual,
    /// Checks formatting, clippy on host and BPF crates, licences and sources of dependencies.
    Lint,
    /// Runs setup, lint, test, fuzz and vm, as CI does.
    Ci,
}

fn main() -> ExitCode {
    match Arguments::parse().command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Setup { bench: true, .. } => setup::run(setup::Extent::Bench)?,
            Self::Setup { vm: true, .. } => setup::run(setup::Extent::Vm)?,
            Self::Setup { all, .. } => {
                setup::run(if all { setup::Extent::All } else { setup::Extent::Needed })?;
            }
            Self::BuildEbpf { debug_log } => ebpf::run(debug_log)?,
            Self::Demo { arguments } => {
                return privileged::become_program(privileged::DEMO, &arguments, setup::Extent::Demo);
            }
            Self::Bench { benchmark, arguments } => return bench::run(benchmark, &arguments),
            Self::Test { filter } => {
                setup::run(if filter.is_some() { setup::Extent::Needed } else { setup::Extent::Vm })?;
                let mut totals = test::run(filter.as_deref())?;
                if filter.is_none() {
                    totals += timed("fuzz", || fuzz::run(fuzz::CI))?;
                    totals += vm::run(&vm::Kernel::NAMED, vm::VmExtent::Load, None)?;
                }
                println!("\n{totals}");
                return Ok(totals.exit_code());
            }
            Self::Fuzz { extent } => {
                setup::run(setup::Extent::Needed)?;
                let totals = fuzz::run(extent)?;
                println!("\n{totals}");
                return Ok(totals.exit_code());
            }
            Self::Vm { kernel, load, filter } => {
                setup::run(setup::Extent::Vm)?;
                let kernels = kernel.map_or(vm::Kernel::ALL.to_vec(), |kernel| vec![kernel]);
                let extent = if load { vm::VmExtent::Load } else { vm::VmExtent::All };
                let totals = vm::run(&kernels, extent, filter.as_deref())?;
                println!("\n{totals}");
                return Ok(totals.exit_code());
            }
            Self::Deb { suite: Some(suite), .. } => deb::try_out(&suite)?,
            Self::Tarball => println!("{}", tarball::build()?.display()),
            Self::Deb { revision, .. } => {
                for package in deb::run_with(revision)? {
                    println!("{}", package.display());
                }
            }
            Self::Manual => println!("{}", manual::write()?.display()),
            Self::Lint => lint::run()?,
            Self::Ci => return ci(),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs all steps. The last line of output is the totals of the tests.
fn ci() -> Result<ExitCode> {
    timed("setup", || setup::run(setup::Extent::Vm))?;
    timed("lint", lint::run)?;
    let mut totals = timed("test", || test::run(None))?;
    totals += timed("fuzz", || fuzz::run(fuzz::CI))?;
    totals += timed("vm", || vm::run(&vm::Kernel::NAMED, vm::VmExtent::Load, None))?;
    println!("\n{totals}");
    // A test that CI skips would run nowhere.
    if std::env::var_os("CI").is_some() && totals.skipped > 0 {
        return Ok(ExitCode::FAILURE);
    }
    Ok(totals.exit_code())
}

fn timed<T>(step: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = action();
    println!("{step} took {:.1} s", start.elapsed().as_secs_f64());
    result
}
