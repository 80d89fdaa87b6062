//! Which servers may have a flow: the rule of the model test, the chaos test and the scenarios of reloads.
//!
//! **New flows.** A server is eligible for the first packet of a flow if it is configured and in service (its weight is
//! not 0, and it is neither drained nor disabled), if its side of a primary/secondary listener has the traffic, and if
//! it is healthy. Servers without a check result are eligible while no eligible server is healthy. The current backend
//! of a slot is eligible; a scheduler other than Maglev chooses among the eligible servers. If a client has an affinity
//! entry, its new TCP flows go to the server of that entry while it is eligible.
//!
//! **Draining.** A server drains while it is not configured, not in service, or unhealthy. It is terminating once it
//! has drained for `drain_timeout`, or, without one, as soon as it is removed. A removed server that is added again is
//! another server.
//!
//! **Established TCP flows.** A flow stays with its own server until that one is terminating, whatever the weight and
//! health of any server: no other server can continue it. The flow then ends, and no other server may answer it. A
//! tracked flow has the server of its entry: all flows of mode `nat`, of `tracking = "always"`, of `rr`, `wrr`, `wlc`
//! and affinity, and of slots that migrate. An untracked flow has the previous backend of its slot, which is the
//! current one unless the slot migrates.
//!
//! **Datagrams.** A UDP flow stays with its own server while that one is configured, not known to be unhealthy and not
//! terminating. Otherwise its next datagram begins a new flow. With `unknown_datagrams = "follow"` an untracked
//! datagram always does: it goes to the current backend of its slot.
//!
//! **Changes.** The state of a server is not always certain: a change is being carried out, or a check has yet to
//! detect a failure. Each function below therefore takes all states that the server may have had meanwhile. Whatever
//! one of them permits is permitted. What is required must follow from all of them.
//!
//! Not decided here: a flow ends after its idle timeout, and with a server that no longer answers. A server without a
//! next hop is ineligible, and its TCP flows wait.

/// Health of a server, as far as the daemon knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownHealth {
    /// The last check results are good.
    Healthy,
    /// There is no check result yet.
    Unknown,
    /// The last check results are bad.
    Unhealthy,
}

/// State of a server at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerState {
    /// Whether it is in the configuration.
    pub is_configured: bool,
    /// Whether its weight is not 0, and it is neither drained nor disabled.
    pub is_in_service: bool,
    /// Its health.
    pub health: KnownHealth,
    /// Whether the other side of a primary/secondary listener has the traffic.
    pub is_standby: bool,
    /// Whether its flows are terminated.
    pub is_terminating: bool,
}

/// Kind of an established flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowKind {
    /// A TCP flow.
    Tcp,
    /// Datagrams that stay with their server.
    Udp,
    /// Untracked datagrams of a listener with `unknown_datagrams = "follow"`.
    FollowingUdp,
}

impl ServerState {
    /// A server that is eligible, and keeps its flows.
    pub const SERVING: Self = Self {
        is_configured: true,
        is_in_service: true,
        health: KnownHealth::Healthy,
        is_standby: false,
        is_terminating: false,
    };

    /// A server that is in no configuration any more, and not drained.
    pub const REMOVED: Self =
        Self { is_configured: false, is_terminating: true, health: KnownHealth::Unknown, ..Self::SERVING };

    /// Whether it drains.
    pub fn is_draining(self) -> bool {
        !self.is_configured || !self.is_in_service || self.health == KnownHealth::Unhealthy
    }

    /// Whether a new flow may go to it. `any_healthy`: whether a healthy server is eligible.
    fn is_eligible(self, any_healthy: bool) -> bool {
        let is_well_enough = self.health == KnownHealth::Healthy || !any_healthy;
        !self.is_draining() && !self.is_standby && !self.is_terminating && is_well_enough
    }

    /// Whether an established flow stays with it.
    fn keeps(self, flow: FlowKind) -> bool {
        let is_alive = self.is_configured && self.health != KnownHealth::Unhealthy;
        !self.is_terminating
            && match flow {
                FlowKind::Tcp => true,
                FlowKind::Udp => is_alive,
                FlowKind::FollowingUdp => false,
            }
    }
}

/// Whether server `n` of a listener is eligible for new flows. `servers` are the states of all of them at one time.
pub fn is_eligible(servers: &[ServerState], n: usize) -> bool {
    let is_healthy = |server: &ServerState| server.health == KnownHealth::Healthy && server.is_eligible(true);
    servers[n].is_eligible(servers.iter().any(is_healthy))
}

/// Whether a new flow may go to a server, while others are healthy.
pub fn may_be_eligible(states: &[ServerState]) -> bool {
    states.iter().any(|state| state.is_eligible(true))
}

/// Whether a server is certainly eligible, while others are healthy: a client's affinity entry for it applies.
pub fn must_be_eligible(states: &[ServerState]) -> bool {
    states.iter().all(|state| state.is_eligible(true))
}

/// Whether an established flow must stay with its own server.
pub fn must_stay(states: &[ServerState], flow: FlowKind) -> bool {
    states.iter().all(|state| state.keeps(flow))
}

/// Whether another server may answer an established flow.
pub fn may_move(states: &[ServerState], flow: FlowKind) -> bool {
    flow != FlowKind::Tcp && !must_stay(states, flow)
}

/// Whether a server may get packets of any flow, new or established.
pub fn may_have_flows(states: &[ServerState]) -> bool {
    may_be_eligible(states) || states.iter().any(|state| state.keeps(FlowKind::Tcp))
}

#[cfg(test)]
mod tests;
