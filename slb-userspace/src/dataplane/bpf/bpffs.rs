//! Directories on a BPF file system.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::advice::{Attempt, with_advice};

/// The usual mount point of the BPF file system.
const BPF_FS: &str = "/sys/fs/bpf";

/// The directory of all pins of one program. It need not exist yet.
#[derive(Debug, Clone)]
pub(super) struct PinRoot {
    path: PathBuf,
    /// The setting that chooses the path, for messages.
    setting: &'static str,
}

impl PinRoot {
    pub(super) fn new(path: PathBuf, setting: &'static str) -> Self {
        Self { path, setting }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts a BPF file system at its usual place if `path` is there and none is mounted.
    ///
    /// # Errors
    /// The directory is not on a BPF file system, or mounting failed.
    pub(super) fn ensure_bpf_fs(&self) -> Result<()> {
        let Self { path, setting } = self;
        if path.starts_with(BPF_FS) && !is_of_bpf(Path::new(BPF_FS), Attempt::MountBpfFs)? {
            mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
                .map_err(|error| with_advice(error.into(), Attempt::MountBpfFs))
                .with_context(|| format!("no BPF file system at {BPF_FS}, and mounting one failed"))?;
            tracing::info!(path = BPF_FS, "mounted a BPF file system");
        }
        let parent = path.parent().unwrap_or(path);
        let existing = if path.exists() { path } else { parent };
        if !is_bpf_fs(existing)? {
            bail!(
                "{} is not on a BPF file system: set {setting} to a directory directly under {BPF_FS}, or under another \
                 BPF file system",
                path.display()
            );
        }
        Ok(())
    }

    /// Makes the directory if it does not exist, and restricts it to this user. A process that opens a pin can change
    /// how packets are forwarded.
    ///
    /// # Errors
    /// The directory belongs to another user.
    pub(super) fn make(&self) -> Result<()> {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let Self { path, setting } = self;
        make(path)?;
        if fs::metadata(path)?.uid() != nix::unistd::geteuid().as_raw() {
            bail!(
                "{shown} belongs to another user: run `chown -R {user} {shown}`, or set {setting} to another directory",
                shown = path.display(),
                user = nix::unistd::geteuid(),
            );
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot restrict access to {}", path.display()))
    }

    /// Identity of the directory (device, inode), which another one at the same path does not have. `None` if it does
    /// not exist.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::metadata(&self.path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    }

    /// Locks the directory for this process, which runs `command`.
    ///
    /// # Errors
    /// Another process has the lock.
    pub(super) fn lock_for(&self, command: &str) -> Result<Flock<File>> {
        let shown = self.path.display();
        self.lock()?.with_context(|| format!("another {command} is running in {shown}: try again"))
    }

    /// Locks the directory for this process; `None` while another process has the lock.
    pub(super) fn lock(&self) -> Result<Option<Flock<File>>> {
        let file = File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", self.path.display())),
        }
    }
}

/// Runs a test in mount and network namespaces of its own. Its argument is a BPF file system.
#[cfg(test)]
pub(super) fn in_own_bpf_fs(test: impl FnOnce(&Path) + Send + 'static) {
    use nix::{
        mount::umount,
        sched::{CloneFlags, unshare},
        unistd::geteuid,
    };
    if !geteuid().is_root() {
        eprintln!("skipped: to mount a BPF file system needs root");
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let home = tempfile::tempdir().unwrap();
        mount(Some("bpf"), home.path(), Some("bpf"), MsFlags::empty(), none).unwrap();
        test(home.path());
        umount(home.path()).unwrap();
    };
    std::thread::spawn(run).join().unwrap();
}

/// Whether a path is on a BPF file system.
pub(super) fn is_bpf_fs(path: &Path) -> Result<bool> {
    is_of_bpf(path, Attempt::UseBpfFs)
}

fn is_of_bpf(path: &Path, tried: Attempt) -> Result<bool> {
    let info = statfs(path)
        .map_err(|error| with_advice(error.into(), tried))
        .with_context(|| format!("cannot examine {}", path.display()))?;
    Ok(info.filesystem_type() == BPF_FS_MAGIC)
}

/// Paths of a directory's entries; none if it does not exist.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => {
            let error = with_advice(error.into(), Attempt::UseBpfFs);
            Err(error.context(format!("cannot read {}", directory.display())))
        }
    }
}

/// Makes a directory unless it exists.
pub(super) fn make(directory: &Path) -> Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            let error = with_advice(error.into(), Attempt::UseBpfFs);
            Err(error.context(format!("cannot make {}", directory.display())))
        }
        _ => Ok(()),
    }
}
