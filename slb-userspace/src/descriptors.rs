//! The limit of open file descriptors (`RLIMIT_NOFILE`): every map and every socket is one.

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Enough for 10,000 unanswered health checks, and as many descriptors again.
const WANTED_LIMIT: u64 = 65_536;
/// The usual default limit.
const DEFAULT_LIMIT: u64 = 1_024;

/// Raises the soft limit to the hard limit. Raises both to 65,536 if the hard limit is lower and this process may.
///
/// # Errors
/// The kernel refuses a value within the hard limit.
pub fn raise() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < WANTED_LIMIT && setrlimit(Resource::RLIMIT_NOFILE, WANTED_LIMIT, WANTED_LIMIT).is_ok() {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}

/// The soft limit; the usual default if it cannot be read.
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(DEFAULT_LIMIT, |(soft, _)| soft)
}
