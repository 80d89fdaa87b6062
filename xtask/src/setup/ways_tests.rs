use std::{fs, path::PathBuf};

use ebpf_build::pinned;

use super::*;

fn rustup(name: &str) -> Compiler {
    Compiler { origin: Origin::Rustup(name.to_owned()), bin: PathBuf::from("/nonexistent/bin"), llvm: 22 }
}

fn pinned() -> Compiler {
    rustup(&format!("{}-x86_64-unknown-linux-gnu", pinned::toolchain()))
}

fn floating() -> Compiler {
    rustup("nightly-x86_64-unknown-linux-gnu")
}

fn system() -> Compiler {
    Compiler { origin: Origin::System(PathBuf::from("/usr")), bin: PathBuf::from("/usr/bin"), llvm: 22 }
}

#[test]
fn fresh_machine_asks_rustup_then_debian() {
    let found = Found { rustup: true, apt: true, ..Found::default() };
    assert_eq!(ways(&found), [Way::Pinned, Way::Debian]);
}

#[test]
fn machine_without_rustup_uses_packages_only() {
    let found = Found { apt: true, ..Found::default() };
    assert_eq!(ways(&found), [Way::Debian]);
    assert_eq!(ways(&Found::default()), []);
}

#[test]
fn pinned_toolchain_is_downloaded_before_a_users_nightly_gets_a_linker() {
    let found = Found { compilers: vec![floating()], rustup: true, apt: true };
    assert_eq!(ways(&found), [Way::Pinned, Way::Linker(floating()), Way::Debian]);
}

#[test]
fn compilers_that_are_there_and_tested_need_no_download() {
    let compilers = vec![pinned(), floating(), system()];
    let found = Found { compilers, rustup: true, apt: true };
    assert_eq!(ways(&found), [pinned(), system(), floating()].map(Way::Linker));
    let found = Found { compilers: vec![system()], rustup: true, apt: true };
    assert_eq!(ways(&found), [Way::Linker(system()), Way::Pinned]);
}

#[test]
fn finished_linker_is_for_the_pinned_toolchain_only() {
    assert_eq!(linker_ways(&pinned(), true), [LinkerWay::Binary, LinkerWay::DebianLlvm]);
    for compiler in [pinned(), floating(), system()] {
        assert_eq!(linker_ways(&compiler, false), [LinkerWay::DebianLlvm]);
    }
    assert_eq!(linker_ways(&floating(), true), [LinkerWay::DebianLlvm]);
}

#[test]
fn linker_is_built_on_the_compilers_own_library() -> std::io::Result<()> {
    let root = tempfile::tempdir()?;
    fs::create_dir(root.path().join("lib"))?;
    fs::write(root.path().join("lib/libLLVM.so.22.1-rust-1.97.0-nightly"), "")?;
    let with_library = |compiler: Compiler| Compiler { bin: root.path().join("bin"), ..compiler };
    assert_eq!(linker_ways(&with_library(floating()), false), [LinkerWay::OwnLlvm]);
    assert_eq!(linker_ways(&with_library(system()), false), [LinkerWay::DebianLlvm]);
    Ok(())
}
