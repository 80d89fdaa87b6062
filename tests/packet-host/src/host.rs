//! The packet path on the host: its tables in memory, in place of BPF maps.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
};

use slb_common::{
    abi::{
        Handle,
        backend::{Backend, NextHop},
        flow::{Client, ClientPath, FlowEntry, FlowTag, WORDS},
        fragment::{FragmentKey, FragmentRecord},
        ids::TableId,
        interface::{self, Interface, InterfaceProperties},
        lookup_table::LookupTable,
        quic::quic_key,
        rate_limit::RateLimiter,
        service::{Service, ServiceIndex},
        shared_word::SharedWord,
        source::{FLOWS_PER_BUCKET, SourceBucket},
        stats::{Action, Counters, GeneratedPacket, LimitDrops, REASONS},
        token_bucket::{Limit, TokenBuckets},
    },
    datapath::{
        Verdict,
        flow_calls::FlowCalls,
        flow_gc::{Clock, FlowGc, FlowTable, GcAction},
        maps::{Direction, Maps},
        parse::Packet,
        path_calls::PathCalls,
        process,
        schedule_calls::ScheduleCalls,
    },
    net::{address::Address, vlan::Vlan},
};
use slb_control::dataplane::state::{MAX_TABLES, Operation, PutBackend};

use crate::{access_lists::AccessLists, buffer::Buffer, cookies::SequenceOffsets};

/// Packets by action number and reason number.
pub type Totals = BTreeMap<(u8, u32), u64>;

/// Slots of the flow table; the tests in the kernel have as many.
const FLOWS: u32 = 1024;

/// The clock of token buckets at first: they have been full for long.
const BOOT: u64 = 1_000_000_000_000;

/// Upper bound of the ids of services and servers; no case uses as many.
const IDS: u32 = 1024;

/// Tables in memory, with a clock that stands still until a test sets it.
pub struct Host {
    index: Option<Box<ServiceIndex>>,
    services: BTreeMap<u32, Service>,
    lookup_tables: BTreeMap<u32, Box<LookupTable>>,
    backends: BTreeMap<u32, Backend>,
    next_hops: BTreeMap<u32, NextHop>,
    access_lists: AccessLists,
    /// By [`quic_key`].
    quic_servers: BTreeMap<u64, Handle>,
    interfaces: BTreeSet<u32>,
    /// By [`interface::slot`].
    interface_table: BTreeMap<u32, Interface>,
    own_macs: BTreeMap<u64, u64>,
    /// The kernel's route to every client: [`Maps::route_to_client`].
    pub route: Cell<ClientPath>,
    /// The link of every client: [`Maps::link_of_client`].
    pub link: Cell<u32>,
    flows: Vec<[SharedWord; WORDS]>,
    fragments: RefCell<HashMap<FragmentKey, FragmentRecord>>,
    sources: Vec<SourceBucket>,
    /// Round-robin positions, by service id.
    round_robin: Vec<SharedWord>,
    token_buckets: Vec<TokenBuckets>,
    /// Connection counts, by server id.
    connections: Vec<SharedWord>,
    /// The clock, in jiffies.
    pub now: Cell<u32>,
    /// The clock of token buckets, in nanoseconds.
    pub nanoseconds: Cell<u64>,
    /// Whether the flow table refuses new entries.
    pub full: Cell<bool>,
    /// Whether flows are being copied into the flow table from the old one.
    pub resizing: Cell<bool>,
    totals: RefCell<Totals>,
    last_counted: Cell<(u8, u32)>,
    /// Evicted entries: not assured, and assured.
    pub evicted: [Cell<u64>; 2],
    evicted_migrating: Cell<u64>,
    limits: [Cell<RateLimiter>; GeneratedPacket::COUNT],
    service_counters: RefCell<BTreeMap<u32, Counters>>,
    pub(crate) limit_drops: RefCell<BTreeMap<u32, LimitDrops>>,
    /// When each SYN cookie was made, in nanoseconds.
    pub(crate) cookies: RefCell<HashMap<u32, u64>>,
    pub(crate) sequence_offsets: SequenceOffsets,
    backend_counters: RefCell<BTreeMap<u32, Counters>>,
}

impl Default for Host {
    fn default() -> Self {
        Self::with_flows(FLOWS)
    }
}

impl Host {
    /// Empty tables. The flow table gets `slots` slots, a power of two.
    pub fn with_flows(slots: u32) -> Self {
        Self {
            index: None,
            services: BTreeMap::new(),
            lookup_tables: BTreeMap::new(),
            backends: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            access_lists: AccessLists::default(),
            quic_servers: BTreeMap::new(),
            interfaces: BTreeSet::new(),
            interface_table: BTreeMap::new(),
            own_macs: BTreeMap::new(),
            route: Cell::default(),
            fragments: RefCell::default(),
            link: Cell::default(),
            flows: (0..slots).map(|_| Default::default()).collect(),
            sources: (0..slots.div_ceil(FLOWS_PER_BUCKET)).map(|_| Default::default()).collect(),
            round_robin: (0..IDS).map(|_| SharedWord::default()).collect(),
            token_buckets: (0..IDS).map(|_| TokenBuckets::default()).collect(),
            connections: (0..IDS).map(|_| SharedWord::default()).collect(),
            now: Cell::default(),
            nanoseconds: Cell::new(BOOT),
            full: Cell::default(),
            resizing: Cell::default(),
            totals: RefCell::default(),
            last_counted: Cell::default(),
            evicted: Default::default(),
            evicted_migrating: Cell::default(),
            limits: Default::default(),
            service_counters: RefCell::default(),
            limit_drops: RefCell::default(),
            cookies: RefCell::default(),
            sequence_offsets: RefCell::default(),
            backend_counters: RefCell::default(),
        }
    }

    /// Replaces the interface table: entries by [`interface::slot`], and `OWN_MACS`.
    pub fn put_interfaces<'i>(
        &mut self,
        entries: impl IntoIterator<Item = (&'i u32, &'i InterfaceProperties)>,
        own_macs: &BTreeMap<u64, u64>,
    ) {
        let entries = entries.into_iter();
        self.interface_table =
            entries.map(|(slot, properties)| (*slot, Interface::new(properties))).collect();
        self.own_macs.clone_from(own_macs);
    }

    /// Forgets all flows and counters, and sets the clock to 0. The configuration stays.
    pub fn forget(&mut self) {
        self.flows.iter().flatten().for_each(|word| word.store(0));
        self.fragments.borrow_mut().clear();
        self.round_robin.iter().chain(&self.connections).for_each(|word| word.store(0));
        self.token_buckets.fill_with(TokenBuckets::default);
        self.now.set(0);
        self.nanoseconds.set(BOOT);
        self.limits = Default::default();
        self.totals.borrow_mut().clear();
        self.service_counters.borrow_mut().clear();
        self.limit_drops.borrow_mut().clear();
        self.cookies.borrow_mut().clear();
        self.sequence_offsets.borrow_mut().clear();
        self.backend_counters.borrow_mut().clear();
    }

    fn allow(&self, limit: &Cell<RateLimiter>, hz: u32) -> bool {
        let mut taken = limit.get();
        let may = taken.allow(self.now(), hz);
        limit.set(taken);
        may
    }

    /// Sets both clocks, to a time in jiffies. `hz` is jiffies per second.
    pub fn set_time(&self, now: u32, hz: u32) {
        self.now.set(now);
        self.nanoseconds.set(BOOT + u64::from(now) * (1_000_000_000 / u64::from(hz)));
    }

    /// The flow table.
    pub fn flow_table(&self) -> FlowTable<'_> {
        FlowTable::new(&self.flows, self.flow_seed())
    }

    /// Runs a GC pass over the flow table. `hz` is jiffies per second.
    pub fn collect(&self, hz: u32) {
        let clock = Clock { now: self.now.get(), hz };
        FlowGc::default().gc_pass(&self.flow_table(), clock, &mut |seen| {
            let is_expired = seen.sequence_word.silence(clock.now) > seen.sequence_word.idle(clock.hz);
            if is_expired { GcAction::Terminate } else { GcAction::Keep }
        });
    }

    /// The slots of the flow table.
    pub fn slots(&self) -> &[[SharedWord; WORDS]] {
        &self.flows
    }

    /// Number of slots of the flow table.
    pub fn flow_slots(&self) -> u32 {
        self.flows.len() as u32
    }
}

impl Host {
    /// Runs the packet path over a frame that arrives on the interface `ifindex`.
    pub fn process(&mut self, bytes: &mut Vec<u8>, ifindex: u32) -> Verdict {
        let mut buffer = Buffer::new(bytes);
        let verdict = process(&mut buffer, ifindex, self);
        *bytes = buffer.into_bytes();
        verdict
    }

    /// Applies one operation, as the maps in the kernel do.
    pub fn apply(&mut self, operation: &Operation) {
        match operation.clone() {
            Operation::PutSettings(_) | Operation::GracePeriod => {}
            Operation::PutInterface(ifindex) => drop(self.interfaces.insert(ifindex)),
            Operation::RemoveInterface(ifindex) => drop(self.interfaces.remove(&ifindex)),
            Operation::PutNextHop(id, hop) => drop(self.next_hops.insert(id.index(), hop)),
            Operation::ClearNextHop(id) => drop(self.next_hops.remove(&id.index())),
            Operation::PutAccessList(..) | Operation::ClearAccessList(..) => {
                self.access_lists.apply(operation);
            }
            Operation::PutBackends(backends) => {
                for PutBackend { id, backend, is_new } in backends {
                    let id = id.index();
                    self.backends.insert(id, backend);
                    if is_new {
                        self.backend_counters.borrow_mut().remove(&id);
                        self.put_load(id, 0);
                    }
                }
            }
            Operation::PutQuicServers(servers) => {
                self.quic_servers.extend(servers.into_iter().map(|(key, server)| (key.number(), server)));
            }
            Operation::ClearQuicServers(keys) => keys.iter().for_each(|key| {
                self.quic_servers.remove(&key.number());
            }),
            Operation::ClearBackend(id) => drop(self.backends.remove(&id.index())),
            Operation::PutTables(tables) => {
                for (id, table) in tables {
                    let (id, aside) = (id.index(), MAX_TABLES + id.index());
                    let (lookup_table, previous_backends) = table.lookup_tables(TableId::new(aside));
                    self.lookup_tables.insert(id, lookup_table);
                    self.lookup_tables
                        .extend(previous_backends.map(|previous_backends| (aside, previous_backends)));
                }
            }
            Operation::ClearTable(id) => drop(self.lookup_tables.remove(&id.index())),
            Operation::PutService { id, service, is_new } => {
                let id = id.index();
                self.services.insert(id, *service);
                if is_new {
                    self.service_counters.borrow_mut().remove(&id);
                    self.limit_drops.borrow_mut().remove(&id);
                    self.token_buckets[id as usize] = TokenBuckets::default();
                    self.round_robin[id as usize].store(0);
                }
            }
            Operation::ClearService(id) => drop(self.services.remove(&id.index())),
            Operation::PutIndex(index) => {
                self.index = Some(index.build().expect("few services leave room"));
            }
        }
    }

    /// Source address and port (network byte order) of the flow of a client endpoint with a tag.
    pub fn source_of(&self, client: &Client, tag: FlowTag) -> Option<(Address, u16)> {
        let entries = self.flows.iter().map(FlowEntry::new);
        let mut own = entries.filter(|entry| {
            entry.sequence_word().is_used()
                && entry.service_of(client) == Some(tag.service())
                && entry.port() == tag.port()
        });
        let source = own.find_map(|entry| Some(entry.source()).filter(|source| source.is_allocated()))?;
        let locals = &self.index.as_ref()?.locals;
        Some((locals.slots[usize::from(source.local())].address, source.port()))
    }

    /// Forgets all sequence offsets.
    pub fn forget_offsets(&self) {
        self.sequence_offsets.borrow_mut().clear();
    }

    /// Sets the connection count of a server.
    pub fn put_load(&self, backend: u32, load: u64) {
        self.connections[backend as usize].store(load);
    }

    /// Packets by action and reason.
    pub fn totals(&self) -> Totals {
        self.totals.borrow().clone()
    }

    /// Numbers of action and reason of the last packet.
    pub fn last_counted(&self) -> (u8, u32) {
        self.last_counted.get()
    }

    /// Counts lost flow-table entries that may be older than the last change of their server table.
    pub fn evicted_migrating(&self) -> u64 {
        self.evicted_migrating.get()
    }

    /// Traffic of a service.
    pub fn service_counters(&self, id: u32) -> Counters {
        self.service_counters.borrow().get(&id).copied().unwrap_or_default()
    }

    /// Packets of a service over its limits.
    pub fn limit_drops(&self, id: u32) -> LimitDrops {
        self.limit_drops.borrow().get(&id).copied().unwrap_or_default()
    }

    /// Traffic of a server.
    pub fn backend_counters(&self, id: u32) -> Counters {
        self.backend_counters.borrow().get(&id).copied().unwrap_or_default()
    }
}

impl FlowCalls for Host {}
impl ScheduleCalls for Host {}
impl PathCalls for Host {}

impl Maps for Host {
    fn index(&self) -> Option<&ServiceIndex> {
        self.index.as_deref()
    }

    fn service(&self, id: u32) -> Option<&Service> {
        self.services.get(&id)
    }

    fn lookup_table(&self, id: u32) -> Option<&LookupTable> {
        self.lookup_tables.get(&id).map(Box::as_ref)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(&id)
    }

    fn is_listed(&self, access_list: u32, client: &Address) -> bool {
        self.access_lists.has(access_list, client)
    }

    fn quic_server(&self, lookup_table: u32, server_id: u32) -> Option<Handle> {
        self.quic_servers.get(&quic_key(lookup_table, server_id)).copied()
    }

    fn next_hop(&self, id: u32) -> Option<&NextHop> {
        self.next_hops.get(&id)
    }

    fn flow_mask(&self) -> u32 {
        self.flow_slots() - 1
    }

    fn flow(&self, slot: u32) -> Option<FlowEntry<'_>> {
        let words = self.flows.get(slot as usize).expect("slots are reduced to the table");
        (!self.full.get()).then(|| FlowEntry::new(words))
    }

    fn source_bucket(&self, bucket: u32) -> Option<&SourceBucket> {
        Some(self.sources.get(bucket as usize).expect("buckets are reduced to the table"))
    }

    fn is_resizing(&self) -> bool {
        self.resizing.get()
    }

    fn flow_seed(&self) -> u64 {
        0
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn round_robin_position(&self, service: u32) -> Option<&SharedWord> {
        self.round_robin.get(service as usize)
    }

    fn token_buckets(&self, number: u32) -> Option<&TokenBuckets> {
        self.token_buckets.get(number as usize)
    }

    fn nanoseconds(&self) -> u64 {
        self.nanoseconds.get()
    }

    fn connection_count(&self, backend: u32) -> Option<&SharedWord> {
        self.connections.get(backend as usize)
    }

    fn interface_at(&self, slot: u32) -> Option<&Interface> {
        self.interface_table.get(&slot)
    }

    fn is_own_mac(&self, ifindex: u32, mac: u64) -> bool {
        self.own_macs.contains_key(&interface::own_mac_key(ifindex, mac))
    }

    fn vlan_device(&self, ifindex: u32, vlan: Vlan) -> u32 {
        let key = interface::own_mac_key(ifindex, vlan.as_mac());
        self.own_macs.get(&key).map_or(0, |device| *device as u32)
    }

    fn route_to_client(&self, _: &Packet) -> ClientPath {
        self.route.get()
    }

    fn link_of_client(&self, _: &Packet) -> u32 {
        self.link.get()
    }

    fn redirect(&self, ifindex: u32) -> bool {
        self.interfaces.contains(&ifindex)
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentRecord> {
        self.fragments.borrow().get(key).copied()
    }

    fn put_fragment(&self, key: &FragmentKey, record: &FragmentRecord) {
        self.fragments.borrow_mut().insert(*key, *record);
    }

    fn remove_fragment(&self, key: &FragmentKey) {
        self.fragments.borrow_mut().remove(key);
    }

    fn count(&self, action: Action, reason: u32) {
        assert!((reason as usize) < REASONS, "{reason} is not the number of a reason");
        self.last_counted.set((action as u8, reason));
        *self.totals.borrow_mut().entry((action as u8, reason)).or_default() += 1;
    }

    fn may_send(&self, what: GeneratedPacket, hz: u32) -> bool {
        self.allow(&self.limits[what as usize], hz)
    }

    fn count_evicted(&self, is_assured: bool) {
        let evicted = &self.evicted[usize::from(is_assured)];
        evicted.set(evicted.get() + 1);
    }

    fn count_evicted_migrating(&self) {
        self.evicted_migrating.set(self.evicted_migrating.get() + 1);
    }

    fn count_over_limit(&self, service: u32, limit: Limit) {
        *self.limit_drops.borrow_mut().entry(service).or_default().of(limit) += 1;
    }

    fn count_service(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool) {
        add(&self.service_counters, id, direction, bytes, new_flow);
    }

    fn count_backend(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool) {
        add(&self.backend_counters, id, direction, bytes, new_flow);
    }
}

fn add(
    counters: &RefCell<BTreeMap<u32, Counters>>,
    id: u32,
    direction: Direction,
    bytes: usize,
    new_flow: bool,
) {
    let mut counters = counters.borrow_mut();
    let counters = counters.entry(id).or_default();
    let (packets, total) = match direction {
        Direction::In => (&mut counters.packets_in, &mut counters.bytes_in),
        Direction::Out => (&mut counters.packets_out, &mut counters.bytes_out),
    };
    *packets += 1;
    *total += bytes as u64;
    counters.new_flows += u64::from(new_flow);
}
