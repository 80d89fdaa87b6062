//! `cargo xtask deb --try SUITE`: installs, upgrades and removes the packages in a Debian.

use std::{ffi::OsStr, fs, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::process::{Privilege, run, target_dir, workspace};

/// Builds two revisions of the packages by `build`, and runs `packaging/try/run` with them.
///
/// # Errors
/// A build fails, or a step of the script.
pub(crate) fn run_in(suite: &str, build: impl Fn(u32) -> Result<()>) -> Result<()> {
    if Privilege::find() == Privilege::None {
        bail!("`--try` boots a Debian, which needs root: run it as root, or where sudo can ask");
    }
    let kept = target_dir()?.join("try");
    fs::create_dir_all(&kept)?;
    let mut directories = Vec::new();
    for revision in [1, 2] {
        build(revision)?;
        let directory = kept.join(format!("revision-{revision}"));
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir(&directory)?;
        for file in fs::read_dir(target_dir()?.join("deb"))? {
            let file = file?.path();
            if file.extension() == Some(OsStr::new("deb")) {
                copy(&file, &directory)?;
            }
        }
        directories.push(directory);
    }
    let script = workspace()?.join("packaging/try/run");
    run(Privilege::find().command(&script).arg(suite).args(directories))
}

fn copy(file: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg(file).arg(to))
}
