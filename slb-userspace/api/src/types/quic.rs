//! Routing by QUIC connection ID.

use serde::{Deserialize, Serialize};

/// How connection IDs name the servers of a listener (QUIC-LB, unencrypted).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiQuic {
    /// Octets of a server ID. 1 to 4.
    pub server_id_length: u8,
    /// The upper three bits of the first octet. 0 to 6.
    pub config_rotation: u8,
}
