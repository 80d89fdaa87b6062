//! Runs each contestant with each workload for a slice of time, in rounds, on one processor.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{
    Options,
    clock::Clock,
    contestant::{Contestant, Workload},
    frame::Frame,
    lane::{Arms, IN_MAC, SOURCE_MAC, VIP, VIP_PORT},
    report::{Report, Row},
};
use crate::bench::Spread;

/// Target duration of a call into the kernel. Each call yields a figure; some of many short calls are undisturbed.
const CALL: Duration = Duration::from_millis(40);
/// Frames of the first call.
const FIRST: u32 = 4096;
/// Odd: flows recur in another order than they began in, which may be their order in memory.
const STRIDE: u32 = 0x9e37_79b1;

/// Results of one contestant with one workload.
#[derive(Debug, Clone, Default)]
struct Turns {
    /// Frames that arrived per second, one figure per call.
    frames_per_second: Vec<f64>,
    /// Calls that do not count because another processor took part.
    shared: u64,
    sent: u64,
    arrived: u64,
}

/// Measures all contestants in turn.
pub(super) fn all(contestants: &mut [Contestant], missing: Vec<String>, options: &Options) -> Result<Report> {
    let cpu = processor(options.cpu)?;
    let mut turns: Vec<Vec<Turns>> =
        contestants.iter().map(|contestant| vec![Turns::default(); contestant.workloads.len()]).collect();
    for _ in 0..options.rounds {
        for (contestant, turns) in contestants.iter_mut().zip(&mut turns) {
            for (workload, turns) in contestant.workloads.iter().zip(turns) {
                turn(contestant, *workload, cpu, options.slice(), turns)?;
            }
        }
    }
    let mut rows = Vec::new();
    for (contestant, turns) in contestants.iter().zip(turns) {
        for (workload, turns) in contestant.workloads.iter().zip(turns) {
            rows.push(Row {
                contestant: contestant.name.clone(),
                workload: *workload,
                one_arm: contestant.arms == Arms::One,
                floor: contestant.floor,
                frames_per_second: Spread::of(&turns.frames_per_second).with_context(|| {
                    format!("{}: another processor took part in all of it", contestant.name)
                })?,
                shared: turns.shared,
                lost: 1.0 - turns.arrived as f64 / turns.sent as f64,
                of_floor: None,
                of_floor_median: None,
            });
        }
    }
    Ok(Report::new(cpu, options, rows, missing))
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
fn turn(
    contestant: &mut Contestant,
    workload: Workload,
    cpu: usize,
    length: Duration,
    turns: &mut Turns,
) -> Result<()> {
    contestant.before_turn()?;
    let frame = Frame::new(SOURCE_MAC, IN_MAC, VIP, VIP_PORT, workload.segment());
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
        let mut right = before.right;
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
                turns.frames_per_second.push((now.right - right) as f64 / elapsed);
            } else {
                turns.shared += 1;
            }
            (right, elsewhere) = (now.right, now_elsewhere);
            let factor = CALL.as_secs_f64() / elapsed;
            frames = (f64::from(frames) * factor.clamp(0.25, 4.0)) as u32;
        }
        Ok((programs.sent()? - sent, programs.arrived(cpu)?.0.since(&before)))
    })?;
    contestant.judge(workload, sent, &arrived)?;
    turns.sent += sent;
    turns.arrived += arrived.right;
    Ok(())
}
