//! Services, VIPs, and the service index that packets look them up in.

pub mod mode;
mod ranges;

pub use ranges::{MAX_RANGES, NO_SLOT};

use super::{
    Address, Handle, MAX_SERVICES, NAME_LEN,
    ids::{AccessListId, ServiceId, ServiceTag, TableId},
    local_address::LocalAddresses,
    mode::Mode,
    policy_set::PolicySet,
    ports::Ports,
    protocol::IpProtocol,
    quic::CidFormat,
    time::BootSecs,
    tunnel::Tunnel,
};
use crate::{
    hash::{address_hash, flow_hash},
    net::headers::protocol,
};

/// A service: one VIP, protocol, and port or port range. With an ICMP protocol and port 0, the VIP itself.
///
/// Replies look it up by its id, and tools read its names. Packets to a VIP look up its [`IndexEntry`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The VIP.
    pub address: Address,
    /// Port, in network byte order; of a range the first one.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`mode`].
    pub mode: u8,
    /// Index of the server table.
    pub lookup_table: u32,
    /// Handle of the service; an unused entry has [`Handle`] 0.
    pub handle: Handle,
    /// Idle timeout of flows in seconds, up to 1,020.
    pub idle_timeout: u16,
    /// New connections per second above which SYNs are answered by SYN cookies, in units of
    /// [`Self::SYN_COOKIES_UNIT`], with [`policy::SYN_COOKIES`].
    pub syn_cookies: u16,
    /// Bits of [`policy`].
    pub policy: u32,
    /// Session persistence in seconds after the client's last flow, up to 3,600.
    pub persistence: u16,
    /// [`CidFormat`] of its servers, with [`policy::QUIC`].
    pub quic: u8,
    /// Padding; zero.
    pub reserved: u8,
    /// When [`policy::BY_CLIENT`] changed, in seconds since boot (`CLOCK_BOOTTIME`); 0 outside a hash-function
    /// transition. For the daemon.
    pub hash_changed_at: u32,
    /// Access list, with [`policy::ALLOW_LISTED`] or [`policy::DENY_LISTED`].
    pub access_list: u32,
    /// Bandwidth in each direction, in kilobits (1,000 bits) of frames per second, with [`policy::LIMIT_BANDWIDTH`].
    pub bandwidth: u32,
    /// New connections per second, with [`policy::LIMIT_NEW_CONNECTIONS`].
    pub new_connections: u32,
    /// Number of its token buckets, which all VIPs of a listener share: the lowest id of their services.
    pub token_buckets: u16,
    /// Last port of a range, in network byte order; 0 for a single port.
    pub last_port: u16,
    /// Name of the load balancer. For tools.
    pub load_balancer: [u8; NAME_LEN],
    /// Name of the listener. For tools.
    pub listener: [u8; NAME_LEN],
    /// Name of the server group, empty for the default server group. For tools.
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
            syn_cookies: 0,
            policy: 0,
            persistence: 0,
            quic: 0,
            reserved: 0,
            hash_changed_at: 0,
            access_list: 0,
            bandwidth: 0,
            new_connections: 0,
            token_buckets: 0,
            last_port: 0,
            load_balancer: [0; NAME_LEN],
            listener: [0; NAME_LEN],
            group: [0; NAME_LEN],
        }
    }
}

impl Service {
    /// Unit of [`Self::syn_cookies`].
    pub const SYN_COOKIES_UNIT: u32 = 100;

    /// Its ports.
    pub const fn ports(&self) -> Ports {
        let first = u16::from_be(self.port);
        match Ports::range(first, u16::from_be(self.last_port)) {
            Some(ports) => ports,
            None => Ports::single(first),
        }
    }

    /// Whether its listener has the port of a flow, [`Flow::port`](super::flow::Flow::port): a port may leave a range.
    #[inline(always)]
    pub const fn has_flow_port(&self, port: u16) -> bool {
        let port = u16::from_be(port);
        port == 0 || (u16::from_be(self.port) <= port && port <= u16::from_be(self.last_port))
    }

    /// The port of the VIP in an answer of a server from this port. Both are in network byte order.
    #[inline(always)]
    pub const fn port_for(&self, server_port: u16) -> u16 {
        if self.last_port == 0 { self.port } else { server_port }
    }

    /// Its policies.
    pub const fn policies(&self) -> PolicySet {
        PolicySet::new(self.policy)
    }

    /// Its protocol; `None` for a number that no service has.
    pub const fn protocol(&self) -> Option<IpProtocol> {
        IpProtocol::from_number(self.protocol)
    }

    /// Its server table, or [`TableId::NONE`].
    pub const fn table(&self) -> TableId {
        TableId::new(self.lookup_table)
    }

    /// When its hash function changed; `None` outside a hash-function transition.
    pub const fn hash_change(&self) -> Option<BootSecs> {
        BootSecs::from_word(self.hash_changed_at)
    }

    /// Tag by which flows and the index name it.
    pub const fn tag(&self) -> ServiceTag {
        ServiceTag::of(self.handle)
    }

    /// How packets reach the server; `None` for a number that no mode has.
    pub const fn mode(&self) -> Option<Mode> {
        Mode::from_number(self.mode)
    }

    /// [`Mode::sees_replies`] of its mode.
    pub fn sees_replies(&self) -> bool {
        self.mode().is_some_and(Mode::sees_replies)
    }
}

/// Policies of a service or a VIP, as bits.
pub mod policy {
    /// All flows are tracked, not only those of migrating slots. Mode `nat` implies it.
    pub const TRACK: u32 = 1;
    /// Untracked UDP flows go to the current backend of their slot, not to the previous one.
    pub const FOLLOW: u32 = 2;
    /// The hash covers the client address without its port (`maglev-client`).
    pub const BY_CLIENT: u32 = 4;
    /// Round robin: each new flow takes the next slot of the server table.
    pub const ROUND_ROBIN: u32 = 8;
    /// Least connections: of the next slots, a new flow takes the one whose server has the fewest connections for its
    /// weight.
    pub const LEAST_CONNECTIONS: u32 = 16;
    /// Session affinity: a new flow goes to the server of the client's last flow, for
    /// [`IndexEntry::persistence`](super::IndexEntry).
    pub const PERSIST: u32 = 32;
    /// Hash-function transition: untracked flows belong to the slot of the hash before a change of [`BY_CLIENT`]. With
    /// [`TRACK`].
    pub const HASH_TRANSITION: u32 = 64;
    /// New flows may be pinned to another backend than that of their hash. Such a flow is refused if it gets no entry.
    /// With [`TRACK`].
    pub const PINNED_ELSEWHERE: u32 = ROUND_ROBIN | LEAST_CONNECTIONS | PERSIST;

    /// Only clients on the access list reach the service.
    pub const ALLOW_LISTED: u32 = 1024;
    /// Clients on the access list do not reach the service.
    pub const DENY_LISTED: u32 = 2048;
    /// Segments that open a connection carry the client endpoint to the server ([`super::super::toa`]). Mode `full-nat`
    /// and TCP.
    pub const TOA: u32 = 16384;
    /// A QUIC connection ID that names a server decides before the hash of the flow ([`super::super::quic`]). UDP.
    pub const QUIC: u32 = 32768;

    /// Its bandwidth is limited.
    pub const LIMIT_BANDWIDTH: u32 = 4096;
    /// Its new connections are limited.
    pub const LIMIT_NEW_CONNECTIONS: u32 = 8192;

    /// SYNs above a rate are answered by SYN cookies. Modes `nat` and `full-nat`, and TCP.
    pub const SYN_COOKIES: u32 = 65536;

    // The following are policies of a VIP, in its entry with an ICMP protocol and port 0. Without any of them it
    // answers echo requests, and unmatched packets are passed to the kernel.

    /// The VIP answers no echo request: its load balancer has no running listener.
    pub const NO_ECHO: u32 = 128;
    /// Unmatched packets for the VIP are dropped.
    pub const DROP_UNMATCHED: u32 = 256;
    /// Unmatched packets for the VIP are answered as a host answers for a closed port, or dropped.
    pub const REJECT_UNMATCHED: u32 = 512;
}

/// Slots of the index: four times the services, so that probe sequences stay short.
pub const INDEX_SLOTS: usize = 4 * MAX_SERVICES as usize;
/// Most slots that a lookup probes.
pub const INDEX_PROBES: usize = 16;

const INDEX_BITS: u32 = INDEX_SLOTS.trailing_zeros();
/// 2^20 bits: with 10,000 servers, one in a hundred other packets passes the filter and is looked up in the flow table.
const FILTER_BITS: u32 = 20;

/// Odd multiplier of the address hashes.
const HASH_MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// 2^16 bits: small enough to stay in a cache, as all packets that are not for SLB read it.
const VIP_BITS: u32 = 16;

/// Words of the VIP filter.
pub const VIP_WORDS: usize = 1 << (VIP_BITS - u64::BITS.trailing_zeros());

/// Words of the server filter.
pub const FILTER_WORDS: usize = 1 << (FILTER_BITS - u64::BITS.trailing_zeros());

/// A service as the packet path reads it for a client's packet.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// The VIP.
    pub address: Address,
    /// Port, in network byte order. Of a range its number among those of the VIP and protocol.
    pub port: u16,
    /// IP protocol number, of a range with [`Self::RANGE`]; 0 in a free slot.
    pub protocol: u8,
    /// One of [`mode`].
    pub mode: u8,
    /// [`Handle::tag`] of the service.
    pub service: u32,
    /// Index of the server table.
    pub lookup_table: u32,
    /// Contribution of VIP, port and protocol to the hash of a flow: [`crate::hash::salt`].
    pub salt: u64,
    /// Bits of [`policy`].
    pub policy: u32,
    /// Idle timeout of flows, in [`super::flow::idle_units`].
    pub idle: u8,
    /// [`CidFormat`] of its servers, with [`policy::QUIC`].
    pub quic: u8,
    /// Session persistence in seconds after the client's last flow.
    pub persistence: u16,
    /// Access list, with [`policy::ALLOW_LISTED`] or [`policy::DENY_LISTED`].
    pub access_list: u32,
    /// First port of a range, in host byte order; 0 for a single port.
    pub first_port: u16,
    /// Last port of a range, in host byte order; 0 for a single port.
    pub last_port: u16,
    /// New connections per second above which SYNs are answered by SYN cookies, with [`policy::SYN_COOKIES`].
    pub syn_cookies: u32,
}

impl IndexEntry {
    /// Its policies.
    pub const fn policies(&self) -> PolicySet {
        PolicySet::new(self.policy)
    }

    /// Its protocol; `None` for a number that no service has.
    pub const fn protocol(&self) -> Option<IpProtocol> {
        IpProtocol::from_number(self.protocol & !Self::RANGE)
    }

    /// Its server table, or [`TableId::NONE`].
    pub const fn table(&self) -> TableId {
        TableId::new(self.lookup_table)
    }

    /// Tag of the service.
    pub const fn tag(&self) -> ServiceTag {
        ServiceTag::new(self.service)
    }

    /// Id of the service, for the maps.
    pub const fn service_id(&self) -> ServiceId {
        ServiceId::new(self.id())
    }

    /// How packets reach the server; `None` for a number that no mode has.
    pub const fn mode(&self) -> Option<Mode> {
        Mode::from_number(self.mode)
    }

    /// [`Mode::sees_replies`] of its mode.
    pub fn sees_replies(&self) -> bool {
        self.mode().is_some_and(Mode::sees_replies)
    }

    /// Format of its servers' connection IDs, with [`policy::QUIC`].
    #[inline(always)]
    pub const fn cid_format(&self) -> CidFormat {
        CidFormat::from_number(self.quic)
    }

    /// Its access list; the empty one if it has none.
    pub const fn access_list_id(&self) -> AccessListId {
        AccessListId::new(self.access_list)
    }

    /// Whether it has an access list.
    #[inline(always)]
    pub const fn has_access_list(&self) -> bool {
        self.policy & (policy::ALLOW_LISTED | policy::DENY_LISTED) != 0
    }

    /// Whether its access list denies a client. `is_listed`: a network on the list has the client.
    #[inline(always)]
    pub const fn denies(&self, is_listed: bool) -> bool {
        is_listed != (self.policy & policy::ALLOW_LISTED != 0)
    }

    /// Id of the service.
    #[inline(always)]
    pub const fn id(&self) -> u32 {
        self.service & 0xffff
    }

    /// Hash of a client's flow, which selects its slot; `port` is in network byte order.
    #[inline(always)]
    pub const fn flow_hash(&self, client: &Address, port: u16) -> u64 {
        self.hash_by(self.policy & policy::BY_CLIENT != 0, client, port)
    }

    /// Hash of a flow that may be older than a hash-function transition.
    #[inline(always)]
    pub const fn old_flow_hash(&self, client: &Address, port: u16) -> u64 {
        let is_other = self.policy & policy::HASH_TRANSITION != 0;
        self.hash_by((self.policy & policy::BY_CLIENT != 0) ^ is_other, client, port)
    }

    #[inline(always)]
    const fn hash_by(&self, by_client: bool, client: &Address, port: u16) -> u64 {
        // Without branches: each one would double the paths the verifier follows.
        flow_hash(self.salt, client, port & (by_client as u16).wrapping_sub(1))
    }
}

/// The service index: a hash table with open addressing, and the settings that all packets need. The daemon builds a
/// new one, activates it by one pointer write, and never changes it after that.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ServiceIndex {
    /// Seed of the index's hash, chosen so that no entry needs more than [`INDEX_PROBES`] probes.
    pub seed: u64,
    /// UDP destination port of mode `gue`, in network byte order.
    pub gue_port: u16,
    /// Whether it has a port range: 1, else 0.
    pub has_ranges: u16,
    /// Jiffies per second, the unit of time on the packet path.
    pub hz: u32,
    /// Source addresses of the modes `ipip` and `gue`.
    pub tunnel: Tunnel,
    /// Sources of mode `full-nat`.
    pub locals: LocalAddresses,
    /// Filter of the servers whose replies return through SLB (mode `nat`), one bit per hash.
    pub servers: [u64; FILTER_WORDS],
    /// Filter of the VIPs whose unmatched packets are not passed to the kernel.
    pub vips: [u64; VIP_WORDS],
    /// Filter of all VIPs. No client's packet has one as its source.
    pub all_vips: [u64; VIP_WORDS],
    /// The slots of the hash table.
    pub entries: [IndexEntry; INDEX_SLOTS],
}

impl ServiceIndex {
    /// An empty index. On the heap: it is too large for a stack.
    #[cfg(any(test, feature = "user"))]
    pub fn empty() -> Box<Self> {
        // SAFETY: integers, for which zero is valid.
        unsafe { Box::new_zeroed().assume_init() }
    }

    /// Hash of an endpoint. Its upper bits select a slot or a filter bit.
    #[inline(always)]
    pub const fn hash(seed: u64, address: &Address, port: u16, protocol: u8) -> u64 {
        let [high, low] = address.halves();
        let rest = (port as u64) << 8 | protocol as u64;
        // A multiplication separates address and port. Otherwise endpoints whose ports make up for their addresses
        // would have one hash.
        let h = (high.wrapping_mul(HASH_MULTIPLIER) ^ low ^ seed).wrapping_mul(HASH_MULTIPLIER);
        (h ^ h >> 32 ^ rest).wrapping_mul(HASH_MULTIPLIER)
    }

    /// Hash of a server's endpoint. Its upper bits select the bit in the server filter; some of them are its
    /// [`Backend::endpoint`](super::backend::Backend).
    #[inline(always)]
    pub const fn server_hash(address: &Address, port: u16) -> u64 {
        Self::hash(0, address, port, 0)
    }

    /// The slot at which the probes for this hash begin.
    #[inline(always)]
    pub const fn home(hash: u64) -> usize {
        (hash >> (u64::BITS - INDEX_BITS)) as usize
    }

    /// Word and bit of this hash in the server filter.
    #[inline(always)]
    pub const fn filter_bit(hash: u64) -> (usize, u64) {
        let bit_index = hash >> (u64::BITS - FILTER_BITS);
        ((bit_index >> 6) as usize, 1 << (bit_index & 63))
    }

    /// The service at an endpoint; `port` is in network byte order.
    #[inline(always)]
    pub fn find(&self, address: &Address, port: u16, protocol: u8) -> Option<&IndexEntry> {
        let home = Self::home(Self::hash(self.seed, address, port, protocol));
        for probe in 0..INDEX_PROBES {
            let entry = &self.entries[(home + probe) & (INDEX_SLOTS - 1)];
            if entry.protocol == 0 {
                return None;
            }
            // One comparison for both.
            let is_same = u32::from(entry.port ^ port) | u32::from(entry.protocol ^ protocol);
            if is_same == 0 && entry.address.same(address) {
                return Some(entry);
            }
        }
        None
    }

    /// Word and bit of a VIP in [`Self::vips`] and [`Self::all_vips`].
    #[inline(always)]
    pub const fn vip_bit(address: &Address) -> (usize, u64) {
        let bit_index = address_hash(address) >> (u64::BITS - VIP_BITS);
        ((bit_index >> 6) as usize, 1 << (bit_index & 63))
    }

    /// Whether an address may be a VIP whose unmatched packets SLB handles. May be wrong for other addresses, never for
    /// such a VIP.
    #[inline(always)]
    pub fn may_be_vip(&self, address: &Address) -> bool {
        let (word, bit) = Self::vip_bit(address);
        self.vips[word & (VIP_WORDS - 1)] & bit != 0
    }

    /// Whether an address may be a VIP. May be wrong for other addresses, never for a VIP.
    #[inline(always)]
    pub fn may_be_any_vip(&self, address: &Address) -> bool {
        let (word, bit) = Self::vip_bit(address);
        self.all_vips[word & (VIP_WORDS - 1)] & bit != 0
    }

    /// The entry of an address as a VIP.
    #[inline(always)]
    pub fn vip(&self, address: &Address) -> Option<&IndexEntry> {
        let icmp = if address.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
        self.find(address, 0, icmp)
    }

    /// Whether a source address is martian (RFC 1812, 5.3.7): it is not a single host's, or it is a VIP or a local
    /// address. Servers behind two VIPs would answer each other for ever.
    #[inline(always)]
    pub fn is_martian(&self, source: &Address) -> bool {
        !source.is_unicast_host()
            || (self.may_be_any_vip(source) && self.vip(source).is_some())
            || (self.locals.may_be_local(source) && self.locals.find(source).is_some())
    }

    /// The same without a lookup in the index. May be wrong for other addresses, never for a martian source.
    #[inline(always)]
    pub fn may_be_martian(&self, source: &Address) -> bool {
        !source.is_unicast_host() || self.may_be_any_vip(source) || self.locals.may_be_local(source)
    }

    /// Whether the endpoint with this [`Self::server_hash`] may be a server's. May be wrong for other endpoints, never
    /// for a server's.
    #[inline(always)]
    pub fn may_be_server(&self, hash: u64) -> bool {
        let (word, bit) = Self::filter_bit(hash);
        self.servers[word & (FILTER_WORDS - 1)] & bit != 0
    }
}

const _: () = assert!(size_of::<Service>() == 256);
const _: () = assert!(size_of::<IndexEntry>() == 64);
const _: () = assert!(INDEX_SLOTS.is_power_of_two() && MAX_SERVICES < 1 << 16);
