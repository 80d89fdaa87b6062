//! What the daemons of a world have logged.

use std::{fs, time::Duration};

use anyhow::Result;

use super::World;
use crate::wait::wait_for;

/// How long a line may take to come, also on an emulated processor.
const LIMIT: Duration = Duration::from_secs(120);

impl World {
    /// Everything the daemons of this world have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("slbd.log")).unwrap_or_default()
    }

    /// Waits until the daemon has logged `text` once more than `before` times.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_for_log(&self, text: &str, before: usize) -> Result<()> {
        wait_for(&format!("`{text}` in the log"), LIMIT, || {
            Ok((self.log().matches(text).count() > before).then_some(()))
        })
    }

    /// Waits until the daemon has logged a line with all of these pieces.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_for_line(&self, pieces: &[&str]) -> Result<()> {
        wait_for(&format!("a line with {pieces:?} in the log"), LIMIT, || {
            let log = self.log();
            let has_all = |line: &str| pieces.iter().all(|piece| line.contains(piece));
            Ok(log.lines().any(has_all).then_some(()))
        })
    }
}
