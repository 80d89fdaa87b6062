//! Ports of local addresses in use (mode `full-nat`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Ports of a local address towards a server endpoint, as of the last scan of the flow table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiSourcePorts {
    /// The local address.
    pub local_address: IpAddr,
    /// Ports that flows have.
    pub used: u32,
    /// Ports that new flows may have; 0 if the address is no longer configured.
    pub ports: u32,
}
