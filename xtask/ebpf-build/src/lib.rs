//! Builds the XDP programs ([`PACKAGES`]) for `cargo xtask build-ebpf` and for build scripts.
//!
//! The eBPF compiler is not the workspace's, so it runs by its full path, in an environment without the variables of an
//! outer cargo, clippy or rustup. It has a target directory of its own, because an outer cargo locks its target
//! directory while it waits for this build.

pub mod commands;
pub mod elf;
pub mod llvm;
pub mod pinned;
mod stack;
pub mod toolchain;

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use toolchain::{Search, Toolchain};

/// Environment variable with a directory of prebuilt objects. It must hold `NAME.o` for each program; they are used
/// instead of a build.
pub const OBJECTS_VARIABLE: &str = "SLB_EBPF_OBJECTS";

/// A package of XDP programs.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// Its programs.
    pub programs: &'static [&'static str],
    /// Directories of the package and of the workspace's packages that it depends on, relative to the workspace.
    directories: &'static [&'static str],
    /// Whether it has the feature `debug-log`.
    has_debug_log: bool,
}

/// The programs of SLB: the daemon's (packet path, frames that the kernel loses, the kernel's clock), and the
/// decapsulator's for servers.
pub const PRODUCT: Package = Package {
    name: "slb-ebpf",
    programs: &["slb", "slb-answer", "slb-decap", "slb-losses", "slb-jiffies", "slb-toa"],
    directories: &["slb-ebpf", "slb-common"],
    has_debug_log: true,
};

/// The programs of the benchmarks.
pub const BENCHMARKS: Package = Package {
    name: "slb-bench-ebpf",
    programs: &["slb-bench-packet", "slb-bench-pps"],
    directories: &["tests/bench-ebpf", "tests/bench-common", "slb-common"],
    has_debug_log: false,
};

/// All packages of XDP programs.
pub const PACKAGES: [&Package; 2] = [&PRODUCT, &BENCHMARKS];

/// Compilation target of the XDP programs.
pub const TARGET: &str = "bpfel-unknown-none";

/// Compiler flags of the XDP programs. `debuginfo` and `--btf` produce BTF; without the last flag, unaligned fields are
/// read byte by byte.
const RUSTFLAGS: [&str; 8] = [
    "-C",
    "debuginfo=2",
    "-C",
    "target-cpu=v3",
    "-C",
    "link-arg=--btf",
    "-C",
    "link-arg=--cpu-features=+allows-misaligned-mem-access",
];

/// What to build and where.
#[derive(Debug, Clone)]
pub struct Build {
    /// Root of the workspace.
    pub workspace: PathBuf,
    /// Target directory of the outer cargo, which will contain that of the eBPF build.
    pub target_dir: PathBuf,
    /// Whether the daemon's program logs every verdict.
    pub debug_log: bool,
}

impl Build {
    /// Builds the programs of `package`, checks the objects, and writes them to `directory` as `NAME.o`.
    ///
    /// If `SLB_EBPF_OBJECTS` is set, checks and copies the objects in that directory instead.
    ///
    /// # Errors
    /// A text of several lines for the developer: what is missing or wrong, and the commands that help.
    pub fn run(&self, package: &Package, directory: &Path) -> Result<Vec<elf::Object>, String> {
        let file = |name: &&str| format!("{name}.o");
        if let Some(own) = own_objects() {
            return package
                .programs
                .iter()
                .map(|name| copy_checked(&own.join(file(name)), &directory.join(file(name))))
                .collect::<Result<_, _>>()
                .map_err(|e| format!("{OBJECTS_VARIABLE}: {e}"));
        }
        let toolchain = Search::from_env().toolchain().map_err(|missing| missing.to_string())?;
        let target_dir = self.ebpf_target_dir();
        fs::create_dir_all(&target_dir)
            .map_err(|e| format!("cannot create {}: {e}", target_dir.display()))?;
        // The features decide what the output files contain, so no other build may run until they are copied.
        let lock_path = target_dir.join("slb.lock");
        let lock =
            File::create(&lock_path).map_err(|e| format!("cannot create {}: {e}", lock_path.display()))?;
        lock.lock().map_err(|e| format!("cannot lock {}: {e}", lock_path.display()))?;
        let mut cargo = self.cargo(&toolchain, &toolchain.cargo);
        cargo.arg("build").args(self.arguments(package));
        let status =
            cargo.status().map_err(|e| format!("cannot start {}: {e}", toolchain.cargo.display()))?;
        if !status.success() {
            return Err(format!(
                "{} could not be built with {toolchain}; cargo's messages say why",
                package.name
            ));
        }
        let built = target_dir.join(TARGET).join("release");
        let objects: Vec<_> = package
            .programs
            .iter()
            .map(|name| copy_checked(&built.join(name), &directory.join(file(name))))
            .collect::<Result<_, _>>()?;
        if !self.debug_log {
            objects.iter().try_for_each(within_stack_budget)?;
        }
        Ok(objects)
    }

    /// Compiles the programs of `package` as far as possible without the linker.
    ///
    /// # Errors
    /// No toolchain is complete, or its compiler fails.
    pub fn check(&self, package: &Package) -> Result<(), String> {
        let toolchain = Search::from_env().toolchain().map_err(|missing| missing.to_string())?;
        let mut cargo = self.cargo(&toolchain, &toolchain.cargo);
        match cargo.arg("check").args(self.arguments(package)).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(format!(
                "{} could not be compiled with {toolchain}; cargo's messages say why",
                package.name
            )),
            Err(e) => Err(format!("cannot start {}: {e}", toolchain.cargo.display())),
        }
    }

    /// Removes what earlier builds left, so that the next one links anew. Cargo does not notice another linker at the
    /// path of the one before.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn clean(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.ebpf_target_dir()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Cargo arguments, after the subcommand, that select the programs of `package` and their target.
    #[must_use]
    pub fn arguments(&self, package: &Package) -> Vec<&'static str> {
        let mut arguments = vec!["--package", package.name, "--release", "--target", TARGET];
        arguments.extend(["-Z", "build-std=core", "--locked"]);
        if self.debug_log && package.has_debug_log {
            arguments.extend(["--features", "debug-log"]);
        }
        arguments
    }

    /// A command that runs `program`, a cargo or cargo plugin of `toolchain`, on the XDP programs.
    #[must_use]
    pub fn cargo(&self, toolchain: &Toolchain, program: &Path) -> Command {
        let mut command = toolchain.command(program);
        command
            .current_dir(&self.workspace)
            .env("CARGO_TARGET_DIR", self.ebpf_target_dir())
            .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker);
        command
    }

    fn ebpf_target_dir(&self) -> PathBuf {
        self.target_dir.join("ebpf")
    }
}

/// The build script of a package that lies directly in the workspace. Puts the objects of `package` into `OUT_DIR`, and
/// rebuilds only after changes of their sources. A failure becomes an error of cargo.
pub fn build_script(package: &Package) {
    if let Err(message) = objects_for_script(package) {
        message.lines().for_each(|line| println!("cargo::error={line}"));
    }
}

fn objects_for_script(package: &Package) -> Result<(), String> {
    let directory = |variable: &str| {
        env::var_os(variable).map(PathBuf::from).ok_or_else(|| format!("cargo has not set {variable}"))
    };
    let manifest_dir = directory("CARGO_MANIFEST_DIR")?;
    let out_dir = directory("OUT_DIR")?;
    let workspace = manifest_dir
        .parent()
        .ok_or_else(|| format!("{} is not inside its workspace", manifest_dir.display()))?
        .to_path_buf();

    println!("cargo::rerun-if-changed=build.rs");
    for input in inputs(package) {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    println!("cargo::rerun-if-env-changed={OBJECTS_VARIABLE}");
    if let Some(own) = own_objects() {
        println!("cargo::rerun-if-changed={}", own.display());
    }

    let target_dir = target_dir(&out_dir).unwrap_or_else(|| out_dir.clone());
    let debug_log = env::var_os("CARGO_FEATURE_DEBUG_LOG").is_some();
    Build { workspace, target_dir, debug_log }.run(package, &out_dir).map(drop)
}

/// Directory of prebuilt objects; `None` if the variable is not set.
#[must_use]
pub fn own_objects() -> Option<PathBuf> {
    env::var_os(OBJECTS_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Source files and directories of a package's objects, relative to the workspace.
fn inputs(package: &Package) -> impl Iterator<Item = String> {
    let sources = package.directories.iter().flat_map(|at| [format!("{at}/Cargo.toml"), format!("{at}/src")]);
    ["Cargo.lock", "Cargo.toml"].map(str::to_owned).into_iter().chain(sources)
}

/// The target directory of cargo that contains `path`.
///
/// Cargo writes `CACHEDIR.TAG` into target directories that it created, and `.rustc_info.json` into any.
#[must_use]
pub fn target_dir(path: &Path) -> Option<PathBuf> {
    let is_target =
        |dir: &&Path| ["CACHEDIR.TAG", ".rustc_info.json"].iter().any(|mark| dir.join(mark).is_file());
    path.ancestors().find(is_target).map(Path::to_path_buf)
}

/// Bytes of stack that a program and its calls may use. The kernel gives them 512; the rest is for what is to come.
const STACK_BUDGET: u32 = 384;

fn within_stack_budget(object: &elf::Object) -> Result<(), String> {
    match object.functions.iter().find(|function| function.deepest_chain > STACK_BUDGET) {
        Some(elf::Function { name, deepest_chain, .. }) => Err(format!(
            "{name} and its calls use {deepest_chain} bytes of stack, more than the budget of {STACK_BUDGET}: \
             docs/design/verifier.md says what helps"
        )),
        None => Ok(()),
    }
}

fn copy_checked(from: &Path, to: &Path) -> Result<elf::Object, String> {
    let bytes = fs::read(from).map_err(|e| format!("cannot read {}: {e}", from.display()))?;
    let object = elf::Object::parse(&bytes).map_err(|e| format!("{}: {e}", from.display()))?;
    fs::write(to, &bytes).map_err(|e| format!("cannot write {}: {e}", to.display()))?;
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_dir_is_the_closest_marked_ancestor() {
        for mark in ["CACHEDIR.TAG", ".rustc_info.json"] {
            let root = tempfile::tempdir().unwrap();
            let out = root.path().join("target/debug/build/x/out");
            fs::create_dir_all(&out).unwrap();
            fs::write(root.path().join("target").join(mark), "").unwrap();
            assert_eq!(target_dir(&out), Some(root.path().join("target")));
        }
    }

    #[test]
    fn clean_removes_the_target_directory_of_the_programs_only() {
        let root = tempfile::tempdir().unwrap();
        let target_dir = root.path().to_path_buf();
        let build = Build { workspace: PathBuf::from("/nonexistent"), target_dir, debug_log: false };
        fs::create_dir_all(root.path().join("debug")).unwrap();
        fs::create_dir_all(root.path().join("ebpf/bpfel-unknown-none")).unwrap();
        for _ in 0..2 {
            build.clean().unwrap();
            assert!(!root.path().join("ebpf").exists() && root.path().join("debug").exists());
        }
    }

    #[test]
    fn every_input_exists() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        for input in PACKAGES.into_iter().flat_map(inputs) {
            assert!(workspace.join(&input).exists(), "{input}");
        }
    }

    #[test]
    fn program_above_the_stack_budget_is_refused() {
        let object = |deepest_chain| elf::Object {
            size: 0,
            functions: vec![elf::Function {
                name: "slb_slow".to_owned(),
                section: "xdp".to_owned(),
                instructions: 1,
                stack: 0,
                deepest_chain,
            }],
            maps: Vec::new(),
            license: String::new(),
        };
        assert_eq!(within_stack_budget(&object(STACK_BUDGET)), Ok(()));
        assert!(
            within_stack_budget(&object(STACK_BUDGET + 32)).unwrap_err().contains("slb_slow and its calls")
        );
    }

    #[test]
    fn file_that_is_not_an_object_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&from, "not an object").unwrap();
        assert!(copy_checked(&from, &to).is_err());
        assert!(!to.exists());
    }
}
