//! bpf(2) commands for which aya has no function.

use std::{
    cell::UnsafeCell,
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::libc;

/// `enum bpf_cmd`.
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
/// BPF_MAP_TYPE_ARRAY.
const ARRAY: u32 = 2;
/// BPF_MAP_TYPE_ARRAY_OF_MAPS.
const ARRAY_OF_MAPS: u32 = 12;
/// BPF_PROG_LOAD and BPF_PROG_TEST_RUN of `enum bpf_cmd`.
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
/// BPF_PROG_TYPE_XDP.
const XDP: u32 = 6;
/// Licence of programs that are made here.
const LICENSE: &CStr = c"Dual MIT/GPL";

/// BPF_F_MMAPABLE.
const MMAPABLE: u32 = 1 << 10;

/// The start of `union bpf_attr` for BPF_MAP_CREATE. The kernel takes missing fields as zero.
#[repr(C)]
#[derive(Default)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// `union bpf_attr` for BPF_MAP_LOOKUP_ELEM and BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct Element {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Makes an array map of one element with this value. (aya's maps do not expose their descriptors.)
pub(super) fn array_of<T: aya::Pod>(value: &T) -> io::Result<OwnedFd> {
    let map = create(&array(size_of::<T>()))?;
    let key = 0_u32;
    let update = Element {
        map_fd: map.as_raw_fd() as u32,
        reserved: 0,
        key: (&raw const key) as u64,
        value: (&raw const *value) as u64,
        flags: 0,
    };
    // SAFETY: the attributes have the kernel's layout; key and value are plain data of the map's sizes, and outlive the
    // call.
    unsafe { bpf(MAP_UPDATE_ELEM, &update) }?;
    Ok(map)
}

/// Makes an array of `entries` maps. Each inner map is an array of one element of `value_size` bytes.
pub(super) fn array_of_maps(name: &str, value_size: usize, entries: u32) -> io::Result<OwnedFd> {
    let inner = create(&array(value_size))?;
    create(&Create {
        map_type: ARRAY_OF_MAPS,
        max_entries: entries,
        inner_map_fd: inner.as_raw_fd() as u32,
        map_name: map_name(name),
        ..array(4)
    })
}

/// Makes an array of `entries` elements of `value_size` bytes that can be mapped into memory.
pub(super) fn mmapable_array(name: &str, value_size: usize, entries: u32) -> io::Result<OwnedFd> {
    create(&Create {
        max_entries: entries,
        map_flags: MMAPABLE,
        map_name: map_name(name),
        ..array(value_size)
    })
}

/// Makes a per-CPU array of one element of `value_size` bytes, as the loader makes them.
#[cfg(test)]
pub(super) fn per_cpu_array(value_size: usize) -> io::Result<OwnedFd> {
    /// BPF_MAP_TYPE_PERCPU_ARRAY.
    const PER_CPU_ARRAY: u32 = 6;
    create(&Create { map_type: PER_CPU_ARRAY, ..array(value_size) })
}

/// Makes an array map of one element of `value_size` bytes, which are zero.
pub(super) fn array_of_size(value_size: usize) -> io::Result<OwnedFd> {
    create(&array(value_size))
}

fn map_name(name: &str) -> [u8; 16] {
    let mut map_name = [0; 16];
    // The kernel needs a zero at the end.
    map_name.iter_mut().take(15).zip(name.bytes()).for_each(|(to, byte)| *to = byte);
    map_name
}

fn array(value_size: usize) -> Create {
    Create {
        map_type: ARRAY,
        key_size: 4,
        value_size: value_size as u32,
        max_entries: 1,
        ..Create::default()
    }
}

fn create(attributes: &Create) -> io::Result<OwnedFd> {
    // SAFETY: the attributes have the kernel's layout.
    let map = unsafe { bpf(MAP_CREATE, attributes) }?;
    // SAFETY: the kernel has returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(map) })
}

/// Reads an element of an array, or of an array of maps, into `value`. Returns `false` if there is none. (aya's arrays
/// return large values on the stack.)
pub(super) fn look_up<T: aya::Pod>(map: BorrowedFd<'_>, key: u32, value: &mut T) -> io::Result<bool> {
    let element = Element {
        map_fd: map.as_raw_fd() as u32,
        reserved: 0,
        key: (&raw const key) as u64,
        value: (&raw mut *value) as u64,
        flags: 0,
    };
    // SAFETY: the attributes have the kernel's layout; key and value are plain data of the map's sizes.
    match unsafe { bpf(MAP_LOOKUP_ELEM, &element) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// BPF_OBJ_PIN, BPF_OBJ_GET and BPF_OBJ_GET_INFO_BY_FD of `enum bpf_cmd`.
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// `union bpf_attr` for BPF_OBJ_PIN and BPF_OBJ_GET.
#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct Info {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` of the link of an XDP program.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LinkInfo {
    kind: u32,
    /// Id of the link.
    pub(super) id: u32,
    /// Id of the program in the link.
    pub(super) program: u32,
    padding: u32,
    /// Index of the interface; 0 if the interface is gone or the link is detached.
    pub(super) ifindex: u32,
    rest: [u32; 11],
}

/// Opens a pin.
pub(super) fn open_pin(path: &CStr) -> io::Result<OwnedFd> {
    let object = Object { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attributes have the kernel's layout; the path outlives the call.
    let descriptor = unsafe { bpf(OBJ_GET, &object) }?;
    // SAFETY: the kernel has returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Pins a BPF object at `path`.
pub(super) fn pin(object: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let object = Object { pathname: path.as_ptr() as u64, bpf_fd: object.as_raw_fd() as u32, file_flags: 0 };
    // SAFETY: the attributes have the kernel's layout; the path outlives the call.
    unsafe { bpf(OBJ_PIN, &object) }.map(drop)
}

/// Reads `struct bpf_link_info` of a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let question = Info {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the attributes have the kernel's layout; `info` has `info_len` bytes and outlives the call.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &UnsafeCell::new(question)) }?;
    Ok(info)
}

/// The start of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    rest: [u32; 8],
    prog_name: [u8; 16],
}

/// The start of `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    rest: [u32; 12],
}

/// Loads an XDP program.
pub(super) fn load_xdp(instructions: &[[u8; 8]]) -> io::Result<OwnedFd> {
    let load = Load {
        prog_type: XDP,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        prog_name: map_name("slb_read"),
        ..Load::default()
    };
    // SAFETY: the attributes have the kernel's layout; instructions and licence outlive the call.
    let program = unsafe { bpf(PROG_LOAD, &load) }?;
    // SAFETY: the kernel has returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// Runs an XDP program once over `frame`, and returns what it returned.
pub(super) fn test_run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    let run = UnsafeCell::new(TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        ..TestRun::default()
    });
    // SAFETY: the attributes have the kernel's layout; the frame outlives the call. The kernel writes results to the
    // attributes.
    unsafe { bpf(PROG_TEST_RUN, &run) }?;
    Ok(run.into_inner().retval)
}

/// BPF_LINK_DETACH of `enum bpf_cmd`.
const LINK_DETACH: libc::c_long = 34;

/// Detaches a link before it returns. Without this call the kernel does so some time after the last descriptor and pin
/// are gone.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let descriptor = link.as_raw_fd() as u32;
    // SAFETY: the attributes are the descriptor alone.
    unsafe { bpf(LINK_DETACH, &descriptor) }.map(drop)
}

/// Calls bpf(2).
///
/// # Safety
/// `attributes` is what the kernel expects for `command`, and its pointers are valid.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes, which `attributes` has.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// BPF_MAP_LOOKUP_BATCH of `enum bpf_cmd`.
const MAP_LOOKUP_BATCH: libc::c_long = 24;
/// BPF_MAP_UPDATE_BATCH of `enum bpf_cmd`.
const MAP_UPDATE_BATCH: libc::c_long = 26;
/// Elements read in one call.
const PART: usize = 4096;
/// Bytes of elements read in one call: those of a per-CPU array have a value for each CPU.
const MAX_BYTES: usize = 1 << 20;

/// `struct batch` of `union bpf_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
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

/// Sets elements of a map in one call. A change of a map of maps so waits for one grace period only. `values` has as
/// many elements for each key as the map: one, or one for each CPU.
///
/// # Errors
/// The kernel refuses an element. Those before it have been set.
pub(super) fn update_batch<T: aya::Pod>(map: BorrowedFd<'_>, keys: &[u32], values: &[T]) -> io::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let batch = Batch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Batch::default()
    };
    // SAFETY: the attributes have the kernel's layout. `keys` has `count` elements, and `values` has plain data of the
    // map's size for each. Both outlive the call. The kernel writes the number of set elements to `count`, which is not
    // read.
    unsafe { bpf(MAP_UPDATE_BATCH, &UnsafeCell::new(batch)) }.map(drop)
}

/// Calls `visit` with each key and element of an array.
pub(super) fn for_each<T: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    mut visit: impl FnMut(u32, T),
) -> io::Result<()> {
    for_each_below(map, u32::MAX, 1, |key, element: &[T]| {
        element.iter().for_each(|value| visit(key, *value));
    })
}

/// Calls `visit` with each key below `keys` and the element of an array. An element has `values` values: one, or in a
/// per-CPU array one for each possible CPU; their size is a multiple of eight bytes. One system call reads up to
/// [`PART`] elements, or [`MAX_BYTES`].
pub(super) fn for_each_below<T: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    keys: u32,
    values: usize,
    mut visit: impl FnMut(u32, &[T]),
) -> io::Result<()> {
    let part = PART.min(MAX_BYTES / (size_of::<T>() * values)).clamp(1, keys.max(1) as usize);
    let (mut read, mut elements) = (vec![0_u32; part], vec![T::default(); part * values]);
    let mut position = 0_u32;
    let mut batch = Batch {
        out_batch: (&raw mut position) as u64,
        keys: read.as_mut_ptr() as u64,
        values: elements.as_mut_ptr() as u64,
        map_fd: map.as_raw_fd() as u32,
        ..Batch::default()
    };
    let mut left = keys as usize;
    while left > 0 {
        let attributes = UnsafeCell::new(Batch { count: part.min(left) as u32, ..batch });
        // SAFETY: the attributes have the kernel's layout. `read` and `elements` have room for `count` elements of the
        // map's sizes and outlive the call.
        let result = unsafe { bpf(MAP_LOOKUP_BATCH, &attributes) };
        let is_last = match result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = attributes.into_inner().count as usize;
        read.iter()
            .zip(elements.chunks_exact(values))
            .take(count)
            .for_each(|(key, value)| visit(*key, value));
        if is_last || count == 0 {
            return Ok(());
        }
        left = left.saturating_sub(count);
        // The next call continues where this one stopped.
        batch.in_batch = batch.out_batch;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
