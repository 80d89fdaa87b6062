//! The identity of a filter, which later runs and other releases compute again.

use std::{
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::programs::{
    ProgramError, TcAttachType,
    links::Link as _,
    tc::{SchedClassifierLink, TcHandle},
};
use nix::errno::Errno;

use super::PRIORITY;

/// Identifies the filter of one SLB on an interface: by the directory of its pins, as the lock of a running daemon does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterId(u32);

impl FilterId {
    /// That of the SLB with these pins.
    pub fn of(pin_dir: &Path) -> Self {
        // 0 lets the kernel choose.
        Self(fnv1a(canonical(pin_dir).as_os_str().as_bytes()) | 1)
    }

    /// The handle of the filter.
    pub fn handle(self) -> u32 {
        self.0
    }

    /// Removes the filter from an interface; whether there was one. An interface that does not exist has none.
    ///
    /// # Errors
    /// The kernel refuses it: the filter may still be there.
    pub fn remove(self, interface: &str) -> Result<bool> {
        let link = match self.link(interface) {
            Err(error) if is_absent(error.raw_os_error()) => return Ok(false),
            link => link?,
        };
        match link.detach() {
            Ok(()) => Ok(true),
            Err(ProgramError::NetlinkError(error)) if is_absent(error.raw_os_error()) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot remove the filter from {interface}")),
        }
    }

    pub(super) fn link(self, interface: &str) -> io::Result<SchedClassifierLink> {
        let handle = TcHandle::from(self.0);
        SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, handle, None)
    }
}

/// Whether an error says that there is no such filter (ENOENT), no place for filters (EINVAL), or no such interface.
fn is_absent(error: Option<i32>) -> bool {
    error.is_some_and(|error| {
        matches!(Errno::from_raw(error), Errno::ENOENT | Errno::EINVAL | Errno::ENODEV | Errno::ENXIO)
    })
}

/// The path without links and `..`, as far as it exists: `slbd detach` may run after the directory is gone.
fn canonical(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(known), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return if rest.as_os_str().is_empty() { known } else { known.join(rest) };
        }
    }
    path.to_owned()
}

/// FNV-1a of 32 bits: the handle must be the same in all releases.
fn fnv1a(bytes: &[u8]) -> u32 {
    const BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    bytes.iter().fold(BASIS, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn hash_has_the_published_values() {
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn paths_to_one_directory_are_one_filter_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let (real, link) = (root.join("real"), root.join("link"));
        std::fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        let id = FilterId::of(&real);
        assert_eq!(FilterId::of(&link), id);
        assert_eq!(FilterId::of(&root.join("real/../link")), id);
        assert_ne!(FilterId::of(&root), id);
        let below = FilterId::of(&link.join("below"));
        assert_eq!(FilterId::of(&real.join("below")), below, "a directory that does not exist");
        std::fs::remove_dir(&real).unwrap();
        assert_eq!(FilterId::of(&real), id, "a directory that was removed");
    }
}
