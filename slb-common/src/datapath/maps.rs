//! The packet path's maps and kernel helpers: storage, clock and counters, without an algorithm. Tests implement the
//! trait over vectors.

use super::parse::Packet;
use crate::abi::{
    Address, Handle,
    backend::{Backend, NextHop},
    flow::{ClientPath, FlowEntry},
    fragment::{FragmentKey, FragmentRecord},
    interface::{self, Interface},
    lookup_table::LookupTable,
    service::{Service, ServiceIndex},
    shared_word::SharedWord,
    source::SourceBucket,
    stats::{Action, GeneratedPacket},
    token_bucket::{Limit, TokenBuckets},
};
use crate::net::vlan::Vlan;

/// Direction of a packet, seen from SLB's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client.
    In,
    /// To a client.
    Out,
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
    /// Whether a network on an access list has the client.
    fn is_listed(&self, access_list: u32, client: &Address) -> bool;
    /// The server with this QUIC server ID in a server table. Its entry may have been replaced since.
    fn quic_server(&self, lookup_table: u32, server_id: u32) -> Option<Handle>;
    /// A next hop by its id.
    fn next_hop(&self, id: u32) -> Option<&NextHop>;
    /// Slots of the flow table less one; their number is a power of two.
    fn flow_mask(&self) -> u32;
    /// A slot of the flow table.
    fn flow(&self, slot: u32) -> Option<FlowEntry<'_>>;
    /// A bucket of the source table, which has one for each four slots of the flow table.
    fn source_bucket(&self, bucket: u32) -> Option<&SourceBucket>;
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
    /// Token buckets by their number.
    fn token_buckets(&self, number: u32) -> Option<&TokenBuckets>;
    /// A clock in nanoseconds that is the same on all processors.
    fn nanoseconds(&self) -> u64;
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
    /// Index of the VLAN device upon an interface for this VLAN; 0 without one.
    fn vlan_device(&self, ifindex: u32, vlan: Vlan) -> u32;

    /// The client path by the kernel's route for replies to a packet. Returns 0 without a route, or if it leaves by an
    /// interface that does not run the program. The hardware address is 0 while the neighbour is not resolved.
    fn route_to_client(&self, packet: &Packet) -> ClientPath;
    /// The interface on whose link the packet's sender is, by the kernel's routes; 0 if a gateway is before it, or
    /// there is no route.
    fn link_of_client(&self, packet: &Packet) -> u32;
    /// Prepares to send the frame out of another interface: the program must end with
    /// [`Redirect`](super::Verdict::Redirect). Returns `false` if packets may not leave there.
    fn redirect(&self, ifindex: u32) -> bool;

    /// The record of the first fragment of a packet.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentRecord>;
    /// Records the first fragment of a packet.
    fn put_fragment(&self, key: &FragmentKey, record: &FragmentRecord);
    /// Removes the record of a packet, if there is one.
    fn remove_fragment(&self, key: &FragmentKey);

    /// Counts one packet under an action and the number of a reason.
    fn count(&self, action: Action, reason: u32);
    /// Whether the rate limit allows one more generated packet of a kind; counts it if so. `hz` is jiffies per second.
    fn may_send(&self, what: GeneratedPacket, hz: u32) -> bool;
    /// Counts one flow under [`Totals::evicted_migrating`](crate::abi::stats::Totals::evicted_migrating).
    fn count_evicted_migrating(&self);
    /// Counts one flow under [`Totals::evicted`](crate::abi::stats::Totals::evicted), or
    /// [`Totals::evicted_assured`](crate::abi::stats::Totals::evicted_assured).
    fn count_evicted(&self, is_assured: bool);
    /// Counts one packet of a service that is over a limit.
    fn count_over_limit(&self, service: u32, limit: Limit);
    /// Counts one packet of a service; `bytes` are those of the frame.
    fn count_service(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool);
    /// Counts one packet of a server; `bytes` are those of the frame.
    fn count_backend(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool);
}
