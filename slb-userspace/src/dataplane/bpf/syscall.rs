//! Calls of bpf(2) that aya has no function for.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::libc;

/// BPF_MAP_UPDATE_BATCH of `enum bpf_cmd`.
const MAP_UPDATE_BATCH: libc::c_long = 26;

/// `struct batch` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Sets elements of a map whose keys and values are of four bytes, in one call: one that changes a map of maps waits once
/// for all processors.
///
/// # Errors
/// The kernel refuses one of them; those before it have been set.
pub(super) fn update_batch(map: BorrowedFd<'_>, keys: &[u32], values: &[u32]) -> io::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut batch = Batch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Batch::default()
    };
    // SAFETY: the attributes have the kernel's layout; keys and values are as many as are said to be there, and outlive
    // the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_UPDATE_BATCH, &raw mut batch, size_of::<Batch>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
