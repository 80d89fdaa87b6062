//! The packet path's tables, as maps.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use slb_common::{
    abi::{
        backend::{Backend, NextHop},
        control::Control,
        flow::{Flow, FlowKey},
        ring::Ring,
        service::{Service, ServiceIndex},
        stats::{Action, Counters, REASONS},
    },
    datapath::tables::{Direction, FlowEntry, Tables},
};

use crate::maps::{
    BACKEND_COUNTERS, BACKENDS, CONTROL, FLOWS, INTERFACES, NEXT_HOPS, RINGS, SERVICE_COUNTERS,
    SERVICE_INDEX, SERVICES, TOTALS,
};

/// The maps of this program.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn control(&self) -> Option<&Control> {
        CONTROL.get(0)
    }

    #[inline(always)]
    fn service_index(&self, which: u32) -> Option<&ServiceIndex> {
        SERVICE_INDEX.get(which)
    }

    #[inline(always)]
    fn service(&self, id: u32) -> Option<&Service> {
        SERVICES.get(id)
    }

    #[inline(always)]
    fn ring(&self, id: u32) -> Option<&Ring> {
        RINGS.get_value(id, &0)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn next_hop(&self, id: u32) -> Option<&NextHop> {
        NEXT_HOPS.get(id)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<FlowEntry<'_>> {
        // SAFETY: an element stays readable and writable until the program ends. Evicted meanwhile, it may hold another
        // flow: whoever reads it compares the check.
        FLOWS.get_ptr_mut(key).map(|flow| unsafe { FlowEntry::new(flow) })
    }

    #[inline(always)]
    fn put_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        FLOWS.insert(key, flow, 0).is_ok()
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: takes nothing and returns a number.
        unsafe { bpf_jiffies64() as u32 }
    }

    #[inline(always)]
    fn redirect(&self, ifindex: u32) -> bool {
        INTERFACES.redirect(ifindex, 0).is_ok()
    }

    #[inline(always)]
    fn hide(&self, value: u32) -> u32 {
        // The map could hold anything for all the verifier knows.
        CONTROL.get(0).map_or(value, |control| {
            // SAFETY: a reference to an aligned word; volatile, for the compiler not to learn that nobody writes it.
            value ^ unsafe { (&raw const control.zero).read_volatile() }
        })
    }

    #[inline(always)]
    fn count(&self, action: Action, reason: u32) {
        if let Some(totals) = TOTALS.get_ptr_mut(0) {
            // SAFETY: this processor's own copy; XDP programs do not interrupt each other on one processor.
            unsafe { (*totals).packets[action as usize & 3][reason as usize & (REASONS - 1)] += 1 };
        }
    }

    #[inline(always)]
    fn count_service(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool) {
        add(SERVICE_COUNTERS.get_ptr_mut(id), direction, bytes, new_flow);
    }

    #[inline(always)]
    fn count_backend(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool) {
        add(BACKEND_COUNTERS.get_ptr_mut(id), direction, bytes, new_flow);
    }
}

#[inline(always)]
fn add(counters: Option<*mut Counters>, direction: Direction, bytes: usize, new_flow: bool) {
    let Some(counters) = counters else { return };
    // SAFETY: this processor's own copy, as above.
    let counters = unsafe { &mut *counters };
    match direction {
        Direction::In => {
            counters.packets_in += 1;
            counters.bytes_in += bytes as u64;
        }
        Direction::Out => {
            counters.packets_out += 1;
            counters.bytes_out += bytes as u64;
        }
    }
    counters.new_flows += u64::from(new_flow);
}
