//! The machine on which a benchmark runs.

use std::fs;

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;

/// Properties of the machine on which figures depend.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Processor model.
    pub processor: String,
    /// Number of cores that this process may use.
    pub cores: usize,
    /// `net.core.bpf_jit_enable`; without it the kernel interprets programs.
    pub bpf_jit: String,
    /// `net.core.bpf_jit_harden`; blinding of constants costs time.
    pub bpf_jit_harden: String,
    /// `kernel.bpf_stats_enabled`; measuring every program costs time.
    pub bpf_stats: String,
}

impl Machine {
    /// Reads the properties from the kernel.
    pub fn new() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        Ok(Self {
            kernel: setting("kernel/osrelease"),
            processor: model
                .map_or_else(unknown, |model| model.trim_start_matches(['\t', ' ', ':']).to_owned()),
            cores: usable()?.len(),
            bpf_jit: setting("net/core/bpf_jit_enable"),
            bpf_jit_harden: setting("net/core/bpf_jit_harden"),
            bpf_stats: setting("kernel/bpf_stats_enabled"),
        })
    }
}

/// Pins this thread to one core, and returns its number.
///
/// # Errors
/// The kernel refuses.
pub fn pin_to_core() -> Result<usize> {
    // The last core, since interrupts usually arrive at the first.
    let core = usable()?.pop().context("this process may use no core")?;
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot stay on core {core}"))?;
    Ok(core)
}

/// Cores that this thread may use, in ascending order.
fn usable() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("cannot find out which cores may be used")?;
    Ok((0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect())
}

fn setting(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/{name}")).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}
