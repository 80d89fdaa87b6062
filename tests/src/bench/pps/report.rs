//! What came out, for people and for programs.

use std::fmt;

use serde::Serialize;
use slb_userspace::cli::table::table;

use super::{Options, contestant::Workload};
use crate::bench::Spread;

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The processor that did everything.
    pub cpu: usize,
    /// Turns.
    pub rounds: u32,
    /// Length of a turn.
    pub slice_milliseconds: u64,
    /// The contestants.
    pub rows: Vec<Row>,
    /// Those that could not be had, and why.
    pub missing: Vec<String>,
}

/// One contestant with one workload.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub contestant: String,
    /// What was sent.
    pub workload: Workload,
    /// Frames left through the interface they came in by.
    pub one_arm: bool,
    /// Others are compared with it.
    pub floor: bool,
    /// Frames that arrived as they should.
    pub frames_per_second: Spread,
    /// Calls that do not count, because another processor took part.
    pub shared: u64,
    /// Part of the frames that did not arrive.
    pub lost: f64,
    /// Median, as part of the median of the floor with the same arms.
    pub of_floor_median: Option<f64>,
    /// Best figure, as part of the best figure of the floor with the same arms.
    pub of_floor: Option<f64>,
}

impl Report {
    pub(super) fn new(cpu: usize, options: &Options, mut rows: Vec<Row>, missing: Vec<String>) -> Self {
        for one_arm in [false, true] {
            let floor = rows.iter().find(|row| row.floor && row.one_arm == one_arm);
            let Some(Spread { median, best, .. }) = floor.map(|row| row.frames_per_second) else { continue };
            for row in rows.iter_mut().filter(|row| row.one_arm == one_arm) {
                row.of_floor = Some(row.frames_per_second.best / best);
                row.of_floor_median = Some(row.frames_per_second.median / median);
            }
        }
        Self { cpu, rounds: options.rounds, slice_milliseconds: options.slice, rows, missing }
    }
}

impl fmt::Display for Report {
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
            let Spread { min, median, best } = row.frames_per_second;
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
