//! XDP programs that pass everything, or nothing, for the ends of veth pairs whose other ends carry SLB.
//!
//! What SLB sends back over the interface it came from (`XDP_TX`) wakes the receiving end only if that end has a
//! program too; otherwise the frame lies in its ring until another one comes. A program is two instructions, so it
//! is handed to bpf(2) as they are; a loader would want a compiled object.

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

/// `bpf_cmd`: BPF_PROG_LOAD and BPF_LINK_CREATE.
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
/// BPF_OBJ_GET and BPF_LINK_DETACH.
const OBJ_GET: libc::c_long = 7;
const LINK_DETACH: libc::c_long = 34;
/// `bpf_prog_type`: BPF_PROG_TYPE_XDP.
const XDP: u32 = 6;
/// `bpf_attach_type`: BPF_XDP.
const ATTACH_XDP: u32 = 37;
/// XDP_FLAGS_DRV_MODE: in the driver or not at all.
const NATIVE: u32 = 1 << 2;

/// `xdp_action`: XDP_ABORTED, XDP_DROP and XDP_PASS.
const ABORTED: u8 = 0;
const DROP: u8 = 1;
const PASS: u8 = 2;
/// The helper's number, and the instruction that ends a program.
const BPF_REDIRECT: u8 = 23;
const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes what is not given as zero.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Takes the program of a pinned link off its interface, as `bpftool link detach` does.
///
/// # Errors
/// There is no such pin, or the kernel refuses.
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

/// Takes the program of a pinned link off its interface and puts one there that passes everything, while what is returned is
/// open.
///
/// # Errors
/// As [`detach_link`]; or somebody was faster.
pub fn set_hop(pin: &Path, interface: &str) -> Result<OwnedFd> {
    detach_link(pin)?;
    attach(interface)
}

/// Has everything passed at an interface of the calling thread's namespace, while what is returned is open.
pub(crate) fn attach(interface: &str) -> Result<OwnedFd> {
    run(interface, PASS)
}

/// Has everything dropped that comes to an interface of the calling thread's namespace, while what is returned is open.
pub(crate) fn attach_blocking(interface: &str) -> Result<OwnedFd> {
    run(interface, DROP)
}

/// Has the kernel count an exception for everything that comes to an interface of the calling thread's
/// namespace, while what is returned is open.
pub(crate) fn attach_aborting(interface: &str) -> Result<OwnedFd> {
    run(interface, ABORTED)
}

/// Has everything that comes to an interface of the calling thread's namespace redirected to the interface `to`, while what is
/// returned is open.
pub(crate) fn attach_redirecting(interface: &str, to: u8) -> Result<OwnedFd> {
    // `r1 = to; r2 = 0; call bpf_redirect; exit`.
    let call = [0x85, 0, 0, 0, BPF_REDIRECT, 0, 0, 0];
    load(interface, &[[0xb7, 1, 0, 0, to, 0, 0, 0], [0xb7, 2, 0, 0, 0, 0, 0, 0], call, EXIT])
}

fn run(interface: &str, action: u8) -> Result<OwnedFd> {
    // `r0 = action; exit`.
    load(interface, &[[0xb7, 0, 0, 0, action, 0, 0, 0], EXIT])
}

/// Loads a program of these instructions, each an opcode, registers, offset and immediate, and attaches it.
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
    // SAFETY: the kernel reads as many bytes as are said to be there.
    let descriptor = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
