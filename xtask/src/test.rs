//! `cargo xtask test`: builds all tests, and runs the scenarios as root and the others as the current user.
//!
//! It starts test programs itself, without cargo, so that only they run as root and not the build. A test that cannot
//! run prints `skipped: REASON` and returns. Such a test counts as skipped, not as passed.

mod report;

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

pub(crate) use self::report::{Report, Totals};
use crate::{
    previous,
    process::{self, Privilege, cargo},
};

/// The package whose tests need root.
const PRIVILEGED: &str = "slb-tests";
/// Test programs of this package that run two tests at a time (`LANES` in tests/src/test_lock.rs), each with its own
/// network or maps. The others run one test at a time.
const SIDE_BY_SIDE: [&str; 3] = ["packets", "scenarios", "tracking"];

/// Name prefix of scenarios for the guest of `cargo xtask vm`. On the host they run only if a filter names them.
pub(crate) const GUEST_ONLY: &str = "guest::";

/// Builds and runs all tests whose name contains `filter`.
///
/// # Errors
/// A program cannot be built or started, or no test matches the filter. Failed tests are no error: the totals count
/// them.
pub(crate) fn run(filter: Option<&str>) -> Result<Totals> {
    // Before this build, because both leave a program `slbd` at the same path.
    previous::build(filter)?;
    let (mut programs, mut privileged): (Vec<_>, Vec<_>) =
        build()?.into_iter().partition(|program| program.package != PRIVILEGED);
    programs.sort_unstable();
    privileged.sort_unstable();

    let mut totals = Totals::default();
    for program in &programs {
        totals += execute(program.arguments(Command::new(&program.path), filter, &[]))?;
    }
    let mut doc = cargo(&["test", "--doc", "--no-fail-fast", "--quiet"])?;
    doc.args(filter.map(|filter| ["--", filter]).into_iter().flatten());
    totals += execute(doc)?;

    let privilege = if privileged.is_empty() { Privilege::None } else { Privilege::find() };
    for program in &privileged {
        let is_side_by_side = SIDE_BY_SIDE.contains(&program.name.as_str());
        let mut more = vec![if is_side_by_side { "--test-threads=2" } else { "--test-threads=1" }];
        if filter.is_none() && program.name == "scenarios" {
            println!("scenarios {GUEST_ONLY} run in the guest, by cargo xtask vm");
            more.extend(["--skip", GUEST_ONLY]);
        }
        let command = program.arguments(privilege.command(&program.path), filter, &more);
        totals += execute(command)?;
    }
    if let Some(filter) = filter.filter(|_| totals == Totals::default()) {
        bail!("no test has a name that contains {filter:?}");
    }
    Ok(totals)
}

/// Builds the programs of SLB and the test programs that need root. Returns names and paths of the latter.
///
/// # Errors
/// The build fails.
pub(crate) fn privileged_programs() -> Result<Vec<(String, PathBuf)>> {
    let programs = build()?.into_iter().filter(|program| program.package == PRIVILEGED);
    Ok(programs.map(|program| (program.name, program.path)).collect())
}

/// A built test program.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Program {
    package: String,
    /// Name of the program in its package.
    name: String,
    path: PathBuf,
    /// Directory of its package, which is its working directory under cargo.
    directory: PathBuf,
}

impl Program {
    fn arguments(&self, mut command: Command, filter: Option<&str>, more: &[&str]) -> Command {
        command.current_dir(&self.directory).arg("--show-output").args(more).args(filter);
        command
    }
}

/// Builds all test programs and lists them. Cargo also builds the programs of packages with integration tests: `slbd`,
/// `slb`, `slb-decap`, `slb-toa`, `slb-demo` and `slb-bench`, which the tests start.
fn build() -> Result<Vec<Program>> {
    let mut command = cargo(&["test", "--no-run"])?;
    process::show(&command);
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let output =
        command.spawn().and_then(std::process::Child::wait_with_output).context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests cannot be built");
    }
    programs(&String::from_utf8(output.stdout)?)
}

/// Reads the test programs from cargo's messages, one JSON document per line.
fn programs(messages: &str) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages are not JSON")?;
        let (Some(executable), Some(true)) =
            (message["executable"].as_str(), message["profile"]["test"].as_bool())
        else {
            continue;
        };
        let manifest = message["manifest_path"].as_str().map(Path::new).and_then(Path::parent);
        let directory = manifest.context("a message of cargo has no manifest_path")?;
        let package = message["package_id"].as_str().context("a message of cargo has no package_id")?;
        let name =
            message["target"]["name"].as_str().context("a message of cargo has no name of a target")?;
        programs.push(Program {
            package: package_name(package).to_owned(),
            name: name.to_owned(),
            path: PathBuf::from(executable),
            directory: directory.to_path_buf(),
        });
    }
    Ok(programs)
}

/// The package name in a package id: `path+file:///dir/name#1.0.0`, or `path+file:///dir/other#name@1.0.0` if the
/// directory has another name.
fn package_name(id: &str) -> &str {
    let (location, version) = id.rsplit_once('#').unwrap_or((id, ""));
    match version.split_once('@') {
        Some((name, _)) => name,
        None => location.rsplit('/').next().unwrap_or(location),
    }
}

/// Runs a test program, shows its output, and counts its tests.
fn execute(mut command: Command) -> Result<Totals> {
    process::show(&command);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start a test")?;
    let mut report = Report::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            if let Some(shown) = report.line(&String::from_utf8_lossy(&line?)) {
                println!("{shown}");
            }
        }
    }
    Ok(report.finish(child.wait()?.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_in_cargo_messages() {
        let messages = [
            r#"{"reason":"compiler-artifact","package_id":"path+file:///w/tests#slb-tests@0.1.0",
                "manifest_path":"/w/tests/Cargo.toml","target":{"name":"scenarios"},"profile":{"test":true},"executable":"/t/a"}"#,
            r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":"/t/b"}"#,
            r#"{"reason":"compiler-artifact","profile":{"test":true},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
        ];
        let messages = messages.map(|message| message.replace('\n', "")).join("\n");
        let expected = Program {
            package: PRIVILEGED.to_owned(),
            name: "scenarios".to_owned(),
            path: PathBuf::from("/t/a"),
            directory: PathBuf::from("/w/tests"),
        };
        assert_eq!(programs(&messages).unwrap(), [expected]);
    }

    #[test]
    fn package_ids_have_two_forms() {
        assert_eq!(package_name("path+file:///w/tests#slb-tests@0.1.0"), "slb-tests");
        assert_eq!(package_name("path+file:///w/slb-common#0.1.0"), "slb-common");
    }
}
