//! The pinned maps with their types, and the operations on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, DevMapHash, MapData, MapInfo, PerCpuArray};
use slb_common::{
    abi::{
        ABI_VERSION, Handle,
        backend::{Backend, NextHop},
        control::Control,
        ids::{BackendId, NextHopId, ServiceId, TableId},
        interface::{self, Interface, InterfaceProperties},
        lookup_table::{LookupTable, MIGRATING},
        service::{Service, ServiceIndex},
        stats::{Action, Counters, LimitDrops, Reason, Totals},
        time::Jiffies,
        token_bucket::{SynFlood, TokenBuckets},
    },
    datapath::flow_gc::FlowTable,
};

use super::{
    access_lists::AccessLists,
    counters,
    flows::{self, CurrentFlows},
    inner_maps::InnerMaps,
    jiffies,
    map_shapes::{INTERFACE_TABLE, MAP_SHAPES},
    mapped_array::MappedArray,
    pinned_map,
    pins::Pins,
    quic_servers::QuicServers,
    seeds, syscall,
};
use crate::clock;
use crate::dataplane::counters::{CounterSnapshot, sum, sum_drops};
use slb_control::{
    dataplane::{
        DataPlane, TableContents,
        digest::SlotSummary,
        local_address_table::LocalAddressTable,
        state::{
            ControlSettings, IndexContent, MAX_TABLES, MapState, Operation, PutBackend, SPARE_TABLE,
            ServerFilter, ServerTable, TABLE_BATCH, build_tables,
        },
    },
    slot::Slot,
};

/// Servers written in one call.
const PART: usize = 1024;

/// The pinned maps.
pub struct Maps {
    control: Array<MapData, Control>,
    service_index: InnerMaps<ServiceIndex>,
    services: MapData,
    lookup_tables: InnerMaps<LookupTable>,
    backends: MapData,
    next_hops: MapData,
    access_lists: AccessLists,
    quic_servers: QuicServers,
    round_robin: MapData,
    token_buckets: MapData,
    connection_counts: MapData,
    interfaces: DevMapHash<MapData>,
    interface_table: MappedArray<Interface>,
    totals: PerCpuArray<MapData, Totals>,
    service_counters: MapData,
    limit_drops: MapData,
    backend_counters: MapData,
    flows: MappedArray,
    /// Possible CPUs, each with its own counters.
    processors: usize,
    /// Server entries in the maps.
    max_backends: u32,
    /// The empty table that replaces each cleared one; `None` before its first use.
    empty: Option<OwnedFd>,
    /// Ids of replaced tables of previous backends, to be cleared after a grace period.
    outdated: Vec<TableId>,
    /// By server table, the id of its table of previous backends, if it has one. Missing if this process has not read
    /// it.
    previous_backends: BTreeMap<TableId, Option<TableId>>,
}

impl Maps {
    /// Opens the maps behind the pins.
    ///
    /// # Errors
    /// A pin is missing, or its map has another shape or ABI version.
    pub fn open(pins: &Pins) -> Result<Self> {
        for shape in &MAP_SHAPES {
            shape.verify(&pins.map(shape.name))?;
        }
        let maps = Self {
            control: pinned_map::open(pins, "CONTROL")?,
            service_index: InnerMaps::new(MapData::from_pin(pins.map("SERVICE_INDEX"))?)?,
            services: MapData::from_pin(pins.map("SERVICES"))?,
            lookup_tables: InnerMaps::new(MapData::from_pin(pins.map("LOOKUP_TABLES"))?)?,
            backends: MapData::from_pin(pins.map("BACKENDS"))?,
            next_hops: MapData::from_pin(pins.map("NEXT_HOPS"))?,
            access_lists: AccessLists::open(pins)?,
            quic_servers: QuicServers::open(pins)?,
            round_robin: MapData::from_pin(pins.map("ROUND_ROBIN"))?,
            token_buckets: MapData::from_pin(pins.map("TOKEN_BUCKETS"))?,
            connection_counts: MapData::from_pin(pins.map("CONNECTIONS"))?,
            interfaces: pinned_map::open(pins, "INTERFACES")?,
            interface_table: MappedArray::open(&pins.map(INTERFACE_TABLE))?,
            totals: pinned_map::open(pins, "TOTALS")?,
            service_counters: MapData::from_pin(pins.map("SERVICE_COUNTERS"))?,
            limit_drops: MapData::from_pin(pins.map("LIMIT_DROPS"))?,
            backend_counters: MapData::from_pin(pins.map("BACKEND_COUNTERS"))?,
            flows: MappedArray::open(&pins.map("FLOWS"))?,
            processors: aya::util::nr_cpus().map_err(|(file, error)| {
                anyhow::Error::new(error).context(format!("cannot count processors: {file}"))
            })?,
            max_backends: MapInfo::from_pin(pins.map("BACKENDS"))?.max_entries(),
            empty: None,
            outdated: Vec::new(),
            previous_backends: BTreeMap::new(),
        };
        let version = maps.control.get(&0, 0)?.abi_version;
        if version != 0 && version != ABI_VERSION {
            bail!(
                "{} says that the maps are of ABI version {version}, and this program uses {ABI_VERSION}: run `slbd detach`, \
                 which interrupts forwarding until the next start",
                pins.map("CONTROL").display()
            );
        }
        Ok(maps)
    }

    /// Counters of the services with ids below `services`, of the servers with ids below `backends`, and the totals.
    /// Takes one system call for some thousand counters, fewer with more possible CPUs.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn counters(&self, services: u32, backends: u32) -> Result<CounterSnapshot> {
        let read = |map: &MapData, ids| counters::read(map.fd().as_fd(), self.processors, ids, sum);
        let drops = counters::read(self.limit_drops.fd().as_fd(), self.processors, services, sum_drops);
        let drops = drops.context("cannot read the drops of limits")?;
        let services = read(&self.service_counters, services).context("cannot read traffic of services")?;
        let backends = read(&self.backend_counters, backends).context("cannot read traffic of servers")?;
        Ok(CounterSnapshot::new(services, drops, backends, &self.totals.get(&0, 0)?))
    }

    /// What the slots of a table say. Reads the table; a process that has built it knows without. `backends` are the
    /// servers of all tables.
    pub fn read_summary(
        &self,
        table: TableId,
        backends: &BTreeMap<BackendId, Backend>,
    ) -> Result<SlotSummary> {
        Ok(SlotSummary::read(self.lookup_table(table)?.current_backends(), backends))
    }

    /// The interface table's entry of an interface.
    pub fn interface(&self, ifindex: u32) -> Option<InterfaceProperties> {
        let entry = self.interface_table.slots().get(interface::slot(ifindex) as usize)?;
        entry.properties().filter(|properties| properties.ifindex == ifindex)
    }

    /// Server entries in the maps (`max_servers`).
    pub fn max_backends(&self) -> u32 {
        self.max_backends
    }

    /// Number of migrating slots of a table.
    pub fn moved_slots(&self, table: TableId) -> Result<u32> {
        Ok(self.lookup_table(table)?.in_use().iter().filter(|slot| **slot & MIGRATING != 0).count() as u32)
    }

    /// The flow table, mapped into memory.
    pub fn flow_table(&self) -> Result<FlowTable<'_>> {
        Ok(FlowTable::new(self.flows.slots(), self.control.get(&0, 0)?.flow_seed))
    }

    /// Counts flows that are neither finished nor expired. `hz` is jiffies per second. Reads the whole flow table.
    pub fn current_flows(&self, hz: u32) -> Result<CurrentFlows> {
        Ok(CurrentFlows::of(&self.flow_table()?, flows::clock(hz)?))
    }

    fn put_settings(&mut self, settings: ControlSettings) -> Result<()> {
        let mut control = self.control.get(&0, 0)?;
        if control.abi_version == 0 {
            // Entries lie where this seed puts them, so it stays as long as the flow table.
            control.flow_seed = seeds::random()?;
        }
        control.abi_version = ABI_VERSION;
        control.seed = settings.seed;
        control.generation = settings.generation;
        Ok(self.control.set(0, control, 0)?)
    }

    fn put_backends(&mut self, backends: &[PutBackend]) -> Result<()> {
        let is_new: Vec<_> = backends.iter().filter(|put| put.is_new).map(|put| put.id.index()).collect();
        let zero = vec![Counters::default(); is_new.len() * self.processors];
        syscall::update_batch(self.backend_counters.fd().as_fd(), &is_new, &zero)?;
        syscall::update_batch(self.connection_counts.fd().as_fd(), &is_new, &vec![0_u64; is_new.len()])?;
        let (ids, backends): (Vec<_>, Vec<_>) =
            backends.iter().map(|put| (put.id.index(), put.backend)).unzip();
        Ok(syscall::update_batch(self.backends.fd().as_fd(), &ids, &backends)?)
    }

    fn put_tables(&mut self, tables: &BTreeMap<TableId, ServerTable>) -> Result<()> {
        let mut tables: Vec<_> = tables.iter().map(|(id, table)| (*id, table.clone())).collect();
        for part in tables.chunks_mut(TABLE_BATCH) {
            build_tables(part.iter_mut().map(|(_, table)| table));
            let mut kept = Vec::new();
            let mut lookup_tables = Vec::new();
            let mut outdated = Vec::new();
            let mut known = Vec::new();
            for (id, table) in part {
                let now = self.previous_table_of(*id)?;
                // Never the id in use: the new table and its previous backends become active together.
                let [first, second] = previous_tables_of(*id);
                let aside = if now == Some(first) { second } else { first };
                let (lookup_table, previous_backends) = table.lookup_tables(aside);
                if let Some(previous_backends) = previous_backends {
                    kept.push((aside, syscall::array_of(previous_backends.as_ref())?));
                    self.outdated.retain(|id| *id != aside);
                    known.push((*id, Some(aside)));
                } else {
                    known.push((*id, None));
                }
                outdated.extend(now);
                lookup_tables.push((*id, syscall::array_of(lookup_table.as_ref())?));
                table.current_backends = None;
            }
            // Previous backends first, so that a table never names one that is not there. One call waits for one grace
            // period.
            kept.append(&mut lookup_tables);
            if let Err(error) = self.put_lookup_tables(&kept) {
                // Some tables may be active already, so their ids are read again.
                for (id, _) in known {
                    self.previous_backends.remove(&id);
                }
                return Err(error);
            }
            self.previous_backends.extend(known);
            // The old tables are cleared with the next grace period, when no program uses them.
            self.outdated.extend(outdated);
        }
        Ok(())
    }

    /// Id of a table's table of previous backends, if it has one.
    fn previous_table_of(&self, id: TableId) -> Result<Option<TableId>> {
        if let Some(previous_backends) = self.previous_backends.get(&id) {
            return Ok(*previous_backends);
        }
        Ok(Some(TableId::new(self.lookup_table(id)?.previous_backends))
            .filter(|table| *table != TableId::NONE))
    }

    /// Writes tables. On return no program that saw the old ones runs. One call writes all of them, because each call
    /// waits for a grace period.
    fn put_lookup_tables(&mut self, lookup_tables: &[(TableId, OwnedFd)]) -> Result<()> {
        let (ids, descriptors): (Vec<_>, Vec<_>) = lookup_tables
            .iter()
            .map(|(id, lookup_table)| (id.index(), lookup_table.as_raw_fd() as u32))
            .unzip();
        syscall::update_batch(self.lookup_tables.fd().as_fd(), &ids, &descriptors)
            .context("cannot activate server tables")
    }

    /// Replaces tables by the empty one. The kernel then frees their memory.
    fn clear_lookup_tables(&mut self, ids: &[TableId]) -> Result<()> {
        let empty = match self.empty.take() {
            Some(empty) => empty,
            None => syscall::array_of(LookupTable::empty().as_ref())?,
        };
        let empty = self.empty.insert(empty).as_raw_fd() as u32;
        let descriptors = vec![empty; ids.len()];
        let ids: Vec<_> = ids.iter().map(|id| id.index()).collect();
        Ok(syscall::update_batch(self.lookup_tables.fd().as_fd(), &ids, &descriptors)?)
    }

    fn put_index(&mut self, index: &IndexContent) -> Result<()> {
        let built = index.build()?;
        let aside = syscall::array_of(built.as_ref())?;
        Ok(syscall::update_batch(self.service_index.fd().as_fd(), &[0], &[aside.as_raw_fd() as u32])?)
    }

    /// Reads a server table; an empty one if there is none.
    fn lookup_table(&self, id: TableId) -> Result<Box<LookupTable>> {
        let mut lookup_table = LookupTable::empty();
        self.lookup_tables.read(id.index(), lookup_table.as_mut())?;
        Ok(lookup_table)
    }

    fn index(&self) -> Result<IndexContent> {
        let mut index = ServiceIndex::empty();
        if !self.service_index.read(0, index.as_mut())? {
            return Ok(IndexContent::default());
        }
        let entries = index.entries.iter().filter(|entry| entry.protocol != 0);
        Ok(IndexContent {
            hz: index.hz,
            tunnel: index.tunnel,
            gue_port: u16::from_be(index.gue_port),
            locals: LocalAddressTable::read(&index.locals),
            entries: entries.map(|entry| (entry.service_id(), entry.without_number())).collect(),
            servers: ServerFilter(index.servers.into()),
        })
    }
}

impl DataPlane for Maps {
    fn observe(&self) -> Result<MapState> {
        let control = self.control.get(&0, 0)?;
        let mut state = MapState {
            settings: ControlSettings { seed: control.seed, generation: control.generation },
            index: self.index()?,
            access_lists: self.access_lists.read()?,
            quic_servers: self.quic_servers.read()?,
            ..MapState::default()
        };
        syscall::for_each(self.services.fd().as_fd(), |id, service: Service| {
            if service.handle != Handle::default() {
                state.services.insert(ServiceId::new(id), service);
            }
        })?;
        syscall::for_each(self.backends.fd().as_fd(), |id, backend: Backend| {
            if backend.handle != Handle::default() {
                state.backends.insert(BackendId::new(id), backend);
            }
        })?;
        syscall::for_each(self.next_hops.fd().as_fd(), |id, hop: NextHop| {
            if hop.ifindex != 0 {
                state.next_hops.insert(NextHopId::new(id), hop);
            }
        })?;
        let mut lookup_table = LookupTable::empty();
        for id in 0..MAX_TABLES {
            if self.lookup_tables.read(id, lookup_table.as_mut())? && lookup_table.size != 0 {
                state.tables.insert(TableId::new(id), ServerTable::default());
            }
        }
        for ifindex in self.interfaces.keys() {
            state.interfaces.insert(ifindex?);
        }
        Ok(state)
    }

    fn table(&self, id: TableId) -> Result<TableContents> {
        let lookup_table = self.lookup_table(id)?;
        let slots = lookup_table.in_use();
        let current_backends = lookup_table.current_backends().collect();
        let mut previous_backends = Vec::new();
        if slots.iter().any(|slot| slot & MIGRATING != 0) {
            let kept = self.lookup_table(TableId::new(lookup_table.previous_backends))?;
            let moved = Slot::all().zip(slots).filter(|(_, slot)| **slot & MIGRATING != 0);
            previous_backends
                .extend(moved.map(|(slot, _)| (slot, BackendId::new(kept.slots[slot.position()]))));
        }
        Ok((current_backends, previous_backends))
    }

    fn put_connection_counts(&mut self, counts: &BTreeMap<BackendId, u64>) -> Result<()> {
        let (ids, counts): (Vec<_>, Vec<_>) = counts.iter().map(|(id, count)| (id.index(), *count)).unzip();
        Ok(syscall::update_batch(self.connection_counts.fd().as_fd(), &ids, &counts)?)
    }

    fn evictions(&self) -> Result<u64> {
        Ok(self.totals.get(&0, 0)?.iter().map(|totals| totals.evicted_migrating).sum())
    }

    fn jiffies(&self) -> Result<Jiffies> {
        jiffies::now()
    }

    fn unresolved(&self) -> Result<u64> {
        let dropped = |totals: &Totals| totals.packets[Action::Drop as usize][Reason::NoClientHop as usize];
        Ok(self.totals.get(&0, 0)?.iter().map(dropped).sum())
    }

    fn flooded(&self) -> Result<BTreeSet<u32>> {
        let now = u64::try_from(clock::monotonic()?.as_nanos()).unwrap_or(u64::MAX);
        let mut flooded = BTreeSet::new();
        syscall::for_each(self.token_buckets.fd().as_fd(), |number, buckets: [u64; TokenBuckets::WORDS]| {
            if SynFlood::is_active_at(buckets[SynFlood::WORD], now) {
                flooded.insert(number);
            }
        })
        .context("cannot read the token buckets")?;
        Ok(flooded)
    }

    fn apply(&mut self, operation: &Operation) -> Result<()> {
        match operation {
            Operation::PutSettings(settings) => self.put_settings(*settings)?,
            Operation::PutInterface(ifindex) => {
                // A removed interface must not make the whole change fail.
                if let Err(error) = self.interfaces.insert(*ifindex, *ifindex, None, 0) {
                    tracing::warn!(ifindex, %error, "nothing can leave through this interface");
                }
            }
            // The kernel removes a deleted interface from the map itself.
            Operation::RemoveInterface(ifindex) => drop(self.interfaces.remove(*ifindex)),
            Operation::PutNextHop(id, hop) => set(&self.next_hops, id.index(), *hop)?,
            Operation::ClearNextHop(id) => set(&self.next_hops, id.index(), NextHop::default())?,
            Operation::PutBackends(backends) => {
                backends.chunks(PART).try_for_each(|part| self.put_backends(part))?;
            }
            Operation::PutAccessList(id, networks) => self.access_lists.put(*id, networks)?,
            Operation::ClearAccessList(id, networks) => self.access_lists.clear(*id, networks)?,
            Operation::PutQuicServers(servers) => self.quic_servers.put(servers)?,
            Operation::ClearQuicServers(keys) => self.quic_servers.clear(keys)?,
            Operation::ClearBackend(id) => set(&self.backends, id.index(), Backend::default())?,
            Operation::PutTables(tables) => self.put_tables(tables)?,
            Operation::ClearTable(id) => {
                let previous_backends = self.previous_table_of(*id)?;
                self.clear_lookup_tables(&[*id])?;
                self.clear_lookup_tables(previous_backends.as_slice())?;
                self.previous_backends.insert(*id, None);
            }
            // A change of a map of maps returns after a grace period.
            Operation::GracePeriod => {
                let outdated = std::mem::take(&mut self.outdated);
                self.clear_lookup_tables(&[&[SPARE_TABLE], outdated.as_slice()].concat())?;
            }
            Operation::PutService { id, service, is_new } => {
                if *is_new {
                    let zero = vec![Counters::default(); self.processors];
                    syscall::update_batch(self.service_counters.fd().as_fd(), &[id.index()], &zero)?;
                    let zero = vec![LimitDrops::default(); self.processors];
                    syscall::update_batch(self.limit_drops.fd().as_fd(), &[id.index()], &zero)?;
                    set(&self.token_buckets, id.index(), [0_u64; TokenBuckets::WORDS])?;
                    set(&self.round_robin, id.index(), 0_u64)?;
                }
                set(&self.services, id.index(), **service)?;
            }
            Operation::ClearService(id) => set(&self.services, id.index(), Service::default())?,
            Operation::PutIndex(index) => self.put_index(index)?,
        }
        Ok(())
    }
}

/// Ids of the two tables of previous backends that a server table uses in turn.
fn previous_tables_of(id: TableId) -> [TableId; 2] {
    [0, 1].map(|turn| TableId::new(MAX_TABLES + 2 * id.index() + turn))
}

/// Writes one element of an array.
fn set<T: aya::Pod>(map: &MapData, id: u32, value: T) -> Result<()> {
    Ok(syscall::update_batch(map.fd().as_fd(), &[id], &[value])?)
}
