//! Steps of the slow path. Each is a BPF subprogram.

use super::{
    access,
    insert::{self, NewFlow},
    limits,
    parse::Packet,
    schedule_calls::ScheduleCalls,
    tracked::{self, EntryQuestion, PackedDisposition},
    unmatched::{self, UnmatchedDecision},
};
use crate::abi::{flow::ClientPath, service::IndexEntry, token_bucket::Limit};

/// Everything that the packet path calls: maps, and all its BPF subprograms.
pub trait PathCalls: ScheduleCalls {
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
