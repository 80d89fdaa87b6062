//! Keys of the servers that QUIC connection IDs name.

use slb_common::abi::{ids::TableId, quic::quic_key};

/// A server ID within a server table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuicServerKey {
    /// The server table.
    pub table: TableId,
    /// The server ID that servers write into connection IDs.
    pub server_id: u32,
}

impl QuicServerKey {
    /// The key with this number in the maps.
    pub const fn of(number: u64) -> Self {
        Self { table: TableId::new((number >> 32) as u32), server_id: number as u32 }
    }

    /// The number in the maps.
    pub const fn number(self) -> u64 {
        quic_key(self.table.index(), self.server_id)
    }
}
