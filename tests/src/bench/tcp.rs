//! `slb-bench tcp`: requests, connections and bytes per second through real TCP stacks.
//!
//! Client and server have one thread each, on the same machine as the contestant. The figures show how much of the
//! machine is left for them; `direct` is the limit of the machine itself. In modes without translation, answers bypass
//! SLB on a direct link. It then handles only half of the packets, and few bytes of a download.

mod lane;
mod load;
mod measure;
mod proxy;
mod report;
mod server;
mod systems;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;

use crate::test_lock::TestLock;

pub use load::TcpWorkload;
pub use report::{TcpReport, TcpRow};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct TcpOptions {
    /// Number of rounds; each contestant gets a slice per round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Milliseconds of a slice.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    pub slice: u64,
    /// Measure only contestants whose name contains one of these, and the direct link.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl TcpOptions {
    fn slice(&self) -> Duration {
        Duration::from_millis(self.slice)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only))
    }
}

/// Runs the benchmark.
///
/// # Errors
/// The caller is not root, or a contestant cannot be set up or forwards no request.
pub fn run(options: &TcpOptions) -> Result<TcpReport> {
    let _test_lock = TestLock::alone()?;
    let (contestants, missing) = systems::all(options)?;
    measure::all(&contestants, missing, options)
}
