//! Lifetime of pins: they exist as long as their file system is mounted somewhere.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use nix::libc;

/// Inode of the initial PID namespace (`PROC_PID_INIT_INO` of the kernel).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// When pins go away if nothing removes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinLifetime {
    /// At the end of the machine's uptime: the machine's first process has their file system mounted.
    Machine,
    /// With the mount namespace of this process: no other one has their file system mounted.
    MountNamespace,
    /// Unknown: this process does not see the machine's first process.
    Unknown,
}

/// The mounts of the machine's first process; `None` if they cannot be read.
#[derive(Debug)]
pub struct MachineMounts(Option<String>);

impl MachineMounts {
    /// Reads the mounts, which needs CAP_SYS_PTRACE.
    pub fn read() -> Self {
        let is_initial =
            fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL_PID_NAMESPACE);
        Self(is_initial.then(|| fs::read_to_string("/proc/1/mountinfo").ok()).flatten())
    }

    /// Lifetime of the pins in a directory.
    pub fn lifetime(&self, pins: &Path) -> PinLifetime {
        let (Some(mounts), Ok(metadata)) = (&self.0, fs::metadata(pins)) else { return PinLifetime::Unknown };
        let device = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
        if is_mounted(mounts, device) { PinLifetime::Machine } else { PinLifetime::MountNamespace }
    }
}

/// Whether a device is mounted, by a mountinfo (proc_pid_mountinfo(5)): `36 35 0:31 / /sys/fs/bpf rw - bpf bpf rw`.
fn is_mounted(mounts: &str, (major, minor): (u32, u32)) -> bool {
    let device = format!("{major}:{minor}");
    mounts.lines().any(|line| line.split_whitespace().nth(2) == Some(&device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_system_is_found_among_mounts_by_its_device() {
        let mounts = "36 35 0:31 / /sys/fs/bpf rw - bpf bpf rw\n22 28 0:5 / /dev rw - devtmpfs udev rw\n";
        assert!(is_mounted(mounts, (0, 31)) && is_mounted(mounts, (0, 5)));
        assert!(!is_mounted(mounts, (0, 3)) && !is_mounted(mounts, (36, 35)));
    }

    #[test]
    fn lifetime_is_unknown_without_the_mounts_of_the_init_process() {
        assert_eq!(MachineMounts(None).lifetime(Path::new("/")), PinLifetime::Unknown);
        assert_eq!(MachineMounts(Some(String::new())).lifetime(Path::new("/")), PinLifetime::MountNamespace);
    }
}
