//! State of VIPs and local addresses on the host.

/// State of a VIP or a local address on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VipState {
    /// Whether it is local: an address of any interface, or a local route.
    pub is_local: bool,
    /// For an address in the subnet of an interface: why hosts there do not reach it, and what to do.
    pub unanswered: Option<String>,
    /// First port of the range from which the host takes ports for its own connections, if it may choose this address
    /// as their source.
    pub own_ports_from: Option<u16>,
}
