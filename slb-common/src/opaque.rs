//! Verifier barriers: values that the compiler or the verifier knows nothing about. Each costs one or two instructions.

/// Returns `value`, about which the compiler then knows nothing. So it compares and uses the same number, not another
/// one that it derives from the same source. The verifier knows a bound only of the compared number.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // At least one instruction: two source lines for one instruction make line information that the kernel refuses.
        // SAFETY: copies a register onto itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// Keeps the code before it apart from the same code before another `N`. The compiler would merge both, with a variable
/// in place of what differs.
#[inline(always)]
pub fn apart<const N: u32>() {
    // SAFETY: sets a register that it declares.
    #[cfg(target_arch = "bpf")]
    unsafe {
        core::arch::asm!("r0 = {}", const N, out("r0") _, options(nomem, nostack));
    }
}

/// Returns `value` as an index below `N`, a power of two, by a mask that stays in the code.
///
/// The compiler drops the mask of a value that it knows to be small. The verifier may not know it: Linux 6.1 loses the
/// bounds of a value that was spilled to the stack as 32 bits, and refuses the access.
#[inline(always)]
pub fn masked<const N: usize>(value: u64) -> usize {
    const { assert!(N.is_power_of_two()) };
    opaque(value) as usize & (N - 1)
}

/// Returns `value`, about which the verifier then knows nothing. `unknown` is any number that it does not know.
///
/// The verifier follows a path again for each value that it tells apart, while that value still decides anything.
/// Offsets, slots and reasons have many values. With an unknown value, such paths are followed once.
#[inline(always)]
pub fn forget(value: u32, unknown: u64) -> u32 {
    forget_long(value.into(), unknown) as u32
}

/// As [`forget`], for 64 bits.
#[inline(always)]
pub fn forget_long(value: u64, unknown: u64) -> u64 {
    // The two numbers cancel out, which the verifier does not see.
    value ^ unknown ^ opaque(unknown)
}

/// Returns `value`, which depends on `offset`. If that is no constant, the compiler may neither replace the number that
/// is compared, nor split an addition. The verifier would not apply what it learnt of one number to another.
#[inline(always)]
pub fn pin(value: usize, offset: usize) -> usize {
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
