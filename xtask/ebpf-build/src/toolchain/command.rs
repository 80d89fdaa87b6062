//! Commands of a compiler, without what the outer cargo, clippy or rustup has set.

use std::{env, ffi::OsStr, path::Path, process::Command};

use super::origin::Origin;

/// Variables starting with `CARGO` or `RUST` that configure downloads and caches, not the build.
const KEPT: [&str; 10] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
    "RUSTUP_HOME",
    "RUST_BACKTRACE",
];

pub(super) fn clean_command(program: &Path, origin: &Origin, rustc: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_outer_build(name)) {
        command.env_remove(name);
    }
    command.env("RUSTC", rustc);
    // rustup sets it to the libraries of the outer cargo's toolchain. It precedes the path in a compiler's own file,
    // and nightlies of one release name their LLVM alike: this compiler would load the outer one's LLVM. Its children
    // are compilers, build scripts and the linker. A linker without LLVM of its own looks for it in this variable.
    match (origin, rustc.ancestors().nth(2)) {
        (Origin::Rustup(_), Some(prefix)) => command.env("LD_LIBRARY_PATH", prefix.join("lib")),
        _ => command.env_remove("LD_LIBRARY_PATH"),
    };
    if matches!(origin, Origin::System(_)) {
        // Allows `-Z build-std` with a release compiler.
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    command
}

pub(super) fn is_of_outer_build(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let of_build = name.starts_with("CARGO") || name.starts_with("RUST") || name.starts_with("CLIPPY");
    of_build && !KEPT.iter().any(|kept| name.starts_with(kept))
}
