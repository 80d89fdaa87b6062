//! Tests of the search, in temporary directories with text files in place of compilers.

use std::ffi::OsStr;

use super::{command::is_of_outer_build, *};

struct FakeSystem {
    root: tempfile::TempDir,
}

impl FakeSystem {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn search(&self) -> Search {
        let root = self.root.path();
        Search {
            rustup_home: Some(root.join("rustup")),
            system: root.join("usr"),
            tools: Some(root.join("tools")),
            path: root.join("path").into_os_string(),
            version: |rustc, _| fs::read_to_string(rustc).ok(),
        }
    }

    fn compiler(&self, prefix: &str, release: &str, llvm: &str, sources: bool) {
        let prefix = self.root.path().join(prefix);
        let version = format!("host: a\nrelease: {release}\nLLVM version: {llvm}\n");
        self.file(&prefix.join("bin/rustc"), &version);
        self.file(&prefix.join("lib/rustlib/a/lib/libstd-1.rlib"), "");
        self.file(&prefix.join("bin/cargo"), "");
        if sources {
            self.file(&prefix.join("lib/rustlib/src/rust/library/core/src/lib.rs"), "");
        }
    }

    fn file(&self, path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn linker(&self, directory: &str) -> PathBuf {
        let path = self.root.path().join(directory).join("bpf-linker");
        self.file(&path, "");
        path
    }
}

#[test]
fn nightly_without_sources_is_skipped() {
    let places = FakeSystem::new();
    places.compiler("rustup/toolchains/nightly-x86_64-unknown-linux-gnu", "1.97.0-nightly", "22.1.4", false);
    places.compiler("usr", "1.96.0", "22.1.8", true);
    let linker = places.linker("tools/bpf-linker-0.13.0-llvm22/bin");
    let found = places.search().toolchain().unwrap();
    assert_eq!(found.origin, Origin::System(places.root.path().join("usr")));
    assert_eq!(found.linker, linker);
}

#[test]
fn pinned_toolchain_is_preferred_to_other_nightlies_and_the_system() {
    let places = FakeSystem::new();
    let pinned = format!("{}-a", pinned::toolchain());
    for name in ["nightly-2026-01-01-a", &pinned, "nightly-x86_64-unknown-linux-gnu", "nightly-2999-02-01-a"]
    {
        places.compiler(&format!("rustup/toolchains/{name}"), "1.97.0-nightly", "22.1", true);
    }
    places.compiler("usr", "1.96.0", "22.1.8", true);
    let origins: Vec<Origin> = places.search().compilers().into_iter().map(|c| c.origin).collect();
    let names = [&pinned, "nightly-x86_64-unknown-linux-gnu", "nightly-2999-02-01-a", "nightly-2026-01-01-a"];
    assert_eq!(origins[..4], names.map(|name| Origin::Rustup(name.to_owned())));
    assert_eq!(origins[4..], [Origin::System(places.root.path().join("usr"))]);
}

#[test]
fn stable_toolchain_is_not_used() {
    let places = FakeSystem::new();
    places.compiler("rustup/toolchains/stable-x86_64-unknown-linux-gnu", "1.97.0", "22.1.4", true);
    assert_eq!(places.search().compilers(), []);
}

#[test]
fn linker_for_another_llvm_is_not_used() {
    let places = FakeSystem::new();
    places.compiler("usr", "1.99.0", "23.0.0", true);
    places.linker("tools/bpf-linker-0.13.0-llvm22/bin");
    let message = places.search().toolchain().unwrap_err().to_string();
    assert!(message.contains("no bpf-linker for its LLVM 23"), "{message}");
    let on_path = places.linker("path");
    assert_eq!(places.search().toolchain().unwrap().linker, on_path);
    // A linker that names its LLVM.
    places.file(&on_path, "libLLVM.so.22.1");
    assert!(places.search().toolchain().is_err());
    places.file(&on_path, "LLVM23.0.1");
    assert_eq!(places.search().toolchain().unwrap().linker, on_path);
}

#[test]
fn linker_of_one_toolchain_of_rustup_is_not_used_for_another() {
    let places = FakeSystem::new();
    places.compiler("rustup/toolchains/nightly-2026-01-01-a", "1.97.0-nightly", "22.1.4", true);
    places.linker("tools/bpf-linker-0.13.0-llvm22/bin");
    places.linker("tools/bpf-linker-0.13.0-nightly-2026-02-01-a/bin");
    assert!(places.search().toolchain().is_err());
    let linker = places.linker("tools/bpf-linker-0.13.0-nightly-2026-01-01-a/bin");
    assert_eq!(places.search().toolchain().unwrap().linker, linker);
}

#[test]
fn linker_whose_llvm_an_update_has_removed_is_not_used() {
    let places = FakeSystem::new();
    places.compiler("rustup/toolchains/nightly-a", "1.97.0-nightly", "22.1.4", true);
    let linker = places.linker("tools/bpf-linker-0.13.0-nightly-a/bin");
    let library = places.root.path().join("rustup/toolchains/nightly-a/lib/libLLVM.so.22.1");
    let link = places.root.path().join("tools/bpf-linker-0.13.0-nightly-a/lib/libLLVM.so");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&library, link).unwrap();
    assert!(places.search().toolchain().is_err());
    places.file(&library, "");
    assert_eq!(places.search().toolchain().unwrap().linker, linker);
}

#[test]
fn too_old_compiler_is_skipped() {
    let places = FakeSystem::new();
    places.compiler("usr", "1.94.1", "21.0.0", true);
    places.linker("path");
    let message = places.search().toolchain().unwrap_err().to_string();
    assert!(message.contains("found no compiler, 1.95 or newer"), "{message}");
    assert!(message.contains(&format!("rustup toolchain install {} ", pinned::toolchain())), "{message}");
    assert!(!message.contains("install nightly "), "{message}");
    assert!(message.contains("apt-get install rustc-web"), "{message}");
}

#[test]
fn settings_of_the_outer_build_are_dropped_and_download_settings_kept() {
    for name in
        ["RUSTC", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO_ENCODED_RUSTFLAGS", "CLIPPY_ARGS"]
    {
        assert!(is_of_outer_build(OsStr::new(name)), "{name}");
    }
    for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_PROXY", "PATH", "HTTPS_PROXY"] {
        assert!(!is_of_outer_build(OsStr::new(name)), "{name}");
    }
}

/// rustup was stopped while it installed the toolchain.
#[test]
fn toolchain_that_lacks_a_part_is_not_used() {
    let places = FakeSystem::new();
    let prefix = "rustup/toolchains/nightly-2026-01-01-a";
    places.linker("tools/bpf-linker-0.13.0-nightly-2026-01-01-a/bin");
    let parts = ["bin/rustc", "bin/cargo", "lib/rustlib/src/rust/library/core/src/lib.rs"];
    for missing in parts.into_iter().chain(["lib/rustlib/a/lib/libstd-1.rlib"]) {
        places.compiler(prefix, "1.97.0-nightly", "22.1.4", true);
        assert_eq!(places.search().compilers().len(), 1);
        fs::remove_file(places.root.path().join(prefix).join(missing)).unwrap();
        assert_eq!(places.search().compilers(), [], "without {missing}");
    }
}

#[test]
fn pinned_toolchain_that_compiles_nothing_is_broken() {
    let places = FakeSystem::new();
    places.compiler("rustup/toolchains/nightly-2026-01-01-a", "1.97.0-nightly", "22.1.4", true);
    assert_eq!(places.search().pinned_state(), PinnedState::Absent);
    let prefix = format!("rustup/toolchains/{}-a", pinned::toolchain());
    for missing in ["bin/rustc", "lib/rustlib/a/lib/libstd-1.rlib"] {
        places.compiler(&prefix, "1.97.0-nightly", "22.1.4", false);
        assert_eq!(places.search().pinned_state(), PinnedState::Working);
        fs::remove_file(places.root.path().join(&prefix).join(missing)).unwrap();
        assert_eq!(places.search().pinned_state(), PinnedState::Broken, "without {missing}");
    }
}

#[test]
fn linker_of_another_pin_is_not_used_for_the_pinned_toolchain() {
    let places = FakeSystem::new();
    let name = format!("{}-a", pinned::toolchain());
    places.compiler(&format!("rustup/toolchains/{name}"), "1.97.0-nightly", "22.1.4", true);
    places.linker(&format!("tools/bpf-linker-{}-0.0.1-{name}/bin", pinned::linker()));
    places.linker(&format!("tools/bpf-linker-{}-{name}/bin", pinned::linker()));
    assert!(places.search().toolchain().is_err());
    let versions = format!("{}-{}", pinned::linker(), pinned::linker_binary());
    let linker = places.linker(&format!("tools/bpf-linker-{versions}-{name}/bin"));
    assert_eq!(places.search().toolchain().unwrap().linker, linker);
}

#[test]
fn commands_by_hand_install_linkers_where_the_search_finds_them() {
    let places = FakeSystem::new();
    let message = places.search().toolchain().unwrap_err().to_string();
    let line = message.lines().find(|line| line.contains("binstall")).unwrap();
    let (command, root) = line.split_once(" --root ").unwrap();
    assert!(
        command.contains(" --disable-telemetry --disable-strategies quick-install,compile "),
        "{command}"
    );
    let name = format!("{}-{ARCH}-unknown-linux-gnu", pinned::toolchain());
    places.compiler(&format!("rustup/toolchains/{name}"), "1.97.0-nightly", "22.1.4", true);
    places.file(&Path::new(root).join("bin/bpf-linker"), "");
    assert_eq!(places.search().toolchain().unwrap().linker, Path::new(root).join("bin/bpf-linker"));
}

#[test]
fn compiler_of_rustup_loads_its_own_libraries() {
    let of = |origin| {
        let command = clean_command(Path::new("/t/bin/cargo"), &origin, Path::new("/t/bin/rustc"));
        let variable = command.get_envs().find(|(name, _)| *name == "LD_LIBRARY_PATH");
        variable.map(|(_, value)| value.map(OsStr::to_owned))
    };
    assert_eq!(of(Origin::Rustup("nightly-a".to_owned())), Some(Some("/t/lib".into())));
    assert_eq!(of(Origin::System("/t".into())), Some(None));
}
