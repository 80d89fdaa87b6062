//! Steps of the slow path. Each is a BPF subprogram.

use super::{
    access,
    cookie_calls::CookieCalls,
    cookie_mark,
    fragment_record::{self, FragmentFlow},
    insert::{self, NewFlow},
    limits,
    parse::Packet,
    schedule_calls::ScheduleCalls,
    tracked::{self, EntryQuestion, PackedDisposition},
    unmatched::{self, UnmatchedDecision},
};
use crate::abi::{
    Address, Handle,
    flow::ClientPath,
    service::{IndexEntry, ServiceIndex},
    token_bucket::Limit,
};

/// Everything that the packet path calls: maps, and all its BPF subprograms.
pub trait PathCalls: ScheduleCalls + CookieCalls {
    /// [`ServiceIndex::listener_slot`], a BPF subprogram.
    fn listener_slot(&self, index: &ServiceIndex, address: &Address, port: u16, protocol: u8) -> u32 {
        index.listener_slot(address, port, protocol)
    }
    /// [`ServiceIndex::find_range`], a BPF subprogram.
    fn find_range(&self, index: &ServiceIndex, address: &Address, port: u16, protocol: u8) -> u32 {
        index.find_range(address, port, protocol)
    }
    /// [`fragment_record::record`], a BPF subprogram.
    fn record_fragment(&self, packet: &Packet, server: Handle, client: ClientPath, flow: FragmentFlow) {
        fragment_record::record(packet, server, client, flow, self);
    }
    /// [`cookie_mark::mark_flow`], a BPF subprogram.
    fn mark_cookie_flow(&self, packet: &Packet, service: &IndexEntry) {
        cookie_mark::mark_flow(packet, service, self);
    }
    /// [`access::source_refusal`], a BPF subprogram.
    fn source_refusal(&self, packet: &Packet, service: &IndexEntry) -> u32 {
        access::source_refusal(packet, service, self)
    }
    /// [`unmatched::decide`], a BPF subprogram.
    fn unmatched(&self, packet: &Packet, reason: u32) -> UnmatchedDecision {
        unmatched::decide(packet, reason, self)
    }
    /// [`limits::take`], a BPF subprogram.
    fn take_tokens(&self, service: u32, limit: Limit, amount: u32) -> bool {
        limits::take(service, limit, amount, self)
    }
    /// [`tracked::disposition`], a BPF subprogram.
    fn flow_disposition(
        &self,
        packet: &Packet,
        service: &IndexEntry,
        arrival: ClientPath,
        question: EntryQuestion,
    ) -> PackedDisposition {
        tracked::disposition(packet, service, arrival, question, self)
    }
    /// [`insert::insert`], a BPF subprogram.
    fn insert_flow(&self, packet: &Packet, service: &IndexEntry, arrival: ClientPath, new: NewFlow) -> bool {
        insert::insert(packet, service, arrival, new, self)
    }
}
