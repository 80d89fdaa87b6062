//! Reads the kernel's jiffies, the clock of the data path, by a BPF program. No file shows them in every container. The
//! monotonic clock deviates from them by lost ticks and NTP.

use slb_common::abi::time::Jiffies;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunOptions, Xdp},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb-jiffies.o"));
const PROGRAM: &str = "slb_jiffies";

/// The shortest frame that an XDP test run takes: an Ethernet header.
const FRAME: [u8; 14] = [0; 14];

/// The program, loaded at the first call.
static LOADED: Mutex<Option<Ebpf>> = Mutex::new(None);

/// The low word of `jiffies_64`.
///
/// # Errors
/// This process may not load BPF programs, or not run them.
pub(super) fn now() -> Result<Jiffies> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let ebpf = match &mut *loaded {
        Some(ebpf) => ebpf,
        empty => empty.insert(load().context("cannot load the BPF program that reads jiffies")?),
    };
    let run = program(ebpf)?.test_run(TestRunOptions { data_in: Some(&FRAME), ..TestRunOptions::new() });
    let run = run.context("cannot run the BPF program that reads jiffies")?;
    Ok(Jiffies::new(run.return_value))
}

fn load() -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(OBJECT)?;
    program(&mut ebpf)?.load()?;
    Ok(ebpf)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program =
        ebpf.program_mut(PROGRAM).with_context(|| format!("the BPF object has no program {PROGRAM}"))?;
    Ok(program.try_into()?)
}
