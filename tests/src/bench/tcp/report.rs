//! The figures, as a table and as JSON.

use std::fmt;

use serde::Serialize;
use slb_userspace::cli::table::table;

use super::{TcpOptions, load::TcpWorkload, systems::DIRECT};
use crate::bench::FigureSpread;

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct TcpReport {
    /// Number of rounds.
    pub rounds: u32,
    /// Length of a slice, in milliseconds.
    pub slice_milliseconds: u64,
    /// One row per load and contestant.
    pub rows: Vec<TcpRow>,
    /// Contestants that could not run, and why.
    pub missing: Vec<String>,
}

/// Figures of one contestant under one load.
#[derive(Debug, Serialize)]
pub struct TcpRow {
    /// Its name.
    pub contestant: &'static str,
    /// The load.
    pub workload: TcpWorkload,
    /// Requests, connections or megabytes per second.
    pub per_second: FigureSpread,
    /// Attempts that failed, including wrong answers.
    pub errors: u64,
    /// The first error.
    pub first_error: Option<String>,
    /// Best slice, relative to the best slice of the direct link.
    pub of_direct: f64,
    /// Median slice, relative to the median slice of the direct link.
    pub of_direct_median: f64,
}

impl TcpReport {
    pub(super) fn new(options: &TcpOptions, mut rows: Vec<TcpRow>, missing: Vec<String>) -> Self {
        for workload in TcpWorkload::ALL {
            let direct = rows.iter().find(|row| row.contestant == DIRECT && row.workload == workload);
            let Some(direct) = direct.map(|row| row.per_second) else { continue };
            for row in rows.iter_mut().filter(|row| row.workload == workload) {
                row.of_direct = row.per_second.best / direct.best;
                row.of_direct_median = row.per_second.median / direct.median;
            }
        }
        Self { rounds: options.rounds, slice_milliseconds: options.slice, rows, missing }
    }
}

impl fmt::Display for TcpReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "TCP through real stacks; {} turns of {} ms each. `direct` is a veth pair between client and server, \
             `kernel forwarding` two pairs\nand a routing table; with `SLB dsr` and `SLB ipip`, answers take a direct pair. Client, server and each proxy have one \
             thread.\n\
             Ratios are of best turns.",
            self.rounds, self.slice_milliseconds
        )?;
        for workload in TcpWorkload::ALL {
            let mut table = table([workload.name(), "median", "best", "of direct", "(median)", "errors"], 1);
            for row in self.rows.iter().filter(|row| row.workload == workload) {
                table.add_row([
                    row.contestant.to_owned(),
                    format!("{:.0}", row.per_second.median),
                    format!("{:.0}", row.per_second.best),
                    format!("{:.2}", row.of_direct),
                    format!("{:.2}", row.of_direct_median),
                    row.errors.to_string(),
                ]);
            }
            writeln!(f, "\n{}", table.trim_fmt())?;
        }
        for row in &self.rows {
            if let Some(error) = &row.first_error {
                writeln!(f, "{}, {}: first error: {error}", row.contestant, row.workload.name())?;
            }
        }
        self.missing.iter().try_for_each(|missing| writeln!(f, "not measured: {missing}"))
    }
}
