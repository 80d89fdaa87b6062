//! Reads per-CPU counters in batches.

use std::{io, os::fd::BorrowedFd};

use slb_common::abi::stats::Counters;

use super::syscall;
use crate::dataplane::counters::sum;

/// Traffic by id, for the ids below `ids`, summed over all CPUs. `processors` is the number of possible CPUs.
pub(super) fn read(map: BorrowedFd<'_>, processors: usize, ids: u32) -> io::Result<Vec<Counters>> {
    let mut traffic = Vec::with_capacity(ids as usize);
    syscall::for_each_below(map, ids, processors, |_, of_cpus: &[Counters]| {
        traffic.push(of_cpus.iter().fold(Counters::default(), sum));
    })?;
    Ok(traffic)
}
