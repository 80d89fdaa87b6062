//! What the packet path needs of its surroundings: maps and helpers in BPF, vectors in tests.

use crate::abi::{
    Address,
    backend::{Backend, NextHop},
    control::Control,
    flow::{Flow, FlowKey},
    ring::Ring,
    service::{INDEX_PROBES, INDEX_SLOTS, Service, ServiceIndex},
    stats::Action,
};

/// Direction of a packet, seen from SLB's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client.
    In,
    /// To a client.
    Out,
}

/// The tables. Look-ups hand out references or copies and never fail but for absence.
pub trait Tables {
    /// The settings in force.
    fn control(&self) -> Option<&Control>;
    /// One of the two service indexes.
    fn service_index(&self, which: u32) -> Option<&ServiceIndex>;
    /// A service by its id.
    fn service(&self, id: u32) -> Option<&Service>;
    /// A server table by its id.
    fn ring(&self, id: u32) -> Option<&Ring>;
    /// A server by its id.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// A next hop by its id.
    fn next_hop(&self, id: u32) -> Option<&NextHop>;

    /// A flow. What is read from it may be outdated by the next look-up.
    fn flow(&self, key: &FlowKey) -> Option<FlowEntry<'_>>;
    /// Puts a flow under a key, in the place of what was there, in one step.
    fn put_flow(&self, key: &FlowKey, flow: &Flow) -> bool;
    /// Jiffies, the low word.
    fn now(&self) -> u32;

    /// Sends the frame out of another interface once the program has ended with [`Redirect`](super::Verdict::Redirect); `false` if
    /// packets may not leave there.
    fn redirect(&self, ifindex: u32) -> bool;

    /// Returns `value`.
    ///
    /// The verifier follows every path on which it knows another value, for as long as the value decides anything:
    /// offsets and reasons are many. In BPF this hides what is known, so that such paths are followed once.
    fn hide(&self, value: u32) -> u32;

    /// Counts one packet under an action and the number of a reason.
    fn count(&self, action: Action, reason: u32);
    /// Counts one packet of a service.
    fn count_service(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool);
    /// Counts one packet of a server.
    fn count_backend(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool);
}

/// A flow where it lies in its table: other processors read and write it at the same time.
#[derive(Debug, Clone, Copy)]
pub struct FlowEntry<'t> {
    flow: *mut Flow,
    table: core::marker::PhantomData<&'t Flow>,
}

impl FlowEntry<'_> {
    /// # Safety
    /// `flow` is valid for reads and writes for the lifetime, and is written only in whole aligned words.
    #[inline(always)]
    pub const unsafe fn new(flow: *mut Flow) -> Self {
        Self { flow, table: core::marker::PhantomData }
    }

    /// A copy of the flow.
    #[inline(always)]
    pub fn read(self) -> Flow {
        // SAFETY: by the contract of `new`; what is written in place is two independent words.
        unsafe { self.flow.read_volatile() }
    }

    /// Sets when the flow was last seen, in jiffies.
    #[inline(always)]
    pub fn set_last_seen(self, now: u32) {
        // SAFETY: by the contract of `new`.
        unsafe { (&raw mut (*self.flow).last_seen).write_volatile(now) };
    }

    /// Sets the state bits.
    #[inline(always)]
    pub fn set_state(self, state: u32) {
        // SAFETY: by the contract of `new`.
        unsafe { (&raw mut (*self.flow).state).write_volatile(state) };
    }
}

/// The service of an address, port and protocol.
#[inline(always)]
pub fn find<'t, T: Tables>(tables: &'t T, address: &Address, port: u16, protocol: u8) -> Option<&'t Service> {
    let index = tables.service_index(active_index(tables)?)?;
    let home = ServiceIndex::home(index.seed, address, port, protocol);
    for probe in 0..INDEX_PROBES {
        let slot = index.slots[(home + probe) & (INDEX_SLOTS - 1)];
        if slot == 0 {
            return None;
        }
        let service = tables.service(u32::from(slot) - 1)?;
        if service.is(address, port, protocol) {
            return Some(service);
        }
    }
    None
}

/// Read afresh for each packet: the daemon changes it while packets flow.
#[inline(always)]
fn active_index<T: Tables>(tables: &T) -> Option<u32> {
    let control = tables.control()?;
    // SAFETY: a reference to an aligned word.
    Some(unsafe { (&raw const control.active_index).read_volatile() })
}
