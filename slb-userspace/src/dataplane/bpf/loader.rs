//! Loads the daemon's program over its pinned maps.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use aya::EbpfLoader;
use slb_common::{
    abi::{programs::TailCalled, syn_cookie},
    datapath::flow_gc::buckets_of,
};

use super::{
    map_shapes::{FLOWS, MAP_SHAPES, MapShape, SEQUENCE_OFFSETS, SOURCES},
    pins::Pins,
    quic_servers, sources,
    xdp::{self, Program},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb.o"));
const PROGRAM: &str = "slb";
/// The program array for tail calls. Each load has its own, pinned by this name and the map's id. The kernel empties a
/// program array that has neither a pin nor a descriptor.
const PROGRAMS: &str = "PROGRAMS";

/// Configured sizes, for maps that are made now.
#[derive(Debug, Clone, Copy)]
pub struct MapSizes {
    /// Flow-table entries; rounded up to a power of two.
    pub flows: u32,
    /// Server entries (`max_servers`).
    pub backends: u32,
}

impl MapSizes {
    /// Number of slots of the flow table.
    pub(super) fn flow_slots(self) -> u32 {
        self.flows.next_power_of_two()
    }

    /// Configured number of entries of a map; `None` if its shape fixes it.
    fn of(self, map: &str) -> Option<u32> {
        match map {
            FLOWS => Some(self.flow_slots()),
            "BACKENDS" | "BACKEND_COUNTERS" | "CONNECTIONS" => Some(self.backends),
            // Enough for the next hops of all servers before and after a change. Id 0 means none.
            "NEXT_HOPS" => Some(2 * self.backends + 1),
            // Enough for the IDs of all servers before and after a change.
            quic_servers::NAME => Some(2 * self.backends),
            _ => None,
        }
    }
}

/// Loads the program. It uses pinned maps as they are, and makes and pins the others.
pub fn load(pins: &Pins, sizes: MapSizes) -> Result<Program> {
    let mut loader = EbpfLoader::new();
    let mut flow_mask = 0;
    for shape in &MAP_SHAPES {
        let mut wanted = sizes.of(shape.name);
        if shape.name == SOURCES {
            let buckets = buckets_of(flow_mask + 1);
            sources::unpin_other_size(pins, buckets)?;
            wanted = Some(buckets);
        }
        if shape.name == SEQUENCE_OFFSETS {
            wanted = Some(syn_cookie::offsets(flow_mask + 1));
        }
        let entries = entries(pins, shape, wanted)?;
        if let Some(entries) = entries {
            loader.map_max_entries(shape.name, entries);
        }
        if shape.name == FLOWS {
            flow_mask = entries.unwrap_or_default().saturating_sub(1);
        }
        loader.map_pin_path(shape.name, pins.map(shape.name));
    }
    loader.override_global("FLOW_MASK", &flow_mask, true);
    let mut program = Program::load(&mut loader, OBJECT, PROGRAM)?;
    program.load_tail_called(PROGRAMS, &TailCalled::NAMES)?;
    let pin = programs_pin(&mut program, pins)?;
    program.pin_map(PROGRAMS, &pin)?;
    Ok(program)
}

/// Path of the pin of the program array for tail calls.
fn programs_pin(program: &mut Program, pins: &Pins) -> Result<PathBuf> {
    Ok(pins.map(&format!("{PROGRAMS}_{}", program.map_id(PROGRAMS)?)))
}

/// Removes the pins of program arrays that neither this program nor one in a pinned link uses. They stay while a link
/// holds another program, whose maps this process may not read.
pub fn remove_unused_programs(program: &mut Program, pins: &Pins) -> Result<()> {
    let (own, mut used) = (program.id()?, vec![program.map_id(PROGRAMS)?]);
    for (_, bound) in pins.bound()?.into_iter().filter(|(_, bound)| bound.program != own) {
        match xdp::maps_of(bound.program) {
            Ok(maps) => used.extend(maps),
            Err(error) => {
                // A program array is emptied when its last pin goes, also while a program uses it.
                tracing::debug!(error = format!("{error:#}"), "pins of unused program arrays stay");
                return Ok(());
            }
        }
    }
    for (name, pin) in pins.maps()? {
        let id = name.strip_prefix(PROGRAMS).and_then(|rest| rest.strip_prefix('_')?.parse().ok());
        if id.is_some_and(|id: u32| !used.contains(&id)) {
            fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
        }
    }
    Ok(())
}

/// Entries of a map whose shape does not fix them: those of the pinned map, or else `wanted`.
fn entries(pins: &Pins, shape: &MapShape, wanted: Option<u32>) -> Result<Option<u32>> {
    let path = pins.map(shape.name);
    if !path.exists() {
        shape.create_pinned(&path)?;
        return Ok(wanted);
    }
    // A pinned map keeps its size. A resize of the flow table has happened before, if it was possible.
    let found = shape.verify(&path)?.max_entries();
    Ok(wanted.map(|_| found))
}

/// Name of a map of the program, and the path of its pin.
pub type MapPin = (&'static str, PathBuf);

/// The maps whose pins are missing.
pub fn unpinned(program: &mut Program, pins: &Pins) -> Result<Vec<MapPin>> {
    let mut all: Vec<MapPin> = MAP_SHAPES.iter().map(|shape| (shape.name, pins.map(shape.name))).collect();
    all.push((PROGRAMS, programs_pin(program, pins)?));
    all.retain(|(_, pin)| !pin.exists());
    Ok(all)
}

/// Restores missing pins of the program's maps.
pub fn pin_again(program: &Program, maps: &[MapPin]) -> Result<()> {
    maps.iter().try_for_each(|(name, pin)| program.pin_map(name, pin))
}

/// Detaches the program from every interface whose index is not in `keep`.
pub fn detach_others(pins: &Pins, keep: &BTreeSet<u32>) -> Result<()> {
    for entry in fs::read_dir(pins.links())? {
        let entry = entry?;
        let index = entry.file_name().to_string_lossy().parse::<u32>().ok();
        if index.is_none_or(|index| !keep.contains(&index)) {
            fs::remove_file(entry.path())?;
            tracing::info!(link = %entry.path().display(), "detached");
        }
    }
    Ok(())
}
