//! `cargo xtask setup`: finds or installs what building and testing need, and prints what it found and did.
//!
//! It changes nothing that is installed. It tries rustup first; if rustup cannot download, it uses Debian's compiler.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use ebpf_build::toolchain::{Compiler, DEBIAN_PACKAGES, LINKER_VERSION, Origin, Search};

use crate::{
    packages,
    process::{self, Privilege, cargo, run_within},
};

/// Time limit for rustup's download of a toolchain.
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);

/// Debian's package of clippy.
const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// How much is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What building and testing need.
    Needed,
    /// Also the tools of `lint` that take long to build.
    All,
    /// Also the contestants of the benchmarks.
    Bench,
    /// Also what running Debian's kernels needs.
    Vm,
}

/// Finds or installs everything.
///
/// # Errors
/// The eBPF toolchain cannot be installed; the error names the commands to run by hand.
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

/// Finds an eBPF toolchain, or installs one.
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

/// Tries each way to install a toolchain until one succeeds.
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

/// Installs bpf-linker for the compiler's LLVM into SLB's tools directory.
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

/// Adds clippy to Debian's compiler. If that fails, `lint` skips it.
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

/// Finds OpenSSL's headers, or installs them.
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

/// Finds the programs that tests run, or installs them. Without root, tests that need missing ones are skipped.
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

/// Installs the contestants of the benchmarks. A benchmark names the contestants that it lacks.
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

/// Installs what running Debian's kernels needs. A kernel that cannot run counts as a skipped test.
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
