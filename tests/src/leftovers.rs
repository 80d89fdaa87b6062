//! Removes what runs leave: processes, namespaces, pins, directories.
//!
//! All names that a run creates have the form `slbt-<pid>-<number>`, with the process id of the run. Leftovers of dead
//! runs can thus be told from resources in use.

use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::Pid,
};

use crate::net::{Namespace, run};

/// Where the kernel's BPF file system is mounted.
pub const BPF_FS: &str = "/sys/fs/bpf";

/// Prefix of every name.
const MARK: &str = "slbt";

/// Name of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId {
    /// Process id of its run.
    pub pid: u32,
    number: u32,
}

impl RunId {
    /// A name that this process has not used yet.
    pub fn next() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        Self { pid: process::id(), number: NUMBER.fetch_add(1, Ordering::Relaxed) }
    }

    /// Common prefix of all names of this world.
    pub fn prefix(self) -> String {
        format!("{MARK}-{}-{}", self.pid, self.number)
    }

    /// Directory of this world's pins.
    pub fn pin_dir(self) -> PathBuf {
        Path::new(BPF_FS).join(self.prefix())
    }

    /// Parses `slbt-<pid>-<number>`, optionally followed by `-` or `.` and more.
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split(['-', '.']);
        let (mark, pid, number) = (parts.next()?, parts.next()?, parts.next()?);
        (mark == MARK).then_some(Self { pid: pid.parse().ok()?, number: number.parse().ok()? })
    }
}

/// Mounts the BPF file system unless it is mounted.
///
/// # Errors
/// It cannot be mounted.
pub fn ensure_bpf_fs() -> Result<()> {
    // A second mount would hide the pins in the first.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _only = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if statfs(BPF_FS).with_context(|| format!("{BPF_FS}: the kernel has no BPF"))?.filesystem_type()
        == BPF_FS_MAGIC
    {
        return Ok(());
    }
    mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount the BPF file system on {BPF_FS}"))
}

/// All worlds with resources, in use or not.
///
/// # Errors
/// A directory cannot be read.
pub fn runs() -> Result<Vec<RunId>> {
    let mut names = Namespace::names()?;
    for directory in [PathBuf::from(BPF_FS), env::temp_dir()] {
        names.extend(entries(&directory)?);
    }
    let mut runs: Vec<_> = names.iter().filter_map(|name| RunId::parse(name)).collect();
    runs.sort_unstable();
    runs.dedup();
    Ok(runs)
}

/// Removes every world whose process has ended.
///
/// # Errors
/// A resource cannot be removed.
pub fn remove_dead() -> Result<()> {
    runs()?.into_iter().filter(|run| !alive(run.pid)).try_for_each(remove)
}

/// Whether a process is running; zombies are not.
pub fn alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which is in parentheses and may contain any character.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Removes all resources of a world.
///
/// # Errors
/// A resource cannot be removed.
pub fn remove(id: RunId) -> Result<()> {
    let of_run = |name: &String| RunId::parse(name) == Some(id);
    for name in Namespace::names()?.iter().filter(|name| of_run(name)) {
        // Another run may remove the same namespace at its start.
        if let Err(error) = remove_namespace(name)
            && Namespace::names()?.contains(name)
        {
            return Err(error);
        }
    }
    for directory in [PathBuf::from(BPF_FS), env::temp_dir()] {
        for name in entries(&directory)?.iter().filter(|name| of_run(name)) {
            let path = directory.join(name);
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn remove_namespace(name: &str) -> Result<()> {
    for pid in run(Command::new("ip").args(["netns", "pids", name]), "")?.split_whitespace() {
        let pid = Pid::from_raw(pid.parse().context("a process id")?);
        if pid != Pid::this() {
            // The process may have ended since.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
    run(Command::new("ip").args(["netns", "del", name]), "").map(drop)
}

fn entries(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::{
        process::{self, Command},
        time::Duration,
    };

    use super::{RunId, alive};
    use crate::wait::wait_for;

    #[test]
    fn run_id_is_parsed_from_names() {
        let id = RunId { pid: 77, number: 3 };
        assert_eq!(id.prefix(), "slbt-77-3");
        for name in ["slbt-77-3", "slbt-77-3-client", "slbt-77-3.Xy"] {
            assert_eq!(RunId::parse(name), Some(id));
        }
        for name in ["slbt-77", "slbt-77-x", "other-77-3", "slbt", ""] {
            assert_eq!(RunId::parse(name), None);
        }
        assert_ne!(RunId::parse("slbt-77-31-client"), Some(id));
    }

    #[test]
    fn killed_process_counts_as_dead_before_it_is_reaped() {
        assert!(alive(process::id()));
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(alive(child.id()));
        child.kill().unwrap();
        wait_for("the end of a process", Duration::from_secs(10), || Ok((!alive(child.id())).then_some(())))
            .unwrap();
        child.wait().unwrap();
        assert!(!alive(child.id()));
    }

    #[test]
    fn run_ids_are_unique() {
        assert_ne!(RunId::next(), RunId::next());
    }
}
