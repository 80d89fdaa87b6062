//! The pinned maps, typed, and the operations on them.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::maps::{
    Array, ArrayOfMaps, DevMapHash, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, PerCpuValues,
};
use slb_common::abi::{
    ABI_VERSION, MAX_BACKENDS, MAX_INTERFACES, MAX_NEXT_HOPS, MAX_RINGS, MAX_SERVICES, Reference,
    backend::{Backend, NextHop},
    control::Control,
    flow::{Flow, FlowKey},
    ring::Ring,
    service::{INDEX_PROBES, INDEX_SLOTS, Service, ServiceIndex},
    stats::{Action, Counters, Reason, Totals},
};

use super::pins::Pins;
use crate::dataplane::{
    DataPlane,
    state::{Operation, SPARE_TABLE, Settings, State, Table},
};

/// What the kernel must say of a pinned map before it is used again.
pub(super) struct Shape {
    pub(super) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    /// `None` where configuration decides.
    entries: Option<u32>,
}

pub(super) const fn shape(
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
) -> Shape {
    Shape { name, kind, key, value, entries: Some(entries) }
}

/// Every map that is pinned.
pub(super) const SHAPES: [Shape; 11] = [
    shape("CONTROL", MapType::Array, 4, size_of::<Control>(), 1),
    shape("SERVICE_INDEX", MapType::Array, 4, size_of::<ServiceIndex>(), 2),
    shape("SERVICES", MapType::Array, 4, size_of::<Service>(), MAX_SERVICES),
    shape("RINGS", MapType::ArrayOfMaps, 4, 4, MAX_RINGS),
    shape("BACKENDS", MapType::Array, 4, size_of::<Backend>(), MAX_BACKENDS),
    shape("NEXT_HOPS", MapType::Array, 4, size_of::<NextHop>(), MAX_NEXT_HOPS),
    Shape {
        name: "FLOWS",
        kind: MapType::LruHash,
        key: size_of::<FlowKey>(),
        value: size_of::<Flow>(),
        entries: None,
    },
    shape("INTERFACES", MapType::DevMapHash, 4, 8, MAX_INTERFACES),
    shape("TOTALS", MapType::PerCpuArray, 4, size_of::<Totals>(), 1),
    shape("SERVICE_COUNTERS", MapType::PerCpuArray, 4, size_of::<Counters>(), MAX_SERVICES),
    shape("BACKEND_COUNTERS", MapType::PerCpuArray, 4, size_of::<Counters>(), MAX_BACKENDS),
];

impl Shape {
    /// Refuses a pinned map that is not what this program makes: it would be misread.
    pub(super) fn verify(&self, path: &Path) -> Result<MapInfo> {
        let info =
            MapInfo::from_pin(path).with_context(|| format!("cannot open the map {}", path.display()))?;
        let found = (
            info.map_type().ok(),
            info.key_size() as usize,
            info.value_size() as usize,
            self.entries.map(|_| info.max_entries()),
        );
        let wanted = (Some(self.kind), self.key, self.value, self.entries);
        if found != wanted {
            bail!(
                "{} is not a map of this program (type, key size, value size, entries: {found:?} in place of {wanted:?}): \
                 run `slbd detach`, which interrupts forwarding until the next start",
                path.display()
            );
        }
        Ok(info)
    }
}

/// The maps.
pub struct Maps {
    control: Array<MapData, Control>,
    service_index: Array<MapData, ServiceIndex>,
    services: Array<MapData, Service>,
    rings: ArrayOfMaps<MapData, Array<MapData, Ring>>,
    backends: Array<MapData, Backend>,
    next_hops: Array<MapData, NextHop>,
    interfaces: DevMapHash<MapData>,
    totals: PerCpuArray<MapData, Totals>,
    service_counters: PerCpuArray<MapData, Counters>,
    backend_counters: PerCpuArray<MapData, Counters>,
    /// Stands for every table that is not there.
    empty: Option<Array<MapData, Ring>>,
}

impl Maps {
    /// Opens the maps behind the pins.
    ///
    /// # Errors
    /// A pin is missing, or is not a map this program can read.
    pub fn open(pins: &Pins) -> Result<Self> {
        for shape in &SHAPES {
            shape.verify(&pins.map(shape.name))?;
        }
        let maps = Self {
            control: pinned(pins, "CONTROL")?,
            service_index: pinned(pins, "SERVICE_INDEX")?,
            services: pinned(pins, "SERVICES")?,
            rings: pinned(pins, "RINGS")?,
            backends: pinned(pins, "BACKENDS")?,
            next_hops: pinned(pins, "NEXT_HOPS")?,
            interfaces: pinned(pins, "INTERFACES")?,
            totals: pinned(pins, "TOTALS")?,
            service_counters: pinned(pins, "SERVICE_COUNTERS")?,
            backend_counters: pinned(pins, "BACKEND_COUNTERS")?,
            empty: None,
        };
        let version = maps.control.get(&0, 0)?.abi_version;
        if version != 0 && version != ABI_VERSION {
            bail!("the maps are of ABI version {version}, this program uses {ABI_VERSION}");
        }
        Ok(maps)
    }

    /// Traffic of a service, summed over all processors.
    pub fn service_counters(&self, id: u32) -> Result<Counters> {
        Ok(sum(&self.service_counters.get(&id, 0)?))
    }

    /// Traffic of a server, summed over all processors.
    pub fn backend_counters(&self, id: u32) -> Result<Counters> {
        Ok(sum(&self.backend_counters.get(&id, 0)?))
    }

    /// Packets by action and reason, summed over all processors; what has not happened is left out.
    pub fn totals(&self) -> Result<Vec<(Action, Reason, u64)>> {
        let totals = self.totals.get(&0, 0)?;
        let mut counted = Vec::new();
        for action in Action::ALL {
            for &reason in Reason::ALL {
                let packets = totals.iter().map(|t| t.packets[action as usize][reason as usize]).sum();
                if packets != 0 {
                    counted.push((action, reason, packets));
                }
            }
        }
        Ok(counted)
    }

    /// Slots each server holds in a table.
    pub fn slots_of(&self, table: u32) -> Result<std::collections::BTreeMap<u32, u32>> {
        let mut held = std::collections::BTreeMap::new();
        let ring = self.rings.get(&table, 0)?.get(&0, 0)?;
        for &backend in &ring.slots[..ring.size as usize] {
            *held.entry(u32::from(backend)).or_default() += 1;
        }
        Ok(held)
    }

    fn put_settings(&mut self, settings: Settings) -> Result<()> {
        let active_index = self.control.get(&0, 0)?.active_index;
        let control = Control {
            abi_version: ABI_VERSION,
            active_index,
            seed: settings.seed,
            hz: settings.hz,
            generation: u32::from(settings.generation),
            zero: 0,
            reserved: 0,
        };
        Ok(self.control.set(0, control, 0)?)
    }

    fn put_table(&mut self, id: u32, table: &Table) -> Result<()> {
        let mut aside = Array::<MapData, Ring>::create(1, 0)?;
        aside.set(0, table.build().as_ref(), 0)?;
        Ok(self.rings.set(id, &aside, 0)?)
    }

    /// Puts the one empty table in the place of a table, whose memory the kernel then frees.
    fn clear_table(&mut self, id: u32) -> Result<()> {
        let empty = match self.empty.take() {
            Some(empty) => empty,
            None => {
                let mut empty = Array::<MapData, Ring>::create(1, 0)?;
                empty.set(0, Table::default().build().as_ref(), 0)?;
                empty
            }
        };
        Ok(self.rings.set(id, self.empty.insert(empty), 0)?)
    }

    fn put_index(&mut self, ids: &BTreeSet<u32>) -> Result<()> {
        let mut services = Vec::with_capacity(ids.len());
        for &id in ids {
            services.push((id, self.services.get(&id, 0)?));
        }
        let mut control = self.control.get(&0, 0)?;
        control.active_index ^= 1;
        self.service_index.set(control.active_index, build_index(&services)?.as_ref(), 0)?;
        Ok(self.control.set(0, control, 0)?)
    }

    fn active_index(&self) -> Result<BTreeSet<u32>> {
        let index = self.service_index.get(&self.control.get(&0, 0)?.active_index, 0)?;
        Ok(index.slots.iter().filter(|slot| **slot != 0).map(|slot| u32::from(*slot) - 1).collect())
    }
}

impl DataPlane for Maps {
    fn observe(&self) -> Result<State> {
        let control = self.control.get(&0, 0)?;
        let mut state = State {
            settings: Settings { seed: control.seed, hz: control.hz, generation: control.generation as u16 },
            indexed: self.active_index()?,
            ..State::default()
        };
        for id in 0..MAX_SERVICES {
            let service = self.services.get(&id, 0)?;
            if service.reference != Reference::default() {
                state.services.insert(id, service);
            }
        }
        for id in 0..MAX_BACKENDS {
            let backend = self.backends.get(&id, 0)?;
            if backend.reference != Reference::default() {
                state.backends.insert(id, backend);
            }
        }
        for id in 1..MAX_NEXT_HOPS {
            let hop = self.next_hops.get(&id, 0)?;
            if hop.ifindex != 0 {
                state.next_hops.insert(id, hop);
            }
        }
        for id in 0..MAX_RINGS {
            match self.rings.get(&id, 0) {
                Ok(table) if table.get(&0, 0)?.size != 0 => {
                    state.tables.insert(id, Table::default());
                }
                Ok(_) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for ifindex in self.interfaces.keys() {
            state.interfaces.insert(ifindex?);
        }
        Ok(state)
    }

    fn apply(&mut self, operation: &Operation) -> Result<()> {
        match operation {
            Operation::PutSettings(settings) => self.put_settings(*settings)?,
            Operation::PutInterface(ifindex) => {
                // One that is gone must not keep everything else from being put in force.
                if let Err(error) = self.interfaces.insert(*ifindex, *ifindex, None, 0) {
                    tracing::warn!(ifindex, %error, "nothing can leave through this interface");
                }
            }
            // An interface that is gone has left the map by itself.
            Operation::RemoveInterface(ifindex) => drop(self.interfaces.remove(*ifindex)),
            Operation::PutNextHop(id, hop) => self.next_hops.set(*id, hop, 0)?,
            Operation::ClearNextHop(id) => self.next_hops.set(*id, NextHop::default(), 0)?,
            Operation::PutBackend { id, backend, fresh } => {
                if *fresh {
                    self.backend_counters.set(*id, zeros()?, 0)?;
                }
                self.backends.set(*id, backend, 0)?;
            }
            Operation::ClearBackend(id) => self.backends.set(*id, Backend::default(), 0)?,
            Operation::PutTable(id, table) => self.put_table(*id, table)?,
            Operation::ClearTable(id) => self.clear_table(*id)?,
            // A change of a map of maps returns when no program that saw the old one runs any more.
            Operation::Settle => self.clear_table(SPARE_TABLE)?,
            Operation::PutService { id, service, fresh } => {
                if *fresh {
                    self.service_counters.set(*id, zeros()?, 0)?;
                }
                self.services.set(*id, service.as_ref(), 0)?;
            }
            Operation::ClearService(id) => self.services.set(*id, Service::default(), 0)?,
            Operation::PutIndex(ids) => self.put_index(ids)?,
        }
        Ok(())
    }
}

/// Finds a seed under which every service lies within reach of a probe, and builds the index.
fn build_index(services: &[(u32, Service)]) -> Result<Box<ServiceIndex>> {
    const SEEDS: u64 = 1000;
    'seeds: for seed in 0..SEEDS {
        let mut index = Box::new(ServiceIndex { seed, slots: [0; INDEX_SLOTS] });
        for (id, service) in services {
            let home = ServiceIndex::home(seed, &service.address, service.port, service.protocol);
            let free = (0..INDEX_PROBES)
                .map(|probe| (home + probe) & (INDEX_SLOTS - 1))
                .find(|slot| index.slots[*slot] == 0);
            let Some(slot) = free else { continue 'seeds };
            index.slots[slot] = *id as u16 + 1;
        }
        return Ok(index);
    }
    bail!("no index of {} services in {SEEDS} tries", services.len())
}

fn pinned<M>(pins: &Pins, name: &str) -> Result<M>
where
    M: TryFrom<Map>,
    M::Error: std::error::Error + Send + Sync + 'static,
{
    let path = pins.map(name);
    let data = MapData::from_pin(&path).with_context(|| format!("cannot open the map {}", path.display()))?;
    Map::from_map_data(data)?.try_into().with_context(|| format!("{} is another kind of map", path.display()))
}

fn sum(values: &PerCpuValues<Counters>) -> Counters {
    values.iter().fold(Counters::default(), |sum, value| Counters {
        packets_in: sum.packets_in + value.packets_in,
        bytes_in: sum.bytes_in + value.bytes_in,
        packets_out: sum.packets_out + value.packets_out,
        bytes_out: sum.bytes_out + value.bytes_out,
        new_flows: sum.new_flows + value.new_flows,
    })
}

fn zeros() -> Result<PerCpuValues<Counters>> {
    let processors = aya::util::nr_cpus().map_err(|(file, error)| {
        anyhow::Error::new(error).context(format!("cannot count processors: {file}"))
    })?;
    Ok(PerCpuValues::try_from(vec![Counters::default(); processors])?)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::dataplane::state::to_address;

    #[test]
    fn a_full_index_finds_every_service() {
        let services: Vec<_> = (0..MAX_SERVICES)
            .map(|id| {
                let address = to_address(IpAddr::V4(Ipv4Addr::from(0xc000_0200 + id / 50)));
                let port = (8000 + (id % 50) as u16).to_be();
                (id, Service { address, port, protocol: 6, ..Service::default() })
            })
            .collect();
        let index = build_index(&services).unwrap();
        for (id, service) in &services {
            let home = ServiceIndex::home(index.seed, &service.address, service.port, service.protocol);
            let found = (0..INDEX_PROBES)
                .map(|probe| index.slots[(home + probe) & (INDEX_SLOTS - 1)])
                .take_while(|slot| *slot != 0)
                .any(|slot| u32::from(slot) == *id + 1);
            assert!(found, "service {id}");
        }
    }
}
