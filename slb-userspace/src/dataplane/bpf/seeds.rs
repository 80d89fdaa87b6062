//! Seeds in the control map: of the flow hash, and of the flow table's own hash.

use std::{fs::File, io::Read as _};

use anyhow::{Context as _, Result};
use aya::maps::Array;
use slb_common::abi::control::Control;

use super::{map_shapes, pinned_map, pins::Pins};

/// A secret random number.
///
/// # Errors
/// The kernel's source of random numbers cannot be read.
pub fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("no randomness")?;
    Ok(u64::from_ne_bytes(bytes))
}

/// The seed of the flow hash in the maps; `None` before a daemon has configured them.
///
/// # Errors
/// The maps exist and cannot be read.
pub fn seed_in_use(pins: &Pins) -> Result<Option<u64>> {
    if !pins.exist()? {
        return Ok(None);
    }
    map_shapes::verify("CONTROL", &pins.map("CONTROL"))?;
    let control: Control = pinned_map::open::<Array<_, Control>>(pins, "CONTROL")?.get(&0, 0)?;
    Ok((control.abi_version != 0).then_some(control.seed))
}

/// The seed of the hash by which flow-table entries are found.
pub(super) fn flow_seed(pins: &Pins) -> Result<u64> {
    Ok(pinned_map::open::<Array<_, Control>>(pins, "CONTROL")?.get(&0, 0)?.flow_seed)
}
