//! The log of a world's daemons.

use std::{fs, time::Duration};

use anyhow::Result;

use super::World;
use crate::wait::wait_for;

/// How long a log line may take; an emulated processor needs most of it.
const LIMIT: Duration = Duration::from_secs(120);

impl World {
    /// All log text of this world's daemons.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("slbd.log")).unwrap_or_default()
    }

    /// Waits until the log contains `text` more than `before` times.
    ///
    /// # Errors
    /// It does not within 120 s.
    pub fn wait_for_log(&self, text: &str, before: usize) -> Result<()> {
        wait_for(&format!("`{text}` in the log"), LIMIT, || {
            Ok((self.log().matches(text).count() > before).then_some(()))
        })
    }

    /// Waits until a log line contains all of these pieces.
    ///
    /// # Errors
    /// No line does within 120 s.
    pub fn wait_for_line(&self, pieces: &[&str]) -> Result<()> {
        wait_for(&format!("a line with {pieces:?} in the log"), LIMIT, || {
            let log = self.log();
            let has_all = |line: &str| pieces.iter().all(|piece| line.contains(piece));
            Ok(log.lines().any(has_all).then_some(()))
        })
    }
}
