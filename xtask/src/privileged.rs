//! `cargo xtask demo` and `cargo xtask bench`: build SLB and a program of slb-tests, and run that program as root.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{self, Privilege, cargo, target_dir},
    setup,
};

/// A program of slb-tests, and how it is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    name: &'static str,
    /// Cargo's profile, which is also the name of its directory.
    profile: &'static str,
    /// Whether it needs what the tests need: the feature `checks` of slb-tests.
    checks: bool,
}

/// The demo, with a profile that is fast to build.
pub(crate) const DEMO: Program = Program { name: "slb-demo", profile: "demo", checks: false };

/// The benchmarks, with the profile of an installation.
pub(crate) const BENCH: Program = Program { name: "slb-bench", profile: "release", checks: true };

impl Program {
    /// Arguments of cargo that build it, and the programs of SLB that it starts.
    fn build(self) -> Vec<&'static str> {
        let mut arguments = vec!["build", "--profile", self.profile];
        arguments.extend(["--package", "slb-userspace", "--package", "slb-tests"]);
        if !self.checks {
            arguments.push("--no-default-features");
        }
        arguments.extend(
            ["slbd", "slb", "slb-decap", "slb-toa", self.name].iter().flat_map(|name| ["--bin", name]),
        );
        arguments
    }
}

/// Builds everything as the current user, then replaces this process by `program`, run as root. Signals thus reach it
/// directly, and its exit status is the command's.
///
/// `extent` is the part of `cargo xtask setup` that it needs.
pub(crate) fn become_program(
    program: Program,
    arguments: &[OsString],
    extent: setup::Extent,
) -> Result<ExitCode> {
    setup::run(extent)?;
    process::run(&mut cargo(&program.build())?)?;
    let name = program.name;
    let privilege = Privilege::find();
    if privilege == Privilege::None {
        bail!(
            "{name} makes network namespaces and loads XDP programs, which needs root; run it as root, or where \
             sudo can ask"
        );
    }
    let mut command = privilege.command(&target_dir()?.join(program.profile).join(name));
    command.args(arguments);
    process::show(&command);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demo_is_built_without_what_tests_need() {
        let arguments = DEMO.build();
        assert!(arguments.contains(&"--no-default-features"), "{arguments:?}");
        assert!(arguments.ends_with(&["--bin", "slb-demo"]), "{arguments:?}");
        assert!(!BENCH.build().contains(&"--no-default-features"));
    }
}
