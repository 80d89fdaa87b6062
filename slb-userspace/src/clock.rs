//! What time it is, and how much of it has been used.

use std::time::Duration;

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

/// Time since the machine started, which deadlines in the maps are in; it goes on while the machine is suspended, and the maps live
/// no longer.
pub fn since_start() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

/// A time to the millisecond, as people read it in the log.
pub fn rounded(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Time for which a processor has worked for this thread.
pub fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
