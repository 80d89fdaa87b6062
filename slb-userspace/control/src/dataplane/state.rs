//! The state of the data plane, and the operations that change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, bail};
use slb_common::{
    abi::{
        Address, Handle, MAX_LOOKUP_TABLES,
        backend::{Backend, NextHop},
        flow::{ClientPath, state},
        ids::{AccessListId, BackendId, NextHopId, ServiceId, ServiceTag, TableId},
        lookup_table::{LookupTable, MIGRATING},
        service::{FILTER_WORDS, INDEX_PROBES, INDEX_SLOTS, IndexEntry, Service, ServiceIndex, policy},
        source::Source,
        time::Jiffies,
        tunnel::Tunnel,
    },
    datapath::flow_gc::{Clock, GcEntry},
};

pub use super::table_spec::{SlotOrder, TableMember, TableSpec};
use super::{local_address_table::LocalAddressTable, quic_server::QuicServerKey};
use crate::slot_migration::SlotMigration;
use slb_config::model::Networks;

/// Server tables of services. Higher ids are tables of previous backends, two for each server table.
pub const MAX_TABLES: u32 = MAX_LOOKUP_TABLES / 3;
/// A table id that no service uses; writing it causes a grace period.
pub const SPARE_TABLE: TableId = TableId::new(MAX_TABLES - 1);

/// The state of the data plane. Ids are indexes into the maps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MapState {
    /// Settings in the control map.
    pub settings: ControlSettings,
    /// Services by id.
    pub services: BTreeMap<ServiceId, Service>,
    /// The index in which packets look up services.
    pub index: IndexContent,
    /// Server tables by id.
    pub tables: BTreeMap<TableId, ServerTable>,
    /// Servers by id.
    pub backends: BTreeMap<BackendId, Backend>,
    /// Access lists by id. None is empty.
    pub access_lists: BTreeMap<AccessListId, Networks>,
    /// Servers by server table and QUIC server ID.
    pub quic_servers: BTreeMap<QuicServerKey, Handle>,
    /// Next hops by id. Id 0 means none and is not used.
    pub next_hops: BTreeMap<NextHopId, NextHop>,
    /// Indexes of the interfaces through which packets may leave.
    pub interfaces: BTreeSet<u32>,
}

impl MapState {
    /// Whether a listener answers floods of SYNs by SYN cookies.
    pub fn has_syn_cookies(&self) -> bool {
        self.services.values().any(|service| service.policies().has(policy::SYN_COOKIES))
    }
}

/// Settings in the control map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ControlSettings {
    /// Seed of the flow hash and of the server tables.
    pub seed: u64,
    /// The last generation given to a handle.
    pub generation: u32,
}

/// The index in which packets look up services. It is replaced as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexContent {
    /// Jiffies per second.
    pub hz: u32,
    /// Source addresses of tunnel packets.
    pub tunnel: Tunnel,
    /// UDP destination port of tunnel packets of mode `gue`.
    pub gue_port: u16,
    /// Sources of mode `full-nat`.
    pub locals: LocalAddressTable,
    /// Services by id.
    pub entries: BTreeMap<ServiceId, IndexEntry>,
    /// Servers of the modes `nat` and `full-nat`, whose answers return through SLB.
    pub servers: ServerFilter,
}

impl IndexContent {
    /// The entries of an entry's VIP and protocol, the narrowest first: packets to a port go to the first that has it.
    pub(crate) fn listeners_beside(&self, of: &IndexEntry) -> Vec<&IndexEntry> {
        let is_beside =
            |entry: &&IndexEntry| entry.address.same(&of.address) && entry.protocol() == of.protocol();
        let mut beside: Vec<_> = self.entries.values().filter(is_beside).collect();
        beside.sort_by_key(|entry| entry.ports());
        beside
    }

    /// The entries, where ranges of a VIP and protocol have the numbers 0, 1, ... in place of a port, the narrowest first.
    fn numbered(&self) -> Vec<IndexEntry> {
        let (mut ranges, mut entries): (Vec<IndexEntry>, Vec<_>) =
            self.entries.values().copied().partition(IndexEntry::is_range);
        ranges.sort_by_key(|entry| (entry.address.halves(), entry.protocol, entry.ports()));
        for same in ranges.chunk_by(|a, b| a.address.same(&b.address) && a.protocol == b.protocol) {
            entries.extend((0..).zip(same).map(|(port, entry)| IndexEntry { port, ..*entry }));
        }
        entries
    }

    /// Builds the index in its map layout. It searches for a seed with which every service is within [`INDEX_PROBES`]
    /// slots of its hash.
    ///
    /// # Errors
    /// 1,000 seeds have failed.
    pub fn build(&self) -> Result<Box<ServiceIndex>> {
        const SEEDS: u64 = 1000;
        let mut built = ServiceIndex::empty();
        built.hz = self.hz;
        built.tunnel = self.tunnel;
        built.gue_port = self.gue_port.to_be();
        self.locals.write(&mut built.locals);
        built.servers.copy_from_slice(&self.servers.0);
        let entries = self.numbered();
        built.has_ranges = entries.iter().any(IndexEntry::is_range).into();
        'seeds: for seed in 0..SEEDS {
            built.seed = seed;
            built.entries.fill(IndexEntry::default());
            for entry in &entries {
                let hash = ServiceIndex::hash(seed, &entry.address, entry.port, entry.protocol);
                let home = ServiceIndex::home(hash);
                let free = (0..INDEX_PROBES)
                    .map(|probe| (home + probe) & (INDEX_SLOTS - 1))
                    .find(|slot| built.entries[*slot].protocol == 0);
                let Some(slot) = free else { continue 'seeds };
                built.entries[slot] = *entry;
                let (word, bit) = ServiceIndex::vip_bit(&entry.address);
                built.all_vips[word] |= bit;
                if entry.policies().has(policy::DROP_UNMATCHED | policy::REJECT_UNMATCHED) {
                    built.vips[word] |= bit;
                }
            }
            return Ok(built);
        }
        bail!("no index of {} services in {SEEDS} tries", self.entries.len())
    }
}

/// Filter of servers, one bit by hash, in the layout of [`ServiceIndex::servers`].
#[derive(Clone, PartialEq, Eq)]
pub struct ServerFilter(pub Box<[u64]>);

impl Default for ServerFilter {
    fn default() -> Self {
        Self(vec![0; FILTER_WORDS].into())
    }
}

impl fmt::Debug for ServerFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({} bits)", self.0.iter().map(|word| word.count_ones()).sum::<u32>())
    }
}

impl ServerFilter {
    /// The union of both, or `None` if `other` adds nothing.
    #[must_use]
    pub fn with(&self, other: &Self) -> Option<Self> {
        let both: Box<[u64]> = self.0.iter().zip(&other.0).map(|(a, b)| a | b).collect();
        (both != self.0).then_some(Self(both))
    }

    /// Whether the server's bit is set.
    pub fn has(&self, backend: &Backend) -> bool {
        let hash = ServiceIndex::server_hash(&backend.address, backend.port);
        let (word, bit) = ServiceIndex::filter_bit(hash);
        self.0[word] & bit != 0
    }

    /// Adds a server.
    pub fn insert(&mut self, backend: &Backend) {
        let hash = ServiceIndex::server_hash(&backend.address, backend.port);
        let (word, bit) = ServiceIndex::filter_bit(hash);
        self.0[word] |= bit;
    }
}

/// A server table.
#[derive(Debug, Clone, Default)]
pub struct ServerTable {
    /// Inputs of the table. 0 slots mean that its content is unknown.
    pub spec: Arc<TableSpec>,
    /// The migrating slots.
    pub slot_migration: SlotMigration,
    /// Current backend of each slot, if computed already.
    pub current_backends: Option<Arc<[BackendId]>>,
}

impl PartialEq for ServerTable {
    fn eq(&self, other: &Self) -> bool {
        // `current_backends` follows from `spec`.
        self.spec == other.spec && self.slot_migration == other.slot_migration
    }
}

impl ServerTable {
    /// A table in which no slot migrates.
    pub fn new(spec: impl Into<Arc<TableSpec>>) -> Self {
        Self { spec: spec.into(), ..Self::default() }
    }

    /// The same table without its current backends, to save memory.
    #[must_use]
    pub fn without_current_backends(&self) -> Self {
        Self { spec: self.spec.clone(), slot_migration: self.slot_migration.clone(), current_backends: None }
    }

    /// Whether the content is known.
    pub fn is_known(&self) -> bool {
        self.spec.slots != 0
    }

    /// Current backend of each slot; computes it if necessary.
    pub fn current_backends(&self) -> Arc<[BackendId]> {
        self.current_backends.clone().unwrap_or_else(|| self.spec.build())
    }

    /// The table in its map layout, and the table of its previous backends if a slot migrates. `previous_backends` is
    /// the id under which the caller writes the latter.
    pub fn lookup_tables(&self, previous_backends: TableId) -> (Box<LookupTable>, Option<Box<LookupTable>>) {
        let size =
            if self.spec.members.is_empty() && self.slot_migration.is_empty() { 0 } else { self.spec.slots };
        let mut lookup_table = LookupTable::empty();
        lookup_table.size = size;
        for (slot, current_backend) in lookup_table.slots.iter_mut().zip(self.current_backends().iter()) {
            *slot = current_backend.index();
        }
        if self.spec.order == SlotOrder::RoundRobin {
            lookup_table.write_run_lengths();
        }
        if self.slot_migration.is_empty() {
            return (lookup_table, None);
        }
        lookup_table.previous_backends = previous_backends.index();
        let mut previous = LookupTable::empty();
        previous.size = size;
        for (slot, previous_backend) in self.slot_migration.previous_backends() {
            if let (Some(current_backend), Some(previous)) =
                (lookup_table.slots.get_mut(slot.position()), previous.slots.get_mut(slot.position()))
            {
                *current_backend |= MIGRATING;
                *previous = previous_backend.index();
            }
        }
        (lookup_table, Some(previous))
    }
}

/// A tracked flow, or an affinity entry, as read from the flow table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRecord {
    /// Tag of its service.
    pub service: ServiceTag,
    /// Its server.
    pub backend: Handle,
    /// Client address.
    pub client: Address,
    /// Client port, in network byte order.
    pub port: u16,
    /// Client path.
    pub path: ClientPath,
    /// Port of the VIP and of the server, in network byte order, behind a port range; else 0.
    pub range_port: u16,
    /// Source of its packets towards the server, if that is not the client endpoint.
    pub source: Source,
    /// Time since its last packet in whole seconds, if it is evictable: a mid-stream pickup that is not assured.
    pub evictable_silence: Option<Duration>,
    /// Whether this is an affinity entry, not a flow.
    pub is_affinity: bool,
    /// Whether both sides have shown that they hear each other.
    pub is_assured: bool,
    /// Whether it is finished or terminated.
    pub is_finished: bool,
    /// Whether the client has ended its side, or the flow is finished.
    pub is_closing: bool,
    /// Time until it expires without a packet; `None` if it has expired.
    pub left: Option<Jiffies>,
    /// Handshake outcome of a TCP connection whose SYN was seen.
    pub handshake: Option<Handshake>,
}

/// The handshake of a connection, as far as its packets show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// Seconds since its first packet.
    pub age: u32,
    /// The outcome.
    pub outcome: HandshakeOutcome,
}

/// Outcome of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// No answer yet.
    Unanswered,
    /// The server has answered without a reset.
    Answered,
    /// The server has reset it, and the client has sent only SYNs.
    Reset,
    /// The client ended or reset it before an answer.
    Abandoned,
}

impl HandshakeOutcome {
    /// Reads the bits of [`state`]. A client continues a connection that its server accepts, so a reset before that is
    /// the server's first answer. A RST of the client counts as continuing.
    fn of(bits: u32) -> Self {
        match bits & (state::ANSWERED | state::RESET | state::ASSURED | state::CLIENT_FIN) {
            0 => Self::Unanswered,
            bits if bits & state::ANSWERED == 0 => Self::Abandoned,
            bits if bits & (state::RESET | state::ASSURED | state::CLIENT_FIN) == state::RESET => Self::Reset,
            _ => Self::Answered,
        }
    }
}

/// Seconds by which the clocks of the data path and of the reader may differ.
const SLACK: u32 = 2;

impl FlowRecord {
    /// Reads one entry of the flow table.
    pub fn new(seen: &GcEntry<'_>, clock: Clock) -> Self {
        let GcEntry { sequence_word, client, flow, age } = *seen;
        let (address, port, _) = client.parts();
        let age = age.filter(|_| client.is_tcp() && sequence_word.state() & state::PICKED_UP == 0);
        let is_loose = sequence_word.state() & (state::PICKED_UP | state::ASSURED) == state::PICKED_UP;
        let silence = Jiffies::new(sequence_word.silence(clock.now));
        let evictable_silence = is_loose.then(|| Duration::from_secs(silence.seconds(clock.hz).into()));
        Self {
            service: ServiceTag::new(flow.service),
            backend: flow.backend,
            client: address,
            port,
            path: flow.client,
            range_port: flow.port,
            source: flow.source,
            evictable_silence,
            is_affinity: sequence_word.is_affinity(),
            is_assured: sequence_word.state() & state::ASSURED != 0,
            is_finished: sequence_word.is_finished(),
            is_closing: sequence_word.is_finished() || sequence_word.state() & state::CLIENT_FIN != 0,
            left: (sequence_word.idle(clock.hz) + SLACK * clock.hz)
                .checked_sub(sequence_word.silence(clock.now))
                .map(Jiffies::new),
            handshake: age.map(|age| Handshake { age, outcome: HandshakeOutcome::of(sequence_word.state()) }),
        }
    }
}

/// A server entry to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutBackend {
    /// Server id.
    pub id: BackendId,
    /// The entry.
    pub backend: Backend,
    /// Whether this is a new use of the id, with counters at zero.
    pub is_new: bool,
}

/// A change of the data plane.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Writes the settings.
    PutSettings(ControlSettings),
    /// Lets packets leave through an interface.
    PutInterface(u32),
    /// Lets no packets leave through an interface.
    RemoveInterface(u32),
    /// Writes a next hop.
    PutNextHop(NextHopId, NextHop),
    /// Clears a next hop.
    ClearNextHop(NextHopId),
    /// Writes an access list under an id that is not in use.
    PutAccessList(AccessListId, Networks),
    /// Removes an access list.
    ClearAccessList(AccessListId, Networks),
    /// Writes servers.
    PutBackends(Vec<PutBackend>),
    /// Writes servers under their QUIC server IDs.
    PutQuicServers(Vec<(QuicServerKey, Handle)>),
    /// Removes QUIC server IDs.
    ClearQuicServers(Vec<QuicServerKey>),
    /// Clears a server.
    ClearBackend(BackendId),
    /// Builds server tables aside and replaces each by one write.
    PutTables(BTreeMap<TableId, ServerTable>),
    /// Replaces a server table by the empty one.
    ClearTable(TableId),
    /// Writes a service. If `is_new`, its counters are set to zero first.
    PutService {
        /// Service id.
        id: ServiceId,
        /// The entry.
        service: Box<Service>,
        /// Whether this is a new use of the id.
        is_new: bool,
    },
    /// Waits for a grace period: programs that saw earlier state have ended.
    GracePeriod,
    /// Clears a service.
    ClearService(ServiceId),
    /// Builds an index aside and replaces the active one by one write.
    PutIndex(IndexContent),
}

/// The address in the layout of the maps.
pub fn to_address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

/// Formats the hardware address in the first six bytes of a word in memory.
pub fn mac(word: u64) -> String {
    let [a, b, c, d, e, f, ..] = word.to_ne_bytes();
    [a, b, c, d, e, f].map(|byte| format!("{byte:02x}")).join(":")
}

/// The address as an [`IpAddr`].
pub fn to_ip(address: &Address) -> IpAddr {
    if address.is_v4() { IpAddr::from(address.v4_bytes()) } else { IpAddr::from(address.v6_bytes()) }
}

/// Endpoint of a server; port 0 behind a port range.
pub fn backend_address(backend: &Backend) -> SocketAddr {
    SocketAddr::new(to_ip(&backend.address), u16::from_be(backend.port))
}

/// Tables that are processed at a time. The current backends of one take 262 KB.
pub const TABLE_BATCH: usize = 64;

/// Computes missing current backends of tables, in parallel on all CPUs.
pub fn build_tables<'a>(tables: impl Iterator<Item = &'a mut ServerTable>) {
    let mut tables: Vec<_> = tables.filter(|table| table.current_backends.is_none()).collect();
    let build = |tables: &mut [&mut ServerTable]| {
        for table in tables {
            table.current_backends = Some(table.spec.build());
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    if tables.len() <= 1 || workers == 1 {
        return build(&mut tables);
    }
    let share = tables.len().div_ceil(workers);
    std::thread::scope(|scope| {
        for part in tables.chunks_mut(share) {
            scope.spawn(move || build(part));
        }
    });
}

#[cfg(test)]
mod tests;
