//! The interface table in the kernel.

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData};
use slb_common::abi::interface::{Interface, MAX_OWN_MACS};

use super::{
    map_shapes::{INTERFACE_TABLE, OWN_MACS},
    mapped_array::MappedArray,
    pinned_map,
    pins::Pins,
};
use crate::dataplane::interfaces::Interfaces;

/// The pinned interface table and the map of further hardware addresses.
pub struct InterfaceTable {
    table: MappedArray<Interface>,
    own_macs: HashMap<MapData, u64, u64>,
    /// The content of both maps.
    held: Interfaces,
}

impl InterfaceTable {
    /// Opens the maps behind the pins and reads what an earlier run left in them.
    ///
    /// # Errors
    /// A pin is missing, or a map cannot be read.
    pub fn open(pins: &Pins) -> Result<Self> {
        let table: MappedArray<Interface> = MappedArray::open(&pins.map(INTERFACE_TABLE))?;
        let own_macs: HashMap<MapData, u64, u64> = pinned_map::open(pins, OWN_MACS)?;
        let entries = table.slots().iter().filter_map(Interface::properties);
        let further =
            own_macs.iter().collect::<Result<_, _>>().with_context(|| format!("cannot read {OWN_MACS}"))?;
        let held = Interfaces::held(entries, further);
        Ok(Self { table, own_macs, held })
    }

    /// The actual content.
    pub fn held(&self) -> &Interfaces {
        &self.held
    }

    /// Makes `interfaces` the actual content. During the change a packet finds an interface's old addresses, its new
    /// ones, or both.
    ///
    /// # Errors
    /// The kernel refuses a further address. All others are written.
    pub fn put(&mut self, interfaces: &Interfaces) -> Result<()> {
        let mut refused = Ok(());
        let mut held = interfaces.clone();
        // New addresses first, so that an address that moves out of the entry stays known.
        let is_new = |(key, value): &(&u64, &u64)| self.held.own_macs().get(*key) != Some(*value);
        for (key, value) in interfaces.own_macs().iter().filter(is_new) {
            if let Err(error) = self.own_macs.insert(key, value, 0) {
                held.forget_own_mac(*key);
                refused = Err(error).with_context(|| {
                    format!(
                        "no room for a hardware address or a VLAN in {OWN_MACS}, which holds {MAX_OWN_MACS}"
                    )
                });
            }
        }
        for (slot, properties) in interfaces.entries() {
            if self.held.entries().get(slot) != Some(properties) {
                self.table.slots()[*slot as usize].store(properties);
            }
        }
        for slot in self.held.entries().keys().filter(|slot| !interfaces.entries().contains_key(slot)) {
            self.table.slots()[*slot as usize].clear();
        }
        for key in self.held.own_macs().keys().filter(|key| !interfaces.own_macs().contains_key(*key)) {
            // An error means that it is gone already, although nothing else removes it.
            let _ = self.own_macs.remove(key);
        }
        self.held = held;
        refused
    }
}
