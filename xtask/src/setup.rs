//! `cargo xtask setup`: finds or installs what building and testing need, and says what it found and did.
//!
//! Nothing that is there is touched. Rustup comes first; where it can download nothing, Debian's compiler is used.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use ebpf_build::toolchain::{Compiler, DEBIAN_PACKAGES, LINKER_VERSION, Origin, Search};

use crate::{
    packages,
    process::{self, Privilege, cargo, run_within},
};

/// How long rustup may take to download a toolchain.
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);

/// Clippy of Debian's compiler.
const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// How much is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What building and testing need.
    Needed,
    /// The tools of `lint` that take long to build, too.
    All,
    /// What the benchmarks compare SLB with, too.
    Bench,
    /// What running Debian's kernels needs, too.
    Vm,
}

/// Finds or installs everything.
///
/// # Errors
/// Names the commands to run by hand when the eBPF toolchain cannot be had.
pub(crate) fn run(extent: Extent) -> Result<()> {
    let search = Search::from_env();
    toolchain(&search)?;
    ebpf_clippy(&search);
    openssl(&search)?;
    test_tools(&search)?;
    if extent == Extent::All {
        cargo_deny(&search)?;
    }
    if extent == Extent::Bench {
        bench_tools(&search);
    }
    if extent == Extent::Vm {
        vm_tools(&search);
    }
    Ok(())
}

/// Makes sure that there is an eBPF toolchain.
fn toolchain(search: &Search) -> Result<()> {
    if let Some(object) = ebpf_build::own_objects() {
        println!("setup: XDP program: {} is used, no toolchain needed", object.display());
        return Ok(());
    }
    if search.toolchain().is_err() {
        install_toolchain(search);
    }
    let found = search.toolchain().map_err(|missing| anyhow!("{missing}"))?;
    println!("setup: eBPF toolchain: {found}");
    Ok(())
}

/// Tries each way to a toolchain, the next one when one fails.
fn install_toolchain(search: &Search) {
    let mut compilers = search.compilers();
    if compilers.is_empty() && search.program("rustup").is_some() {
        match rustup_nightly() {
            Ok(()) => compilers = search.compilers(),
            Err(error) => println!("setup: {error:#}; trying Debian's compiler"),
        }
    }
    for compiler in &compilers {
        match install_linker(search, compiler) {
            Ok(()) => return,
            Err(error) => println!("setup: no bpf-linker for {}: {error:#}", compiler.origin),
        }
    }
    if compilers.iter().any(|compiler| matches!(compiler.origin, Origin::System(_))) {
        return;
    }
    if let Err(error) = debian_compiler(search) {
        println!("setup: no compiler from Debian: {error:#}");
    }
}

fn rustup_nightly() -> Result<()> {
    println!("setup: no compiler with rust-src; asking rustup for one");
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--no-self-update"]);
    rustup.args(["--component", "rust-src", "--component", "clippy"]);
    run_within(RUSTUP_LIMIT, &mut rustup)
}

fn debian_compiler(search: &Search) -> Result<()> {
    println!("setup: installing Debian's compiler and its sources");
    packages::install(search, &DEBIAN_PACKAGES)?;
    let compilers = search.compilers();
    let system = compilers.iter().find(|compiler| matches!(compiler.origin, Origin::System(_)));
    let system = system.context("the packages are installed, but hold no recent compiler with sources")?;
    install_linker(search, system)
}

/// Installs bpf-linker for the compiler's LLVM into SLB's own directory of tools.
fn install_linker(search: &Search, compiler: &Compiler) -> Result<()> {
    let llvm = compiler.llvm;
    let root = search.linker_dir(llvm).context("neither HOME nor XDG_DATA_HOME says where to install it")?;
    println!("setup: installing bpf-linker {LINKER_VERSION} for LLVM {llvm} into {}", root.display());
    let prefix = Path::new("/usr/lib").join(format!("llvm-{llvm}"));
    if !prefix.join("bin/llvm-config").is_file() {
        if matches!(compiler.origin, Origin::Rustup(_)) && search.program("cargo-binstall").is_some() {
            let mut binstall = cargo(&["binstall", "--no-confirm", "--root"])?;
            return process::run(binstall.arg(&root).arg("bpf-linker"));
        }
        packages::install(search, &[&format!("llvm-{llvm}-dev")])?;
    }
    let mut install = compiler.cargo();
    let bin = [prefix.join("bin")];
    let path = std::env::join_paths(bin.iter().cloned().chain(std::env::split_paths(&search.path)))?;
    install
        .env("LLVM_PREFIX", &prefix)
        .env("PATH", path)
        .args(["install", "bpf-linker", "--locked", "--version", LINKER_VERSION, "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}")])
        .arg("--root")
        .arg(&root);
    process::run(&mut install)
}

/// Adds clippy to Debian's compiler; `lint` does without it where that fails.
fn ebpf_clippy(search: &Search) {
    let Ok(toolchain) = search.toolchain() else { return };
    let is_system = matches!(toolchain.origin, Origin::System(_));
    if !is_system || toolchain.cargo.with_file_name("cargo-clippy").is_file() {
        return;
    }
    if let Err(error) = packages::install(search, &[DEBIAN_CLIPPY]) {
        println!("setup: no clippy for slb-ebpf: {error:#}");
    }
}

/// Makes sure of OpenSSL's headers.
fn openssl(search: &Search) -> Result<()> {
    let missing = packages::missing_for_build(search);
    if missing.is_empty() {
        println!("setup: OpenSSL: there");
        return Ok(());
    }
    packages::install(search, &missing).context(
        "OpenSSL's headers are missing; `cargo build --package slb-userspace --features openssl/vendored` builds \
         OpenSSL from source, which needs perl and make",
    )
}

/// Makes sure of the programs the tests start; without a way to become root the tests that need them are skipped.
fn test_tools(search: &Search) -> Result<()> {
    let missing = packages::missing_for_tests(search);
    if missing.is_empty() {
        println!("setup: programs for the tests: all there");
    } else if Privilege::find() == Privilege::None {
        println!("setup: not root: not installing {}; tests that need root are skipped", missing.join(" "));
    } else {
        packages::install(search, &missing)?;
    }
    Ok(())
}

/// Installs what the benchmarks compare SLB with; a benchmark says which contestants it does without.
fn bench_tools(search: &Search) {
    let missing = packages::missing_for_bench(search);
    if missing.is_empty() {
        println!("setup: programs for the benchmarks: all there");
    } else if let Err(error) = packages::install(search, &missing) {
        println!("setup: not all programs for the benchmarks: {error:#}");
    } else {
        packages::stop_services();
    }
}

/// Installs what running Debian's kernels needs; a kernel that cannot run counts as a skipped test.
fn vm_tools(search: &Search) {
    let missing = packages::missing_for_vm(search);
    if missing.is_empty() {
        println!("setup: programs for Debian's kernels: all there");
    } else if let Err(error) = packages::install(search, &missing) {
        println!("setup: not all programs for Debian's kernels: {error:#}");
    }
}

fn cargo_deny(search: &Search) -> Result<()> {
    if let Some(path) = crate::lint::cargo_deny(search) {
        println!("setup: cargo-deny: {}", path.display());
        return Ok(());
    }
    let Some(tools) = &search.tools else {
        bail!("neither HOME nor XDG_DATA_HOME says where to install cargo-deny");
    };
    process::run(cargo(&["install", "cargo-deny", "--locked", "--root"])?.arg(tools))
}
