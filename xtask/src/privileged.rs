//! `cargo xtask demo` and `cargo xtask bench`: build SLB and a program of slb-tests, and run that program as root.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{self, Privilege, cargo, target_dir},
    setup,
};

/// Builds everything as the current user, with the profile of an installation, then replaces this process by `program`,
/// run as root. Signals thus reach it directly, and its exit status is the command's.
///
/// `extent` is the part of `cargo xtask setup` that it needs.
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
