//! The cgroup whose sockets get client endpoints.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// An open cgroup.
pub(super) struct Cgroup {
    pub(super) directory: File,
    /// Its path.
    pub(super) path: PathBuf,
    /// Its path within the hierarchy, as in `/proc/PID/cgroup`; `/` is that of all processes.
    pub(super) name: String,
}

/// Opens the cgroup at `path`, or that of all processes.
///
/// # Errors
/// There is no cgroup version 2 there.
pub(super) fn open(path: Option<PathBuf>) -> Result<Cgroup> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let root = mount_point(&mounts);
    let Some(path) = path.or_else(|| root.clone()) else {
        bail!(
            "no cgroup version 2 is mounted: `mount -t cgroup2 none /sys/fs/cgroup`, or on a host with version 1 \
             `mkdir /run/cgroup2; mount -t cgroup2 none /run/cgroup2`"
        )
    };
    let shown = path.display();
    let info = statfs(&path).with_context(|| format!("cannot examine --cgroup {shown}"))?;
    if info.filesystem_type() != CGROUP2_SUPER_MAGIC {
        let example =
            root.as_deref().map_or_else(String::new, |root| format!(", such as {}", root.display()));
        bail!("--cgroup {shown} is no cgroup of version 2: name a directory of that file system{example}");
    }
    let directory = File::open(&path).with_context(|| format!("cannot open --cgroup {shown}"))?;
    let within = fs::canonicalize(&path)?;
    let within = root.as_deref().and_then(|root| within.strip_prefix(root).ok()).unwrap_or(Path::new(""));
    Ok(Cgroup { directory, name: format!("/{}", within.display()), path })
}

/// Where the whole hierarchy is mounted, by a mountinfo (proc_pid_mountinfo(5)): `31 23 0:26 / /sys/fs/cgroup rw -
/// cgroup2 none rw`.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    let of_line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (root == "/" && after.starts_with("cgroup2 ")).then(|| PathBuf::from(point))
    };
    mounts.lines().find_map(of_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchy_is_found_among_mounts() {
        let mounts = "30 23 0:25 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                      31 23 0:26 /user /mnt rw - cgroup2 none rw\n\
                      32 23 0:26 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point(&mounts.replace("cgroup2", "tmpfs")), None);
    }

    #[test]
    fn directory_of_another_file_system_is_refused() {
        let Err(error) = open(Some(PathBuf::from("/proc"))) else { panic!("/proc is a cgroup") };
        assert!(error.to_string().contains("--cgroup /proc is no cgroup of version 2"), "{error}");
    }
}
