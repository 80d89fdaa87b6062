//! `cargo xtask demo`: builds SLB and its demo, and becomes the demo.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{self, Privilege, cargo, target_dir},
    setup,
};

/// Builds everything as the current user, as it would be installed, then replaces this process by the demo, run as root: signals reach it
/// directly and its exit code is the answer.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    setup::run(setup::Extent::Needed)?;
    let mut build = cargo(&["build", "--release", "--package", "slb-userspace", "--package", "slb-tests"])?;
    process::run(build.args(["--bin", "slbd", "--bin", "slb", "--bin", "slb-demo"]))?;
    let privilege = Privilege::find();
    if privilege == Privilege::None {
        bail!("the demo makes network namespaces, which needs root; run it as root, or where sudo can ask");
    }
    let mut demo = privilege.command(&target_dir()?.join("release/slb-demo"));
    demo.args(arguments);
    process::show(&demo);
    let error = demo.exec();
    Err(error).context("cannot start the demo")
}
