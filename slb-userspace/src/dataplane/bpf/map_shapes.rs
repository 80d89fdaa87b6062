//! The shapes of the pinned maps, and checks of pinned maps against them.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, MapInfo, MapType};
use slb_common::abi::{
    MAX_INTERFACES, MAX_LOOKUP_TABLES, MAX_SERVICES,
    access_list::{AccessKey, MAX_ENTRIES},
    backend::{Backend, NextHop},
    control::Control,
    flow::FlowWords,
    interface::{Interface, MAX_OWN_MACS, SLOTS},
    lookup_table::LookupTable,
    service::{Service, ServiceIndex},
    source::SourceBucket,
    stats::{Counters, LimitDrops, Totals},
    syn_cookie::{OffsetKey, SequenceOffset},
    token_bucket::TokenBuckets,
};

use crate::advice::{Attempt, with_advice};

use super::{access_lists, quic_servers, syscall};

/// Properties of a pinned map. A pinned map with other ones is not used.
#[derive(Debug, PartialEq)]
pub(super) struct MapShape {
    pub(super) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    /// `None` if the configuration decides.
    entries: Option<u32>,
    /// Bytes of the one element in each inner map of an array of maps; 0 for other maps.
    inner: usize,
}

pub(super) const fn shape(
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
) -> MapShape {
    MapShape { name, kind, key, value, entries: Some(entries), inner: 0 }
}

pub(super) const fn sized(name: &'static str, kind: MapType, value: usize) -> MapShape {
    MapShape { name, kind, key: 4, value, entries: None, inner: 0 }
}

pub(super) const fn of_maps(name: &'static str, inner: usize, entries: u32) -> MapShape {
    MapShape { name, kind: MapType::ArrayOfMaps, key: 4, value: 4, entries: Some(entries), inner }
}

/// Name of the flow table.
pub(super) const FLOWS: &str = "FLOWS";
/// Name of the source table.
pub(super) const SOURCES: &str = "SOURCES";
/// Name of the map of sequence offsets.
pub(super) const SEQUENCE_OFFSETS: &str = "SEQUENCE_OFFSETS";
/// Name of the map that says whether a resize of the flow table is in its last steps.
pub(super) const RESIZING: &str = "RESIZING";

/// Name of the interface table.
pub(super) const INTERFACE_TABLE: &str = "INTERFACE_TABLE";
/// Name of the map of further hardware addresses of interfaces.
pub(super) const OWN_MACS: &str = "OWN_MACS";

/// All pinned maps of the daemon, except the program arrays.
pub(super) const MAP_SHAPES: [MapShape; 22] = [
    shape("CONTROL", MapType::Array, 4, size_of::<Control>(), 1),
    of_maps("SERVICE_INDEX", size_of::<ServiceIndex>(), 1),
    shape("SERVICES", MapType::Array, 4, size_of::<Service>(), MAX_SERVICES),
    of_maps("LOOKUP_TABLES", size_of::<LookupTable>(), MAX_LOOKUP_TABLES),
    sized("BACKENDS", MapType::Array, size_of::<Backend>()),
    sized("NEXT_HOPS", MapType::Array, size_of::<NextHop>()),
    shape(access_lists::NAME, MapType::LpmTrie, size_of::<AccessKey>(), 4, MAX_ENTRIES),
    MapShape { key: 8, ..sized(quic_servers::NAME, MapType::Hash, 8) },
    shape(RESIZING, MapType::Array, 4, size_of::<u64>(), 1),
    sized(FLOWS, MapType::Array, size_of::<FlowWords>()),
    // After the flow table, whose size decides on its own.
    sized(SOURCES, MapType::Array, size_of::<SourceBucket>()),
    MapShape {
        name: SEQUENCE_OFFSETS,
        kind: MapType::Hash,
        key: size_of::<OffsetKey>(),
        value: size_of::<SequenceOffset>(),
        entries: None,
        inner: 0,
    },
    shape("ROUND_ROBIN", MapType::Array, 4, size_of::<u64>(), MAX_SERVICES),
    shape("TOKEN_BUCKETS", MapType::Array, 4, size_of::<TokenBuckets>(), MAX_SERVICES),
    sized("CONNECTIONS", MapType::Array, size_of::<u64>()),
    shape("INTERFACES", MapType::DevMapHash, 4, 8, MAX_INTERFACES),
    shape(INTERFACE_TABLE, MapType::Array, 4, size_of::<Interface>(), SLOTS),
    shape(OWN_MACS, MapType::Hash, 8, 8, MAX_OWN_MACS),
    shape("TOTALS", MapType::PerCpuArray, 4, size_of::<Totals>(), 1),
    shape("SERVICE_COUNTERS", MapType::PerCpuArray, 4, size_of::<Counters>(), MAX_SERVICES),
    shape("LIMIT_DROPS", MapType::PerCpuArray, 4, size_of::<LimitDrops>(), MAX_SERVICES),
    sized("BACKEND_COUNTERS", MapType::PerCpuArray, size_of::<Counters>()),
];

/// As [`MapShape::verify`], for the map `name`.
pub(super) fn verify(name: &str, path: &Path) -> Result<MapInfo> {
    let shape = MAP_SHAPES.iter().find(|shape| shape.name == name);
    shape.with_context(|| format!("there is no map {name}"))?.verify(path)
}

impl MapShape {
    /// Makes and pins the map if it is an array of maps. The loader makes every other map.
    ///
    /// Linux 6.1 refuses a program over the arrays of maps that aya makes. Their inner maps have BTF, unlike the inner
    /// maps that the daemon writes.
    pub(super) fn create_pinned(&self, path: &Path) -> Result<()> {
        let (Some(entries), true) = (self.entries, self.kind == MapType::ArrayOfMaps) else { return Ok(()) };
        let map = syscall::array_of_maps(self.name, self.inner, entries)
            .map_err(|error| with_advice(error.into(), Attempt::MakeMap))
            .with_context(|| format!("cannot make the map {}", self.name))?;
        MapData::from_fd(map)?.pin(path).with_context(|| format!("cannot pin the map {}", path.display()))
    }

    /// Checks that a pinned map has this shape, so that it is not misread.
    ///
    /// # Errors
    /// It has another shape, or cannot be opened.
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
