//! Values that the compiler, or the verifier, knows nothing of. None of it costs more than an instruction or two.

/// Returns `value`, of which the compiler then knows nothing: it uses the number that has been compared, and not another
/// one that it could derive from the same. The verifier knows only of the first that it is small enough.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // An instruction at least: two lines of source for one instruction make line information that the kernel refuses.
        // SAFETY: copies a register onto itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// Returns `value` as an index below `N`, a power of two, with a mask that stays.
///
/// The compiler drops a mask of a value that it knows to be small. The verifier may not know it: Linux 6.1 loses the bounds of
/// a value that was spilled to the stack as 32 bits, and refuses the access.
#[inline(always)]
pub fn masked<const N: usize>(value: u64) -> usize {
    const { assert!(N.is_power_of_two()) };
    opaque(value) as usize & (N - 1)
}

/// Returns `value`, of which the verifier then knows nothing, by means of anything it knows nothing of.
///
/// The verifier follows every path on which it knows another value, for as long as the value decides anything: offsets,
/// places and reasons are many. Where the value is hidden, such paths are followed once.
#[inline(always)]
pub fn hide(value: u32, unknown: u64) -> u32 {
    hide_long(value.into(), unknown) as u32
}

/// The same of a longer number.
#[inline(always)]
pub fn hide_long(value: u64, unknown: u64) -> u64 {
    // Zero, which the verifier does not see.
    value ^ unknown ^ opaque(unknown)
}

/// Returns `value`, which depends on `offset`. Where that is no constant, the compiler may not use another number in the
/// place of the one that is compared, nor take an addition apart again: the verifier knows nothing of one from what it
/// has learnt of another.
#[inline(always)]
pub fn settled(value: usize, offset: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    if !core::intrinsics::is_val_statically_known(offset) {
        return opaque(value as u64) as usize;
    }
    let _ = offset;
    value
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn a_masked_index_stays_below_its_bound() {
        assert_eq!([0, 31, 32, u64::MAX].map(masked::<32>), [0, 31, 0, 31]);
    }
}
