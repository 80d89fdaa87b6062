//! The packet path's tables in memory.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::{BTreeMap, BTreeSet, HashMap},
};

use slb_common::{
    abi::{
        ABI_VERSION,
        backend::{Backend, NextHop},
        control::Control,
        flow::{Flow, FlowKey},
        ring::Ring,
        service::{INDEX_PROBES, INDEX_SLOTS, Service, ServiceIndex},
        stats::{Action, Counters, REASONS},
    },
    datapath::{
        Verdict, process,
        tables::{Direction, FlowEntry, Tables},
    },
    net::frame::Frame,
};
use slb_userspace::dataplane::state::Operation;

/// Packets by the numbers of action and reason.
pub type Totals = BTreeMap<(u8, u32), u64>;

/// Tables in memory, with a clock that stands still until it is set.
#[derive(Default)]
pub struct Host {
    control: Control,
    indexes: [Option<Box<ServiceIndex>>; 2],
    services: BTreeMap<u32, Service>,
    rings: BTreeMap<u32, Box<Ring>>,
    backends: BTreeMap<u32, Backend>,
    next_hops: BTreeMap<u32, NextHop>,
    interfaces: BTreeSet<u32>,
    flows: RefCell<HashMap<FlowKey, Box<UnsafeCell<Flow>>>>,
    /// Flows that have been replaced: entries handed out before may still point at them, as in the kernel.
    #[expect(clippy::vec_box, reason = "entries point into the boxes")]
    replaced: RefCell<Vec<Box<UnsafeCell<Flow>>>>,
    /// Jiffies.
    pub now: Cell<u32>,
    /// Whether the flow table takes no entry.
    pub full: Cell<bool>,
    totals: RefCell<Totals>,
    service_counters: RefCell<BTreeMap<u32, Counters>>,
    backend_counters: RefCell<BTreeMap<u32, Counters>>,
}

impl Host {
    /// Runs the packet path over a frame that came in through the interface `ifindex`.
    pub fn process(&mut self, bytes: &mut [u8], ifindex: u32) -> Verdict {
        let verdict = process(&mut Frame::from_slice(bytes), ifindex, self);
        // No entry outlives the call.
        self.replaced.borrow_mut().clear();
        verdict
    }

    /// Carries out one operation, as the maps in the kernel do.
    pub fn apply(&mut self, operation: &Operation) {
        match operation.clone() {
            Operation::PutSettings(settings) => {
                self.control.abi_version = ABI_VERSION;
                self.control.seed = settings.seed;
                self.control.hz = settings.hz;
                self.control.generation = u32::from(settings.generation);
            }
            Operation::PutInterface(ifindex) => drop(self.interfaces.insert(ifindex)),
            Operation::RemoveInterface(ifindex) => drop(self.interfaces.remove(&ifindex)),
            Operation::Settle => {}
            Operation::PutNextHop(id, hop) => drop(self.next_hops.insert(id, hop)),
            Operation::ClearNextHop(id) => drop(self.next_hops.remove(&id)),
            Operation::PutBackend { id, backend, fresh } => {
                self.backends.insert(id, backend);
                if fresh {
                    self.backend_counters.borrow_mut().remove(&id);
                }
            }
            Operation::ClearBackend(id) => drop(self.backends.remove(&id)),
            Operation::PutTable(id, table) => drop(self.rings.insert(id, table.build())),
            Operation::ClearTable(id) => drop(self.rings.remove(&id)),
            Operation::PutService { id, service, fresh } => {
                self.services.insert(id, *service);
                if fresh {
                    self.service_counters.borrow_mut().remove(&id);
                }
            }
            Operation::ClearService(id) => drop(self.services.remove(&id)),
            Operation::PutIndex(ids) => {
                let mut index = Box::new(ServiceIndex { seed: 0, slots: [0; INDEX_SLOTS] });
                for id in ids {
                    let service = &self.services[&id];
                    let home = ServiceIndex::home(0, &service.address, service.port, service.protocol);
                    let slot = (home..home + INDEX_PROBES)
                        .map(|slot| slot % INDEX_SLOTS)
                        .find(|slot| index.slots[*slot] == 0);
                    index.slots[slot.expect("few services leave room")] = id as u16 + 1;
                }
                self.control.active_index ^= 1;
                self.indexes[self.control.active_index as usize] = Some(index);
            }
        }
    }

    /// Packets by action and reason.
    pub fn totals(&self) -> Totals {
        self.totals.borrow().clone()
    }

    /// Traffic of a service.
    pub fn service_counters(&self, id: u32) -> Counters {
        self.service_counters.borrow().get(&id).copied().unwrap_or_default()
    }

    /// Traffic of a server.
    pub fn backend_counters(&self, id: u32) -> Counters {
        self.backend_counters.borrow().get(&id).copied().unwrap_or_default()
    }
}

impl Tables for Host {
    fn control(&self) -> Option<&Control> {
        Some(&self.control)
    }

    fn service_index(&self, which: u32) -> Option<&ServiceIndex> {
        self.indexes.get(which as usize)?.as_deref()
    }

    fn service(&self, id: u32) -> Option<&Service> {
        self.services.get(&id)
    }

    fn ring(&self, id: u32) -> Option<&Ring> {
        self.rings.get(&id).map(Box::as_ref)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(&id)
    }

    fn next_hop(&self, id: u32) -> Option<&NextHop> {
        self.next_hops.get(&id)
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowEntry<'_>> {
        // SAFETY: the box lives until `process` clears `replaced` or changes `flows`, for which it borrows mutably.
        self.flows.borrow().get(key).map(|flow| unsafe { FlowEntry::new(flow.get()) })
    }

    fn put_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        if self.full.get() {
            return false;
        }
        let old = self.flows.borrow_mut().insert(*key, Box::new(UnsafeCell::new(*flow)));
        self.replaced.borrow_mut().extend(old);
        true
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn redirect(&self, ifindex: u32) -> bool {
        self.interfaces.contains(&ifindex)
    }

    fn hide(&self, value: u32) -> u32 {
        value
    }

    fn count(&self, action: Action, reason: u32) {
        assert!((reason as usize) < REASONS, "{reason} is not the number of a reason");
        *self.totals.borrow_mut().entry((action as u8, reason)).or_default() += 1;
    }

    fn count_service(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool) {
        add(&self.service_counters, id, direction, bytes, new_flow);
    }

    fn count_backend(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool) {
        add(&self.backend_counters, id, direction, bytes, new_flow);
    }
}

fn add(
    counters: &RefCell<BTreeMap<u32, Counters>>,
    id: u32,
    direction: Direction,
    bytes: usize,
    new_flow: bool,
) {
    let mut counters = counters.borrow_mut();
    let counters = counters.entry(id).or_default();
    let (packets, total) = match direction {
        Direction::In => (&mut counters.packets_in, &mut counters.bytes_in),
        Direction::Out => (&mut counters.packets_out, &mut counters.bytes_out),
    };
    *packets += 1;
    *total += bytes as u64;
    counters.new_flows += u64::from(new_flow);
}
