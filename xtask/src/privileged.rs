//! `cargo xtask demo` and `cargo xtask bench`: builds SLB and a program of slb-tests, and becomes that program.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{self, Privilege, cargo, target_dir},
    setup,
};

/// Builds everything as the current user, as it would be installed, then replaces this process by `program`, run as
/// root: signals reach it directly and its exit code is the answer.
///
/// `extent` is what it needs to run.
pub(crate) fn become_program(
    program: &str,
    arguments: &[OsString],
    extent: setup::Extent,
) -> Result<ExitCode> {
    setup::run(extent)?;
    let mut build = cargo(&["build", "--release", "--package", "slb-userspace", "--package", "slb-tests"])?;
    process::run(build.args(["slbd", "slb", "slb-decap", program].iter().flat_map(|name| ["--bin", name])))?;
    let privilege = Privilege::find();
    if privilege == Privilege::None {
        bail!(
            "{program} makes network namespaces and loads XDP programs, which needs root; run it as root, or where \
             sudo can ask"
        );
    }
    let mut command = privilege.command(&target_dir()?.join("release").join(program));
    command.args(arguments);
    process::show(&command);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {program}"))
}
