//! The daemon's program over its pinned maps.

use std::{collections::BTreeSet, fs};

use anyhow::Result;
use aya::EbpfLoader;

use super::{
    pins::Pins,
    shapes::{FLOWS, SHAPES, Shape},
    xdp::Program,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb.o"));
const PROGRAM: &str = "slb";

/// Sizes of the maps that configuration decides, where they are made.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Connections; rounded up to a power of two.
    pub flows: u32,
    /// Servers.
    pub backends: u32,
}

impl Sizes {
    /// Slots of the flow table.
    pub(super) fn flow_slots(self) -> u32 {
        self.flows.next_power_of_two()
    }

    /// Entries of a map, where configuration decides.
    fn of(self, map: &str) -> Option<u32> {
        match map {
            FLOWS => Some(self.flow_slots()),
            "BACKENDS" | "BACKEND_COUNTERS" | "LOADS" => Some(self.backends),
            // One for each server before and after all of them change, and 0, which stands for none.
            "NEXT_HOPS" => Some(2 * self.backends + 1),
            _ => None,
        }
    }
}

/// Loads the program. Maps that are pinned are used as they are, others are made and pinned.
pub fn load(pins: &Pins, sizes: Sizes) -> Result<Program> {
    let mut loader = EbpfLoader::new();
    let mut flow_mask = 0;
    for shape in &SHAPES {
        let entries = entries(pins, shape, sizes.of(shape.name))?;
        if let Some(entries) = entries {
            loader.map_max_entries(shape.name, entries);
        }
        if shape.name == FLOWS {
            flow_mask = entries.unwrap_or_default().saturating_sub(1);
        }
        loader.map_pin_path(shape.name, pins.map(shape.name));
    }
    loader.override_global("FLOW_MASK", &flow_mask, true);
    Program::load(&mut loader, OBJECT, PROGRAM)
}

/// Entries of the map, if they are not its shape's: those of a map that is pinned, or those `wanted`.
fn entries(pins: &Pins, shape: &Shape, wanted: Option<u32>) -> Result<Option<u32>> {
    let path = pins.map(shape.name);
    if !path.exists() {
        shape.create_pinned(&path)?;
        return Ok(wanted);
    }
    // It keeps its size. The flow table has been resized before, if that could be.
    let found = shape.verify(&path)?.max_entries();
    Ok(wanted.map(|_| found))
}

/// Names of the maps whose pins are not there.
pub fn unpinned(pins: &Pins) -> Vec<&'static str> {
    let is_missing = |name: &&str| !pins.map(name).exists();
    SHAPES.iter().map(|shape| shape.name).filter(is_missing).collect()
}

/// Pins maps of the program again.
pub fn pin_again(program: &Program, pins: &Pins, maps: &[&str]) -> Result<()> {
    maps.iter().try_for_each(|name| program.pin_map(name, &pins.map(name)))
}

/// Takes the program off every interface but these.
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
