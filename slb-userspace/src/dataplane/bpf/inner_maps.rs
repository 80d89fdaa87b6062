//! Reads inner maps of a map of maps.
//!
//! The bpf(2) command that opens an inner map by its id needs CAP_SYS_ADMIN. A BPF program needs no id and no further
//! capability: it looks the inner map up and copies its element to an array, which bpf(2) reads.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, MapFd};

use super::{
    instructions::{Instruction as I, Register as R},
    syscall,
};

/// BPF_FUNC_map_lookup_elem and BPF_FUNC_map_update_elem.
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
/// Offsets in `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
/// Offsets from the frame pointer: key of the inner map, and zero.
const KEY: i16 = -4;
const ZERO: i16 = -8;

/// What the program returns.
const ABSENT: u32 = 0;
const COPIED: u32 = 1;

/// The shortest frame that an XDP test run takes: an Ethernet header. It starts with the key.
const FRAME: usize = 14;

/// A map of maps whose inner maps are arrays of one element of type `T`.
#[derive(Debug)]
pub(super) struct InnerMaps<T> {
    outer: MapData,
    /// The program, and the array that receives elements. One reader at a time.
    copier: Mutex<Copier>,
    element: std::marker::PhantomData<fn() -> T>,
}

#[derive(Debug)]
struct Copier {
    program: OwnedFd,
    copy: OwnedFd,
}

impl<T: aya::Pod> InnerMaps<T> {
    /// Loads the program that reads inner maps of `outer`.
    ///
    /// # Errors
    /// The kernel refuses the program: the inner maps have smaller elements than `T`, or this process may not load it.
    pub(super) fn new(outer: MapData) -> Result<Self> {
        let copy = syscall::array_of_size(size_of::<T>()).context("cannot make an array for inner maps")?;
        let instructions = instructions(outer.fd().as_fd().as_raw_fd(), copy.as_raw_fd());
        let program = syscall::load_xdp(&instructions)
            .context("the kernel refuses the program that reads inner maps")?;
        Ok(Self { outer, copier: Mutex::new(Copier { program, copy }), element: std::marker::PhantomData })
    }

    /// The map of maps.
    pub(super) fn fd(&self) -> &MapFd {
        self.outer.fd()
    }

    /// Reads the one element of an inner map; `false` if there is no inner map.
    pub(super) fn read(&self, key: u32, value: &mut T) -> Result<bool> {
        let copier = self.copier.lock().unwrap_or_else(PoisonError::into_inner);
        let mut frame = [0; FRAME];
        frame[..size_of::<u32>()].copy_from_slice(&key.to_ne_bytes());
        let returned = syscall::test_run(copier.program.as_fd(), &frame);
        match returned.context("cannot run the program that reads inner maps")? {
            ABSENT => Ok(false),
            COPIED => Ok(syscall::look_up(copier.copy.as_fd(), 0, value)?),
            error => {
                let error = io::Error::from_raw_os_error(error.cast_signed().wrapping_neg());
                bail!("cannot copy the inner map {key}: {error}");
            }
        }
    }
}

/// An XDP program: takes the key from the frame, and copies the element of that inner map of `outer` to `copy`. Returns
/// [`ABSENT`], [`COPIED`] or a negative errno.
fn instructions(outer: i32, copy: i32) -> Vec<[u8; 8]> {
    let end = [I::move_number(R::R0, ABSENT.cast_signed()), I::exit()];
    let mut program = vec![
        I::load_word(R::R2, R::R1, DATA),
        I::load_word(R::R3, R::R1, DATA_END),
        I::move_register(R::R4, R::R2),
        I::add(R::R4, size_of::<u32>() as i32),
        I::jump_unless_above(R::R4, R::R3, end.len()),
    ];
    program.extend(end);
    program.extend([
        I::load_word(R::R2, R::R2, 0),
        I::store_register(R::R10, R::R2, KEY),
        I::store_number(R::R10, 0, ZERO),
        I::move_register(R::R2, R::R10),
        I::add(R::R2, KEY.into()),
    ]);
    program.extend(I::load_map(R::R1, outer));
    program.extend([I::call(MAP_LOOKUP_ELEM), I::jump_unless_zero(R::R0, end.len())]);
    program.extend(end);
    program.extend([
        I::move_register(R::R1, R::R0),
        I::move_register(R::R2, R::R10),
        I::add(R::R2, ZERO.into()),
        I::call(MAP_LOOKUP_ELEM),
        I::jump_unless_zero(R::R0, end.len()),
    ]);
    program.extend(end);
    program.extend([
        I::move_register(R::R3, R::R0),
        I::move_register(R::R2, R::R10),
        I::add(R::R2, ZERO.into()),
        I::move_number(R::R4, 0),
    ]);
    program.extend(I::load_map(R::R1, copy));
    program.extend([I::call(MAP_UPDATE_ELEM), I::jump_unless_zero(R::R0, 1)]);
    program.extend([I::move_number(R::R0, COPIED.cast_signed()), I::exit()]);
    program.into_iter().map(I::bytes).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::unistd::geteuid;

    use super::*;

    /// Enough that some fall between two steps of a reader.
    const EXCHANGES: u32 = 300;

    fn outer(entries: u32) -> MapData {
        MapData::from_fd(syscall::array_of_maps("EXCHANGED", 4, entries).unwrap()).unwrap()
    }

    fn exchange(maps: &InnerMaps<u32>, key: u32, content: u32) {
        let inner = syscall::array_of(&content).unwrap();
        syscall::update_batch(maps.fd().as_fd(), &[key], &[inner.as_raw_fd() as u32]).unwrap();
    }

    #[test]
    fn inner_map_is_found_while_it_is_replaced() {
        if !geteuid().is_root() {
            eprintln!("skipped: BPF maps need root");
            return;
        }
        let maps = InnerMaps::<u32>::new(outer(1)).unwrap();
        exchange(&maps, 0, 0);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (1..=EXCHANGES).for_each(|content| exchange(&maps, 0, content));
                over.store(true, Ordering::Relaxed);
            });
            let mut last = 0;
            while !over.load(Ordering::Relaxed) {
                let mut content = 0;
                assert!(maps.read(0, &mut content).unwrap());
                assert!(content >= last, "{content} after {last}");
                last = content;
            }
        });
    }

    #[test]
    fn each_key_has_its_inner_map_and_an_unset_key_has_none() {
        if !geteuid().is_root() {
            eprintln!("skipped: BPF maps need root");
            return;
        }
        let maps = InnerMaps::<u32>::new(outer(3)).unwrap();
        exchange(&maps, 0, 7);
        exchange(&maps, 2, 9);
        let read = |key| {
            let mut content = 0;
            maps.read(key, &mut content).unwrap().then_some(content)
        };
        assert_eq!([0, 1, 2, 3].map(read), [Some(7), None, Some(9), None]);
    }

    #[test]
    fn inner_maps_of_smaller_elements_are_refused() {
        if !geteuid().is_root() {
            eprintln!("skipped: BPF maps need root");
            return;
        }
        assert!(InnerMaps::<u64>::new(outer(1)).is_err());
    }
}
