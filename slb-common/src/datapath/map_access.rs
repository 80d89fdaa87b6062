//! The packet path's access to maps and kernel helpers. Tests implement it over vectors.

use super::{
    flows::{self, Query},
    icmp_error::IcmpMessage,
    insert::{self, NewFlow},
    schedule::{self, SchedulerResult},
    select::{self, PackedDisposition},
    unmatched::{self, UnmatchedDecision},
};
#[cfg(doc)]
use super::{icmp_error, reset};
use crate::abi::{
    backend::{Backend, NextHop},
    flow::{ClientPath, FlowEntry},
    interface::{self, Interface},
    lookup_table::LookupTable,
    service::{IndexEntry, Service, ServiceIndex},
    shared_word::SharedWord,
    stats::{Action, GeneratedPacket},
};
#[cfg(doc)]
use crate::net::{ethernet, parse};
use crate::net::{frame::FrameBuffer, parse::Packet};
use core::borrow::Borrow;

/// Direction of a packet, seen from SLB's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client.
    In,
    /// To a client.
    Out,
}

/// The frame in the kernel's buffer, and the subprograms that read or rewrite it.
pub trait FrameCalls: FrameBuffer {
    /// A parsed packet, by value or by reference.
    type Packet: Borrow<Packet>;

    /// [`parse::parse`]; `None` where there is no memory for the packet. A BPF subprogram. No constant packet can stand
    /// in for it: before Linux 6.15, subprograms take no pointer to read-only data.
    fn parse(&mut self) -> Option<Parsed<Self::Packet>>;
    /// [`ethernet::remove_priority_tags`], a BPF subprogram. After `false` the frame must be dropped.
    fn remove_priority_tags(&mut self) -> bool;
    /// [`icmp_error::answer`], a BPF subprogram. After `false` the frame must be dropped.
    fn rewrite_to_icmp_error(&mut self, network: usize, message: IcmpMessage) -> bool;
    /// [`reset::rewrite_to_rst`], a BPF subprogram. After `false` the frame must be dropped.
    fn rewrite_to_rst(&mut self, network: usize, back: bool) -> bool;
}

/// Result of the parser.
#[derive(Debug, Clone, Copy)]
pub struct Parsed<P> {
    /// Number of the [`Reason`](crate::abi::stats::Reason) for which the frame is refused, or [`Self::SOUND`].
    pub outcome: u32,
    /// The packet; of a refused frame, what the parser has read of it.
    pub packet: P,
}

impl<P> Parsed<P> {
    /// Outcome of a frame that is not refused.
    pub const SOUND: u32 = u32::MAX;
}

/// The maps and helpers of the packet path. A lookup returns a reference, or `None` where there is no such entry.
pub trait Maps: Sized {
    /// The active service index.
    fn index(&self) -> Option<&ServiceIndex>;
    /// A service by its id.
    fn service(&self, id: u32) -> Option<&Service>;
    /// A server table by its id.
    fn lookup_table(&self, id: u32) -> Option<&LookupTable>;
    /// A server by its id.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// A next hop by its id.
    fn next_hop(&self, id: u32) -> Option<&NextHop>;
    /// Slots of the flow table less one; their number is a power of two.
    fn flow_mask(&self) -> u32;
    /// A slot of the flow table.
    fn flow(&self, slot: u32) -> Option<FlowEntry<'_>>;
    /// Whether the daemon copies flows into this flow table. A flow without an entry may still have one in the table
    /// that it replaces.
    fn is_resizing(&self) -> bool {
        false
    }
    /// Secret seed of the flow table's hash.
    fn flow_seed(&self) -> u64;
    /// Jiffies, the low word.
    fn now(&self) -> u32;
    /// Round-robin position of a service: its new flows so far.
    fn round_robin_position(&self, service: u32) -> Option<&SharedWord>;
    /// Connection count of a server, for least connections. For a while it may be too large, or a small negative
    /// number: it wraps around.
    fn connection_count(&self, backend: u32) -> Option<&SharedWord>;

    /// The entry of the interface table in this [`slot`](interface::slot), which may be empty; `None` for no slot.
    fn interface_at(&self, slot: u32) -> Option<&Interface>;
    /// The interface with this index; `None` if the program does not run there.
    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<&Interface> {
        self.interface_at(interface::slot(ifindex)).filter(|interface| interface.ifindex() == ifindex)
    }
    /// Whether `mac` is one of the interface's further hardware addresses outside the interface table. The address is
    /// in the lower 48 bits.
    fn is_own_mac(&self, ifindex: u32, mac: u64) -> bool;

    /// The client path by the kernel's route for replies to a packet. Returns 0 without a route, or if it leaves by an
    /// interface that does not run the program. The hardware address is 0 while the neighbour is not resolved.
    fn route_to_client(&self, packet: &Packet) -> ClientPath;
    /// Prepares to send the frame out of another interface: the program must end with
    /// [`Redirect`](super::Verdict::Redirect). Returns `false` if packets may not leave there.
    fn redirect(&self, ifindex: u32) -> bool;

    /// [`flows::find`], a BPF subprogram.
    fn find_flow(&self, query: &Query, service: u32) -> u32 {
        flows::find(query, service, self)
    }
    /// [`flows::find_answered`], a BPF subprogram.
    fn find_answered_flow(&self, query: &Query, endpoint: u32) -> u32 {
        flows::find_answered(query, endpoint, self)
    }
    /// [`flows::conflicts`], a BPF subprogram.
    fn conflicting_flows(&self, query: &Query, service: u32) -> u64 {
        flows::conflicts(query, service, self)
    }
    /// [`flows::mark_tuple_reused`], a BPF subprogram.
    fn mark_tuples_reused(&self, query: &Query, service: u32, endpoint: u32) {
        flows::mark_tuple_reused(query, service, endpoint, self);
    }
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
    /// [`unmatched::decide`], a BPF subprogram.
    fn unmatched(&self, packet: &Packet, reason: u32) -> UnmatchedDecision {
        unmatched::decide(packet, reason, self)
    }
    /// [`flows::find_slot`], a BPF subprogram.
    fn slot_for_flow(&self, home: u32) -> u32 {
        flows::find_slot(home, self)
    }

    /// [`select::disposition`], a BPF subprogram.
    fn flow_disposition(
        &self,
        packet: &Packet,
        service: &IndexEntry,
        arrival: ClientPath,
        distance: u32,
    ) -> PackedDisposition {
        select::disposition(packet, service, arrival, distance, self)
    }
    /// [`insert::insert`], a BPF subprogram.
    fn insert_flow(&self, packet: &Packet, service: &IndexEntry, arrival: ClientPath, new: NewFlow) -> bool {
        insert::insert(packet, service, arrival, new, self)
    }
    /// [`flows::find_unfair_slot`], a BPF subprogram.
    fn unfair_slot(&self, home: u32, prefix: u64) -> u32 {
        flows::find_unfair_slot(home, prefix, self)
    }

    /// Counts one packet under an action and the number of a reason.
    fn count(&self, action: Action, reason: u32);
    /// Whether the rate limit allows one more generated packet of a kind; counts it if so. `hz` is jiffies per second.
    fn may_send(&self, what: GeneratedPacket, hz: u32) -> bool;
    /// Counts one flow under [`Totals::evicted_migrating`](crate::abi::stats::Totals::evicted_migrating).
    fn count_evicted_migrating(&self);
    /// Counts one flow under [`Totals::evicted`](crate::abi::stats::Totals::evicted), or
    /// [`Totals::evicted_assured`](crate::abi::stats::Totals::evicted_assured).
    fn count_evicted(&self, is_assured: bool);
    /// Counts one packet of a service; `bytes` are those of the frame.
    fn count_service(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool);
    /// Counts one packet of a server; `bytes` are those of the frame.
    fn count_backend(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool);
}
