//! Reads per-CPU counters in batches.

use std::{io, os::fd::BorrowedFd};

use super::syscall;

/// Counters by id, for the ids below `ids`, summed over all CPUs by `sum`. `processors` is the number of possible CPUs.
pub(super) fn read<T: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    processors: usize,
    ids: u32,
    sum: fn(T, &T) -> T,
) -> io::Result<Vec<T>> {
    let mut counters = Vec::with_capacity(ids as usize);
    syscall::for_each_below(map, ids, processors, |_, of_cpus: &[T]| {
        counters.push(of_cpus.iter().fold(T::default(), sum));
    })?;
    Ok(counters)
}
