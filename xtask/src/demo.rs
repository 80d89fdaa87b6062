//! `cargo xtask demo`: builds SLB and its demo, and becomes the demo.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Result, bail};

use crate::{
    process::{self, Privilege, cargo, target_dir},
    setup,
};

/// Builds everything as the current user, then replaces this process by the demo, run as root: signals reach it
/// directly and its exit code is the answer.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    setup::run(setup::Extent::Needed)?;
    process::run(&mut cargo(&["build", "--package", "slb-userspace", "--package", "slb-tests", "--bins"])?)?;
    let privilege = Privilege::find();
    if privilege == Privilege::None {
        bail!("the demo makes network namespaces, which needs root; run it as root, or where sudo can ask");
    }
    let mut demo = privilege.command(&target_dir()?.join("debug/slb-demo"));
    demo.args(arguments);
    process::show(&demo);
    Err(demo.exec().into())
}
