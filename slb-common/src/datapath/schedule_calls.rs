//! Schedulers. Each is a BPF subprogram.

use super::{
    flow_calls::FlowCalls,
    parse::Packet,
    quic::NamedServer,
    schedule::{self, SchedulerResult},
};
use crate::abi::service::IndexEntry;

/// The schedulers, as BPF subprograms.
pub trait ScheduleCalls: FlowCalls {
    /// [`schedule::by_hash`], a BPF subprogram.
    fn server_by_hash(&self, packet: &Packet, service: &IndexEntry, conflicts: u64) -> SchedulerResult {
        schedule::by_hash(packet, service, conflicts, self)
    }
    /// [`schedule::by_round_robin`], a BPF subprogram.
    fn server_by_round_robin(
        &self,
        packet: &Packet,
        service: &IndexEntry,
        conflicts: u64,
    ) -> SchedulerResult {
        schedule::by_round_robin(packet, service, conflicts, self)
    }
    /// [`schedule::by_connection_id`], a BPF subprogram.
    fn server_by_connection_id(
        &self,
        packet: &Packet,
        service: &IndexEntry,
        conflicts: u64,
        named: NamedServer,
    ) -> SchedulerResult {
        schedule::by_connection_id(packet, service, conflicts, named, self)
    }
    /// [`schedule::affinity_server`], a BPF subprogram.
    fn affinity_server(&self, packet: &Packet, service: &IndexEntry, conflicts: u64) -> SchedulerResult {
        schedule::affinity_server(packet, service, conflicts, self)
    }
    /// [`schedule::set_affinity`], a BPF subprogram.
    fn set_affinity(
        &self,
        packet: &Packet,
        service: &IndexEntry,
        conflicts: u64,
        chosen: SchedulerResult,
    ) -> SchedulerResult {
        schedule::set_affinity(packet, service, conflicts, chosen, self)
    }
}
