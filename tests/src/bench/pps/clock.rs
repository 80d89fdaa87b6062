//! Processor time that the benchmark consumes.
//!
//! Other processes may use the same processor, and each call into the kernel ends with a wait for the other processors;
//! neither may count. The clock is the running time of the benchmark's thread, including its soft interrupts, and that
//! of `ksoftirqd`, which takes over under load. With `CONFIG_IRQ_TIME_ACCOUNTING` the kernel leaves interrupts out of
//! these times; wall-clock time is used there.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Clock of one thread that is pinned to a processor. Only that thread may read it.
#[derive(Debug)]
pub(super) enum Clock {
    /// Running time of this thread, plus that in the `schedstat` file of this path.
    Processor(PathBuf),
    /// Wall-clock time since this moment.
    Wall(Instant),
}

impl Clock {
    /// Clock for the thread on processor `cpu`.
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

    /// Current reading. Only differences have a meaning.
    pub(super) fn read(&self) -> Result<Duration> {
        match self {
            Self::Processor(softirqs) => {
                Ok(run_time(Path::new("/proc/thread-self/schedstat"))? + run_time(softirqs)?)
            }
            Self::Wall(start) => Ok(start.elapsed()),
        }
    }
}

/// Running time of a thread: the first field of `schedstat`, in nanoseconds.
fn run_time(path: &Path) -> Result<Duration> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let run_time = text.split_whitespace().next().context("no time")?;
    Ok(Duration::from_nanos(run_time.parse()?))
}
