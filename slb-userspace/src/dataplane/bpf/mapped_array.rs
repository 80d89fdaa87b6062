//! Array maps mapped into memory. Each word is read and written whole, without a system call.

use std::{ffi::c_void, num::NonZeroUsize, os::fd::AsFd as _, path::Path, ptr::NonNull};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use slb_common::abi::{flow::WORDS, interface::Interface, shared_word::SharedWord};

/// A value of an array that may be mapped into memory.
///
/// # Safety
/// The type consists of [`SharedWord`]s only.
pub(super) unsafe trait OfWords {}

// SAFETY: words.
unsafe impl OfWords for [SharedWord; WORDS] {}
// SAFETY: `repr(C)` of words.
unsafe impl OfWords for Interface {}

/// A mapped array. `T` defaults to a slot of the flow table.
pub(super) struct MappedArray<T = [SharedWord; WORDS]> {
    slots: NonNull<[T]>,
}

// SAFETY: the memory is shared with the kernel, and made of words that any thread may read and write.
unsafe impl<T: OfWords> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T: OfWords> Sync for MappedArray<T> {}

impl<T: OfWords> MappedArray<T> {
    /// Maps the array behind a pin.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let data =
            MapData::from_pin(path).with_context(|| format!("cannot open the map {}", path.display()))?;
        let info = data.info()?;
        ensure!(info.value_size() as usize == size_of::<T>(), "{} has other values", path.display());
        let len = info.max_entries() as usize;
        let bytes = NonZeroUsize::new(len * size_of::<T>()).context("an empty array")?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, which nothing else refers to.
        let memory = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, data.fd().as_fd(), 0) }
            .with_context(|| format!("cannot map {} into memory", path.display()))?;
        Ok(Self { slots: NonNull::slice_from_raw_parts(memory.cast(), len) })
    }
}

impl<T> MappedArray<T> {
    /// The elements of the array.
    pub(super) fn slots(&self) -> &[T] {
        // SAFETY: the mapping lives as long as this value; its words are aligned, and only ever read and written whole.
        unsafe { self.slots.as_ref() }
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        let memory: NonNull<c_void> = self.slots.cast();
        // SAFETY: mapped by `open`, with this length; no reference into it is left.
        // It fails only for addresses that are not mapped.
        let _ = unsafe { munmap(memory, self.slots.len() * size_of::<T>()) };
    }
}
