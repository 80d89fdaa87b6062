//! `cargo xtask fuzz`: compares the packet path with the oracle, on the host and in the kernel.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    process::{self, Privilege, cargo, target_dir, workspace},
    test::{self, Totals},
};

/// How much to compare.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Extent {
    /// Packets to compare on the host.
    #[arg(long, default_value_t = 10_000_000)]
    packets: u64,
    /// Packets to compare in the kernel, by `BPF_PROG_TEST_RUN`; needs root, asks for sudo.
    #[arg(long, default_value_t = 1_000_000)]
    kernel: u64,
    /// Seed of all configurations and sequences.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs the coverage-guided targets for so many seconds each, in place of the above.
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["packets", "kernel", "seed"])]
    coverage: Option<u64>,
}

/// What CI compares.
pub(crate) const CI: Extent = Extent { packets: 10_000_000, kernel: 1_000_000, seed: 1, coverage: None };

/// Targets of tests/fuzz.
const TARGETS: [&str; 2] = ["frames", "sequences"];

/// Compiler arguments that add libFuzzer's coverage counters, as cargo-fuzz passes them. Address sanitizer, which needs
/// a nightly compiler, is left out: the packet path is checked by bounds, and its references come from one place.
const COVERAGE: &str = "--cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
                        -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -C llvm-args=-sanitizer-coverage-pc-table \
                        -C llvm-args=-sanitizer-coverage-trace-compares -C codegen-units=1";

/// Time that a target may take beyond its own limit, to start and to shrink what it found.
const GRACE: Duration = Duration::from_secs(60);

/// Builds the tests, and runs the comparisons. Each counts as one test.
///
/// # Errors
/// A program cannot be built or started. A disagreement is no error: the totals count it.
pub(crate) fn run(extent: Extent) -> Result<Totals> {
    if let Some(seconds) = extent.coverage {
        return coverage(seconds);
    }
    test::privileged_programs()?;
    let program = target_dir()?.join("debug/slb-fuzz");
    let mut totals = Totals::default();
    if extent.packets > 0 {
        totals += compare(Command::new(&program), "host", extent.packets, extent.seed)?;
    }
    if extent.kernel > 0 {
        match Privilege::find() {
            Privilege::None => {
                println!("skipped: fuzz in the kernel: needs root");
                totals.skipped += 1;
            }
            privilege => {
                totals += compare(privilege.command(&program), "kernel", extent.kernel, extent.seed)?;
            }
        }
    }
    Ok(totals)
}

fn compare(mut command: Command, place: &str, packets: u64, seed: u64) -> Result<Totals> {
    command.arg(place).arg(format!("--packets={packets}")).arg(format!("--seed={seed}"));
    process::show(&command);
    let status = command.stdin(Stdio::null()).status().context("cannot start slb-fuzz")?;
    Ok(outcome(status.success()))
}

fn outcome(is_success: bool) -> Totals {
    Totals { passed: is_success.into(), failed: (!is_success).into(), skipped: 0 }
}

/// Builds the targets of tests/fuzz and runs each for so many seconds. What an input reached is kept for the next run.
fn coverage(seconds: u64) -> Result<Totals> {
    let directory = target_dir()?.join("fuzz");
    let mut build =
        cargo(&["build", "--release", "--manifest-path", "tests/fuzz/Cargo.toml", "--target-dir"])?;
    // With a target, build scripts get no counters.
    build.arg(&directory).args(["--target", TRIPLE]).env("RUSTFLAGS", COVERAGE);
    process::run(&mut build).context("the coverage-guided targets need a C++ compiler, for libFuzzer")?;
    let mut totals = Totals::default();
    for target in TARGETS {
        totals += explore(&directory, target, seconds)?;
    }
    Ok(totals)
}

/// SLB runs on nothing else.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

fn explore(directory: &Path, target: &str, seconds: u64) -> Result<Totals> {
    let corpus = directory.join("corpus").join(target);
    let artifacts = directory.join("artifacts");
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let mut command = Command::new(directory.join(TRIPLE).join("release").join(target));
    command.arg(&corpus).current_dir(workspace()?);
    command.arg(format!("-artifact_prefix={}/{target}-", artifacts.display()));
    command.arg(format!("-max_total_time={seconds}"));
    command.args(["-max_len=2400", "-verbosity=0", "-print_final_stats=1"]);
    Ok(outcome(process::run_within(Duration::from_secs(seconds) + GRACE, &mut command).is_ok()))
}
