//! What the modules of the control plane share: the desired state, and the words for servers, groups and services.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use slb_common::abi::{
    backend::NextHop,
    health::ServerHealth,
    policy_set::PolicySet,
    ports::{Ports, PortsKey},
    protocol::IpProtocol,
    quic::CidFormat,
    tunnel::Tunnel,
};
use slb_config::model::{
    AccessListKind, Bandwidth, Id, Listener, LoadBalancer, Mode, Networks, Scheduler, TableSize,
};

use crate::{inputs::Target, outlier_detection::EjectionPolicy};

/// The path to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerRoute {
    /// Next hop of the packets.
    pub hop: NextHop,
    /// Whether the path has a gateway.
    pub through_gateway: bool,
}

/// The state that a health check's results lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthVerdict {
    /// Whether the server can serve.
    pub health: Health,
    /// The reason if unhealthy, or else the last failure.
    pub detail: Option<String>,
}

impl HealthVerdict {
    /// Whether the server can serve.
    pub fn is_healthy(&self) -> bool {
        self.health == Health::Healthy
    }
}

/// Whether a server can take new flows, as its health check has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// It passes its health check.
    Healthy,
    /// It fails its health check.
    Unhealthy,
}

impl Health {
    /// The health of a server that passes or fails.
    pub const fn of(passes: bool) -> Self {
        if passes { Self::Healthy } else { Self::Unhealthy }
    }
}

impl From<Health> for ServerHealth {
    fn from(health: Health) -> Self {
        match health {
            Health::Healthy => Self::Healthy,
            Health::Unhealthy => Self::Unhealthy,
        }
    }
}

/// The desired state, without ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Seed of the flow hash and of the server tables.
    pub seed: u64,
    /// Services. Address, port and protocol together are unique.
    pub services: Vec<DesiredService>,
    /// Server pools. Services name them by index.
    pub pools: Vec<DesiredPool>,
    /// Source addresses of tunnel packets.
    pub tunnel: Tunnel,
    /// UDP destination port of tunnel packets of mode `gue`.
    pub gue_port: u16,
    /// Local addresses (mode `full-nat`). Each once, and at most 32 of a family.
    pub locals: Vec<DesiredLocalAddress>,
}

/// A local address that new flows may have as their source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredLocalAddress {
    /// The address.
    pub address: IpAddr,
    /// Ports that flows may have, in host byte order.
    pub ports: RangeInclusive<u16>,
}

/// A listener, by ids, which outlive renames.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenerId {
    /// Id of the load balancer.
    pub load_balancer: Id,
    /// Id of the listener, unique within the load balancer.
    pub listener: Id,
}

impl ListenerId {
    /// The ids of a listener of `balancer`.
    pub fn of(balancer: &LoadBalancer, listener: &Listener) -> Self {
        Self { load_balancer: balancer.id.clone(), listener: listener.id.clone() }
    }
}

/// A service: a listener at one VIP, or a VIP itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredService {
    /// The VIP.
    pub address: IpAddr,
    /// Port, port range or any port; port 0 for the VIP itself.
    pub port: Ports,
    /// Protocol; ICMP or ICMPv6 for the VIP itself.
    pub protocol: IpProtocol,
    /// The listener; `None` for the VIP itself.
    pub id: Option<ListenerId>,
    /// Name of the load balancer.
    pub load_balancer: String,
    /// Name of the listener; empty for the VIP itself.
    pub listener: String,
    /// Name of the server group; `None` for the default server group and for the VIP itself.
    pub group: Option<String>,
    /// Index of the pool; `None` for the VIP itself.
    pub pool: Option<usize>,
    /// Idle time after which a flow expires.
    pub idle: Duration,
    /// How packets reach the server; has no meaning for the VIP itself.
    pub mode: Mode,
    /// Its policies.
    pub policies: PolicySet,
    /// Time that session persistence lasts after a client's last flow; 0 without it.
    pub persistence: Duration,
    /// Its access list; `None` lets every client in, and for the VIP itself.
    pub access: Option<DesiredAccess>,
    /// Bandwidth in each direction; `None` without [`policy::LIMIT_BANDWIDTH`](slb_common::abi::service::policy).
    pub bandwidth: Option<Bandwidth>,
    /// New connections per second; 0 without a limit.
    pub new_connections: u32,
    /// Format of the connection IDs that decide before the hash; `None` without QUIC.
    pub quic: Option<CidFormat>,
    /// New connections per second above which SYNs are answered by SYN cookies; 0 for never.
    pub syn_cookies: u32,
}

/// The access list of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredAccess {
    /// Networks on the list.
    pub networks: Networks,
    /// What it means to be on the list.
    pub kind: AccessListKind,
}

/// A server pool: the servers of one server table, with the settings that they share. In mode `nat` all have one
/// address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredPool {
    /// Slots of the table.
    pub slots: TableSize,
    /// How the servers share the slots: a [`Scheduler::of_table`].
    pub scheduler: Scheduler,
    /// Time from the start of a drain to its deadline. `None` for no deadline while the server is configured.
    pub drain: Option<Duration>,
    /// Time in which a server reaches its weight; `None` for at once.
    pub slow_start: Option<Duration>,
    /// Ejection policy for passive signals; `None` without outlier detection.
    pub passive: Option<EjectionPolicy>,
    /// Servers by address. Addresses are unique.
    pub servers: Vec<(SocketAddr, DesiredServer)>,
}

/// A server of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredServer {
    /// Weight, 0 to 100.
    pub weight: u8,
    /// Admin state that stops new flows; `None` if enabled.
    pub admin_state: Option<AdminState>,
    /// The ID by which QUIC connection IDs name it.
    pub quic_server_id: Option<u32>,
    /// Its configuration entry, if it has an override.
    pub server_override: Option<OverrideKey>,
    /// Health by its check; never standby.
    pub health: ServerHealth,
    /// Reason for the state, if there is one.
    pub detail: Option<String>,
    /// Next hop; `None` if there is none.
    pub next_hop: Option<NextHop>,
    /// Whether the other side of the listener has the traffic.
    pub is_standby: bool,
    /// Whether it receives new flows without being known to be healthy, because no server of the pool is.
    pub is_last_resort: bool,
}

impl DesiredServer {
    /// Whether it receives new flows.
    pub fn accepts_new_flows(&self) -> bool {
        !self.is_standby && self.is_eligible()
    }

    /// Whether it is standby and would receive new flows if its side had the traffic.
    pub fn is_ready_standby(&self) -> bool {
        self.is_standby && self.is_eligible()
    }

    fn is_eligible(&self) -> bool {
        self.weight > 0
            && self.admin_state.is_none()
            && self.next_hop.is_some()
            && (self.is_last_resort || self.health.can_serve())
    }

    /// Whether it takes no new flows because of weight, admin state or health. Its connections then have until the
    /// drain deadline.
    pub fn must_drain(&self) -> bool {
        self.weight == 0 || self.admin_state.is_some() || !self.is_alive()
    }

    /// Its health in the maps, which show a server that is able to serve as standby.
    pub fn shown_health(&self) -> ServerHealth {
        if self.is_standby && self.health.can_serve() { ServerHealth::Standby } else { self.health }
    }

    /// Whether it is not unhealthy, or serves as a last resort.
    pub fn is_alive(&self) -> bool {
        self.health != ServerHealth::Unhealthy || self.is_last_resort
    }
}

/// Health of a target, with the detail. `Unchecked` without a target.
pub(super) fn health_of(
    target: Option<&Target>,
    health: Option<&BTreeMap<Target, HealthVerdict>>,
) -> (ServerHealth, Option<String>) {
    let Some(target) = target else { return (ServerHealth::Unchecked, None) };
    match health.and_then(|health| health.get(target)) {
        None => (ServerHealth::Unknown, None),
        Some(verdict) => (verdict.health.into(), verdict.detail.clone()),
    }
}

/// Next hop of a listener's packets to a server, or why there is none; `None` if it is not resolved yet.
pub(super) fn resolved_next_hop(
    listener: &Listener,
    next_hops: &BTreeMap<IpAddr, Result<ServerRoute, String>>,
    server: IpAddr,
) -> Option<Result<NextHop, String>> {
    Some(match next_hops.get(&server)? {
        Ok(reached) if listener.mode == Mode::Dsr && reached.through_gateway => {
            Err("mode `dsr` needs it on the same network, and it is reached through a router".to_owned())
        }
        Ok(reached) => Ok(reached.hop),
        Err(why) => Err(why.clone()),
    })
}

/// VIP, ports and protocol, which identify a service.
pub(super) type ServiceKey = (IpAddr, PortsKey, IpProtocol);

/// The key of the service of a listener at a VIP.
pub(super) fn key_at(listener: &Listener, vip: IpAddr) -> ServiceKey {
    (vip, listener.port.key(), listener.protocol.ip())
}

impl DesiredService {
    pub(super) const fn key(&self) -> ServiceKey {
        (self.address, self.port.key(), self.protocol)
    }
}

/// A group of servers, by id.
#[derive(Debug, Clone, Copy)]
pub(super) enum GroupRef<'a> {
    /// A server group, also a primary/secondary one.
    Named(&'a Id),
    /// The default group of the load balancer.
    Default(&'a Id),
}

/// A side of a listener. A listener without primary and secondary has only the primary side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Has the traffic while enough of its servers are healthy.
    Primary,
    /// Has the traffic otherwise.
    Secondary,
}

impl Side {
    /// The opposite side.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }
}

/// Admin state of a server that takes no new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// Its flows continue until they end or its drain deadline passes.
    Draining,
    /// Out of service. Health checks continue.
    Disabled,
}

impl fmt::Display for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        })
    }
}

/// A server's entry in the configuration, to which an override applies. `G` identifies its group: by id, so that an
/// override outlives a rename, or by name ([`NamedServer`](crate::overrides::NamedServer)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OverrideKey<G = Id> {
    /// In a server group, also a primary/secondary one.
    Group {
        /// The group.
        group: G,
        /// Address and port.
        server: SocketAddr,
    },
    /// In the default group of a load balancer.
    Default {
        /// The load balancer.
        load_balancer: G,
        /// Address.
        server: IpAddr,
    },
}
