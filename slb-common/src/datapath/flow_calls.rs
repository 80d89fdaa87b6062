//! Searches of the flow table. Each is a BPF subprogram.

use super::{
    flows::{self, Allocation, Query},
    maps::Maps,
};
use crate::abi::flow::FlowTag;

/// The searches of the flow table, as BPF subprograms.
pub trait FlowCalls: Maps {
    /// [`flows::find`], a BPF subprogram.
    fn find_flow(&self, query: &Query, tag: FlowTag) -> u32 {
        flows::find(query, tag, self)
    }
    /// [`flows::find_answered`], a BPF subprogram.
    fn find_answered_flow(&self, query: &Query, endpoint: u32) -> u32 {
        flows::find_answered(query, endpoint, self)
    }
    /// [`flows::conflicts`], a BPF subprogram.
    fn conflicting_flows(&self, query: &Query, tag: FlowTag) -> u64 {
        flows::conflicts(query, tag, self)
    }
    /// [`flows::mark_tuple_reused`], a BPF subprogram.
    fn mark_tuples_reused(&self, query: &Query, tag: FlowTag, endpoint: u32) {
        flows::mark_tuple_reused(query, tag, endpoint, self);
    }
    /// [`flows::find_slot`], a BPF subprogram.
    fn slot_for_flow(&self, home: u32) -> u32 {
        flows::find_slot(home, self)
    }
    /// [`flows::allocate_source`], a BPF subprogram.
    fn allocate_source(&self, slot: u32, server: u64, request: Allocation) -> bool {
        flows::allocate_source(slot, server, request, self)
    }
    /// [`flows::release_word`], a BPF subprogram.
    fn release_source_word(&self, bucket: u32, n: u32, was: u64, is_scarce: bool) -> bool {
        flows::release_word(bucket, n, was, is_scarce, self)
    }
    /// [`flows::find_unfair_slot`], a BPF subprogram.
    fn unfair_slot(&self, home: u32, prefix: u64) -> u32 {
        flows::find_unfair_slot(home, prefix, self)
    }
}
