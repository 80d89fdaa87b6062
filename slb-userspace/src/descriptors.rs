//! How many files this process may have open: every map and every socket is one.

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Enough for 10,000 health checks none of which is answered, and as much again.
const ENOUGH: u64 = 65_536;
/// What a process has when nobody says anything else.
const USUAL: u64 = 1_024;

/// Raises the limit: to what is allowed, and beyond that to what is enough, where this process may.
///
/// # Errors
/// The kernel refuses even what it allows.
pub fn raise() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < ENOUGH && setrlimit(Resource::RLIMIT_NOFILE, ENOUGH, ENOUGH).is_ok() {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}

/// The limit.
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| soft)
}
