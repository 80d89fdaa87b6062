//! Resize of the flow table at a start: a map of another size replaces the pinned one and receives its entries.
//! Forwarding continues.
//!
//! 1. [`begin`]: the pin of the flow table passes to a new, empty map. The old map gets a pin of its own, [`OLD`] and
//!    its id. The pin of the source table goes: the new program makes one that fits.
//! 2. The program is loaded over the new map. The old program forwards meanwhile.
//! 3. [`migrate`]: copies all entries to the new map, then those that packets have changed meanwhile. It then sets
//!    RESIZING: both programs drop packets of flows that they do not find, because the flow may be in the other map.
//!    TCP retransmits them.
//! 4. The new program replaces the old one in each pinned link.
//! 5. The entries that the old program changed since the last pass are copied. After each pass words of the source table
//!    are written for the copied flows. RESIZING is cleared, and the pin of the
//!    old map is removed.
//!
//! So packets are dropped in steps 4 and 5 only. Some belong to flows that began in the last two passes. Others come
//! from a port of a `nat` server and go to clients that did not connect to a VIP.
//!
//! If the daemon ends in between, the pin of the old map stays, and the next daemon continues with step 2.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use slb_common::{
    abi::flow::FlowWords,
    datapath::flow_gc::{CopyResult, FlowTable, SourcesResult},
};

use super::{
    bpffs, flows,
    loader::MapSizes,
    map_shapes::{self, FLOWS, RESIZING},
    mapped_array::MappedArray,
    pins::Pins,
    seeds,
    sources::{self, PinnedSources},
    syscall,
    xdp::Program,
};
use crate::clock::rounded;

/// Temporary pin of a new flow table, until it replaces the old one.
const NEW: &str = "NEW_FLOWS";
/// Prefix of the pins of old flow tables.
const OLD: &str = "OLD_FLOWS_";

/// Step 1: replaces the pinned flow table by an empty map if its size differs from `sizes`.
///
/// # Errors
/// The map cannot be made, for example for lack of memory: the old one stays. Or a pin cannot be changed.
pub fn begin(pins: &Pins, sizes: MapSizes) -> Result<()> {
    let (current, new) = (pins.map(FLOWS), pins.map(NEW));
    if new.exists() {
        // No program uses it: an earlier daemon ended before step 2.
        fs::remove_file(&new)?;
    }
    if !current.exists() {
        return Ok(());
    }
    let info = map_shapes::verify(FLOWS, &current)?;
    let slots = sizes.flow_slots();
    if info.max_entries() == slots {
        return Ok(());
    }
    let map = syscall::mmapable_array(FLOWS, size_of::<FlowWords>(), slots)
        .with_context(|| format!("cannot make a flow table of {slots} entries"))?;
    MapData::from_fd(map)?.pin(&new)?;
    let old = pins.map(&old_name(info.id()));
    if !old.exists() {
        MapData::from_pin(&current)?.pin(&old)?;
    }
    fs::rename(&new, &current).context("cannot rename the pin of the new flow table")?;
    sources::unpin(pins)?;
    tracing::info!(from = info.max_entries(), to = slots, "resizing the flow table");
    Ok(())
}

/// Whether the program that is loaded next will find a source table.
pub fn has_sources(pins: &Pins) -> bool {
    sources::exists(pins)
}

/// Steps 3 to 5, if there is an old flow table. Else writes the words of a source table that has been made anew, as
/// `had_sources` says. `hz` is jiffies per second.
///
/// # Errors
/// A table cannot be mapped into memory, or a pin cannot be removed.
pub fn migrate(pins: &Pins, program: &mut Program, hz: u32, had_sources: bool) -> Result<()> {
    let old = old(pins)?;
    if old.is_empty() {
        if !had_sources {
            FlowTables::open(&[], pins, hz)?.write_sources();
        }
        return set_resizing(pins, false);
    }
    let tables = FlowTables::open(&old, pins, hz)?;
    let first = Instant::now();
    let CopyResult { entries, mut dropped } = tables.copy(None)?;
    let second = Instant::now();
    dropped = dropped.max(tables.copy(Some(first))?.dropped);
    let switch = Instant::now();
    set_resizing(pins, true)?;
    let replaced = replace(&tables, second, pins, program);
    // Also after an error: otherwise the programs drop packets until the next start.
    set_resizing(pins, false)?;
    let switched_in = rounded(switch.elapsed());
    let (is_everywhere, last) = replaced?;
    dropped = dropped.max(last.dropped);
    if !is_everywhere {
        // A program still uses the old map, and the next start needs its entries.
        tracing::warn!(
            entries,
            "the old flow table stays until the next start, which goes on with the resize"
        );
        return Ok(());
    }
    for pin in old {
        fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
    }
    if dropped == 0 {
        tracing::info!(entries, ?switched_in, "flow table resized");
    } else {
        tracing::warn!(
            entries,
            dropped,
            ?switched_in,
            "flow table resized: the smaller table has no room for some flows"
        );
    }
    Ok(())
}

/// Replaces the program in all pinned links, and copies the entries that packets changed since `since`. Returns whether
/// no link keeps a program over an old map, and the copy's result.
fn replace(
    tables: &FlowTables,
    since: Instant,
    pins: &Pins,
    program: &mut Program,
) -> Result<(bool, CopyResult)> {
    let is_everywhere = program.replace_in(&bpffs::entries(&pins.links())?);
    wait_for_programs()?;
    Ok((is_everywhere, tables.copy(Some(since))?))
}

/// The old and new flow tables, mapped into memory.
struct FlowTables {
    old: Vec<MappedArray>,
    new: MappedArray,
    sources: PinnedSources,
    seed: u64,
    hz: u32,
}

impl FlowTables {
    fn open(old: &[PathBuf], pins: &Pins, hz: u32) -> Result<Self> {
        let old = old.iter().map(|pin| MappedArray::open(pin)).collect::<Result<_>>()?;
        Ok(Self {
            old,
            new: MappedArray::open(&pins.map(FLOWS))?,
            sources: PinnedSources::open(pins)?,
            seed: seeds::flow_seed(pins)?,
            hz,
        })
    }

    /// Copies all entries, or those that packets have changed since `since`.
    fn copy(&self, since: Option<Instant>) -> Result<CopyResult> {
        let new = FlowTable::new(self.new.slots(), self.seed);
        let within = since.map(|since| since.elapsed().as_secs() as u32 + 1);
        let mut sum = CopyResult::default();
        for old in &self.old {
            let migrated = new.copy_from(old.slots(), flows::clock(self.hz)?, within);
            sum.entries += migrated.entries;
            sum.dropped += migrated.dropped;
        }
        self.write_sources();
        Ok(sum)
    }

    /// Writes the words by which answers find copied flows.
    fn write_sources(&self) {
        let SourcesResult { found, cleared } =
            self.sources.write(&FlowTable::new(self.new.slots(), self.seed));
        if cleared == 0 {
            tracing::debug!(found, "answers find flows of mode full-nat");
        } else {
            tracing::warn!(found, cleared, "some flows of mode full-nat have lost their source");
        }
    }
}

fn set_resizing(pins: &Pins, resizing: bool) -> Result<()> {
    let map = MapData::from_pin(pins.map(RESIZING))?;
    syscall::update_batch(map.fd().as_fd(), &[0], &[u64::from(resizing)]).context("cannot set RESIZING")
}

/// Waits for a grace period. The kernel does so when a map of maps changes.
pub(super) fn wait_for_programs() -> Result<()> {
    let (outer, inner) = (syscall::array_of_maps("GRACE", 4, 1)?, syscall::array_of(&0_u32)?);
    Ok(syscall::update_batch(outer.as_fd(), &[0], &[inner.as_raw_fd() as u32])?)
}

/// Name of the flow table with this id, once another one replaces it.
fn old_name(id: u32) -> String {
    format!("{OLD}{id}")
}

/// Whether the map of this name is an old flow table.
pub(super) fn is_old(name: &str) -> bool {
    name.starts_with(OLD)
}

/// Pins of old flow tables.
fn old(pins: &Pins) -> Result<Vec<PathBuf>> {
    Ok(pins.maps()?.into_iter().filter(|(name, _)| is_old(name)).map(|(_, pin)| pin).collect())
}
