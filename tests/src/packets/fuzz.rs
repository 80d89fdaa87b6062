//! Compares the program in the kernel, the packet path on the host and the oracle, over sequences of packets.

use std::ops::Range;

use anyhow::{Result, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use slb_common::abi::stats::Counters;
use slb_control::dataplane::state::Operation;
use slb_packet_host::fuzz::{Comparison, Plan, Second, SecondOf, Tally, one_world};
use slb_userspace::dataplane::interfaces::Interfaces;

use super::{
    host::Totals,
    kernel::{self, Kernel},
};

/// Runs the plan in the kernel, in a new network namespace.
///
/// # Errors
/// The first disagreement, or the program cannot be loaded.
pub fn in_the_kernel(plan: Plan) -> Result<Tally> {
    kernel::in_namespace(|| {
        stay_on_one_cpu()?;
        let mut path = KernelPath { kernel: Kernel::load()?, ids: [0..0, 0..0], before: Vec::new() };
        let mut tally = Tally::default();
        for number in 0..plan.worlds() {
            if let Err(failure) = one_world(plan, number, &mut Some(&mut path), &mut tally) {
                bail!("{failure}");
            }
        }
        Ok(tally)
    })
}

/// Rate limits are per CPU. The oracle has one of each kind.
fn stay_on_one_cpu() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let mut one = CpuSet::new();
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    one.set(first.unwrap_or_default())?;
    Ok(sched_setaffinity(this, &one)?)
}

struct KernelPath {
    kernel: Kernel,
    /// Services and servers of the configuration, and their counters when the sequence began.
    ids: [Range<u32>; 2],
    before: Vec<Counters>,
}

impl KernelPath {
    fn counted(&self) -> Vec<Counters> {
        let [services, servers] = self.ids.clone();
        self.kernel.counters(services, servers).expect("the counters")
    }
}

impl SecondOf for KernelPath {
    fn world(&mut self, comparison: &Comparison<'_>) {
        self.kernel.become_state(&comparison.state()).expect("the state");
        let mut interfaces = Interfaces::default();
        for (properties, macs) in comparison.interfaces() {
            interfaces.insert(properties, &macs).expect("indexes differ in their low bits");
        }
        for device in comparison.vlan_devices() {
            interfaces.insert_vlan_device(device, [device.below].into_iter()).expect("further indexes");
        }
        self.kernel.put_interfaces(&interfaces).expect("the interfaces");
        self.ids = comparison.ids();
    }

    fn second(&mut self) -> &mut dyn Second {
        self
    }
}

impl Second for KernelPath {
    fn begin(&mut self) {
        self.kernel.forget().expect("empty maps");
        self.before = self.counted();
    }

    fn apply(&mut self, operation: &Operation) {
        self.kernel.apply(operation).expect("a change of the maps");
    }

    fn process(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        self.kernel.process(frame).expect("a run of the program")
    }

    fn totals(&self) -> Totals {
        self.kernel.totals().expect("the totals")
    }

    fn traffic(&self) -> Vec<Counters> {
        self.counted().iter().zip(&self.before).map(|(now, before)| difference(now, before)).collect()
    }
}

const fn difference(now: &Counters, before: &Counters) -> Counters {
    Counters {
        packets_in: now.packets_in - before.packets_in,
        bytes_in: now.bytes_in - before.bytes_in,
        packets_out: now.packets_out - before.packets_out,
        bytes_out: now.bytes_out - before.bytes_out,
        new_flows: now.new_flows - before.new_flows,
    }
}
