//! A word that several processors read and write at once.
//!
//! The standard library has no compare-and-exchange for BPF, although BPF has the instruction. So BPF code calls the
//! compiler's intrinsics, and host code the standard library. Volatile loads and stores of a word are atomic on BPF:
//! LLVM knows no others there. Host code uses acquire and release, because the daemon writes words that the program
//! reads. On x86-64 that costs nothing.

use core::sync::atomic::AtomicU64;

/// A word that is always read and written as a whole.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct SharedWord(AtomicU64);

impl SharedWord {
    /// A word with this value.
    pub const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// The value.
    #[inline(always)]
    pub fn load(&self) -> u64 {
        imp::load(&self.0)
    }

    /// Replaces the value.
    #[inline(always)]
    pub fn store(&self, value: u64) {
        imp::store(&self.0, value);
    }

    /// Compare-and-exchange: replaces `old` by `new`; `false` if the value is not `old`.
    #[inline(always)]
    pub fn exchange(&self, old: u64, new: u64) -> bool {
        imp::exchange(&self.0, old, new)
    }

    /// Adds to the value, which may wrap around; returns the old value.
    #[inline(always)]
    pub fn add(&self, value: u64) -> u64 {
        imp::add(&self.0, value)
    }

    /// Sets the bits of `bits`.
    #[inline(always)]
    pub fn set(&self, bits: u64) {
        imp::or(&self.0, bits);
    }

    /// Clears the bits of `bits`.
    #[inline(always)]
    pub fn clear(&self, bits: u64) {
        imp::and(&self.0, !bits);
    }
}

#[cfg(test)]
pub(crate) mod interrupt;

#[cfg(not(target_arch = "bpf"))]
mod imp {
    use core::sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Release},
    };

    #[cfg(test)]
    use super::interrupt::before_access;
    #[cfg(not(test))]
    const fn before_access() {}

    pub(super) fn load(word: &AtomicU64) -> u64 {
        before_access();
        word.load(Acquire)
    }

    pub(super) fn store(word: &AtomicU64, value: u64) {
        before_access();
        word.store(value, Release);
    }

    pub(super) fn exchange(word: &AtomicU64, old: u64, new: u64) -> bool {
        before_access();
        word.compare_exchange(old, new, AcqRel, Acquire).is_ok()
    }

    pub(super) fn add(word: &AtomicU64, value: u64) -> u64 {
        before_access();
        word.fetch_add(value, AcqRel)
    }

    pub(super) fn or(word: &AtomicU64, bits: u64) {
        before_access();
        word.fetch_or(bits, AcqRel);
    }

    pub(super) fn and(word: &AtomicU64, bits: u64) {
        before_access();
        word.fetch_and(bits, AcqRel);
    }
}

#[cfg(target_arch = "bpf")]
mod imp {
    use core::{
        intrinsics::{
            AtomicOrdering::{AcqRel, Relaxed},
            atomic_and, atomic_cxchg, atomic_or, atomic_xadd,
        },
        sync::atomic::AtomicU64,
    };

    #[inline(always)]
    pub(super) fn load(word: &AtomicU64) -> u64 {
        // SAFETY: the word is valid and aligned for as long as the reference lives.
        unsafe { word.as_ptr().read_volatile() }
    }

    #[inline(always)]
    pub(super) fn store(word: &AtomicU64, value: u64) {
        // SAFETY: as above.
        unsafe { word.as_ptr().write_volatile(value) };
    }

    #[inline(always)]
    pub(super) fn exchange(word: &AtomicU64, old: u64, new: u64) -> bool {
        // SAFETY: as above.
        unsafe { atomic_cxchg::<u64, { Relaxed }, { Relaxed }>(word.as_ptr(), old, new).1 }
    }

    #[inline(always)]
    pub(super) fn add(word: &AtomicU64, value: u64) -> u64 {
        // Not relaxed: LLVM would emit an instruction that does not return the old value.
        // SAFETY: as above.
        unsafe { atomic_xadd::<u64, u64, { AcqRel }>(word.as_ptr(), value) }
    }

    #[inline(always)]
    pub(super) fn or(word: &AtomicU64, bits: u64) {
        // SAFETY: as above.
        unsafe { atomic_or::<u64, u64, { Relaxed }>(word.as_ptr(), bits) };
    }

    #[inline(always)]
    pub(super) fn and(word: &AtomicU64, bits: u64) {
        // SAFETY: as above.
        unsafe { atomic_and::<u64, u64, { Relaxed }>(word.as_ptr(), bits) };
    }
}
