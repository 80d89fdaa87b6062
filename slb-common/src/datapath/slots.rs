//! Current and previous backend of a slot.

use super::{maps::Maps, parse::Packet, refusal::Refusal};
use crate::{
    abi::{
        backend::Backend,
        lookup_table::{LookupTable, Slot},
        service::IndexEntry,
        stats::Reason,
    },
    net::headers::protocol,
};

/// Hash of a packet's flow, which selects the slot.
#[inline(always)]
pub(super) fn hash_of(packet: &Packet, service: &IndexEntry) -> u64 {
    service.flow_hash(&packet.source, packet.source_port)
}

/// The current backend of a slot, for a packet. Refuses with [`Reason::NoServer`] if it may not have the packet; a
/// segment of a terminating server's connection is answered by a RST.
#[inline(always)]
pub(super) fn current_backend<'t, T: Maps>(
    packet: &Packet,
    slot: Slot,
    maps: &'t T,
) -> Result<&'t Backend, Refusal> {
    let backend = maps.backend(slot.server().ok_or(Reason::NoServer)?).ok_or(Reason::NoServer)?;
    // A new table may be about to replace this one. A server whose entry is cleared gets nothing. One that is not able
    // to serve keeps its connections.
    let is_mid_stream = packet.protocol == protocol::TCP && !packet.flags.is_syn() && backend.handle.0 != 0;
    if backend.is_alive() {
        Ok(backend)
    } else if is_mid_stream {
        if backend.is_terminating() && !packet.flags.rst() { Err(Refusal::RST_DUE) } else { Ok(backend) }
    } else {
        Err(Refusal::drop(Reason::NoServer))
    }
}

/// The previous backend of a slot: it has the flows without an entry. `None` if the slot does not migrate, or the
/// server is gone.
#[inline(always)]
pub(super) fn previous_backend<'t, T: Maps>(
    lookup_table: &LookupTable,
    number: u64,
    slot: Slot,
    maps: &'t T,
) -> Option<&'t Backend> {
    if !slot.is_migrating() {
        return None;
    }
    let id = maps.lookup_table(lookup_table.previous_backends)?.slot(number).server()?;
    maps.backend(id).filter(|backend| backend.handle.0 != 0)
}
