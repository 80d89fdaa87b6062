//! Builds the release of `slbd` that tests of upgrades begin with, from the history of git.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{self, cargo, target_dir, workspace};

/// Its ABI version: `PREVIOUS_ABI` of slb-tests.
const ABI: u32 = 10;
/// The last commit with that version.
const COMMIT: &str = "afef8a9793582e175e53403b07b8781b52362f6f";
/// The module of the tests that need it.
const TESTS: &str = "upgrade::";

/// Builds it beside the programs of this build, as `slbd-v<ABI>`, unless no test with `filter` in its name needs it.
///
/// # Errors
/// The history lacks the commit, or the build fails.
pub(crate) fn build(filter: Option<&str>) -> Result<()> {
    if filter.is_some_and(|filter| !TESTS.contains(filter) && !filter.contains(TESTS)) {
        return Ok(());
    }
    let directory = target_dir()?.join("previous").join(COMMIT);
    let kept = directory.join("slbd");
    let programs = target_dir()?.join("debug");
    if !kept.exists() {
        let source = directory.join("source");
        extract(&source)?;
        let mut command = cargo(&["build", "--package", "slb-userspace", "--bin", "slbd"])?;
        process::run(command.current_dir(&source).arg("--target-dir").arg(target_dir()?))?;
        let built = programs.join("slbd");
        expect_abi(&built)?;
        copy(&built, &kept)?;
        fs::remove_dir_all(&source)?;
    }
    copy(&kept, &programs.join(format!("slbd-v{ABI}")))
}

/// Writes the files of the commit to `directory`.
fn extract(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    let mut archive = Command::new("git");
    archive.args(["archive", COMMIT]).current_dir(workspace()?).stdout(Stdio::piped());
    process::show(&archive);
    let mut archive = archive.spawn().context("cannot start git")?;
    let files = archive.stdout.take().context("git has no output")?;
    let unpacked = Command::new("tar").arg("-x").arg("-C").arg(directory).stdin(files).status();
    if !archive.wait()?.success() {
        bail!("the history lacks commit {COMMIT}: fetch it with `git fetch --unshallow`");
    }
    ensure!(unpacked.context("cannot start tar")?.success(), "tar cannot unpack the commit");
    rename(&directory.join("Cargo.toml"))
}

/// Gives the packages another version. Cargo tells packages of two workspaces in one target directory apart by their
/// versions only. Their dependencies are those of this build, so few are compiled again.
fn rename(manifest: &Path) -> Result<()> {
    let text = fs::read_to_string(manifest)?;
    let (before, after) = text
        .split_once("[workspace.package]\nversion = \"")
        .with_context(|| format!("{} has no version of the workspace", manifest.display()))?;
    let renamed = format!("{before}[workspace.package]\nversion = \"0.0.{ABI}+previous.{after}");
    Ok(fs::write(manifest, renamed)?)
}

/// Fails unless the program is of the expected ABI version.
fn expect_abi(program: &Path) -> Result<()> {
    let output = Command::new(program).arg("--version").output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(said.contains(&format!("ABI {ABI})")), "{} is not of ABI {ABI}: {said}", program.display());
    Ok(())
}

/// Replaces `to`, which a test may be running.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let temporary: PathBuf = to.with_extension("new");
    fs::copy(from, &temporary).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(fs::rename(&temporary, to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_the_commit_get_a_version_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = directory.path().join("Cargo.toml");
        fs::write(&manifest, "[package]\n\n[workspace.package]\nversion = \"0.1.0\"\nedition = \"2024\"\n")
            .unwrap();
        rename(&manifest).unwrap();
        let renamed = fs::read_to_string(&manifest).unwrap();
        assert!(renamed.ends_with("version = \"0.0.10+previous.0.1.0\"\nedition = \"2024\"\n"), "{renamed}");
        fs::write(&manifest, "[package]\n").unwrap();
        assert!(rename(&manifest).unwrap_err().to_string().contains("has no version of the workspace"));
    }
}
