//! `cargo xtask manual`: manual pages and shell completions of all programs.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::process::{cargo, run, target_dir};

/// Writes them into `target/manual` and returns that directory.
///
/// # Errors
/// The build fails, or a file cannot be written.
pub(crate) fn write() -> Result<PathBuf> {
    let to = target_dir()?.join("manual");
    write_to(&to)?;
    Ok(to)
}

fn write_to(to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    let arguments = ["run", "--quiet", "--package", "slb-userspace", "--example", "manual", "--"];
    run(cargo(&arguments)?.arg(to))
}
