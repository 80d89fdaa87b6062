//! Whom a slot of a server table names.

use super::tables::Tables;
use crate::{
    abi::{
        backend::Backend,
        lookup_table::{LookupTable, Slot},
        service::IndexEntry,
        stats::Reason,
    },
    net::{headers::protocol, parse::Packet},
};

/// What the slot of a packet follows from.
#[inline(always)]
pub(super) fn hash_of(packet: &Packet, service: &IndexEntry) -> u64 {
    service.flow_hash(&packet.source, packet.source_port)
}

/// The server that a slot names.
#[inline(always)]
pub(super) fn owner<'t, T: Tables>(
    packet: &Packet,
    slot: Slot,
    tables: &'t T,
) -> Result<&'t Backend, Reason> {
    let backend = tables.backend(slot.server().ok_or(Reason::NoServer)?).ok_or(Reason::NoServer)?;
    // The table may be about to be replaced. What has just gone is not chosen; what has just died keeps its connections.
    let goes_on = packet.protocol == protocol::TCP && !packet.flags.asks() && backend.handle.0 != 0;
    if backend.is_alive() {
        Ok(backend)
    } else if goes_on {
        if backend.is_terminating() && !packet.flags.rst() { Err(Reason::Reset) } else { Ok(backend) }
    } else {
        Err(Reason::NoServer)
    }
}

/// The server that has the flows of a slot that nobody remembers, where that is another than the owner.
#[inline(always)]
pub(super) fn previous_backend<'t, T: Tables>(
    lookup_table: &LookupTable,
    number: u64,
    slot: Slot,
    tables: &'t T,
) -> Option<&'t Backend> {
    if !slot.has_moved() {
        return None;
    }
    let id = tables.lookup_table(lookup_table.previous_backends)?.slot(number).server()?;
    tables.backend(id).filter(|backend| backend.handle.0 != 0)
}
