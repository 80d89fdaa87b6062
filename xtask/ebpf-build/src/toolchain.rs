//! Finds eBPF toolchains: a compiler with its own `rust-src`, and a bpf-linker for its LLVM.
//!
//! The search does not start rustup, which might download. It only reads files and runs `rustc -vV`.

mod command;
mod origin;

use std::{
    env::{self, consts::ARCH},
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use self::command::clean_command;
pub use self::origin::Origin;
use crate::{
    commands::{self, DEBIAN_LLVM, DEBIAN_PACKAGES},
    llvm, pinned,
};

/// Oldest compiler that can build the workspace, as (major, minor).
pub const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// A compiler and a matching linker that can build the XDP programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// Origin of the compiler.
    pub origin: Origin,
    /// Path of its cargo.
    pub cargo: PathBuf,
    /// Path of its rustc.
    pub rustc: PathBuf,
    /// Path of bpf-linker.
    pub linker: PathBuf,
}

impl Toolchain {
    /// A command that runs `program` with this compiler, independent of the cargo, clippy or rustup that started this
    /// process.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        clean_command(program, &self.origin, &self.rustc)
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.origin, self.linker.display())
    }
}

/// A compiler that can build `core` for the BPF target: recent, with its own sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// Its origin.
    pub origin: Origin,
    /// Directory of its cargo and rustc.
    pub bin: PathBuf,
    /// Major version of its LLVM; the linker's must be equal.
    pub llvm: u32,
}

impl Compiler {
    /// Whether it is the toolchain of `xtask/bpf-toolchain.toml`.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        matches!(&self.origin, Origin::Rustup(name) if pinned::is_toolchain(name))
    }

    /// Its own LLVM as a shared library, which reads all that the compiler writes. Debian's compiler uses the system's.
    #[must_use]
    pub fn llvm_library(&self) -> Option<PathBuf> {
        if matches!(self.origin, Origin::System(_)) {
            return None;
        }
        llvm::library(self.bin.parent()?)
    }

    /// A command that runs this compiler's cargo.
    #[must_use]
    pub fn cargo(&self) -> Command {
        clean_command(&self.bin.join("cargo"), &self.origin, &self.bin.join("rustc"))
    }
}

/// Locations of the search.
#[derive(Debug, Clone)]
pub struct Search {
    /// Rustup's directory, usually `~/.rustup`.
    pub rustup_home: Option<PathBuf>,
    /// Prefix of the system's packages, usually `/usr`.
    pub system: PathBuf,
    /// SLB's own directory of developer tools; `None` without a home directory.
    pub tools: Option<PathBuf>,
    /// Value of `PATH`.
    pub path: OsString,
    /// Runs `rustc -vV` of a compiler and returns its output; tests replace it.
    version: fn(&Path, &Origin) -> Option<String>,
}

impl Search {
    /// The locations according to the environment.
    #[must_use]
    pub fn from_env() -> Self {
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let in_home = |dir: &str| home.as_ref().map(|home| home.join(dir));
        Self {
            rustup_home: absolute("RUSTUP_HOME").or_else(|| in_home(".rustup")),
            system: PathBuf::from("/usr"),
            tools: absolute("XDG_DATA_HOME")
                .or_else(|| in_home(".local/share"))
                .map(|dir| dir.join("slb/tools")),
            path: env::var_os("PATH").unwrap_or_default(),
            version: rustc_version,
        }
    }

    /// Finds the first compiler that has a linker.
    ///
    /// # Errors
    /// No toolchain is complete; the error names what was found and how to get the rest.
    pub fn toolchain(&self) -> Result<Toolchain, Missing> {
        let compilers = self.compilers();
        for compiler in &compilers {
            if let Some(linker) = self.linker(compiler) {
                return Ok(Toolchain {
                    origin: compiler.origin.clone(),
                    cargo: compiler.bin.join("cargo"),
                    rustc: compiler.bin.join("rustc"),
                    linker,
                });
            }
        }
        let named = |compiler: &Compiler| match &compiler.origin {
            Origin::Rustup(name) if pinned::is_toolchain(name) => Some(name.clone()),
            _ => None,
        };
        // The name that rustup will give it.
        let pinned = compilers.iter().find_map(named);
        let pinned = pinned.unwrap_or_else(|| format!("{}-{ARCH}-unknown-linux-gnu", pinned::toolchain()));
        let pinned_linker_dir = self.rustup_linker_dir(&pinned);
        Err(Missing { compilers, pinned_linker_dir, debian_linker_dir: self.debian_linker_dir(DEBIAN_LLVM) })
    }

    /// Compilers that can build the XDP programs, best first: the pinned toolchain, rustup's undated nightly, its dated
    /// ones from the newest, then the system's.
    #[must_use]
    pub fn compilers(&self) -> Vec<Compiler> {
        let toolchains = self.rustup_home.as_ref().map(|home| home.join("toolchains"));
        let mut nightlies: Vec<String> = toolchains
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("nightly-"))
            .collect();
        // In this order, "nightly-x86_64-..." sorts before "nightly-2026-...".
        nightlies.sort_unstable_by(|a, b| {
            pinned::is_toolchain(b).cmp(&pinned::is_toolchain(a)).then_with(|| b.cmp(a))
        });
        let rustup = nightlies
            .into_iter()
            .filter_map(|name| self.compiler(&toolchains.as_ref()?.join(&name), Origin::Rustup(name)));
        rustup.chain(self.compiler(&self.system, Origin::System(self.system.clone()))).collect()
    }

    /// State of the pinned toolchain in rustup's directory.
    #[must_use]
    pub fn pinned_state(&self) -> PinnedState {
        let toolchains = self.rustup_home.as_ref().map(|home| home.join("toolchains"));
        let entries = toolchains.as_ref().and_then(|dir| fs::read_dir(dir).ok());
        let names =
            entries.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let pinned = names.into_iter().find(|name| pinned::is_toolchain(name));
        let Some((name, toolchains)) = pinned.zip(toolchains) else { return PinnedState::Absent };
        let prefix = toolchains.join(&name);
        let version = (self.version)(&prefix.join("bin/rustc"), &Origin::Rustup(name));
        match version.filter(|version| versions(version).is_some()) {
            Some(version) if host_std(&prefix, &version).is_some() => PinnedState::Working,
            _ => PinnedState::Broken,
        }
    }

    /// The compiler below `prefix`, if it can build the XDP programs: it runs, and has its sources. An installation of
    /// rustup that was interrupted may lack either, or the library for the programs that a build runs.
    fn compiler(&self, prefix: &Path, origin: Origin) -> Option<Compiler> {
        let bin = prefix.join("bin");
        let core = prefix.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !core.is_file() || !bin.join("cargo").is_file() {
            return None;
        }
        let version = (self.version)(&bin.join("rustc"), &origin)?;
        let (release, llvm) = versions(&version)?;
        let has_std = match &origin {
            Origin::Rustup(_) => host_std(prefix, &version).is_some(),
            Origin::System(_) => true,
        };
        (has_std && release >= OLDEST_RUSTC).then_some(Compiler { origin, bin, llvm })
    }

    /// The linker for `compiler`: the one that `cargo xtask setup` installed, or one on `PATH`. A linker with another
    /// LLVM is none.
    #[must_use]
    pub fn linker(&self, compiler: &Compiler) -> Option<PathBuf> {
        let own = self.linker_dir(compiler).filter(|dir| {
            // An update of the toolchain may have removed the library that this link names.
            let library = dir.join("lib/libLLVM.so");
            dir.join("bin/bpf-linker").is_file() && (library.exists() || !library.is_symlink())
        });
        let fits = |path: &PathBuf| llvm::of_linker(path).is_none_or(|llvm| llvm == compiler.llvm);
        own.map(|dir| dir.join("bin/bpf-linker")).or_else(|| self.program("bpf-linker").filter(fits))
    }

    /// Directory for the linker of `compiler`; `None` without a home directory. A toolchain of rustup has its own,
    /// whose linker uses the toolchain's LLVM. The name has the pinned versions of the linker, so that another pin is
    /// installed.
    #[must_use]
    pub fn linker_dir(&self, compiler: &Compiler) -> Option<PathBuf> {
        match &compiler.origin {
            Origin::Rustup(name) => self.rustup_linker_dir(name),
            Origin::System(_) => self.debian_linker_dir(compiler.llvm),
        }
    }

    fn rustup_linker_dir(&self, name: &str) -> Option<PathBuf> {
        let source = pinned::linker();
        // Only the pinned toolchain may have a finished binary.
        let versions = if pinned::is_toolchain(name) {
            format!("{source}-{}", pinned::linker_binary())
        } else {
            source.to_owned()
        };
        Some(self.tools.as_ref()?.join(format!("bpf-linker-{versions}-{name}")))
    }

    fn debian_linker_dir(&self, llvm: u32) -> Option<PathBuf> {
        Some(self.tools.as_ref()?.join(format!("bpf-linker-{}-llvm{llvm}", pinned::linker())))
    }

    /// Finds a program on `PATH`, or in Debian's directories for system programs.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        env::split_paths(&self.path)
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
    }
}

/// Whether the pinned toolchain is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinnedState {
    /// rustup has no toolchain of this name.
    Absent,
    /// Its compiler does not run or lacks the standard library: its installation was interrupted, or files were
    /// removed.
    Broken,
    /// It compiles programs for the host. It may lack other components.
    Working,
}

/// No toolchain was found: what is there, and how to get the rest.
#[derive(Debug, Clone)]
pub struct Missing {
    compilers: Vec<Compiler>,
    pinned_linker_dir: Option<PathBuf>,
    debian_linker_dir: Option<PathBuf>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no toolchain for the XDP program (slb-ebpf)")?;
        if self.compilers.is_empty() {
            let (major, minor) = OLDEST_RUSTC;
            writeln!(f, "  found no compiler, {major}.{minor} or newer, that has its own rust-src")?;
        }
        for compiler in &self.compilers {
            writeln!(f, "  found {}, but no bpf-linker for its LLVM {}", compiler.origin, compiler.llvm)?;
        }
        writeln!(f, "\nlet it be installed:\n  cargo xtask setup")?;
        writeln!(f, "\nor by hand, with rustup:")?;
        writeln!(f, "  {}", commands::rustup().join(" "))?;
        writeln!(f, "  {}", commands::binstall(self.pinned_linker_dir.as_deref()).join(" "))?;
        writeln!(f, "\nor by hand, with Debian's packages:")?;
        writeln!(f, "  sudo apt-get install {} llvm-{DEBIAN_LLVM}-dev", DEBIAN_PACKAGES.join(" "))?;
        let linker = commands::linker_from_source(DEBIAN_LLVM).join(" ");
        let root = self.debian_linker_dir.as_ref();
        let root = root.map(|dir| format!(" --root {}", dir.display())).unwrap_or_default();
        writeln!(f, "  LLVM_PREFIX=/usr/lib/llvm-{DEBIAN_LLVM} cargo {linker}{root}")?;
        write!(f, "\nor bring finished objects:\n  {}=/path/to/objects cargo build", crate::OBJECTS_VARIABLE)
    }
}

fn rustc_version(rustc: &Path, origin: &Origin) -> Option<String> {
    let output = clean_command(rustc, origin, rustc).arg("-vV").stdin(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// Version of rustc as (major, minor), and major version of its LLVM, from `rustc -vV`.
fn versions(text: &str) -> Option<((u32, u32), u32)> {
    let mut release =
        text.lines().find_map(|line| line.strip_prefix("release: "))?.split('.').map(str::parse::<u32>);
    let llvm = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?;
    Some(((release.next()?.ok()?, release.next()?.ok()?), llvm.trim().parse().ok()?))
}

/// The standard library for programs of the compiler's own host, which build scripts and macros need.
fn host_std(prefix: &Path, version: &str) -> Option<PathBuf> {
    let host = version.lines().find_map(|line| line.strip_prefix("host: "))?;
    let entries = fs::read_dir(prefix.join("lib/rustlib").join(host).join("lib")).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let name = names.filter(|name| name.starts_with("libstd-")).min()?;
    Some(prefix.join("lib/rustlib").join(host).join("lib").join(name))
}

#[cfg(test)]
#[path = "toolchain_tests.rs"]
mod tests;
