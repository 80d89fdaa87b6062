//! Runs each contestant with each workload for a slice of time, in rounds, on one processor.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{
    PpsOptions,
    clock::Clock,
    contestant::{Contestant, PpsWorkload},
    frame::BenchFrame,
    lane::{Arms, IN_MAC, SOURCE_MAC, VIP, VIP_PORT},
    report::{PpsReport, PpsRow},
};
use crate::bench::FigureSpread;

/// Target duration of a call into the kernel. Each call yields a figure; some of many short calls are undisturbed.
const CALL: Duration = Duration::from_millis(40);
/// Frames of the first call.
const FIRST: u32 = 4096;
/// Odd: flows recur in another order than they began in, which may be their order in memory.
const STRIDE: u32 = 0x9e37_79b1;

/// Results of one contestant with one workload.
#[derive(Debug, Clone, Default)]
struct ContestantResults {
    /// Frames that arrived per second, one figure per call.
    frames_per_second: Vec<f64>,
    /// Calls that do not count because another processor took part.
    shared: u64,
    sent: u64,
    arrived: u64,
}

/// Measures all contestants in turn.
pub(super) fn all(
    contestants: &mut [Contestant],
    missing: Vec<String>,
    options: &PpsOptions,
) -> Result<PpsReport> {
    let cpu = processor(options.cpu)?;
    let mut results: Vec<Vec<ContestantResults>> = contestants
        .iter()
        .map(|contestant| vec![ContestantResults::default(); contestant.workloads.len()])
        .collect();
    for _ in 0..options.rounds {
        for (contestant, results) in contestants.iter_mut().zip(&mut results) {
            for (workload, results) in contestant.workloads.iter().zip(results) {
                run_round(contestant, *workload, cpu, options.slice(), results)?;
            }
        }
    }
    let mut rows = Vec::new();
    for (contestant, results) in contestants.iter().zip(results) {
        for (workload, results) in contestant.workloads.iter().zip(results) {
            rows.push(PpsRow {
                contestant: contestant.name.clone(),
                workload: *workload,
                one_arm: contestant.arms == Arms::One,
                floor: contestant.floor,
                frames_per_second: FigureSpread::of(&results.frames_per_second).with_context(|| {
                    format!("{}: another processor took part in all of it", contestant.name)
                })?,
                shared: results.shared,
                lost: 1.0 - results.arrived as f64 / results.sent as f64,
                of_floor: None,
                of_floor_median: None,
            });
        }
    }
    Ok(PpsReport::new(cpu, options, rows, missing))
}

/// The requested processor, or the last one that this process may use.
fn processor(asked: Option<usize>) -> Result<usize> {
    let allowed = sched_getaffinity(Pid::this())?;
    let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    match asked {
        Some(cpu) => usable.find(|usable| *usable == cpu).with_context(|| format!("no processor {cpu}")),
        None => usable.next_back().context("no processor"),
    }
}

/// One slice: warms up, then measures.
fn run_round(
    contestant: &mut Contestant,
    workload: PpsWorkload,
    cpu: usize,
    length: Duration,
    results: &mut ContestantResults,
) -> Result<()> {
    contestant.prepare_round()?;
    let frame = BenchFrame::new(SOURCE_MAC, IN_MAC, VIP, VIP_PORT, workload.segment());
    let (mask, expected) = (workload.mask(), contestant.expected);
    let lane = &mut contestant.lane;
    let (programs, ifindex) = (&mut lane.programs, lane.ifindex);
    programs.expect(expected)?;
    let (sent, arrived) = lane.source.on_thread(|| {
        let mut cpus = CpuSet::new();
        cpus.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &cpus)?;
        let clock = Clock::new(cpu)?;
        programs.prepare(&frame, 1, mask, ifindex)?;
        programs.send(workload.warm_up())?;
        programs.prepare(&frame, STRIDE, mask, ifindex)?;
        let (sent, (before, mut elsewhere)) = (programs.sent()?, programs.arrived(cpu)?);
        let mut expected = before.expected;
        let start = Instant::now();
        let mut frames = FIRST;
        while start.elapsed() < length {
            let begin = clock.read()?;
            programs.send(frames)?;
            let elapsed = (clock.read()? - begin).as_secs_f64();
            let (now, now_elsewhere) = programs.arrived(cpu)?;
            // A processor that has begun to process a queue keeps it until it is empty. Two processors have then shared
            // the work.
            if now_elsewhere == elsewhere {
                results.frames_per_second.push((now.expected - expected) as f64 / elapsed);
            } else {
                results.shared += 1;
            }
            (expected, elsewhere) = (now.expected, now_elsewhere);
            let factor = CALL.as_secs_f64() / elapsed;
            frames = (f64::from(frames) * factor.clamp(0.25, 4.0)) as u32;
        }
        Ok((programs.sent()? - sent, programs.arrived(cpu)?.0.since(&before)))
    })?;
    contestant.judge(workload, sent, &arrived)?;
    results.sent += sent;
    results.arrived += arrived.expected;
    Ok(())
}
