//! Finds the process that has locked a pin directory, and the sockets it listens on: from /proc, without taking the
//! lock.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::libc;

/// A process that has locked a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LockHolder {
    /// Process id.
    pub(super) pid: u32,
    /// Paths of its listening sockets.
    pub(super) sockets: Vec<PathBuf>,
}

/// Finds the process that holds a lock on `directory`, if it is visible in /proc.
pub(super) fn claimant(directory: &Path) -> Option<LockHolder> {
    let metadata = fs::metadata(directory).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = holder(&locks, (libc::major(metadata.dev()), libc::minor(metadata.dev()), metadata.ino()))?;
    Some(LockHolder { pid, sockets: listening(pid).unwrap_or_default() })
}

/// The process that holds a `flock` on the inode, according to the lines of /proc/locks.
fn holder(locks: &str, (major, minor, inode): (u32, u32, u64)) -> Option<u32> {
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    let of_line = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let kind = fields.next()?;
        // `1: FLOCK  ADVISORY  WRITE 1234 00:1f:5678 0 EOF`; the line of a waiter has an arrow as second field.
        let (pid, at) = (fields.nth(2)?, fields.next()?);
        (kind == "FLOCK" && at == place).then(|| pid.parse().ok().filter(|pid| *pid != 0))?
    };
    locks.lines().find_map(of_line)
}

fn listening(pid: u32) -> Option<Vec<PathBuf>> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let inodes: BTreeSet<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    Some(sockets(&fs::read_to_string(format!("/proc/{pid}/net/unix")).ok()?, &inodes))
}

/// Paths of listening sockets with these inodes, according to the lines of /proc/net/unix.
fn sockets(unix: &str, inodes: &BTreeSet<String>) -> Vec<PathBuf> {
    /// `__SO_ACCEPTCON`.
    const LISTENS: &str = "00010000";
    let of_line = |line: &str| {
        // `0000: 00000002 00000000 00010000 0001 01 12345 /run/slb/slbd.sock`
        let mut fields = line.split_whitespace().skip(3);
        let (flags, inode, path) = (fields.next()?, fields.nth(2)?, fields.next()?);
        (flags == LISTENS && inodes.contains(inode)).then(|| PathBuf::from(path))
    };
    unix.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    #[test]
    fn lock_holder_and_its_sockets_are_found() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(claimant(directory.path()), None);
        let file = fs::File::open(directory.path()).unwrap();
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        let path = directory.path().join("api.sock");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let found = claimant(directory.path()).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert!(found.sockets.contains(&path), "{found:?}");
        drop(lock);
        assert_eq!(claimant(directory.path()), None);
    }

    #[test]
    fn waiter_is_not_reported_as_lock_holder() {
        let locks = "1: -> FLOCK ADVISORY WRITE 7 00:1f:56 0 EOF\n2: POSIX ADVISORY WRITE 8 00:1f:56 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 9 00:1f:56 0 EOF\n";
        assert_eq!(holder(locks, (0, 0x1f, 56)), Some(9));
        assert_eq!(holder(locks, (0, 0x1f, 57)), None);
        assert_eq!(
            holder("1: FLOCK ADVISORY WRITE 0 00:1f:56 0 EOF", (0, 0x1f, 56)),
            None,
            "not seen from here"
        );
    }
}
