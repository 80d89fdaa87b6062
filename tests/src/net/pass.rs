//! Small XDP programs for the peers of veth interfaces that run SLB, such as one that passes every frame.
//!
//! A frame that SLB sends with `XDP_TX` wakes the receiving veth end only if that end has a program too. Without one,
//! the frame waits in the ring until another frame arrives. A program has a few instructions, which this module passes
//! to bpf(2) itself; a loader would need a compiled object.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context, Result};
use nix::{libc, net::if_::if_nametoindex};

/// `bpf_cmd`: `BPF_PROG_LOAD` and `BPF_LINK_CREATE`.
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
/// `BPF_OBJ_GET` and `BPF_LINK_DETACH`.
const OBJ_GET: libc::c_long = 7;
const LINK_DETACH: libc::c_long = 34;
/// `bpf_prog_type`: `BPF_PROG_TYPE_XDP`.
const XDP: u32 = 6;
/// `bpf_attach_type`: `BPF_XDP`.
const ATTACH_XDP: u32 = 37;
/// `XDP_FLAGS_DRV_MODE`: native mode, or an error.
const NATIVE: u32 = 1 << 2;

/// `xdp_action`: `XDP_ABORTED`, `XDP_DROP` and `XDP_PASS`.
const ABORTED: u8 = 0;
const DROP: u8 = 1;
const PASS: u8 = 2;
/// Number of the helper `bpf_redirect`, and the instruction that ends a program.
const BPF_REDIRECT: u8 = 23;
const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// First fields of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes missing ones as zero.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// First fields of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Detaches a pinned link from its interface, as `bpftool link detach` does.
///
/// # Errors
/// The pin does not exist, or the kernel refuses.
pub fn detach_link(pin: &Path) -> Result<()> {
    #[repr(C)]
    struct Object {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let object = Object { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attributes have the kernel's layout and point to memory that outlives the call.
    let link = unsafe { bpf(OBJ_GET, &object) }.with_context(|| format!("cannot open {}", pin.display()))?;
    let descriptor = u32::try_from(link.as_raw_fd())?;
    // SAFETY: the attributes have the kernel's layout; the descriptor is open.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, LINK_DETACH, &raw const descriptor, size_of::<u32>()) };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("cannot detach a link");
    }
    Ok(())
}

/// Replaces the program of a pinned link by one that passes every frame. It stays attached until the returned
/// descriptor is closed.
///
/// # Errors
/// As [`detach_link`]; or another program was attached in between.
pub fn replace_with_pass(pin: &Path, interface: &str) -> Result<OwnedFd> {
    detach_link(pin)?;
    attach(interface)
}

/// Passes every frame at an interface of the calling thread's namespace until the returned descriptor is closed.
pub(crate) fn attach(interface: &str) -> Result<OwnedFd> {
    run(interface, PASS)
}

/// Drops every frame at an interface of the calling thread's namespace until the returned descriptor is closed.
pub(crate) fn attach_blocking(interface: &str) -> Result<OwnedFd> {
    run(interface, DROP)
}

/// Ends every frame with `XDP_ABORTED` at an interface of the calling thread's namespace, until the returned descriptor
/// is closed. The kernel counts an exception for each.
///
/// # Errors
/// The program cannot be loaded or attached.
pub fn attach_aborting(interface: &str) -> Result<OwnedFd> {
    run(interface, ABORTED)
}

/// Redirects every frame at an interface of the calling thread's namespace to the interface with index `to`, until the
/// returned descriptor is closed.
///
/// # Errors
/// The program cannot be loaded or attached.
pub fn attach_redirecting(interface: &str, to: u8) -> Result<OwnedFd> {
    // `r1 = to; r2 = 0; call bpf_redirect; exit`.
    let call = [0x85, 0, 0, 0, BPF_REDIRECT, 0, 0, 0];
    load(interface, &[[0xb7, 1, 0, 0, to, 0, 0, 0], [0xb7, 2, 0, 0, 0, 0, 0, 0], call, EXIT])
}

fn run(interface: &str, action: u8) -> Result<OwnedFd> {
    // `r0 = action; exit`.
    load(interface, &[[0xb7, 0, 0, 0, action, 0, 0, 0], EXIT])
}

/// Loads a program and attaches it. Each instruction is an opcode, registers, offset and immediate value.
fn load(interface: &str, program: &[[u8; 8]]) -> Result<OwnedFd> {
    let load = ProgLoad {
        prog_type: XDP,
        insn_cnt: program.len().try_into()?,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: the attributes have the kernel's layout and point to memory that outlives the call.
    let program = unsafe { bpf(PROG_LOAD, &load) }.context("cannot load an XDP program")?;
    let create = LinkCreate {
        prog_fd: program.as_raw_fd().try_into()?,
        target_ifindex: if_nametoindex(interface)?,
        attach_type: ATTACH_XDP,
        flags: NATIVE,
    };
    // SAFETY: the attributes have the kernel's layout; the descriptor is open.
    unsafe { bpf(LINK_CREATE, &create) }
        .with_context(|| format!("cannot attach an XDP program to {interface}"))
}

/// Calls bpf(2) with a command that returns a descriptor.
///
/// # Safety
/// `attributes` must be what the kernel expects for `command`, and its pointers valid.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes, the size of `attributes`.
    let descriptor = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has opened this descriptor for this call; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
