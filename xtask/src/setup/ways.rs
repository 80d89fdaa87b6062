//! The order in which `setup` tries to get an eBPF toolchain. An installed compiler comes before a download. The pinned
//! toolchain comes before the user's nightly, and rustup before Debian's packages, which take longer.

use ebpf_build::toolchain::{Compiler, Origin};

/// A way to a complete toolchain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// bpf-linker for a compiler that is there, which stays as it is.
    Linker(Compiler),
    /// The pinned toolchain by rustup, and bpf-linker for it.
    Pinned,
    /// Debian's compiler with its sources, and bpf-linker for it.
    Debian,
}

/// How bpf-linker is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkerWay {
    /// A finished binary by cargo-binstall.
    Binary,
    /// From source, on the shared LLVM of the compiler.
    OwnLlvm,
    /// From source, on the LLVM of Debian's package `llvm-N-dev`.
    DebianLlvm,
}

/// What a machine has.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// Compilers that can build the XDP programs.
    pub(super) compilers: Vec<Compiler>,
    /// Whether rustup can be asked for a toolchain.
    pub(super) rustup: bool,
    /// Whether apt-get can be asked for packages.
    pub(super) apt: bool,
}

/// The ways on this machine, best first.
///
/// rustup completes a pinned toolchain that lacks components, as one whose installation was interrupted does. The name
/// has a date, so nothing in it is updated.
pub(super) fn ways(found: &Found) -> Vec<Way> {
    let linker = |wanted: fn(&Compiler) -> bool| {
        found.compilers.iter().filter(move |compiler| wanted(compiler)).cloned().map(Way::Linker)
    };
    let pinned = linker(Compiler::is_pinned);
    let system = linker(|compiler| matches!(compiler.origin, Origin::System(_)));
    let other = linker(|compiler| !compiler.is_pinned() && !matches!(compiler.origin, Origin::System(_)));
    let has_pinned = found.compilers.iter().any(Compiler::is_pinned);
    let download = (found.rustup && !has_pinned).then_some(Way::Pinned);
    let has_system = found.compilers.iter().any(|compiler| matches!(compiler.origin, Origin::System(_)));
    let debian = (found.apt && !has_system).then_some(Way::Debian);
    pinned.chain(system).chain(download).chain(other).chain(debian).collect()
}

/// The ways to a linker for `compiler`, best first. The version for cargo-binstall fits the pinned toolchain only.
pub(super) fn linker_ways(compiler: &Compiler, binstall: bool) -> Vec<LinkerWay> {
    let binary = (binstall && compiler.is_pinned()).then_some(LinkerWay::Binary);
    let source = if compiler.llvm_library().is_some() { LinkerWay::OwnLlvm } else { LinkerWay::DebianLlvm };
    binary.into_iter().chain([source]).collect()
}

#[cfg(test)]
#[path = "ways_tests.rs"]
mod tests;
