//! The flow table, mapped into memory: a look at all of it takes no system call for each flow.

use std::{ffi::c_void, num::NonZeroUsize, os::fd::AsFd as _, path::Path, ptr::NonNull};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, MapInfo};
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    time::{ClockId, clock_gettime},
};
use slb_common::abi::{
    flow::{FlowEntry, FlowWords, WORDS},
    word::Word,
};

use crate::dataplane::state::Remembered;

/// The flow table.
pub(super) struct FlowTable {
    entries: NonNull<[Word; WORDS]>,
    len: u32,
}

// SAFETY: the memory is shared with the kernel and read word by word, from any thread.
unsafe impl Send for FlowTable {}
// SAFETY: as above.
unsafe impl Sync for FlowTable {}

impl FlowTable {
    /// Maps the table behind a pin.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let data =
            MapData::from_pin(path).with_context(|| format!("cannot open the map {}", path.display()))?;
        let len = MapInfo::from_pin(path)?.max_entries();
        let bytes =
            NonZeroUsize::new(len as usize * size_of::<FlowWords>()).context("an empty flow table")?;
        // SAFETY: a new mapping, which nothing else refers to.
        let memory =
            unsafe { mmap(None, bytes, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, data.fd().as_fd(), 0) }
                .context("cannot map the flow table into memory")?;
        Ok(Self { entries: memory.cast(), len })
    }

    /// Slots of the table.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Shows every flow that has not expired.
    pub(super) fn visit(&self, hz: u32, visit: &mut dyn FnMut(Remembered)) -> Result<()> {
        let now = jiffies(hz)?;
        for slot in 0..self.len as usize {
            // SAFETY: within the mapping, which lives as long as this value; words are aligned, and read whole.
            let entry = FlowEntry::new(unsafe { self.entries.add(slot).as_ref() });
            let meta = entry.meta();
            if !meta.is_used() || meta.silence(now) > meta.idle(hz) {
                continue;
            }
            let (client, port, _) = entry.client().parts();
            if let Some(flow) = entry.read(meta) {
                visit(Remembered { service: flow.service, backend: flow.backend, client, port });
            }
        }
        Ok(())
    }
}

impl Drop for FlowTable {
    fn drop(&mut self) {
        let memory: NonNull<c_void> = self.entries.cast();
        // SAFETY: mapped by `open`, with this length; no reference into it is left.
        // It fails only for addresses that are not mapped.
        let _ = unsafe { munmap(memory, self.len as usize * size_of::<FlowWords>()) };
    }
}

/// The low word of the kernel's jiffies, to a second or so: they begin five minutes before they would overflow 32 bits
/// (INITIAL_JIFFIES) and keep step with the monotonic clock.
fn jiffies(hz: u32) -> Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?;
    let since_boot = now.tv_sec() as u32;
    Ok(since_boot.wrapping_sub(300).wrapping_mul(hz))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_are_the_kernels() {
        // Root reads them here; nobody else need.
        let Ok(timers) = std::fs::read_to_string("/proc/timer_list") else { return };
        let real = timers.lines().filter_map(|line| line.trim().strip_prefix(".last_jiffies   : "));
        let Some(real) = real.filter_map(|number| number.parse::<u64>().ok()).max() else { return };
        let tick = nix::time::clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
        let hz = 1_000_000_000 / tick.tv_nsec() as u32;
        let off = jiffies(hz).unwrap().wrapping_sub(real as u32).cast_signed();
        assert!(off.unsigned_abs() <= 3 * hz, "{off} jiffies off");
    }
}
