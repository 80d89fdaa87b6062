//! Commands that install an eBPF toolchain: `cargo xtask setup` runs them, and errors name them.

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

/// Installs a finished bpf-linker for the pinned toolchain. Where there is none for this machine, it fails.
#[must_use]
pub fn binstall() -> Vec<String> {
    let linker = format!("bpf-linker@{}", pinned::linker_binary());
    ["cargo", "binstall", "--no-confirm", "--disable-strategies", "compile", &linker]
        .map(str::to_owned)
        .to_vec()
}

/// Arguments of cargo that build bpf-linker on the shared library of LLVM in `$LLVM_PREFIX/lib`.
#[must_use]
pub fn linker_from_source(llvm: u32) -> Vec<String> {
    let feature = format!("llvm-{llvm}");
    let version = ["install", "bpf-linker", "--locked", "--version", pinned::linker()];
    version.into_iter().chain(["--no-default-features", "--features", &feature]).map(str::to_owned).collect()
}
