//! The figures, as a table and as JSON.

use std::fmt;

use serde::Serialize;
use slb_userspace::cli::table::table;

use super::{MAC_SWAP, RETURN};
use crate::bench::{machine::Machine, stats::Summaries};

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct PacketReport {
    /// The machine.
    pub machine: Machine,
    /// The core on which everything ran.
    pub core: usize,
    /// Packets per slice.
    pub packets_per_slice: u64,
    /// Packets per sample; a sample is their mean.
    pub packets_per_chunk: u64,
    /// Slices of each program per load.
    pub rounds: u32,
    /// Number of loads of SLB's program per workload.
    pub loads: u32,
    /// Figures by workload.
    pub workloads: Vec<WorkloadReport>,
}

/// Figures of a workload.
#[derive(Debug, Serialize)]
pub struct WorkloadReport {
    /// Name of the workload.
    pub name: String,
    /// Number of flows.
    pub flows: u64,
    /// Length of a frame in bytes.
    pub frame_bytes: usize,
    /// Figures by program.
    pub programs: Vec<ProgramFigures>,
}

/// Figures of a program in a workload. All except the median are of each load's best chunk, and the median over the
/// loads.
#[derive(Debug, Serialize)]
pub struct ProgramFigures {
    /// Name of the program.
    pub name: String,
    /// Nanoseconds per packet in the best chunk.
    pub min_ns: f64,
    /// The lowest and the highest of the loads' best chunks, in nanoseconds per packet.
    pub loads_ns: [f64; 2],
    /// Nanoseconds per packet in the median chunk.
    pub median_ns: f64,
    /// Best chunk, relative to that of swapping MACs.
    pub ratio: f64,
    /// Nanoseconds per packet, without the cost of measuring.
    pub net_ns: f64,
    /// Number of chunks.
    pub chunks: usize,
}

impl ProgramFigures {
    /// Figures of programs that ran in turn; the floors must be among them.
    pub(super) fn all(programs: &[(&str, Summaries)]) -> Vec<Self> {
        let of = |wanted: &str| {
            let found = programs.iter().find(|(name, _)| *name == wanted);
            found.map_or(f64::NAN, |(_, summary)| summary.min)
        };
        let (nothing, swap) = (of(RETURN), of(MAC_SWAP));
        let figures = |(name, summary): &(&str, Summaries)| Self {
            name: (*name).to_owned(),
            min_ns: summary.min,
            loads_ns: summary.range,
            median_ns: summary.median,
            ratio: summary.min / swap,
            net_ns: summary.min - nothing,
            chunks: summary.samples,
        };
        programs.iter().map(figures).collect()
    }
}

impl fmt::Display for PacketReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, processor, cores, .. } = &self.machine;
        writeln!(f, "Linux {kernel}, {processor}, core {} of {cores}", self.core)?;
        writeln!(
            f,
            "{} loads of SLB's program, after each {} rounds of {} packets; ns per packet in the best and in the median of \
             chunks of {} packets, each the median of the loads; loads: the lowest and the highest best chunk; ratio: to \
             `{MAC_SWAP}`; net: without `{RETURN}`; both of the best chunk\n",
            self.loads, self.rounds, self.packets_per_slice, self.packets_per_chunk
        )?;
        let mut table = table(["workload", "program", "min ns", "loads", "median ns", "ratio", "net ns"], 2);
        for workload in &self.workloads {
            for (i, program) in workload.programs.iter().enumerate() {
                table.add_row([
                    if i == 0 { workload.name.clone() } else { String::new() },
                    program.name.clone(),
                    format!("{:.1}", program.min_ns),
                    format!("{:.1}-{:.1}", program.loads_ns[0], program.loads_ns[1]),
                    format!("{:.1}", program.median_ns),
                    format!("{:.2}", program.ratio),
                    format!("{:.1}", program.net_ns),
                ]);
            }
        }
        write!(f, "{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_relative_to_mac_swap_and_net_time_to_bare_return() {
        let summary = |min: f64| Summaries { min, range: [min, min], median: min + 1.0, samples: 3 };
        let figures = ProgramFigures::all(&[
            (RETURN, summary(10.0)),
            (MAC_SWAP, summary(20.0)),
            ("slb", summary(50.0)),
        ]);
        let slb = &figures[2];
        assert_eq!((slb.ratio, slb.net_ns, slb.median_ns, slb.chunks), (2.5, 40.0, 51.0, 3));
        assert_eq!((figures[1].ratio, figures[0].net_ns), (1.0, 0.0));
    }
}
