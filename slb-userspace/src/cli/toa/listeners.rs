//! Sockets that listen already: has the kernel save the SYNs of their connections, as the attached program does for
//! those that begin to listen.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use nix::{errno::Errno, libc};
use procfs::{
    FromReadSI as _, current_system_info,
    net::{TcpNetEntries, TcpState},
    process::{FDTarget, Process, all_processes},
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use slb_common::abi::toa::TCP_SAVE_SYN;

/// The listening sockets that were found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Sockets whose SYNs are saved, by inode.
    saving: BTreeSet<u64>,
    /// Sockets for which that failed, by inode.
    failed: BTreeSet<u64>,
    /// The first failure.
    pub(super) error: Option<anyhow::Error>,
}

impl Found {
    /// Sockets whose SYNs are saved.
    pub(super) fn saving(&self) -> usize {
        self.saving.len()
    }

    /// Sockets whose SYNs are not saved.
    pub(super) fn failed(&self) -> usize {
        self.failed.difference(&self.saving).count()
    }

    fn note(&mut self, inode: u64, saved: Result<bool>) {
        match saved {
            Ok(true) => drop(self.saving.insert(inode)),
            // The process has closed it meanwhile.
            Ok(false) => {}
            Err(error) => {
                self.failed.insert(inode);
                self.error.get_or_insert(error);
            }
        }
    }
}

/// Sets `TCP_SAVE_SYN` on the TCP sockets of a cgroup's processes that listen, in all network namespaces. `cgroup` is
/// the path within the hierarchy. Processes and sockets that end meanwhile are left out.
///
/// # Errors
/// The processes cannot be listed.
pub(super) fn save_syns(cgroup: &str) -> Result<Found> {
    let processes: Vec<_> = all_processes().context("cannot list /proc")?.flatten().collect();
    let listening = listening(&processes);
    let mut found = Found::default();
    for process in processes.iter().filter(|process| is_in(process, cgroup)) {
        let Ok(descriptors) = process.fd() else { continue };
        for descriptor in descriptors.flatten() {
            if let FDTarget::Socket(inode) = descriptor.target
                && listening.contains(&inode)
                && !found.saving.contains(&inode)
            {
                found.note(inode, save_syns_of(process.pid(), descriptor.fd, inode));
            }
        }
    }
    Ok(found)
}

fn is_in(process: &Process, cgroup: &str) -> bool {
    if cgroup == "/" {
        return true;
    }
    let Ok(groups) = process.cgroups() else { return false };
    // The hierarchy of version 2 has the number 0 (cgroups(7)).
    groups.into_iter().any(|it| it.hierarchy == 0 && Path::new(&it.pathname).starts_with(cgroup))
}

/// Inodes of the listening TCP sockets in the network namespaces of these processes. Threads may have their own.
fn listening(processes: &[Process]) -> BTreeSet<u64> {
    let (mut known, mut all) = (BTreeSet::new(), BTreeSet::new());
    for process in processes {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", process.pid())) else { continue };
        for thread in threads.flatten().map(|thread| thread.path()) {
            let Ok(namespace) = fs::metadata(thread.join("ns/net")).map(|it| it.ino()) else { continue };
            // A thread that has ended meanwhile leaves the namespace to the next one.
            if !known.contains(&namespace)
                && let Some(sockets) = listening_in(&thread.join("net"))
            {
                known.insert(namespace);
                all.extend(sockets);
            }
        }
    }
    all
}

/// Those of a `/proc/PID/net`; `None` if it cannot be read.
fn listening_in(net: &Path) -> Option<Vec<u64>> {
    let mut entries = TcpNetEntries::from_file(net.join("tcp"), current_system_info()).ok()?.0;
    // Without IPv6 there is no such file.
    if let Ok(more) = TcpNetEntries::from_file(net.join("tcp6"), current_system_info()) {
        entries.extend(more.0);
    }
    Some(entries.iter().filter(|it| it.state == TcpState::Listen).map(|it| it.inode).collect())
}

/// Whether `TCP_SAVE_SYN` is set on the socket with this inode; `false` if process or socket are gone.
fn save_syns_of(process: i32, descriptor: i32, inode: u64) -> Result<bool> {
    let set = || -> io::Result<bool> {
        let Some(socket) = socket_of(process, descriptor)? else { return Ok(false) };
        // The number may be another file's by now.
        let socket = File::from(socket);
        if socket.metadata()?.ino() != inode {
            return Ok(false);
        }
        save_syn(&socket)?;
        Ok(true)
    };
    set().with_context(|| format!("descriptor {descriptor} of process {process}"))
}

/// A duplicate of another process's descriptor; `None` if either is gone.
fn socket_of(process: i32, descriptor: i32) -> io::Result<Option<OwnedFd>> {
    let Some(process) = Pid::from_raw(process) else { return Ok(None) };
    let duplicate = pidfd_open(process, PidfdFlags::empty())
        .and_then(|process| pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty()));
    match duplicate.map_err(io::Error::from) {
        Ok(duplicate) => Ok(Some(duplicate)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EBADF)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets `TCP_SAVE_SYN`, unless the application has: 2 saves the link header, too.
fn save_syn(socket: &File) -> io::Result<()> {
    let (mut value, mut len) = (0_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_SAVE_SYN,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    Errno::result(result)?;
    if value != 0 {
        return Ok(());
    }
    let on = 1_i32;
    // SAFETY: the kernel reads the length of `on`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_SAVE_SYN,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    Errno::result(result)?;
    Ok(())
}
