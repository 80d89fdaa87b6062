//! A table of local addresses for tests.

use std::net::IpAddr;

use slb_common::abi::local_address::{LocalAddress, LocalAddresses, PROBES};
use slb_control::dataplane::{local_address_table::LocalAddressTable, state::to_address};

/// A table of these addresses, all of them candidates, with the same first and last port.
///
/// # Panics
/// An address finds no free slot.
pub fn table(locals: &[IpAddr], (first_port, last_port): (u16, u16)) -> LocalAddressTable {
    let mut table = LocalAddressTable::default();
    for local in locals {
        let address = to_address(*local);
        let home = LocalAddresses::home(&address);
        let mut probes = (0..PROBES as u8).map(|probe| home.wrapping_add(probe));
        let slot = probes.find(|slot| !table.slots.contains_key(slot)).expect("few addresses leave room");
        table.slots.insert(slot, LocalAddress { address, first_port, last_port, reserved: 0 });
        table.candidates.insert(slot);
    }
    table
}
