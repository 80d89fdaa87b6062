//! The time that deadlines in the maps are in.

use std::time::Duration;

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

/// Time since the machine started; it goes on while the machine is suspended, and the maps live no longer.
pub(super) fn since_start() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}
