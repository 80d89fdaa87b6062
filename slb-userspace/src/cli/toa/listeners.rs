//! Sockets that listen already: has the kernel keep the SYNs of their connections, as the attached program does for
//! those that begin to listen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
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

/// Inodes of the listening TCP sockets of each network namespace, by its inode.
type Listeners = BTreeMap<u64, BTreeSet<u64>>;

/// Sets `TCP_SAVE_SYN` on the TCP sockets of a cgroup's processes that listen, in all network namespaces. Returns their
/// number. `cgroup` is the path within the hierarchy. Processes that end meanwhile are left out.
///
/// # Errors
/// The processes cannot be listed, or the kernel refuses to share their sockets.
pub(super) fn keep_syns(cgroup: &str) -> Result<usize> {
    let mut listeners = Listeners::new();
    let mut done = BTreeSet::new();
    for process in all_processes().context("cannot list /proc")?.flatten() {
        if !is_in(&process, cgroup) {
            continue;
        }
        let namespaces = note_listeners(process.pid(), &mut listeners);
        let Ok(descriptors) = process.fd() else { continue };
        for descriptor in descriptors.flatten() {
            let FDTarget::Socket(inode) = descriptor.target else { continue };
            let listens =
                namespaces.iter().any(|it| listeners.get(it).is_some_and(|all| all.contains(&inode)));
            if listens && !done.contains(&inode) && keep_syns_of(process.pid(), descriptor.fd)? {
                done.insert(inode);
            }
        }
    }
    Ok(done.len())
}

fn is_in(process: &Process, cgroup: &str) -> bool {
    if cgroup == "/" {
        return true;
    }
    let Ok(groups) = process.cgroups() else { return false };
    // The hierarchy of version 2 has the number 0 (cgroups(7)).
    groups.into_iter().any(|it| it.hierarchy == 0 && Path::new(&it.pathname).starts_with(cgroup))
}

/// Reads the listening sockets of the network namespaces of a process that are not known yet. Returns the inodes of
/// these namespaces: threads may have their own.
fn note_listeners(process: i32, listeners: &mut Listeners) -> BTreeSet<u64> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return BTreeSet::new() };
    let mut namespaces = BTreeSet::new();
    for thread in threads.flatten().map(|thread| thread.path()) {
        let Ok(namespace) = fs::metadata(thread.join("ns/net")).map(|it| it.ino()) else { continue };
        namespaces.insert(namespace);
        listeners.entry(namespace).or_insert_with(|| listening(&thread.join("net")));
    }
    namespaces
}

/// Inodes of the listening TCP sockets in a `/proc/PID/net`.
fn listening(net: &Path) -> BTreeSet<u64> {
    let read = |file| TcpNetEntries::from_file(net.join(file), current_system_info()).ok();
    let entries = ["tcp", "tcp6"].into_iter().filter_map(read);
    entries.flat_map(|it| it.0).filter(|it| it.state == TcpState::Listen).map(|it| it.inode).collect()
}

/// Whether `TCP_SAVE_SYN` was set on a socket of another process; `false` if process or socket are gone.
fn keep_syns_of(process: i32, descriptor: i32) -> Result<bool> {
    match socket_of(process, descriptor) {
        Ok(socket) => Ok(save_syn(&socket).is_ok()),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error).with_context(|| {
            format!("cannot open descriptor {descriptor} of process {process} (pidfd_getfd)")
        }),
    }
}

fn socket_of(process: i32, descriptor: i32) -> io::Result<OwnedFd> {
    let process = Pid::from_raw(process).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    Ok(pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())?)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EBADF | libc::EINVAL))
}

fn save_syn(socket: &OwnedFd) -> Result<(), Errno> {
    /// `TCP_SAVE_SYN` of include/uapi/linux/tcp.h.
    const TCP_SAVE_SYN: libc::c_int = 27;
    let on: libc::c_int = 1;
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
    Errno::result(result).map(drop)
}
