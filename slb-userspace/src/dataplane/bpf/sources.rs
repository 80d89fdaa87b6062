//! The pinned source table: words by which answers find flows of mode `full-nat`.

use std::{collections::HashMap, fs, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, MapInfo};
use slb_common::{
    abi::{Handle, backend::Backend},
    datapath::flow_gc::{FlowTable, SourceTable, SourcesResult},
};

use super::{map_shapes::SOURCES, mapped_array::MappedArray, pins::Pins, syscall};

/// The pinned source table, and the endpoints of the servers in the maps.
pub(super) struct PinnedSources {
    buckets: MappedArray,
    servers: HashMap<Handle, Backend>,
}

impl PinnedSources {
    /// Opens the maps behind the pins.
    ///
    /// # Errors
    /// A pin is missing, or the source table cannot be mapped into memory.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        let mut servers = HashMap::new();
        let backends = MapData::from_pin(pins.map("BACKENDS"))?;
        syscall::for_each(backends.fd().as_fd(), |_, backend: Backend| {
            if backend.handle != Handle::default() {
                servers.insert(backend.handle, backend);
            }
        })?;
        Ok(Self { buckets: MappedArray::open(&pins.map(SOURCES))?, servers })
    }

    /// Writes missing words of the flows in this table.
    pub(super) fn write(&self, flows: &FlowTable<'_>) -> SourcesResult {
        let server = |handle: Handle, port: u16| Some(self.servers.get(&handle)?.server_hash_for(port));
        flows.write_sources(&SourceTable::new(self.buckets.slots()), &server)
    }
}

/// Whether a source table is pinned.
pub(super) fn exists(pins: &Pins) -> bool {
    pins.map(SOURCES).exists()
}

/// Removes the pin of the source table, if there is one. Programs that use the table keep it.
///
/// # Errors
/// The pin cannot be removed.
pub(super) fn unpin(pins: &Pins) -> Result<()> {
    let pin = pins.map(SOURCES);
    if pin.exists() {
        fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
    }
    Ok(())
}

/// Removes the pin of a source table that has not this number of buckets: it is of another flow table.
///
/// # Errors
/// The pin cannot be read or removed.
pub(super) fn unpin_other_size(pins: &Pins, buckets: u32) -> Result<()> {
    if exists(pins) && MapInfo::from_pin(pins.map(SOURCES))?.max_entries() != buckets {
        unpin(pins)?;
    }
    Ok(())
}
