//! What the data plane holds, and the operations that change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Result, bail};
use slb_common::{
    abi::{
        Address, Handle, MAX_LOOKUP_TABLES,
        backend::{Backend, NextHop},
        flow::{ClientPath, state},
        lookup_table::{LookupTable, MOVED, NO_BACKEND, NO_LOOKUP_TABLE},
        service::{
            FILTER_WORDS, INDEX_PROBES, INDEX_SLOTS, IndexEntry, Service, ServiceIndex, Tunnel, policy,
        },
    },
    datapath::flow_gc::{Clock, Seen},
    maglev, round_robin,
};

use crate::control::slot_migration::SlotMigration;

/// Server tables of services; those behind them name keepers.
pub const MAX_TABLES: u32 = MAX_LOOKUP_TABLES / 3;
/// The table of a service that has none.
pub const NO_TABLE: u32 = NO_LOOKUP_TABLE;
/// A table no service ever has.
pub const SPARE_TABLE: u32 = MAX_TABLES - 1;

/// Everything the data plane holds. Ids are indexes into the maps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Settings of the maps.
    pub settings: Settings,
    /// Services by id.
    pub services: BTreeMap<u32, Service>,
    /// What packets find.
    pub index: Index,
    /// Server tables by id.
    pub tables: BTreeMap<u32, Table>,
    /// Servers by id.
    pub backends: BTreeMap<u32, Backend>,
    /// Next hops by id; never 0, which stands for none.
    pub next_hops: BTreeMap<u32, NextHop>,
    /// Indexes of the interfaces packets may leave through.
    pub interfaces: BTreeSet<u32>,
}

/// Settings of the maps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Seed of the server tables.
    pub seed: u64,
    /// The last generation given to an id.
    pub generation: u32,
}

/// What packets find, replaced as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// Jiffies in a second.
    pub hz: u32,
    /// Where tunnels begin.
    pub tunnel: Tunnel,
    /// Services by id.
    pub entries: BTreeMap<u32, IndexEntry>,
    /// Servers whose answers come back through SLB.
    pub servers: Filter,
}

impl Index {
    /// The index as packets use it. Finds a seed under which every service lies within reach of a probe.
    ///
    /// # Errors
    /// There is no such seed.
    pub fn build(&self) -> Result<Box<ServiceIndex>> {
        const SEEDS: u64 = 1000;
        let mut built = ServiceIndex::empty();
        built.hz = self.hz;
        built.tunnel = self.tunnel;
        built.servers.copy_from_slice(&self.servers.0);
        'seeds: for seed in 0..SEEDS {
            built.seed = seed;
            built.entries.fill(IndexEntry::default());
            for entry in self.entries.values() {
                let hash = ServiceIndex::hash(seed, &entry.address, entry.port, entry.protocol);
                let home = ServiceIndex::home(hash);
                let free = (0..INDEX_PROBES)
                    .map(|probe| (home + probe) & (INDEX_SLOTS - 1))
                    .find(|slot| built.entries[*slot].protocol == 0);
                let Some(slot) = free else { continue 'seeds };
                built.entries[slot] = *entry;
                let (word, bit) = ServiceIndex::vip_place(&entry.address);
                built.all_vips[word] |= bit;
                if entry.policy & (policy::DROP_UNMATCHED | policy::REJECT_UNMATCHED) != 0 {
                    built.vips[word] |= bit;
                }
            }
            return Ok(built);
        }
        bail!("no index of {} services in {SEEDS} tries", self.entries.len())
    }
}

/// The bits of servers, as [`ServiceIndex::servers`].
#[derive(Clone, PartialEq, Eq)]
pub struct Filter(pub Box<[u64]>);

impl Default for Filter {
    fn default() -> Self {
        Self(vec![0; FILTER_WORDS].into())
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({} bits)", self.0.iter().map(|word| word.count_ones()).sum::<u32>())
    }
}

impl Filter {
    /// The servers of both, if `other` has one that this has not.
    #[must_use]
    pub fn with(&self, other: &Self) -> Option<Self> {
        let both: Box<[u64]> = self.0.iter().zip(&other.0).map(|(a, b)| a | b).collect();
        (both != self.0).then_some(Self(both))
    }

    /// Whether answers of a server are recognised.
    #[cfg(test)]
    pub(crate) fn has(&self, backend: &Backend) -> bool {
        let hash = ServiceIndex::server_hash(&backend.address, backend.port);
        let (word, bit) = ServiceIndex::filter_place(hash);
        self.0[word] & bit != 0
    }

    /// Lets answers of a server be recognised.
    pub fn insert(&mut self, backend: &Backend) {
        let hash = ServiceIndex::server_hash(&backend.address, backend.port);
        let (word, bit) = ServiceIndex::filter_place(hash);
        self.0[word] |= bit;
    }
}

/// A server table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// What it is built from; 0 slots in a table of unknown content.
    pub plan: Arc<Plan>,
    /// Slots that have changed hands.
    pub slot_migration: SlotMigration,
    /// The owner of each slot, where somebody has needed it already.
    pub owners: Option<Arc<[u32]>>,
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        // The owners follow from the plan.
        self.plan == other.plan && self.slot_migration == other.slot_migration
    }
}

/// What a server table is built from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Slots, a prime.
    pub slots: u32,
    /// Seed of the table.
    pub seed: u64,
    /// The servers that may be given new flows.
    pub members: Vec<Member>,
    /// How they share the slots.
    pub order: Order,
}

/// How servers share the slots of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// A flow's hash says its slot: few slots change hands with the servers.
    #[default]
    ByHash,
    /// Flows get the slots one after the other.
    ByTurn,
}

/// A server in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Id of the server in the maps.
    pub backend: u32,
    /// What the table is computed from: the same on every node.
    pub address: SocketAddr,
    /// Weight, 1 to 100.
    pub weight: u8,
}

impl Plan {
    /// The owner of each slot; [`NO_BACKEND`] everywhere where there is no server.
    pub fn build(&self) -> Arc<[u32]> {
        if self.members.is_empty() {
            return vec![NO_BACKEND; self.slots as usize].into();
        }
        let owner =
            |member: u16| self.members.get(usize::from(member)).map_or(NO_BACKEND, |member| member.backend);
        if self.order == Order::ByTurn {
            let weights: Vec<_> = self.members.iter().map(|member| member.weight).collect();
            return round_robin::build(self.slots, &weights).into_iter().map(owner).collect();
        }
        let names: Vec<_> = self.members.iter().map(|member| member.address.to_string()).collect();
        let members: Vec<_> = names
            .iter()
            .zip(&self.members)
            .map(|(name, member)| maglev::Member { name: name.as_bytes(), weight: member.weight })
            .collect();
        maglev::build(self.slots, self.seed, &members).into_iter().map(owner).collect()
    }
}

impl Table {
    /// A table of this content in which no slot has changed hands.
    pub fn new(plan: impl Into<Arc<Plan>>) -> Self {
        Self { plan: plan.into(), ..Self::default() }
    }

    /// The same table, which takes less room.
    #[must_use]
    pub fn without_owners(&self) -> Self {
        Self { plan: self.plan.clone(), slot_migration: self.slot_migration.clone(), owners: None }
    }

    /// Whether its content is known.
    pub fn is_known(&self) -> bool {
        self.plan.slots != 0
    }

    /// The owner of each slot.
    pub fn owners(&self) -> Arc<[u32]> {
        self.owners.clone().unwrap_or_else(|| self.plan.build())
    }

    /// The table as packets use it, and the table of its keepers, which lies under the id `previous_backends`, if a slot has changed
    /// hands.
    pub fn lookup_tables(&self, previous_backends: u32) -> (Box<LookupTable>, Option<Box<LookupTable>>) {
        let size =
            if self.plan.members.is_empty() && self.slot_migration.is_empty() { 0 } else { self.plan.slots };
        let mut lookup_table = LookupTable::empty();
        lookup_table.size = size;
        for (slot, owner) in lookup_table.slots.iter_mut().zip(self.owners().iter()) {
            *slot = *owner;
        }
        if self.plan.order == Order::ByTurn {
            lookup_table.note_rows();
        }
        if self.slot_migration.is_empty() {
            return (lookup_table, None);
        }
        lookup_table.previous_backends = previous_backends;
        let mut kept = LookupTable::empty();
        kept.size = size;
        for (slot, previous_backend) in self.slot_migration.previous_backends() {
            if let (Some(owner), Some(kept)) =
                (lookup_table.slots.get_mut(slot as usize), kept.slots.get_mut(slot as usize))
            {
                *owner |= MOVED;
                *kept = previous_backend;
            }
        }
        (lookup_table, Some(kept))
    }
}

/// A flow that is remembered, as far as tables matter to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// Tag of its service.
    pub service: u32,
    /// The server it is with.
    pub backend: Handle,
    /// The client's address.
    pub client: Address,
    /// The client's port, in network byte order.
    pub port: u16,
    /// How the client is reached.
    pub path: ClientPath,
    /// Seconds since its last packet, where it may be older than the last change of its table and yet be pushed out by another
    /// flow.
    pub loose: Option<u32>,
    /// Whether it is no flow, but says where those of a client go.
    pub is_client: bool,
    /// Whether both sides have shown that they hear each other.
    pub is_assured: bool,
    /// Whether its ends have ended it, or somebody else has.
    pub is_over: bool,
    /// Whether the client at least has ended its side.
    pub is_ending: bool,
    /// Jiffies until nobody takes it for alive any more, unless it goes on.
    pub left: Option<u32>,
    /// What has come of asking for it, where it is a TCP connection whose beginning has been seen.
    pub opening: Option<Opening>,
}

/// How a connection has begun, as far as packets of both directions tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Seconds since it has been seen for the first time.
    pub age: u32,
    /// What came of it.
    pub stage: Stage,
}

/// What has come of asking for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing yet.
    Asked,
    /// The server has answered, and has not refused it.
    Answered,
    /// The server has reset it, and the client has sent nothing more than its question.
    Refused,
    /// The client has given up before.
    GivenUp,
}

impl Stage {
    /// From the bits of [`state`]. A client goes on with what a server accepts: a reset before that is the first thing
    /// the server has said. One that the client sends counts as going on.
    fn of(bits: u32) -> Self {
        match bits & (state::ANSWERED | state::RESET | state::ASSURED | state::CLIENT_FIN) {
            0 => Self::Asked,
            bits if bits & state::ANSWERED == 0 => Self::GivenUp,
            bits if bits & (state::RESET | state::ASSURED | state::CLIENT_FIN) == state::RESET => {
                Self::Refused
            }
            _ => Self::Answered,
        }
    }
}

/// Seconds by which the clocks of whoever looks at a flow may differ.
const SLACK: u32 = 2;

impl Remembered {
    /// What the flow table says of a flow.
    pub fn new(seen: &Seen<'_>, clock: Clock) -> Self {
        let Seen { meta, client, flow, age } = *seen;
        let (address, port, _) = client.parts();
        let age = age.filter(|_| client.is_tcp() && meta.state() & state::PICKED_UP == 0);
        let is_loose = meta.state() & (state::PICKED_UP | state::ASSURED) == state::PICKED_UP;
        let loose = is_loose.then(|| meta.silence(clock.now) / clock.hz.max(1));
        Self {
            service: flow.service,
            backend: flow.backend,
            client: address,
            port,
            path: flow.client,
            loose,
            is_client: meta.is_client(),
            is_assured: meta.state() & state::ASSURED != 0,
            is_over: meta.is_over(),
            is_ending: meta.is_over() || meta.state() & state::CLIENT_FIN != 0,
            left: (meta.idle(clock.hz) + SLACK * clock.hz).checked_sub(meta.silence(clock.now)),
            opening: age.map(|age| Opening { age, stage: Stage::of(meta.state()) }),
        }
    }
}

/// A server that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutBackend {
    /// Id.
    pub id: u32,
    /// Entry.
    pub backend: Backend,
    /// Whether the id is put to a new use: its counters begin at zero.
    pub fresh: bool,
}

/// One change of the data plane.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Changes the settings.
    PutSettings(Settings),
    /// Lets packets leave through an interface.
    PutInterface(u32),
    /// Ends that.
    RemoveInterface(u32),
    /// Writes a next hop.
    PutNextHop(u32, NextHop),
    /// Forgets a next hop.
    ClearNextHop(u32),
    /// Writes servers.
    PutBackends(Vec<PutBackend>),
    /// Forgets a server.
    ClearBackend(u32),
    /// Builds server tables aside and puts each in force in one step.
    PutTables(BTreeMap<u32, Table>),
    /// Puts the empty table in force.
    ClearTable(u32),
    /// Writes a service; `fresh` sets its counters to zero first.
    PutService {
        /// Id.
        id: u32,
        /// Entry.
        service: Box<Service>,
        /// Whether the id is put to a new use.
        fresh: bool,
    },
    /// Waits until no packet is being forwarded by what was in force before.
    Settle,
    /// Forgets a service.
    ClearService(u32),
    /// Builds an index aside and puts it in force in one step.
    PutIndex(Index),
}

/// The address as it stands in a packet.
pub fn to_address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

/// The hardware address in the lower 48 bits of a word, as it stands in memory.
pub fn mac(word: u64) -> String {
    let [a, b, c, d, e, f, ..] = word.to_ne_bytes();
    [a, b, c, d, e, f].map(|byte| format!("{byte:02x}")).join(":")
}

/// The address as people write it.
pub fn to_ip(address: &Address) -> IpAddr {
    if address.is_v4() { IpAddr::from(address.v4_bytes()) } else { IpAddr::from(address.v6_bytes()) }
}

/// Address and port of a server.
pub fn backend_address(backend: &Backend) -> SocketAddr {
    SocketAddr::new(to_ip(&backend.address), u16::from_be(backend.port))
}

/// Tables that are worked on at a time: the owners of one take 262 KB.
pub const BATCH: usize = 64;

/// Builds the owners of tables that have none yet, on all processors.
pub fn build_all<'a>(tables: impl Iterator<Item = &'a mut Table>) {
    let mut tables: Vec<_> = tables.filter(|table| table.owners.is_none()).collect();
    let build = |tables: &mut [&mut Table]| {
        for table in tables {
            table.owners = Some(table.plan.build());
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
