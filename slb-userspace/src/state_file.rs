//! Small files in the daemon's state directory.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Opens no symbolic link, and does not block on a pipe.
const SAFE_OPEN_FLAGS: i32 = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;

/// Maximum size that is read, in bytes. The daemon writes no larger file.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Identifies the boot of the machine. Times since the start, and interface indexes, are invalid after a restart.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Whether a daemon has locked a state directory.
pub(crate) fn is_claimed(directory: &Path) -> bool {
    let Ok(opened) = File::open(directory) else { return false };
    matches!(Flock::lock(opened, FlockArg::LockExclusiveNonblock), Err((_, Errno::EWOULDBLOCK)))
}

/// Reads a file. Returns its content and modification time.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn read(path: &Path) -> io::Result<(Vec<u8>, SystemTime)> {
    let mut file = OpenOptions::new().read(true).custom_flags(SAFE_OPEN_FLAGS).open(path)?;
    let written = file.metadata()?.modified()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok((text, written))
}

/// Reads the text of a file that only its owner may have written; `None` if there is none. Errors end with `instead`,
/// what to do about them.
///
/// # Errors
/// The file cannot be read, or its content cannot be trusted.
pub(crate) fn read_trusted(path: &Path, instead: &str) -> Result<Option<String>> {
    let shown = path.display();
    let file = match OpenOptions::new().read(true).custom_flags(SAFE_OPEN_FLAGS).open(path) {
        Ok(file) => file,
        // A path through a file leads to none either: the directory cannot be made, which is reported where that is tried.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("{shown} cannot be opened: {instead}")),
    };
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "{shown} is not a file: {instead}");
    ensure!(metadata.permissions().mode() & 0o002 == 0, "{shown}: everyone may write to it: {instead}");
    let mut text = String::new();
    let read = file.take(MAX_FILE_BYTES).read_to_string(&mut text);
    read.with_context(|| format!("{shown} cannot be read: {instead}"))?;
    Ok(Some(text))
}

/// Replaces a file atomically by a rename. A crash of the machine may lose the change.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let part = path.with_extension("part");
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(SAFE_OPEN_FLAGS);
    let written = options.open(&part).and_then(|mut file| file.write_all(text));
    written.with_context(|| part.display().to_string())?;
    fs::rename(&part, path).with_context(|| path.display().to_string())
}

/// As [`replace`], and the content is on disk when it returns.
///
/// # Errors
/// The file cannot be written; it is unchanged.
pub(crate) fn replace_durably(path: &Path, text: &[u8]) -> io::Result<()> {
    let part = path.with_extension("json.new");
    // Left by a daemon that was killed.
    if let Err(error) = fs::remove_file(&part)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
