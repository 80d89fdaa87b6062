//! The cost of one packet, in nanoseconds.
//!
//! The programs under comparison run in turn, in slices of packets, in one run on one core. The measuring wrapper
//! (`tests/bench-ebpf/src/packet.rs`) calls each from `BPF_PROG_TEST_RUN`. The best chunk of packets repeats to a few
//! percent; the rest of the distribution is mostly noise of the machine.
//!
//! With each load the kernel places a program's machine code at another offset (`bpf_jit_binary_pack_alloc`). At some
//! offsets the same code is a tenth slower. SLB's program is therefore loaded several times per workload, and the
//! median of the loads counts.
//!
//! SLB's program and maps are set up as the daemon does it. After every slice, the counters must show that each packet
//! went the way that the workload says; otherwise the command fails.
//!
//! A new workload is another entry of [`mode::workloads`]: a state of the data plane, packets, and their expected
//! verdict.

pub mod flood;
pub mod mode;
mod report;
pub mod workload;
mod wrapper;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{ProgramFd, ProgramInfo};
use nix::unistd::geteuid;
use slb_bench_common::packet::CHUNK;

pub use self::report::PacketReport;
use self::{
    report::{ProgramFigures, WorkloadReport},
    workload::{ExpectedResult, Workload, WorkloadStep},
    wrapper::{MAX_SLICE, SendResult, Wrapper},
};
use super::{
    machine::{Machine, pin_to_core},
    stats::{Summaries, Summary},
};
use crate::{
    leftovers::{self, RunId},
    packets::{
        host::Totals,
        kernel::{Kernel, action, in_namespace},
    },
    test_lock::TestLock,
};

/// Name of SLB's program in the figures.
const SLB: &str = "slb";
/// A program that does nothing: the cost of measuring.
const RETURN: &str = "return";
/// The program to which ratios refer.
const MAC_SWAP: &str = "mac swap";
/// The floors: name, program in the wrapper's object, and the bytes that it adds to a frame.
const FLOORS: [(&str, &str, i64); 3] =
    [(RETURN, "floor_return", 0), (MAC_SWAP, "floor_mac_swap", 0), ("mac swap + 20", "floor_grow", 20)];

/// Minimum number of packets that each program gets before it is measured.
const WARM_UP: u64 = 1 << 16;

/// Options of the benchmark.
#[derive(Debug, Clone)]
pub struct PacketOptions {
    /// Slices of each program per workload and load.
    pub rounds: u32,
    /// Number of loads of SLB's program per workload.
    pub loads: u32,
    /// Packets per slice.
    pub slice: u64,
    /// Substrings of the names of workloads to measure; empty for all.
    pub workloads: Vec<String>,
    /// Other programs: name, and path of the pin.
    pub pinned: Vec<(String, PathBuf)>,
}

impl Default for PacketOptions {
    fn default() -> Self {
        Self { rounds: 4, loads: 5, slice: 1 << 16, workloads: Vec::new(), pinned: Vec::new() }
    }
}

impl PacketOptions {
    /// Whether the workload with this name is selected.
    fn wants(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.workloads.is_empty() || self.workloads.iter().any(|part| name.contains(&part.to_lowercase()))
    }

    fn check(&self) -> Result<()> {
        ensure!(self.rounds > 0 && self.loads > 0, "without rounds and loads there is nothing to measure");
        ensure!(
            self.slice.is_multiple_of(CHUNK) && (CHUNK..=MAX_SLICE).contains(&self.slice),
            "a slice is a multiple of {CHUNK} packets, {MAX_SLICE} at most"
        );
        Ok(())
    }
}

/// Runs the benchmark.
///
/// # Errors
/// A program cannot be loaded, or a packet did not go the way that its workload says.
pub fn run(options: &PacketOptions) -> Result<PacketReport> {
    options.check()?;
    ensure!(geteuid().is_root(), "loading XDP programs needs root");
    let workloads: Vec<_> = all().into_iter().filter(|workload| options.wants(&workload.name)).collect();
    ensure!(!workloads.is_empty(), "no workload has a name that contains any of {:?}", options.workloads);
    let machine = Machine::new()?;
    let _test_lock = TestLock::alone()?;
    in_namespace(|| {
        let core = pin_to_core()?;
        let mut bench = PacketBench::new(options)?;
        let mut measured = Vec::new();
        for workload in &workloads {
            eprintln!("{} …", workload.name);
            let report = bench.measure(workload).with_context(|| format!("workload `{}`", workload.name))?;
            measured.push(report);
        }
        Ok(PacketReport {
            machine,
            core,
            packets_per_slice: options.slice,
            packets_per_chunk: CHUNK,
            rounds: options.rounds,
            loads: options.loads,
            workloads: measured,
        })
    })
}

/// All workloads.
pub fn all() -> Vec<Workload> {
    mode::workloads()
}

/// A program under comparison.
struct Subject {
    name: String,
    place: usize,
    kind: SubjectKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SubjectKind {
    Floor { grown: i64 },
    Slb,
    Other,
}

struct PacketBench<'o> {
    options: &'o PacketOptions,
    wrapper: Wrapper,
    subjects: Vec<Subject>,
    /// Index of SLB's program, which changes with the workload.
    slb: usize,
    directory: PinDirectory,
}

impl<'o> PacketBench<'o> {
    fn new(options: &'o PacketOptions) -> Result<Self> {
        leftovers::ensure_bpf_fs()?;
        leftovers::remove_dead()?;
        let mut wrapper = Wrapper::load()?;
        let mut subjects = Vec::new();
        for (name, program, grown) in FLOORS {
            let place = wrapper.add_own(program)?;
            subjects.push(Subject { name: name.to_owned(), place, kind: SubjectKind::Floor { grown } });
        }
        let slb = wrapper.reserve()?;
        subjects.push(Subject { name: SLB.to_owned(), place: slb, kind: SubjectKind::Slb });
        for (name, path) in &options.pinned {
            ensure!(subjects.iter().all(|subject| subject.name != *name), "two programs are called {name}");
            let program = from_pin(path)?;
            let place = wrapper.add(&program).with_context(|| name.clone())?;
            subjects.push(Subject { name: name.clone(), place, kind: SubjectKind::Other });
        }
        Ok(Self { options, wrapper, subjects, slb, directory: PinDirectory::new()? })
    }

    fn measure(&mut self, workload: &Workload) -> Result<WorkloadReport> {
        let mut loads = vec![Vec::new(); self.subjects.len()];
        for _ in 0..self.options.loads {
            for (summaries, chunks) in loads.iter_mut().zip(self.measure_load(workload)?) {
                summaries.push(Summary::of(&chunks).context("no chunks")?);
            }
        }
        let mut summaries = Vec::new();
        for (subject, loads) in self.subjects.iter().zip(&loads) {
            summaries.push((subject.name.as_str(), Summaries::of(loads).context("no loads")?));
        }
        Ok(WorkloadReport {
            name: workload.name.clone(),
            flows: workload.measured.traffic.flows,
            frame_bytes: workload.measured.traffic.frame.len(),
            programs: ProgramFigures::all(&summaries),
        })
    }

    /// Loads SLB's program, and measures all programs. Returns the chunks of each.
    fn measure_load(&mut self, workload: &Workload) -> Result<Vec<Vec<f64>>> {
        let mut kernel = Kernel::load_sized(workload.flow_table)?;
        kernel.become_state(&workload.state)?;
        self.put_slb(&mut kernel)?;
        self.wrapper.restart();
        let Self { options, wrapper, subjects, .. } = self;

        let mut warm_up = workload.measured.clone();
        warm_up.packets = warm_up.packets.max(WARM_UP);
        for step in workload.fill.iter().chain([&warm_up]) {
            for subject in &*subjects {
                checked(wrapper, subject, &kernel, workload, step)?;
            }
        }
        // One packet more than in the chunks: the last time stamp belongs to the packet after them.
        let slice = WorkloadStep { packets: options.slice + 1, ..workload.measured.clone() };
        let mut chunks = vec![Vec::new(); subjects.len()];
        for _ in 0..options.rounds {
            for (subject, chunks) in subjects.iter().zip(&mut chunks) {
                chunks.extend(checked(wrapper, subject, &kernel, workload, &slice)?.chunks);
            }
        }
        if let Some(audit) = &workload.audit {
            for subject in &*subjects {
                checked(wrapper, subject, &kernel, workload, audit)
                    .context("what the flow table should hold at the end")?;
            }
        }
        Ok(chunks)
    }

    /// Sets SLB's program in the wrapper through a pin, as for every other program.
    fn put_slb(&mut self, kernel: &mut Kernel) -> Result<()> {
        let path = self.directory.0.join(SLB);
        kernel.pin(&path)?;
        let program = from_pin(&path)?;
        fs::remove_file(&path)?;
        self.wrapper.put(self.slb, &program)
    }
}

/// Sends the packets of a step, and checks verdict, counters and growth.
fn checked(
    wrapper: &mut Wrapper,
    subject: &Subject,
    kernel: &Kernel,
    workload: &Workload,
    step: &WorkloadStep,
) -> Result<SendResult> {
    let before = CounterSnapshot::of(kernel, workload)?;
    let sent = wrapper.send(subject.place, &step.traffic, step.packets)?;
    // Expected verdict, packets that SLB counts, and growth of the frame if known.
    let (verdict, packets, grown) = match subject.kind {
        SubjectKind::Floor { grown } => (action::TX, 0, Some(grown)),
        SubjectKind::Slb => (step.expect.verdict, step.packets, Some(step.expect.grown)),
        SubjectKind::Other => (step.expect.verdict, 0, None),
    };
    ensure!(
        sent.verdict == verdict,
        "`{}` returns XDP action {} in place of {verdict}",
        subject.name,
        sent.verdict
    );
    before.verify(&CounterSnapshot::of(kernel, workload)?, &step.expect, packets)?;
    // The wrapper reports the growth of the packet before, so one packet alone shows none.
    if let Some(grown) = grown.filter(|_| step.packets > 1) {
        ensure!(
            sent.grown == grown,
            "`{}` makes the frame grow by {} bytes, not by {grown}",
            subject.name,
            sent.grown
        );
    }
    Ok(sent)
}

/// SLB's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct CounterSnapshot {
    totals: Totals,
    new_flows: u64,
}

impl CounterSnapshot {
    fn of(kernel: &Kernel, workload: &Workload) -> Result<Self> {
        let mut new_flows = 0;
        for id in workload.state.services.keys() {
            new_flows += kernel.service_counters(id.index())?.new_flows;
        }
        Ok(Self { totals: kernel.totals()?, new_flows })
    }

    /// Checks that SLB has counted `packets` since then, all as expected.
    fn verify(&self, after: &Self, expect: &ExpectedResult, packets: u64) -> Result<()> {
        let mut wanted = self.clone();
        if packets > 0 {
            let (action, reason) = expect.counted;
            *wanted.totals.entry((action as u8, reason as u32)).or_default() += packets;
            wanted.new_flows += if expect.new_flow { packets } else { 0 };
        }
        ensure!(
            *after == wanted,
            "packets did not go the way they should: {packets} more, as {expect:?}, must make {wanted:?}, and SLB has \
             counted {after:?}"
        );
        Ok(())
    }
}

/// Opens a pinned program. Only an XDP program can be set in the wrapper later.
fn from_pin(path: &Path) -> Result<ProgramFd> {
    let opened =
        ProgramInfo::from_pin(path).with_context(|| format!("cannot open the program {}", path.display()))?;
    Ok(opened.fd()?)
}

/// Temporary directory for pins, removed when this value is dropped.
struct PinDirectory(PathBuf);

impl PinDirectory {
    fn new() -> Result<Self> {
        let path = RunId::next().pin_dir();
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("pins stay behind in {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use slb_common::abi::stats::{Action, Reason};

    use super::*;

    fn counted(packets: u64, new_flows: u64) -> CounterSnapshot {
        CounterSnapshot {
            totals: Totals::from([((Action::Forward as u8, Reason::ToServer as u32), packets)]),
            new_flows,
        }
    }

    #[test]
    fn verify_rejects_wrong_packet_and_flow_counts() {
        let before = counted(10, 2);
        before.verify(&counted(15, 2), &ExpectedResult::TO_SERVER, 5).unwrap();
        before.verify(&counted(15, 7), &ExpectedResult::TO_SERVER.beginning(), 5).unwrap();
        before.verify(&counted(10, 2), &ExpectedResult::TO_SERVER.beginning(), 0).unwrap();
        // One packet too few, one new flow too many, one too few, another reason.
        assert!(before.verify(&counted(14, 2), &ExpectedResult::TO_SERVER, 5).is_err());
        assert!(before.verify(&counted(15, 3), &ExpectedResult::TO_SERVER, 5).is_err());
        assert!(before.verify(&counted(15, 6), &ExpectedResult::TO_SERVER.beginning(), 5).is_err());
        assert!(before.verify(&counted(15, 2), &ExpectedResult::TO_CLIENT, 5).is_err());
    }

    #[test]
    fn workloads_have_unique_names_and_valid_frames() {
        let all = all();
        let mut names: Vec<_> = all.iter().map(|workload| &workload.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for workload in &all {
            for step in workload.fill.iter().chain([&workload.measured]).chain(&workload.audit) {
                assert!(step.traffic.frame.len() >= if step.traffic.is_v6() { 96 } else { 64 });
                assert!(step.traffic.flows.is_power_of_two());
            }
        }
    }

    #[test]
    fn workload_filters_match_substrings_ignoring_case() {
        let options = |parts: &[&str]| PacketOptions {
            workloads: parts.iter().map(|&part| part.to_owned()).collect(),
            ..PacketOptions::default()
        };
        assert!(options(&[]).wants("nat TCP4"));
        assert!(options(&["udp", "tcp4"]).wants("nat TCP4"));
        assert!(!options(&["udp"]).wants("nat TCP4"));
    }
}
