//! Clocks: time since boot, and CPU time.

use std::time::Duration;

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

/// Time since boot (`CLOCK_BOOTTIME`), as used by deadlines in the maps. It advances during suspend.
/// Maps do not outlive a start of the machine, so it never restarts for them.
pub fn since_boot() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

/// The clock of `bpf_ktime_get_ns` (`CLOCK_MONOTONIC`).
pub fn monotonic() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// A duration rounded down to milliseconds, for the log.
pub fn rounded(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// CPU time of this thread.
pub fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
