//! Directories on a BPF file system: found, made, restricted, locked.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where the BPF file system is mounted.
pub(super) const BPF_FS: &str = "/sys/fs/bpf";

/// Mounts a BPF file system at its usual place if `root` is to lie there and none is.
///
/// # Errors
/// `root` is not on a BPF file system; `setting` is how its place is chosen.
pub(super) fn ensure(root: &Path, setting: &str) -> Result<()> {
    if root.starts_with(BPF_FS) && !is_bpf_fs(Path::new(BPF_FS))? {
        mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("no BPF file system at {BPF_FS}, and mounting one failed"))?;
        tracing::info!(path = BPF_FS, "mounted a BPF file system");
    }
    let parent = root.parent().unwrap_or(root);
    let existing = if root.exists() { root } else { parent };
    if !is_bpf_fs(existing)? {
        bail!(
            "{} is not on a BPF file system: set {setting} to a directory directly under {BPF_FS}, or under another \
             BPF file system",
            root.display()
        );
    }
    Ok(())
}

/// Whether a path is on a BPF file system.
pub(super) fn is_bpf_fs(path: &Path) -> Result<bool> {
    let info = statfs(path).with_context(|| format!("cannot examine {}", path.display()))?;
    Ok(info.filesystem_type() == BPF_FS_MAGIC)
}

/// Makes a directory that may be there already.
pub(super) fn make(directory: &Path) -> Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Keeps other users out: whoever can open a pin can change what becomes of packets.
///
/// # Errors
/// The directory is another user's; `setting` is how its place is chosen.
pub(super) fn restrict(path: &Path, setting: &str) -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    if fs::metadata(path)?.uid() != nix::unistd::geteuid().as_raw() {
        bail!("{} belongs to another user: remove it, or set {setting} to another directory", path.display());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot restrict access to {}", path.display()))
}

/// Claims a directory for this process; `None` while another one has it.
pub(super) fn lock(directory: &Path) -> Result<Option<Flock<File>>> {
    let file = File::open(directory).with_context(|| format!("cannot open {}", directory.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", directory.display())),
    }
}
