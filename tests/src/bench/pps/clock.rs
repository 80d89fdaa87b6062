//! Processor time that the benchmark uses.
//!
//! Others may want the same processor, and each call into the kernel ends with a wait for the other processors. Neither is
//! to count. What counts is the time of the benchmark's own thread, soft interrupts in it included, and that of
//! `ksoftirqd`, which goes on with the work when there is much of it. A kernel that keeps the time of interrupts apart
//! (`CONFIG_IRQ_TIME_ACCOUNTING`) does not say this; there, it is the clock on the wall.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// For one thread, pinned to one processor; to be read by that thread.
#[derive(Debug)]
pub(super) enum Clock {
    /// Of this thread and of the process with this path.
    Processor(PathBuf),
    /// On the wall, since then.
    Wall(Instant),
}

impl Clock {
    /// For the thread on processor `cpu`.
    pub(super) fn new(cpu: usize) -> Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let config = fs::read_to_string(format!("/boot/config-{}", release.trim())).unwrap_or_default();
        if config.contains("CONFIG_IRQ_TIME_ACCOUNTING=y") {
            return Ok(Self::Wall(Instant::now()));
        }
        let name = format!("ksoftirqd/{cpu}");
        let is_it =
            |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let mut processes = fs::read_dir("/proc")?.filter_map(|entry| Some(entry.ok()?.path()));
        let process = processes.find(is_it).with_context(|| format!("no process {name}"))?;
        Ok(Self::Processor(process.join("schedstat")))
    }

    /// Reads it; only differences mean something.
    pub(super) fn read(&self) -> Result<Duration> {
        match self {
            Self::Processor(softirqs) => {
                Ok(run_time(Path::new("/proc/thread-self/schedstat"))? + run_time(softirqs)?)
            }
            Self::Wall(start) => Ok(start.elapsed()),
        }
    }
}

/// Time that a thread has been running: the first number, in nanoseconds.
fn run_time(path: &Path) -> Result<Duration> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let run_time = text.split_whitespace().next().context("no time")?;
    Ok(Duration::from_nanos(run_time.parse()?))
}
