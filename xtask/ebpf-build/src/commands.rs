//! Commands that install an eBPF toolchain: `cargo xtask setup` runs them, and errors name them.

use std::path::Path;

use crate::pinned;

/// Debian's packages of the compiler, cargo and sources. `llvm-N-dev` for the compiler's LLVM is needed too.
pub const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Major version of the LLVM that Debian's compiler uses.
pub const DEBIAN_LLVM: u32 = 22;

/// Installs the pinned toolchain under its dated name. Clippy is for `cargo xtask lint`.
#[must_use]
pub fn rustup() -> Vec<&'static str> {
    let mut command = vec!["rustup", "toolchain", "install", pinned::toolchain(), "--profile", "minimal"];
    command.extend(["--component", "rust-src", "--component", "clippy", "--no-self-update"]);
    command
}

/// Installs a finished bpf-linker for the pinned toolchain below `root`, by default where cargo installs programs.
///
/// The binary is that of bpf-linker's own release, or none: it fails where there is none for this machine. Another
/// party's binary is not taken, and nothing is reported about this machine.
#[must_use]
pub fn binstall(root: Option<&Path>) -> Vec<String> {
    let linker = format!("bpf-linker@{}", pinned::linker_binary());
    let mut command = vec!["cargo", "binstall", "--no-confirm", "--disable-telemetry"];
    command.extend(["--disable-strategies", "quick-install,compile", &linker]);
    let root = root.map(|root| ["--root".to_owned(), root.display().to_string()]);
    command.into_iter().map(str::to_owned).chain(root.into_iter().flatten()).collect()
}

/// Arguments of cargo that build bpf-linker on the shared library of LLVM in `$LLVM_PREFIX/lib`.
#[must_use]
pub fn linker_from_source(llvm: u32) -> Vec<String> {
    let feature = format!("llvm-{llvm}");
    let version = ["install", "bpf-linker", "--locked", "--version", pinned::linker()];
    version.into_iter().chain(["--no-default-features", "--features", &feature]).map(str::to_owned).collect()
}
