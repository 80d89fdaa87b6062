//! What the packet path needs of its surroundings: maps and helpers in BPF, vectors in tests.

use super::{
    enter::{self, NewFlow},
    flows::{self, Query},
    icmp_error::Message,
    schedule::{self, Scheduled},
    select::{self, Outcome},
    unmatched::{self, Decision},
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
    stats::{Action, Limited},
};
#[cfg(doc)]
use crate::net::{ethernet, parse};
use crate::net::{frame::Growing, parse::Packet};
use core::borrow::Borrow;

/// Direction of a packet, seen from SLB's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client.
    In,
    /// To a client.
    Out,
}

/// The frame, where it is.
pub trait Head: Growing {
    /// What has been read of a frame, wherever it lies.
    type Packet: Borrow<Packet>;

    /// [`parse::parse`], compiled apart; `None` where there is no room for a packet. No packet of read-only data stands in for it: before
    /// Linux 6.15 BPF subprograms take no pointer to such data.
    fn parse(&mut self) -> Option<Parsed<Self::Packet>>;
    /// [`ethernet::remove_priority_tags`], compiled apart; `false` if the frame is of no use any more.
    fn remove_priority_tags(&mut self) -> bool;
    /// [`icmp_error::answer`], compiled apart; `false` if the frame is of no use any more.
    fn answer_error(&mut self, network: usize, message: Message) -> bool;
    /// [`reset::turn`], compiled apart; `false` if the frame is of no use any more.
    fn turn_into_reset(&mut self, network: usize, back: bool) -> bool;
}

/// What has been read of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Parsed<P> {
    /// Number of the [`Reason`](crate::abi::stats::Reason) for which it is refused, or [`Self::SOUND`].
    pub outcome: u32,
    /// The packet, or what is known of it.
    pub packet: P,
}

impl<P> Parsed<P> {
    /// The outcome of a frame that is not refused.
    pub const SOUND: u32 = u32::MAX;
}

/// The tables. Look-ups hand out references and never fail but for absence.
pub trait Tables: Sized {
    /// The index of services in force.
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
    /// Whether flows are being copied into this flow table: one that is not found may still be in the table that it replaces.
    fn is_resizing(&self) -> bool {
        false
    }
    /// What the flow table's hash is secretly seeded with.
    fn flow_seed(&self) -> u64;
    /// Jiffies, the low word.
    fn now(&self) -> u32;
    /// New flows of a service so far, where they take turns.
    fn turn(&self, service: u32) -> Option<&SharedWord>;
    /// Flows of a server, where that is of use; a small negative number, or one that is too large, for a while.
    fn load(&self, backend: u32) -> Option<&SharedWord>;

    /// The entry of the interface table in this [`slot`](interface::slot), which may be empty; `None` for no slot.
    fn interface_at(&self, slot: u32) -> Option<&Interface>;
    /// The interface of this index; `None` if the program does not run there.
    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<&Interface> {
        self.interface_at(interface::slot(ifindex)).filter(|interface| interface.ifindex() == ifindex)
    }
    /// Whether the hardware address `mac`, in the lower 48 bits, is one of an interface that its entry has no room for.
    fn is_own_mac(&self, ifindex: u32, mac: u64) -> bool;

    /// The kernel's path for answers to a packet: 0 where it has no route, or one through an interface that does not run the program;
    /// with hardware address 0 where the neighbour is not resolved.
    fn route_to_client(&self, packet: &Packet) -> ClientPath;
    /// Sends the frame out of another interface once the program has ended with [`Redirect`](super::Verdict::Redirect); `false` if
    /// packets may not leave there.
    fn redirect(&self, ifindex: u32) -> bool;

    /// [`flows::find`], compiled apart.
    fn find_flow(&self, query: &Query, service: u32) -> u32 {
        flows::find(query, service, self)
    }
    /// [`flows::find_answered`], compiled apart.
    fn find_answered_flow(&self, query: &Query, endpoint: u32) -> u32 {
        flows::find_answered(query, endpoint, self)
    }
    /// [`flows::conflicts`], compiled apart.
    fn conflicting_flows(&self, query: &Query, service: u32) -> u64 {
        flows::conflicts(query, service, self)
    }
    /// [`flows::release`], compiled apart.
    fn release_flows(&self, query: &Query, service: u32, endpoint: u32) {
        flows::release(query, service, endpoint, self);
    }
    /// [`schedule::by_hash`], compiled apart.
    fn server_by_hash(&self, packet: &Packet, service: &IndexEntry, conflicts: u64) -> Scheduled {
        schedule::by_hash(packet, service, conflicts, self)
    }
    /// [`schedule::by_round_robin`], compiled apart.
    fn server_by_round_robin(&self, packet: &Packet, service: &IndexEntry, conflicts: u64) -> Scheduled {
        schedule::by_round_robin(packet, service, conflicts, self)
    }
    /// [`schedule::kept`], compiled apart.
    fn affinity_server(&self, packet: &Packet, service: &IndexEntry, conflicts: u64) -> Scheduled {
        schedule::kept(packet, service, conflicts, self)
    }
    /// [`schedule::keep`], compiled apart.
    fn set_affinity(
        &self,
        packet: &Packet,
        service: &IndexEntry,
        conflicts: u64,
        chosen: Scheduled,
    ) -> Scheduled {
        schedule::keep(packet, service, conflicts, chosen, self)
    }
    /// [`unmatched::decide`], compiled apart.
    fn unmatched(&self, packet: &Packet, reason: u32) -> Decision {
        unmatched::decide(packet, reason, self)
    }
    /// [`flows::place`], compiled apart.
    fn slot_for_flow(&self, home: u32) -> u32 {
        flows::place(home, self)
    }

    /// [`select::known`], compiled apart.
    fn known_flow(
        &self,
        packet: &Packet,
        service: &IndexEntry,
        arrival: ClientPath,
        distance: u32,
    ) -> Outcome {
        select::known(packet, service, arrival, distance, self)
    }
    /// [`enter::enter`], compiled apart.
    fn enter_flow(&self, packet: &Packet, service: &IndexEntry, arrival: ClientPath, new: NewFlow) -> bool {
        enter::enter(packet, service, arrival, new, self)
    }
    /// [`flows::unfair`], compiled apart.
    fn unfair_slot(&self, home: u32, prefix: u64) -> u32 {
        flows::unfair(home, prefix, self)
    }

    /// Counts one packet under an action and the number of a reason.
    fn count(&self, action: Action, reason: u32);
    /// Whether one more answer of a kind may be sent in this second; `hz` is jiffies in it.
    fn may_send(&self, what: Limited, hz: u32) -> bool;
    /// Counts one flow under [`Totals::forgotten`](crate::abi::stats::Totals::forgotten).
    fn count_forgotten(&self);
    /// Counts one flow under [`Totals::evicted`](crate::abi::stats::Totals::evicted), or
    /// [`Totals::evicted_assured`](crate::abi::stats::Totals::evicted_assured).
    fn count_evicted(&self, is_assured: bool);
    /// Counts one packet of a service.
    fn count_service(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool);
    /// Counts one packet of a server.
    fn count_backend(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool);
}
