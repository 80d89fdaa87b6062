//! The figures, as a table and as JSON.

use std::fmt;

use serde::Serialize;
use slb_userspace::cli::table::table;

use super::{PpsOptions, contestant::PpsWorkload};
use crate::bench::FigureSpread;

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct PpsReport {
    /// The processor that did all work.
    pub cpu: usize,
    /// Number of rounds.
    pub rounds: u32,
    /// Length of a slice, in milliseconds.
    pub slice_milliseconds: u64,
    /// One row per contestant and workload.
    pub rows: Vec<PpsRow>,
    /// Contestants that could not run, and why.
    pub missing: Vec<String>,
}

/// Figures of one contestant with one workload.
#[derive(Debug, Serialize)]
pub struct PpsRow {
    /// Its name.
    pub contestant: String,
    /// The workload.
    pub workload: PpsWorkload,
    /// Whether frames left by the interface on which they arrived.
    pub one_arm: bool,
    /// Whether others are compared with it.
    pub floor: bool,
    /// Frames per second that arrived as expected.
    pub frames_per_second: FigureSpread,
    /// Calls that do not count because another processor took part.
    pub shared: u64,
    /// Fraction of the frames that did not arrive, 0 to 1.
    pub lost: f64,
    /// Median, relative to the median of the floor with the same arms.
    pub of_floor_median: Option<f64>,
    /// Best figure, relative to the best figure of the floor with the same arms.
    pub of_floor: Option<f64>,
}

impl PpsReport {
    pub(super) fn new(cpu: usize, options: &PpsOptions, mut rows: Vec<PpsRow>, missing: Vec<String>) -> Self {
        for one_arm in [false, true] {
            let floor = rows.iter().find(|row| row.floor && row.one_arm == one_arm);
            let Some(FigureSpread { median, best, .. }) = floor.map(|row| row.frames_per_second) else {
                continue;
            };
            for row in rows.iter_mut().filter(|row| row.one_arm == one_arm) {
                row.of_floor = Some(row.frames_per_second.best / best);
                row.of_floor_median = Some(row.frames_per_second.median / median);
            }
        }
        Self { cpu, rounds: options.rounds, slice_milliseconds: options.slice, rows, missing }
    }
}

impl fmt::Display for PpsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
            "contestant",
            "workload",
            "frames/s: min",
            "median",
            "best",
            "of floor",
            "(median)",
            "shared",
            "lost",
        ];
        let mut table = table(header, 2);
        for row in &self.rows {
            let part = |part: Option<f64>| part.map(|part| format!("{part:.2}")).unwrap_or_default();
            let millions = |figure: f64| format!("{:.3} M", figure / 1e6);
            let FigureSpread { min, median, best } = row.frames_per_second;
            table.add_row([
                row.contestant.clone(),
                row.workload.name().to_owned(),
                millions(min),
                millions(median),
                millions(best),
                part(row.of_floor),
                part(row.of_floor_median),
                row.shared.to_string(),
                format!("{:.1} %", row.lost * 100.0),
            ]);
        }
        writeln!(
            f,
            "Frames per second of time on one processor ({}), source and sink included; {} turns of {} ms each.\n\
             Figures are of calls of 40 ms. Ratios, of best and median, are to the MAC swap that sends the same way.\n\n{}",
            self.cpu,
            self.rounds,
            self.slice_milliseconds,
            table.trim_fmt()
        )?;
        self.missing.iter().try_for_each(|missing| writeln!(f, "not measured: {missing}"))
    }
}
