//! Services: what a listener is on one of its VIPs, what a VIP itself is, and the index that finds them.

use super::{Address, Handle, MAX_SERVICES, NAME_LEN};
use crate::{
    hash::flow_hash,
    net::{headers::protocol, parse::is_one_host},
};

/// One VIP, protocol and port; with an ICMP protocol and port 0, the VIP itself.
///
/// For answers, which find it by its id, and for whoever reads the map. Packets to a VIP find its [`IndexEntry`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The VIP.
    pub address: Address,
    /// Port, in network byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`mode`].
    pub mode: u8,
    /// Index of the server table.
    pub lookup_table: u32,
    /// This use of the id; an unused entry has [`Handle`] 0.
    pub handle: Handle,
    /// Seconds after which a silent flow is forgotten; up to 1,020.
    pub idle_timeout: u32,
    /// Bits of [`policy`].
    pub policy: u32,
    /// Seconds after its last flow for which a client is kept to its server; up to 3,600.
    pub persistence: u32,
    /// When [`policy::BY_CLIENT`] changed, in seconds since the machine started (`CLOCK_BOOTTIME`), for as long as flows may be
    /// remembered for that; else 0. For the daemon.
    pub rehashed: u32,
    /// Keeps the size a power of two.
    pub reserved: [u32; 4],
    /// Name of the load balancer, for whoever reads the map.
    pub load_balancer: [u8; NAME_LEN],
    /// Name of the listener, for whoever reads the map.
    pub listener: [u8; NAME_LEN],
    /// Name of the server group, empty for the default group, for whoever reads the map.
    pub group: [u8; NAME_LEN],
}

impl Default for Service {
    fn default() -> Self {
        Self {
            address: Address::default(),
            port: 0,
            protocol: 0,
            mode: mode::NAT,
            lookup_table: 0,
            handle: Handle::default(),
            idle_timeout: 0,
            policy: 0,
            persistence: 0,
            rehashed: 0,
            reserved: [0; 4],
            load_balancer: [0; NAME_LEN],
            listener: [0; NAME_LEN],
            group: [0; NAME_LEN],
        }
    }
}

/// How packets reach the server.
pub mod mode {
    /// Destination address and port are rewritten; answers come back through SLB.
    pub const NAT: u8 = 0;
    /// Hardware addresses are rewritten; answers go directly to the client.
    pub const DSR: u8 = 1;
    /// The packet is put into another IP packet, to the server; answers go directly to the client.
    pub const IPIP: u8 = 2;
}

/// How flows of a service are remembered.
pub mod policy {
    /// Every flow is remembered, not only those that the table would move. Always so in mode `nat`.
    pub const TRACK: u32 = 1;
    /// Datagrams of unknown flows go where the table says, in place of where it said before.
    pub const FOLLOW: u32 = 2;
    /// All flows of one client address belong to one slot of the table.
    pub const BY_CLIENT: u32 = 4;
    /// New flows get the slots of the table one after the other.
    pub const ROUND_ROBIN: u32 = 8;
    /// New flows get, of the next slots of the table, the one of the server with the fewest flows for its weight.
    pub const LEAST_CONNECTIONS: u32 = 16;
    /// New flows of a client go where its last ones went: for [`IndexEntry::persistence`](super::IndexEntry).
    pub const PERSIST: u32 = 32;
    /// What may have begun before a change of [`BY_CLIENT`], and nobody remembers, belongs to the slot that it had before. With
    /// [`TRACK`].
    pub const OTHER_HASH: u32 = 64;
    /// New flows go elsewhere than to the slot of their hash: what cannot be remembered is refused. With [`TRACK`].
    pub const ELSEWHERE: u32 = ROUND_ROBIN | LEAST_CONNECTIONS | PERSIST;

    // Of a VIP: of its entry under an ICMP protocol and port 0. Without any of these it answers echo requests, and what no
    // listener takes is passed to the kernel.

    /// The VIP answers no echo request: its load balancer has no running listener.
    pub const NO_ECHO: u32 = 128;
    /// Packets for the VIP that no listener takes are dropped.
    pub const DROP_UNMATCHED: u32 = 256;
    /// Packets for the VIP that no listener takes are answered as a host answers for a closed port, or dropped.
    pub const REJECT_UNMATCHED: u32 = 512;
}

/// Slots of the index: four times the services, so that probes stay short.
pub const INDEX_SLOTS: usize = 4 * MAX_SERVICES as usize;
/// Slots a look-up tries at most.
pub const INDEX_PROBES: usize = 16;

const INDEX_BITS: u32 = INDEX_SLOTS.trailing_zeros();
/// 2^20 bits: at 10,000 servers one in a hundred passing packets is taken for a server's, and looked up in the flow table.
const FILTER_BITS: u32 = 20;

/// Multiplier of the hashes of addresses, odd.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
/// 2^16 bits: few enough to stay in a cache, as all packets that are none of SLB's look at one.
const VIP_BITS: u32 = 16;

/// Words of the filter of VIPs.
pub const VIP_WORDS: usize = 1 << (VIP_BITS - u64::BITS.trailing_zeros());

/// Words of the filter of servers.
pub const FILTER_WORDS: usize = 1 << (FILTER_BITS - u64::BITS.trailing_zeros());

/// What a client's packet needs to know of a service.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// The VIP.
    pub address: Address,
    /// Port, in network byte order.
    pub port: u16,
    /// IP protocol number; 0 in a free slot.
    pub protocol: u8,
    /// One of [`mode`].
    pub mode: u8,
    /// [`Handle::tag`] of the service.
    pub service: u32,
    /// Index of the server table.
    pub lookup_table: u32,
    /// What its VIP, port and protocol add to the hash of a flow: [`crate::hash::salt`].
    pub salt: u64,
    /// Bits of [`policy`].
    pub policy: u32,
    /// [`super::flow::idle_units`] of the time after which a silent flow is forgotten.
    pub idle: u8,
    /// Keeps the next one aligned.
    pub reserved: u8,
    /// Seconds after its last flow for which a client is kept to its server.
    pub persistence: u16,
    /// Keeps the size a power of two.
    pub unused: [u32; 3],
}

impl IndexEntry {
    /// Id of the service.
    #[inline(always)]
    pub const fn id(&self) -> u32 {
        self.service & 0xffff
    }

    /// What a flow's slot in the server table follows from; the port in network byte order.
    #[inline(always)]
    pub const fn flow_hash(&self, client: &Address, port: u16) -> u64 {
        self.hash_by(self.policy & policy::BY_CLIENT != 0, client, port)
    }

    /// The same for what may have begun long ago.
    #[inline(always)]
    pub const fn old_flow_hash(&self, client: &Address, port: u16) -> u64 {
        let is_other = self.policy & policy::OTHER_HASH != 0;
        self.hash_by((self.policy & policy::BY_CLIENT != 0) ^ is_other, client, port)
    }

    #[inline(always)]
    const fn hash_by(&self, by_client: bool, client: &Address, port: u16) -> u64 {
        // Without branches: each one would double the paths the verifier follows.
        flow_hash(self.salt, client, port & (by_client as u16).wrapping_sub(1))
    }
}

/// An open-addressed table of services, with what all packets need to know. Filled aside, put in force by one pointer
/// write, never changed after.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ServiceIndex {
    /// Seed of the index's hash, chosen so that no entry needs more than [`INDEX_PROBES`] probes.
    pub seed: u64,
    /// Padding; zero.
    pub reserved: u32,
    /// Jiffies in a second: the unit of every time on the packet path.
    pub hz: u32,
    /// Where tunnels begin (mode `ipip`).
    pub tunnel: Tunnel,
    /// One bit for each server whose answers come back through SLB: packets from elsewhere are no answers.
    pub servers: [u64; FILTER_WORDS],
    /// Bits of the VIPs for which what no listener takes is not passed to the kernel.
    pub vips: [u64; VIP_WORDS],
    /// Bits of all VIPs: no packet of a client comes from one.
    pub all_vips: [u64; VIP_WORDS],
    /// The services.
    pub entries: [IndexEntry; INDEX_SLOTS],
}

/// Source addresses of outer headers.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// IPv4, mapped.
    pub v4: Address,
    /// IPv6.
    pub v6: Address,
}

impl ServiceIndex {
    /// An index of nothing, made where it stays: it is too large for a stack.
    #[cfg(any(test, feature = "user"))]
    pub fn empty() -> Box<Self> {
        // SAFETY: integers, for which zero is valid.
        unsafe { Box::new_zeroed().assume_init() }
    }

    /// A hash of an endpoint; its upper bits say where an entry or a bit is.
    #[inline(always)]
    pub const fn hash(seed: u64, address: &Address, port: u16, protocol: u8) -> u64 {
        let [high, low] = address.halves();
        let rest = (port as u64) << 8 | protocol as u64;
        // Between address and port lies a multiplication, or endpoints whose port makes up for their address had one hash.
        let h = (high.wrapping_mul(ODD) ^ low ^ seed).wrapping_mul(ODD);
        (h ^ h >> 32 ^ rest).wrapping_mul(ODD)
    }

    /// Hash of a server's endpoint: its upper bits say where its bit in the filter is, and some of them are its
    /// [`Backend::endpoint`](super::backend::Backend).
    #[inline(always)]
    pub const fn server_hash(address: &Address, port: u16) -> u64 {
        Self::hash(0, address, port, 0)
    }

    /// The slot a probe for this hash starts at.
    #[inline(always)]
    pub const fn home(hash: u64) -> usize {
        (hash >> (u64::BITS - INDEX_BITS)) as usize
    }

    /// The word and the bit of a server with this hash in the filter.
    #[inline(always)]
    pub const fn filter_place(hash: u64) -> (usize, u64) {
        let place = hash >> (u64::BITS - FILTER_BITS);
        ((place >> 6) as usize, 1 << (place & 63))
    }

    /// The service of an endpoint.
    #[inline(always)]
    pub fn find(&self, address: &Address, port: u16, protocol: u8) -> Option<&IndexEntry> {
        let home = Self::home(Self::hash(self.seed, address, port, protocol));
        for probe in 0..INDEX_PROBES {
            let entry = &self.entries[(home + probe) & (INDEX_SLOTS - 1)];
            if entry.protocol == 0 {
                return None;
            }
            // One comparison: port and protocol lie side by side.
            let is_same = u32::from(entry.port ^ port) | u32::from(entry.protocol ^ protocol);
            if is_same == 0 && entry.address.same(address) {
                return Some(entry);
            }
        }
        None
    }

    /// The word and the bit of a VIP in [`Self::vips`].
    #[inline(always)]
    pub const fn vip_place(address: &Address) -> (usize, u64) {
        let [high, low] = address.halves();
        let place = (high.wrapping_mul(ODD) ^ low).wrapping_mul(ODD) >> (u64::BITS - VIP_BITS);
        ((place >> 6) as usize, 1 << (place & 63))
    }

    /// Whether what no listener takes of the packets for an address may be SLB's: never says no where it is.
    #[inline(always)]
    pub fn may_be_vip(&self, address: &Address) -> bool {
        let (word, bit) = Self::vip_place(address);
        self.vips[word & (VIP_WORDS - 1)] & bit != 0
    }

    /// Whether an address may be a VIP: never says no for one.
    #[inline(always)]
    pub fn may_be_any_vip(&self, address: &Address) -> bool {
        let (word, bit) = Self::vip_place(address);
        self.all_vips[word & (VIP_WORDS - 1)] & bit != 0
    }

    /// What is configured of an address as a VIP.
    #[inline(always)]
    pub fn vip(&self, address: &Address) -> Option<&IndexEntry> {
        let icmp = if address.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
        self.find(address, 0, icmp)
    }

    /// Whether no client has this address (RFC 1812, 5.3.7): it is not one host's, or it is a VIP. Servers behind two VIPs would
    /// answer each other for ever.
    #[inline(always)]
    pub fn is_martian(&self, source: &Address) -> bool {
        !is_one_host(source) || (self.may_be_any_vip(source) && self.vip(source).is_some())
    }

    /// The same without a search in the index: never says no for such an address.
    #[inline(always)]
    pub fn may_be_martian(&self, source: &Address) -> bool {
        !is_one_host(source) || self.may_be_any_vip(source)
    }

    /// Whether the endpoint with this [`Self::server_hash`] may be a server's: never says no for one.
    #[inline(always)]
    pub fn may_be_server(&self, hash: u64) -> bool {
        let (word, bit) = Self::filter_place(hash);
        self.servers[word & (FILTER_WORDS - 1)] & bit != 0
    }
}

const _: () = assert!(size_of::<Service>() == 256);
const _: () = assert!(size_of::<IndexEntry>() == 64);
const _: () = assert!(INDEX_SLOTS.is_power_of_two() && MAX_SERVICES < 1 << 16);
