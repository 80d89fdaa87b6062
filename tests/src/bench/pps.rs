//! `slb-bench pps`: frames per second that one processor forwards through a contestant.
//!
//! One thread, pinned to one processor, creates frames in the kernel (`BPF_PROG_TEST_RUN` with live frames) and sends
//! them into a veth pair. The other end, the contestant and the sink run in soft interrupts of the same processor. The
//! figure is thus the cost of all of them, including source and sink. Figures are per second of processor time, see
//! `clock`. The first contestants are a floor: they only swap MACs.

mod clock;
mod conntrack;
mod contestant;
pub(super) mod frame;
mod lane;
mod measure;
pub(super) mod programs;
mod report;
mod systems;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use slb_userspace::dataplane::bpf::losses::LossCounters;

use crate::test_lock::TestLock;

pub use contestant::PpsWorkload;
pub use report::{PpsReport, PpsRow};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct PpsOptions {
    /// Number of rounds; each contestant gets a slice per round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Milliseconds of a slice.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    pub slice: u64,
    /// Processor to use; the last one by default.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Measure only contestants whose name contains this, and their floors.
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
    /// Count frames that the kernel loses meanwhile, as `slbd` does. Contestants of SLB always do, and the tracepoints
    /// are the whole kernel's: compare `--only MAC` with and without this option to see their cost.
    #[arg(long)]
    pub losses: bool,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl PpsOptions {
    fn slice(&self) -> Duration {
        Duration::from_millis(self.slice)
    }
}

/// Runs the benchmark.
///
/// # Errors
/// The caller is not root, or a contestant cannot be set up or does not forward as expected.
pub fn run(options: &PpsOptions) -> Result<PpsReport> {
    let _test_lock = TestLock::alone()?;
    let _counted = options.losses.then(LossCounters::start).transpose()?;
    let (mut contestants, missing) = systems::all(options.only.as_deref())?;
    measure::all(&mut contestants, missing, options)
}
