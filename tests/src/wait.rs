//! Waiting for conditions, never for the mere passing of time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Time between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `probe` until it yields a value, and fails when it has not within `limit`.
///
/// # Errors
/// What `probe` returns as an error ends the waiting at once.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(PAUSE);
    }
}
