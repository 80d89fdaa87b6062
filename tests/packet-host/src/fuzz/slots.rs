//! The slots of a flow's hash, read from the tables as plain data.

use std::net::{IpAddr, SocketAddr};

use slb_common::{
    abi::{Address, lookup_table::LookupTable, service::IndexEntry},
    hash::mix,
};
use slb_oracle::reference::{Slots, TRIES};

/// The index entries of a configuration's listeners, and its lookup tables.
#[derive(Default)]
pub(super) struct TableSlots {
    pub(super) listeners: Vec<IndexEntry>,
    pub(super) tables: Vec<Box<LookupTable>>,
}

impl Slots for TableSlots {
    fn of(&self, listener: usize, table: usize, client: SocketAddr) -> [Option<usize>; TRIES] {
        let table = &self.tables[table];
        let address = match client.ip() {
            IpAddr::V4(ip) => Address::v4(ip.octets()),
            IpAddr::V6(ip) => Address::v6(ip.octets()),
        };
        let mut hash = self.listeners[listener].flow_hash(&address, client.port().to_be());
        [(); TRIES].map(|()| {
            let slot = table.slot(LookupTable::slot_of(table.size, hash));
            hash = mix(hash);
            slot.server().map(super::state::number_of_server)
        })
    }
}
