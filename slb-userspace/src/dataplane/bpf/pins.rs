//! Where pins lie, who may change them, and how they go away.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use slb_common::abi::ABI_VERSION;

const BPF_FS: &str = "/sys/fs/bpf";

/// The directory of one SLB's pins.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The pins under `root`, a directory on a BPF file system that need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.version().join("maps").join(name)
    }

    /// Directory of the links.
    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// Path of the link to an interface. Named by the index: a name may pass to another interface.
    pub fn link(&self, ifindex: u32) -> PathBuf {
        self.links().join(ifindex.to_string())
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    /// Whether there are pins of this version.
    pub fn exist(&self) -> bool {
        self.map("CONTROL").exists()
    }

    /// Makes the directories, mounting a BPF file system at its usual place if none is there.
    pub fn create(&self) -> Result<()> {
        if self.root.starts_with(BPF_FS) && !is_bpf_fs(Path::new(BPF_FS))? {
            mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), None::<&str>)
                .with_context(|| format!("no BPF file system at {BPF_FS}, and mounting one failed"))?;
            tracing::info!(path = BPF_FS, "mounted a BPF file system");
        }
        self.refuse_other_versions()?;
        for directory in [self.root.clone(), self.version(), self.version().join("maps"), self.links()] {
            match fs::create_dir(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make {}", directory.display()));
                }
            }
        }
        if !is_bpf_fs(&self.root)? {
            // Harmless where the directory was there before and holds something: only empty ones go.
            for directory in [self.links(), self.version().join("maps"), self.version(), self.root.clone()] {
                let _ = fs::remove_dir(directory);
            }
            bail!(
                "{} is not on a BPF file system: set pin_dir to a directory under {BPF_FS}",
                self.root.display()
            );
        }
        restrict(&self.root)
    }

    /// Claims the pins for this process; `None` while another one has them.
    pub fn lock(&self) -> Result<Option<Flock<File>>> {
        let directory =
            File::open(&self.root).with_context(|| format!("cannot open {}", self.root.display()))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", self.root.display())),
        }
    }

    /// Removes every pin of every version: links first, so that nothing forwards by maps that are going away.
    ///
    /// Returns whether there was anything.
    pub fn remove(&self) -> Result<bool> {
        let versions = match fs::read_dir(&self.root) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>()?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", self.root.display()));
            }
        };
        for part in ["links", "maps"] {
            for version in &versions {
                remove_directory(&version.path().join(part))?;
            }
        }
        for version in &versions {
            remove_directory(&version.path())?;
        }
        remove_directory(&self.root)?;
        Ok(true)
    }

    fn refuse_other_versions(&self) -> Result<()> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Ok(()) };
        for entry in entries {
            let name = entry?.file_name();
            if name != format!("v{ABI_VERSION}").as_str() {
                bail!(
                    "{} holds pins of another version ({}; this program uses v{ABI_VERSION}): run `slbd detach` first, \
                     which interrupts forwarding until the next start",
                    self.root.display(),
                    name.to_string_lossy()
                );
            }
        }
        Ok(())
    }
}

fn is_bpf_fs(path: &Path) -> Result<bool> {
    let info = statfs(path).with_context(|| format!("cannot examine {}", path.display()))?;
    Ok(info.filesystem_type() == BPF_FS_MAGIC)
}

/// Whoever can open a pin can change forwarding.
fn restrict(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot restrict access to {}", path.display()))
}

/// Removes a directory and the files in it; one that is not there is fine.
fn remove_directory(path: &Path) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    fs::remove_dir(path).with_context(|| format!("cannot remove {}", path.display()))
}
