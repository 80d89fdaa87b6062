//! `cargo xtask setup`: finds or installs what building and testing need, and prints what it found and did.
//!
//! It changes nothing that is installed. `ways` has the order in which it tries to install an eBPF toolchain.

mod toolchain;
mod ways;

use anyhow::{Context as _, Result, bail};
use ebpf_build::toolchain::Search;

use crate::{
    packages,
    process::{self, Privilege, cargo},
};

/// How much is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What the demo needs.
    Demo,
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
    toolchain::ensure(&search)?;
    if extent != Extent::Demo {
        toolchain::clippy(&search);
    }
    openssl(&search)?;
    test_tools(&search)?;
    if matches!(extent, Extent::Needed | Extent::All | Extent::Vm) {
        monitoring_tools(&search);
    }
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

/// Installs Prometheus, which scrapes the daemon in a test. The test is skipped without it.
fn monitoring_tools(search: &Search) {
    let missing = packages::missing_for_monitoring(search);
    if missing.is_empty() || Privilege::find() == Privilege::None {
        return;
    }
    let services = packages::NewServices::forbid();
    if let Err(error) = packages::install(search, &missing) {
        println!("setup: no Prometheus for the tests: {error:#}");
    }
    services.disable();
}

/// Installs the contestants of the benchmarks. A benchmark names the contestants that it lacks.
fn bench_tools(search: &Search) {
    let missing = packages::missing_for_bench(search);
    if missing.is_empty() {
        println!("setup: programs for the benchmarks: all there");
        return;
    }
    let services = packages::NewServices::forbid();
    if let Err(error) = packages::install(search, &missing) {
        println!("setup: not all programs for the benchmarks: {error:#}");
    }
    services.disable();
}

/// Installs what running Debian's kernels needs. A kernel that cannot run counts as a skipped test.
fn vm_tools(search: &Search) {
    let missing = packages::missing_for_vm(search);
    if missing.is_empty() {
        println!("setup: programs for Debian's kernels: all there");
    } else if let Err(error) = packages::install(search, &missing) {
        println!("setup: {error:#}; trying Debian's backports");
        if let Err(error) = packages::install_from_backports(search, &missing) {
            println!("setup: not all programs for Debian's kernels: {error:#}");
        }
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
