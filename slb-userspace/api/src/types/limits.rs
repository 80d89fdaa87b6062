//! Limits of a listener, and what they drop.

use serde::{Deserialize, Serialize};

/// Limits of a listener, at least one, and the packets that they have dropped. A limit holds for all VIPs together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiLimits {
    /// Bits of frames per second in each direction that SLB forwards; `None` for no limit.
    pub bandwidth: Option<u64>,
    /// New connections per second: SYNs, or flows of UDP; `None` for no limit.
    pub new_connections: Option<u32>,
    /// Packets from clients over the bandwidth.
    pub dropped_from_clients: u64,
    /// Packets to clients over the bandwidth.
    pub dropped_to_clients: u64,
    /// Packets that would have begun a connection.
    pub dropped_new_connections: u64,
    /// SYN cookies; `None` if SYNs are never answered by them.
    #[serde(default)]
    pub syn_cookies: Option<ApiSynCookies>,
}

/// SYN cookies of a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiSynCookies {
    /// New connections per second above which SYNs are answered by cookies.
    pub above: u32,
    /// Whether SYNs are answered by cookies now: a flood of SYNs goes on, or has ended within the last ten seconds.
    pub is_flooded: bool,
    /// SYNs answered by cookies.
    pub sent: u64,
    /// Connections that clients have opened with a cookie.
    pub accepted: u64,
    /// Segments of unknown connections without a valid cookie, in and after a flood.
    pub refused: u64,
}
