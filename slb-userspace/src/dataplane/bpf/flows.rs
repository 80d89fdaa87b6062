//! Counts of live flows, and the clock of the data path.

use std::collections::HashMap;

use anyhow::Result;
use slb_common::{
    abi::{Handle, ids::ServiceTag},
    datapath::flow_gc::{Clock, FlowTable, FlowTableUsage},
};

use super::jiffies;

/// Flows that are neither finished nor expired.
#[derive(Debug, Default)]
pub struct CurrentFlows {
    /// By server.
    pub by_server: HashMap<Handle, u64>,
    /// By service tag.
    pub by_service: HashMap<ServiceTag, u64>,
    /// How full the flow table is.
    pub fill: FlowTableUsage,
}

impl CurrentFlows {
    /// Counts the flows. Reads the whole table.
    pub(super) fn of(table: &FlowTable<'_>, clock: Clock) -> Self {
        let mut current = Self::default();
        let fill = table.live(clock, &mut |flow| {
            *current.by_server.entry(flow.backend).or_default() += 1;
            *current.by_service.entry(ServiceTag::new(flow.service)).or_default() += 1;
        });
        current.fill = fill;
        current
    }
}

/// The clock of the data path. `hz` is jiffies per second.
///
/// # Errors
/// As [`jiffies::now`].
pub fn clock(hz: u32) -> Result<Clock> {
    Ok(Clock { now: jiffies::now()?.count(), hz })
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
        unistd::geteuid,
    };

    use super::*;

    const TIMERS: &str = "/proc/timer_list";

    fn real() -> Option<u32> {
        let timers = fs::read_to_string(TIMERS).ok()?;
        let real = timers.lines().filter_map(|line| line.strip_prefix("jiffies: "));
        real.filter_map(|number| number.parse::<u64>().ok()).max().map(|jiffies| jiffies as u32)
    }

    /// Containers hide the file that shows the kernel's jiffies.
    #[test]
    fn jiffies_match_the_kernels_if_proc_hides_them() {
        if !geteuid().is_root() {
            eprintln!("skipped: to hide a file of /proc needs root");
            return;
        }
        let Some(before) = real() else { return };
        let hidden = thread::spawn(|| {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("/dev/null"), TIMERS, none, MsFlags::MS_BIND, none).unwrap();
            assert_eq!(real(), None, "the file is hidden");
            let tick = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
            clock(1_000_000_000 / tick.tv_nsec() as u32).unwrap().now
        });
        let now = hidden.join().unwrap();
        let after = real().unwrap();
        assert!(now.wrapping_sub(before) <= after.wrapping_sub(before), "{now} is not in {before}..={after}");
    }
}
