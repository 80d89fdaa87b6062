//! `cargo xtask lint`: formatting, clippy for host and BPF crates, document links, structure, words, licences and
//! sources of dependencies.

mod documents;
mod structure;
mod words;

use std::{path::PathBuf, process::Command};

use anyhow::{Result, anyhow};
use ebpf_build::{BENCHMARKS, Build, PRODUCT, Package, toolchain::Search};

use crate::process::{self, cargo, target_dir, workspace};

/// Compiler arguments of clippy that turn warnings into errors.
const DENY: [&str; 3] = ["--", "-D", "warnings"];

/// Runs all checks, and stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    let search = Search::from_env();
    process::run(&mut cargo(&["fmt", "--all", "--check"])?)?;
    documents::check(&workspace()?)?;
    structure::check(&workspace()?)?;
    words::check(&workspace()?)?;
    let host = ["clippy", "--all-targets", "--all-features"];
    process::run(cargo(&host)?.args(DENY))?;
    // As the demo is built.
    process::run(
        cargo(&["clippy", "--package", "slb-tests", "--no-default-features", "--lib", "--bins"])?.args(DENY),
    )?;
    for (package, debug_log) in [(&PRODUCT, false), (&PRODUCT, true), (&BENCHMARKS, false)] {
        ebpf(&search, package, debug_log)?;
    }
    dependencies(&search)
}

/// Finds cargo-deny among SLB's own tools, or on `PATH`.
pub(crate) fn cargo_deny(search: &Search) -> Option<PathBuf> {
    let own = search.tools.as_ref().map(|tools| tools.join("bin/cargo-deny")).filter(|path| path.is_file());
    own.or_else(|| search.program("cargo-deny"))
}

/// Runs clippy of the eBPF compiler on a package, for the BPF target.
fn ebpf(search: &Search, package: &Package, debug_log: bool) -> Result<()> {
    if let Some(object) = ebpf_build::own_objects() {
        println!("lint: skipped clippy on {}: {} is used in place of it", package.name, object.display());
        return Ok(());
    }
    let toolchain = search.toolchain().map_err(|missing| anyhow!("{missing}"))?;
    let build = Build { workspace: workspace()?, target_dir: target_dir()?, debug_log };
    let clippy = toolchain.cargo.with_file_name("cargo-clippy");
    if !clippy.is_file() {
        println!(
            "lint: skipped clippy on {}: {} has none; `cargo xtask setup` adds it",
            package.name, toolchain.origin
        );
        return Ok(());
    }
    let mut command = build.cargo(&toolchain, &clippy);
    process::run(
        command.env("CARGO", &toolchain.cargo).arg("clippy").args(build.arguments(package)).args(DENY),
    )
}

/// Checks licences, duplicates and sources; also advisories, if their database can be downloaded.
fn dependencies(search: &Search) -> Result<()> {
    let Some(deny) = cargo_deny(search) else {
        println!("lint: skipped cargo-deny: not installed; `cargo xtask setup --all` builds it");
        return Ok(());
    };
    let workspace = workspace()?;
    let deny = |arguments: &[&str]| {
        let mut command = Command::new(&deny);
        command.current_dir(&workspace).args(arguments);
        process::run(&mut command)
    };
    deny(&["check", "licenses", "bans", "sources"])?;
    if let Err(error) = deny(&["fetch", "db"]) {
        println!("lint: skipped advisories: RustSec's database cannot be fetched: {error:#}");
        return Ok(());
    }
    deny(&["check", "--disable-fetch", "advisories"])
}
