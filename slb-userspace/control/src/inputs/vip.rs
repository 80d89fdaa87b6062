//! State of VIPs on the host.

/// State of a VIP on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VipState {
    /// Whether it is local: an address of any interface, or a local route.
    pub is_local: bool,
    /// For a VIP in the subnet of an interface: why hosts there do not reach it, and what to do.
    pub unanswered: Option<String>,
}
