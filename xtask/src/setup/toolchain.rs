//! Finds or installs the eBPF toolchain. No toolchain of the user is changed or updated; a pinned one that does not work is
//! completed or installed anew.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use ebpf_build::{
    Build, PRODUCT, commands, pinned,
    toolchain::{Compiler, Origin, PinnedState, Search},
};

use super::ways::{Found, LinkerWay, Way, linker_ways, ways};
use crate::{
    packages,
    process::{self, cargo, run_within, target_dir, workspace},
};

/// Time limit for rustup's download of a toolchain.
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);

/// Profile of bpf-linker. LLVM does its work, so its own code needs no optimization: a third of the time to build.
const LINKER_PROFILE: [(&str, &str); 2] =
    [("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"), ("CARGO_PROFILE_RELEASE_DEBUG", "0")];

/// Debian's package of clippy.
const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// Finds an eBPF toolchain, or installs one.
///
/// # Errors
/// No way succeeds; the error names the commands to run by hand.
pub(super) fn ensure(search: &Search) -> Result<()> {
    if let Some(object) = ebpf_build::own_objects() {
        println!("setup: XDP program: {} is used, no toolchain needed", object.display());
        return Ok(());
    }
    if search.toolchain().is_err() {
        install(search);
    }
    let found = search.toolchain().map_err(|missing| anyhow!("{missing}"))?;
    println!("setup: eBPF toolchain: {found}");
    Ok(())
}

/// Adds clippy to Debian's compiler. If that fails, `lint` skips it.
pub(super) fn clippy(search: &Search) {
    let Ok(toolchain) = search.toolchain() else { return };
    let is_system = matches!(toolchain.origin, Origin::System(_));
    if !is_system || toolchain.cargo.with_file_name("cargo-clippy").is_file() {
        return;
    }
    if let Err(error) = packages::install(search, &[DEBIAN_CLIPPY]) {
        println!("setup: no clippy for slb-ebpf: {error:#}");
    }
}

/// Tries each way until one succeeds.
fn install(search: &Search) {
    for way in ways(&found(search)) {
        let (what, done) = match &way {
            Way::Linker(compiler) => (compiler.origin.to_string(), linker(search, compiler)),
            Way::Pinned => (format!("rustup's {}", pinned::toolchain()), pinned_toolchain(search)),
            Way::Debian => ("Debian's compiler".to_owned(), debian_compiler(search)),
        };
        match done {
            Ok(()) => return,
            Err(error) => println!("setup: not with {what}: {error:#}"),
        }
    }
}

fn found(search: &Search) -> Found {
    Found {
        compilers: search.compilers(),
        rustup: search.program("rustup").is_some(),
        apt: search.program("apt-get").is_some(),
    }
}

fn pinned_toolchain(search: &Search) -> Result<()> {
    let name = pinned::toolchain();
    println!("setup: no complete eBPF toolchain; asking rustup for {name}");
    let had_default = Command::new("rustup").arg("default").output().is_ok_and(|it| it.status.success());
    let words = commands::rustup();
    let installed = completed(
        || search.pinned_state(),
        || run_within(RUSTUP_LIMIT, Command::new(words[0]).args(&words[1..])),
        || process::run(Command::new("rustup").args(["toolchain", "uninstall", name])),
    );
    if !had_default {
        // rustup has made it the default of every directory.
        process::run(Command::new("rustup").args(["default", "none"]))?;
    }
    installed?;
    let compilers = search.compilers();
    let compiler = compilers.iter().find(|compiler| compiler.is_pinned());
    linker(search, compiler.context("rustup has installed it, but it holds no compiler with sources")?)
}

/// Installs a toolchain, or adds the components that it lacks. Removes it if it is broken after that: a later run would
/// take it for a complete one. One that was there before is then installed anew, because rustup refuses files that its
/// list of components does not have.
fn completed(
    state: impl Fn() -> PinnedState,
    install: impl Fn() -> Result<()>,
    remove: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = state();
    let installed = install();
    if state() != PinnedState::Broken {
        return installed;
    }
    println!("setup: the toolchain does not work: its installation is incomplete");
    remove()?;
    if before == PinnedState::Absent { installed } else { install() }
}

fn debian_compiler(search: &Search) -> Result<()> {
    println!("setup: installing Debian's compiler and its sources");
    let llvm = format!("llvm-{}-dev", commands::DEBIAN_LLVM);
    let packages: Vec<&str> = commands::DEBIAN_PACKAGES.into_iter().chain([llvm.as_str()]).collect();
    packages::install(search, &packages)?;
    let compilers = search.compilers();
    let system = compilers.iter().find(|compiler| matches!(compiler.origin, Origin::System(_)));
    linker(search, system.context("the packages are installed, but hold no recent compiler with sources")?)
}

/// Installs bpf-linker for the compiler's LLVM into SLB's tools directory.
fn linker(search: &Search, compiler: &Compiler) -> Result<()> {
    let root =
        search.linker_dir(compiler).context("neither HOME nor XDG_DATA_HOME says where to install it")?;
    for way in linker_ways(compiler, search.program("cargo-binstall").is_some()) {
        match way {
            LinkerWay::Binary => match binary(&root) {
                Ok(()) => return Ok(()),
                Err(error) => println!("setup: no finished bpf-linker: {error:#}; building it"),
            },
            LinkerWay::OwnLlvm => return on_own_llvm(compiler, &root),
            LinkerWay::DebianLlvm => return on_debian_llvm(search, compiler, &root),
        }
    }
    Ok(())
}

/// Installs a finished bpf-linker, and removes it if it cannot link the XDP programs.
fn binary(root: &Path) -> Result<()> {
    println!("setup: asking cargo-binstall for bpf-linker {}", pinned::linker_binary());
    let words = commands::binstall(Some(root));
    let arguments: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    process::run(&mut cargo(&arguments)?)?;
    let build = Build { workspace: workspace()?, target_dir: target_dir()?, debug_log: false };
    build.clean().context("cannot remove what an earlier eBPF build left")?;
    let objects = build.target_dir.join("objects");
    fs::create_dir_all(&objects)?;
    match trial(build.run(&PRODUCT, &objects).map(drop), || build.check(&PRODUCT)) {
        Trial::Passed => Ok(()),
        Trial::NotTried(why) => {
            println!("setup: bpf-linker is installed, but could not be tried: {why}");
            Ok(())
        }
        Trial::Failed(why) => {
            fs::remove_dir_all(root).with_context(|| format!("cannot remove {}", root.display()))?;
            build.clean()?;
            Err(anyhow!("{why}"))
        }
    }
}

/// Result of the first build with a linker.
#[derive(Debug, PartialEq, Eq)]
enum Trial {
    /// It links the XDP programs.
    Passed,
    /// The build failed before it needed the linker: no network, a full disk, a fault in the sources.
    NotTried(String),
    /// The build fails with the linker only.
    Failed(String),
}

/// What a build proves about its linker. `check` is the same build without the linker.
fn trial(built: Result<(), String>, check: impl FnOnce() -> Result<(), String>) -> Trial {
    match built {
        Ok(()) => Trial::Passed,
        Err(why) => check().map_or_else(Trial::NotTried, |()| Trial::Failed(why)),
    }
}

/// Builds bpf-linker on the LLVM of a compiler of rustup. Links in `root` name the library, and are where the linker
/// looks for it.
fn on_own_llvm(compiler: &Compiler, root: &Path) -> Result<()> {
    let library = compiler.llvm_library().context("the compiler has no shared LLVM")?;
    let name = library.file_name().context("the compiler's LLVM has no name")?;
    let lib = root.join("lib");
    // Links of an earlier build may name a library that an update has removed.
    let _ = fs::remove_dir_all(&lib);
    fs::create_dir_all(&lib).with_context(|| format!("cannot create {}", lib.display()))?;
    for link in [lib.join(name), lib.join("libLLVM.so")] {
        symlink(&library, &link).with_context(|| format!("cannot create {}", link.display()))?;
    }
    from_source(compiler, root, root)
}

fn on_debian_llvm(search: &Search, compiler: &Compiler, root: &Path) -> Result<()> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{}", compiler.llvm));
    if !prefix.join("bin/llvm-config").is_file() {
        packages::install(search, &[&format!("llvm-{}-dev", compiler.llvm)])?;
    }
    from_source(compiler, &prefix, root)
}

fn from_source(compiler: &Compiler, llvm_prefix: &Path, root: &Path) -> Result<()> {
    println!(
        "setup: building bpf-linker {} for {} into {}",
        pinned::linker(),
        compiler.origin,
        root.display()
    );
    let mut install = compiler.cargo();
    install.env("LLVM_PREFIX", llvm_prefix).envs(LINKER_PROFILE);
    install.args(commands::linker_from_source(compiler.llvm)).arg("--force").arg("--root").arg(root);
    process::run(&mut install)
}

#[cfg(test)]
#[path = "toolchain_tests.rs"]
mod tests;
