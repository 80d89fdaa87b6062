//! A flow table of another size takes the place of the pinned one, with the flows in it. Forwarding goes on.
//!
//! 1. [`begin`]: the pin of the flow table passes to a new, empty map; the old map gets a pin of its own, [`OLD`] and its id.
//! 2. The program is loaded over the new map. The old program forwards meanwhile.
//! 3. [`carry`]: the new map gets the flows, just before the new program replaces the old one. From here on, both programs drop
//!    packets of flows that they do not find: such a flow may be in the other map. TCP sends them again.
//! 4. The new program replaces the old one on each interface.
//! 5. [`finish`]: the new map gets what the old program has changed since. The pin of the old map goes.
//!
//! A daemon that ends in between leaves the pin of the old map, and the next one goes on with step 2.

use std::{fs, os::fd::AsFd as _, path::PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use slb_common::{
    abi::flow::FlowWords,
    datapath::upkeep::{Carried, FlowTable},
};

use super::{
    flows::{self, Mapped},
    loader::Sizes,
    maps,
    pins::Pins,
    shapes::{self, FLOWS, RESIZING},
    syscall,
};

/// The pin of a new map until it has the name of the old one.
const NEW: &str = "NEW_FLOWS";
/// What names of pins of old flow tables begin with.
const OLD: &str = "OLD_FLOWS_";

/// Gives the pin of the flow table to an empty map, if the pinned one has another size.
///
/// # Errors
/// There is no memory for it: the old one stays.
pub fn begin(pins: &Pins, sizes: Sizes) -> Result<()> {
    let (current, new) = (pins.map(FLOWS), pins.map(NEW));
    if !current.exists() {
        return Ok(());
    }
    let info = shapes::verify(FLOWS, &current)?;
    let slots = sizes.flow_slots();
    if info.max_entries() == slots {
        return Ok(());
    }
    if new.exists() {
        // No program uses it: a daemon ended before step 2.
        fs::remove_file(&new)?;
    }
    let map = syscall::mmapable_array(FLOWS, size_of::<FlowWords>(), slots)
        .with_context(|| format!("cannot make a flow table of {slots} entries"))?;
    MapData::from_fd(map)?.pin(&new)?;
    MapData::from_pin(&current)?.pin(pins.map(&format!("{OLD}{}", info.id())))?;
    fs::rename(&new, &current).context("cannot rename the pin of the new flow table")?;
    tracing::info!(from = info.max_entries(), to = slots, "the flow table gets another size");
    Ok(())
}

/// Carries the flows of old flow tables into the pinned one, if there are any. `hz` is jiffies in a second.
///
/// # Errors
/// A table cannot be mapped into memory.
pub fn carry(pins: &Pins, hz: u32) -> Result<()> {
    let old = old(pins)?;
    if old.is_empty() {
        return Ok(());
    }
    say_resizing(pins, true)?;
    carry_from(&old, pins, hz).map(drop)
}

/// Has programs forward again what they do not find. The next start goes on with step 2.
pub fn interrupt(pins: &Pins) {
    if let Err(error) = say_resizing(pins, false) {
        tracing::warn!(
            error = format!("{error:#}"),
            "packets of unknown connections are dropped until the next start"
        );
    }
}

/// Carries once more, and removes the pins of old flow tables: no program uses them any more.
///
/// # Errors
/// As [`carry`].
pub fn finish(pins: &Pins, hz: u32) -> Result<()> {
    let old = old(pins)?;
    if old.is_empty() {
        return Ok(());
    }
    let Carried { entries, without_place } = carry_from(&old, pins, hz)?;
    say_resizing(pins, false)?;
    for pin in old {
        fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
    }
    if without_place == 0 {
        tracing::info!(entries, "the flow table has another size, and holds every flow of the old one");
    } else {
        tracing::warn!(
            entries,
            without_place,
            "the flow table is smaller now, and has no place for some flows"
        );
    }
    Ok(())
}

fn carry_from(old: &[PathBuf], pins: &Pins, hz: u32) -> Result<Carried> {
    let new = Mapped::open(&pins.map(FLOWS))?;
    let new = FlowTable::new(new.slots(), maps::flow_seed(pins)?);
    let mut sum = Carried::default();
    for pin in old {
        let carried = new.carry(Mapped::open(pin)?.slots(), flows::clock(hz)?);
        sum.entries += carried.entries;
        sum.without_place += carried.without_place;
    }
    Ok(sum)
}

/// Says to the programs whether flows are being carried.
fn say_resizing(pins: &Pins, resizing: bool) -> Result<()> {
    let map = MapData::from_pin(pins.map(RESIZING))?;
    syscall::update_batch(map.fd().as_fd(), &[0], &[u64::from(resizing)]).context("cannot set RESIZING")
}

/// Pins of old flow tables.
fn old(pins: &Pins) -> Result<Vec<PathBuf>> {
    let is_old = |pin: &PathBuf| pin.file_name().is_some_and(|name| name.to_string_lossy().starts_with(OLD));
    Ok(pins.maps()?.into_iter().filter(is_old).collect())
}
