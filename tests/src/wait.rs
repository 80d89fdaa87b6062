//! Waits for conditions, never for time to pass.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Interval between two checks of a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls `probe` until it returns a value.
///
/// # Errors
/// `probe` fails, which ends the wait at once; or it returns no value within `limit`.
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

/// Turns a late answer of a daemon into `None`, since it may answer the next time on a busy machine.
///
/// # Errors
/// Any other error.
pub fn unless_late<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(error) if format!("{error:#}").contains("does not answer within") => Ok(None),
        answer => answer.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, path::Path};

    use slb_api::client;
    use tokio::runtime;

    use super::*;

    fn asked(socket: &Path) -> Result<Option<()>> {
        let clock = runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = clock.block_on(client::status(socket));
        Ok(unless_late(answer.and_then(|status| status.ok_or_else(|| client::no_daemon(socket))))?.map(drop))
    }

    #[test]
    fn late_answer_is_retried_and_missing_daemon_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("slb.sock");
        let silent = UnixListener::bind(&socket).unwrap();
        assert!(matches!(asked(&socket), Ok(None)));
        drop(silent);
        assert!(format!("{:#}", asked(&socket).unwrap_err()).contains("no daemon listens"));
    }
}
