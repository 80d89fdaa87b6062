//! Runs each contestant under each load for a slice of time, in rounds.

use anyhow::{Context as _, Result};

use super::{
    TcpOptions,
    lane::TcpLane,
    load::TcpWorkload,
    report::{TcpReport, TcpRow},
};
use crate::bench::FigureSpread;

/// Measures all contestants in turn.
pub(super) fn all(lanes: &[TcpLane], missing: Vec<String>, options: &TcpOptions) -> Result<TcpReport> {
    let mut rows = Vec::new();
    for workload in TcpWorkload::ALL {
        let mut figures = vec![Vec::new(); lanes.len()];
        let mut errors = vec![(0, None); lanes.len()];
        for _ in 0..options.rounds {
            for ((lane, figures), errors) in lanes.iter().zip(&mut figures).zip(&mut errors) {
                let load = workload.apply(lane.path.clone(), options.slice());
                let (per_second, outcome) = lane.net.client.block_on(load);
                figures.push(per_second / workload.unit());
                errors.0 += outcome.errors;
                errors.1 = errors.1.take().or(outcome.first_error);
            }
        }
        for ((lane, figures), (errors, first_error)) in lanes.iter().zip(figures).zip(errors) {
            rows.push(TcpRow {
                contestant: lane.name,
                workload,
                per_second: FigureSpread::of(&figures).context("no slices")?,
                errors,
                first_error,
                of_direct: 1.0,
                of_direct_median: 1.0,
            });
        }
    }
    Ok(TcpReport::new(options, rows, missing))
}
