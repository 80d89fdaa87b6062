//! Routing by QUIC connection ID.

use slb_common::abi::quic::CidFormat;

/// How the connection IDs that a listener's servers issue name them (QUIC-LB, unencrypted).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuicRouting {
    /// Octets of a server ID. 1 to 4.
    pub server_id_length: u8,
    /// The upper three bits of the first octet. 0 to 6.
    pub config_rotation: u8,
}

impl QuicRouting {
    /// The format in the maps.
    pub const fn format(&self) -> CidFormat {
        CidFormat::new(self.server_id_length, self.config_rotation)
    }
}
