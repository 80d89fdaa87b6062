//! Finds eBPF toolchains: a compiler with its own `rust-src`, and a bpf-linker for its LLVM.
//!
//! The search does not start rustup, which might download. It only reads files and runs `rustc -vV`.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

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

/// Origin of a compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A nightly toolchain of rustup, by its name.
    Rustup(String),
    /// Packages of the system, below this prefix.
    System(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup(name) => write!(f, "rustup's {name}"),
            Self::System(prefix) => write!(f, "the system's compiler in {}", prefix.display()),
        }
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
        Err(Missing { compilers, linker_dir: self.debian_linker_dir(DEBIAN_LLVM) })
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

    /// The compiler below `prefix`, if it can build the XDP programs.
    fn compiler(&self, prefix: &Path, origin: Origin) -> Option<Compiler> {
        let bin = prefix.join("bin");
        let core = prefix.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !core.is_file() || !bin.join("cargo").is_file() {
            return None;
        }
        let (release, llvm) = versions(&(self.version)(&bin.join("rustc"), &origin)?)?;
        (release >= OLDEST_RUSTC).then_some(Compiler { origin, bin, llvm })
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

    /// Directory for the linker of `compiler`; `None` without a home directory. A toolchain of rustup has its own, whose
    /// linker uses the toolchain's LLVM.
    #[must_use]
    pub fn linker_dir(&self, compiler: &Compiler) -> Option<PathBuf> {
        match &compiler.origin {
            Origin::Rustup(name) => {
                Some(self.tools.as_ref()?.join(format!("bpf-linker-{}-{name}", pinned::linker())))
            }
            Origin::System(_) => self.debian_linker_dir(compiler.llvm),
        }
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

/// No toolchain was found: what is there, and how to get the rest.
#[derive(Debug, Clone)]
pub struct Missing {
    compilers: Vec<Compiler>,
    linker_dir: Option<PathBuf>,
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
        writeln!(f, "  {}", commands::binstall().join(" "))?;
        writeln!(f, "\nor by hand, with Debian's packages:")?;
        writeln!(f, "  sudo apt-get install {} llvm-{DEBIAN_LLVM}-dev", DEBIAN_PACKAGES.join(" "))?;
        let linker = commands::linker_from_source(DEBIAN_LLVM).join(" ");
        let root =
            self.linker_dir.as_ref().map(|dir| format!(" --root {}", dir.display())).unwrap_or_default();
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

fn clean_command(program: &Path, origin: &Origin, rustc: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_outer_build(name)) {
        command.env_remove(name);
    }
    command.env("RUSTC", rustc);
    if matches!(origin, Origin::System(_)) {
        // Allows `-Z build-std` with a release compiler, and removes the outer toolchain's libraries.
        command.env("RUSTC_BOOTSTRAP", "1").env_remove("LD_LIBRARY_PATH");
    }
    command
}

fn is_of_outer_build(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let of_build = name.starts_with("CARGO") || name.starts_with("RUST") || name.starts_with("CLIPPY");
    of_build && !KEPT.iter().any(|kept| name.starts_with(kept))
}

#[cfg(test)]
#[path = "toolchain_tests.rs"]
mod tests;
