//! The flow table, mapped into memory: a look at all of it takes no system call for each flow.

use std::{
    collections::HashMap,
    ffi::c_void,
    fs::File,
    io::{BufRead as _, BufReader},
    num::NonZeroUsize,
    os::fd::AsFd as _,
    path::Path,
    ptr::NonNull,
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, MapInfo};
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    time::{ClockId, clock_gettime},
};
use slb_common::{
    abi::{
        Reference,
        flow::{FlowWords, WORDS},
        word::Word,
    },
    datapath::upkeep::{Clock, FlowTable},
};

/// The flow table.
pub(super) struct Mapped {
    slots: NonNull<[[Word; WORDS]]>,
}

// SAFETY: the memory is shared with the kernel, and made of words that any thread may read and write.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the table behind a pin.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let data =
            MapData::from_pin(path).with_context(|| format!("cannot open the map {}", path.display()))?;
        let len = MapInfo::from_pin(path)?.max_entries() as usize;
        let bytes = NonZeroUsize::new(len * size_of::<FlowWords>()).context("an empty flow table")?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, which nothing else refers to.
        let memory = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, data.fd().as_fd(), 0) }
            .context("cannot map the flow table into memory")?;
        Ok(Self { slots: NonNull::slice_from_raw_parts(memory.cast(), len) })
    }

    /// The slots of the table.
    pub(super) fn slots(&self) -> &[[Word; WORDS]] {
        // SAFETY: the mapping lives as long as this value; its words are aligned, and only ever read and written whole.
        unsafe { self.slots.as_ref() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let memory: NonNull<c_void> = self.slots.cast();
        // SAFETY: mapped by `open`, with this length; no reference into it is left.
        // It fails only for addresses that are not mapped.
        let _ = unsafe { munmap(memory, self.slots.len() * size_of::<FlowWords>()) };
    }
}

/// Flows that are neither over nor expired.
#[derive(Debug, Default)]
pub struct CurrentFlows {
    /// By server.
    pub by_server: HashMap<Reference, u64>,
    /// By the tag of their service.
    pub by_service: HashMap<u32, u64>,
}

impl CurrentFlows {
    /// Counts them. Reads the whole table.
    pub(super) fn of(table: &FlowTable<'_>, clock: Clock) -> Self {
        let mut current = Self::default();
        table.live(clock, &mut |flow| {
            *current.by_server.entry(flow.backend).or_default() += 1;
            *current.by_service.entry(flow.service).or_default() += 1;
        });
        current
    }
}

/// The kernel's jiffies, which are the packet path's clock. Where /proc/timer_list cannot be read (containers hide it), they are
/// estimated from the monotonic clock, of which lost ticks and NTP let them fall seconds behind in days. `hz` is jiffies in a second.
///
/// # Errors
/// There is no monotonic clock.
pub fn clock(hz: u32) -> Result<Clock> {
    let now = match jiffies() {
        Some(jiffies) => jiffies,
        None => estimated_jiffies(hz)?,
    };
    Ok(Clock { now, hz })
}

/// The lower half of `jiffies_64`, as the first processor of /proc/timer_list shows it.
fn jiffies() -> Option<u32> {
    let lines = BufReader::new(File::open("/proc/timer_list").ok()?).lines();
    let number =
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix("jiffies: ")?.parse::<u64>().ok())?;
    Some(number as u32)
}

/// Jiffies begin five minutes before they would overflow 32 bits (`INITIAL_JIFFIES`).
fn estimated_jiffies(hz: u32) -> Result<u32> {
    let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?.tv_sec() as u32;
    Ok(since_boot.wrapping_sub(300).wrapping_mul(hz))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_are_the_kernels() {
        // Root reads them here; nobody else need.
        let Ok(timers) = std::fs::read_to_string("/proc/timer_list") else { return };
        let real = timers.lines().filter_map(|line| line.strip_prefix("jiffies: "));
        let Some(real) = real.filter_map(|number| number.parse::<u64>().ok()).max() else { return };
        let tick = nix::time::clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
        let hz = 1_000_000_000 / tick.tv_nsec() as u32;
        let off = clock(hz).unwrap().now.wrapping_sub(real as u32).cast_signed();
        assert!(off.unsigned_abs() <= hz, "{off} jiffies off");
    }
}
