//! The model of a valid configuration: no value needs another check.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

pub use slb_common::abi::mode::Mode;
use slb_common::abi::{ports::Ports, protocol::IpProtocol};

pub use access::{AccessList, AccessListKind, ListenerAccess, Networks};
pub use check::{
    CertificateCheck, CheckKind, DEFAULT_WINDOW, ExpectedStatus, HealthCheck, HttpCheck, HttpMethod,
    PassiveCheck, TlsCheck, UdpCheck,
};
pub use daemon::{DaemonConfig, InterfaceRole, XdpMode};
pub use limits::Bandwidth;
pub use quic::QuicRouting;
pub use source::{ApiObjects, Document, Documents, ObjectCounts, Source};

mod access;
mod check;
mod daemon;
mod limits;
mod quic;
mod source;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Settings of the daemon itself.
    pub daemon: DaemonConfig,
    /// Load balancers, in the order of the file. Names are unique, and ids are.
    pub load_balancers: Vec<LoadBalancer>,
    /// Named server groups, in the order of the file. Names are unique among groups of both kinds, and ids are.
    pub server_groups: Vec<ServerGroup>,
    /// Primary/secondary server groups, in the order of the file.
    pub primary_secondary_groups: Vec<PrimarySecondaryGroup>,
    /// Access lists, in the order of the file. Names are unique.
    pub access_lists: Vec<AccessList>,
    /// Which of them the API owns.
    pub api_objects: ApiObjects,
    /// The texts that it was read from. They are no part of its value.
    pub documents: Documents,
}

/// A load balancer: VIPs, listeners, and the default server group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadBalancer {
    /// Identity that outlives a rename; the name by default. Unique.
    pub id: Id,
    /// Unique name.
    pub name: Name,
    /// Whether it is running or stopped.
    pub state: RunState,
    /// VIPs. At least one; each belongs to one load balancer only.
    pub addresses: Vec<IpAddr>,
    /// Action for unmatched packets; `None` for the default by VIP, [`Unmatched::of`].
    pub unmatched: Option<Unmatched>,
    /// Whether the daemon announces the VIPs to hosts in their subnet.
    pub announce: Announce,
    /// Servers of the default server group. They have no port of their own.
    pub servers: Vec<DefaultServer>,
    /// Slots of the default server group's table.
    pub table_size: TableSize,
    /// Duration of slow start in the default server group; `None` for off. 1 s to 300 s.
    pub slow_start: Option<Duration>,
    /// Listeners. At most 50; names unique, and (protocol, port) unique, within the load balancer.
    pub listeners: Vec<Listener>,
}

/// Whether a load balancer or a listener is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It forwards.
    Running,
    /// It is configured and takes no packets.
    Stopped,
}

/// How VIPs in the subnet of an interface become known to the hosts there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Announce {
    /// Not by SLB: a router has a route, or the host has the address.
    #[default]
    Off,
    /// SLB answers ARP (RFC 826) and neighbour solicitations (RFC 4861), and sends gratuitous ones.
    Arp,
}

/// Action for packets to a VIP that no running listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmatched {
    /// Drop them.
    Drop,
    /// Answer as a host does for a closed port.
    Reject,
    /// Pass them to the kernel.
    Pass,
}

impl Unmatched {
    /// The default action. The kernel answers for local addresses. Packets for any other VIP it would route back to the
    /// router they came from.
    pub const fn of(is_local: bool) -> Self {
        if is_local { Self::Pass } else { Self::Reject }
    }
}

impl LoadBalancer {
    /// The running listeners of a running load balancer.
    pub fn running(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(|listener| self.runs(listener))
    }

    /// Whether a listener of this load balancer is running, and the load balancer too.
    pub fn runs(&self, listener: &Listener) -> bool {
        self.state == RunState::Running && listener.state == RunState::Running
    }
}

/// A protocol and port on all VIPs, with servers behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Identity that outlives a rename; the name by default. Unique within the load balancer.
    pub id: Id,
    /// Name, unique within the load balancer.
    pub name: Name,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port, port range or any port on the VIPs. 1 to 65,535.
    pub port: Ports,
    /// Whether it is running or stopped.
    pub state: RunState,
    /// The servers behind it.
    pub target: ListenerTarget,
    /// How packets reach the server.
    pub mode: Mode,
    /// Whether segments that open a connection carry the client endpoint to the server (mode `full-nat`, TCP).
    pub toa: bool,
    /// Which flows have flow-table entries.
    pub tracking: Tracking,
    /// Where untracked UDP goes after a change of the server table.
    pub unknown_datagrams: UnknownDatagrams,
    /// Time from the begin of a drain to its deadline, at which remaining connections are reset. 10 s to 900 s. `None`
    /// resets connections of a removed server at once, and others never.
    pub drain_timeout: Option<Duration>,
    /// Idle timeout of flows. 10 s to 900 s.
    pub idle_timeout: Duration,
    /// Health check; `None` counts every server as able to serve.
    pub health_check: Option<HealthCheck>,
    /// Where new flows go while no server is able to serve.
    pub on_no_healthy: OnNoHealthy,
    /// What chooses the server of a new flow.
    pub scheduler: Scheduler,
    /// Time after a client's last flow in which its new flows go to the same server; `None` for off. 1 s to 3,600 s.
    pub session_persistence: Option<Duration>,
    /// Its access list; `None` lets every client in.
    pub access: Option<ListenerAccess>,
    /// Limit of its traffic in each direction; `None` for no limit.
    pub bandwidth: Option<Bandwidth>,
    /// Most new connections per second; `None` for no limit. 1 to 10,000,000.
    pub new_connections: Option<u32>,
    /// Routing by QUIC connection ID, before the hash of the flow; `None` for off. UDP.
    pub quic: Option<QuicRouting>,
    /// New connections per second above which SYN cookies answer; `None` for never. 100 to 5,000,000, in hundreds.
    pub syn_cookies: Option<u32>,
}

/// What chooses the server of a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheduler {
    /// Weighted consistent hashing of the client's address and port.
    Maglev,
    /// Weighted consistent hashing of the client's address: all its flows go to one server until the table changes.
    MaglevClient,
    /// Round robin, without weights.
    RoundRobin,
    /// Weighted round robin.
    WeightedRoundRobin,
    /// Weighted least connections.
    WeightedLeastConnections,
}

impl Scheduler {
    /// All schedulers.
    pub const ALL: [Self; 5] = [
        Self::Maglev,
        Self::MaglevClient,
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::WeightedLeastConnections,
    ];

    /// The word for it in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::MaglevClient => "maglev-client",
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::WeightedLeastConnections => "wlc",
        }
    }

    /// The scheduler that stands for all whose listeners can share a server table with this one's.
    #[must_use]
    pub const fn of_table(self) -> Self {
        match self {
            // They differ in the hash of a flow, not in the slots of a server.
            Self::MaglevClient => Self::Maglev,
            other => other,
        }
    }
}

/// Where new flows go while no server is able to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnNoHealthy {
    /// They are dropped: fail closed.
    Drop,
    /// To all servers with a weight above 0, by weight: fail open.
    All,
}

/// The servers behind a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerTarget {
    /// The load balancer's default server group, on this port.
    DefaultGroup {
        /// Port on every server of the default server group. 1 to 65,535.
        default_group_port: u16,
    },
    /// The named server group, on each server's own port. The group exists.
    ServerGroup(Name),
    /// The named primary/secondary server group. The group exists.
    PrimarySecondaryGroup(Name),
    /// Primary/secondary mode: two server groups, which exist and differ.
    PrimarySecondary {
        /// Receives the traffic as long as enough of its servers are healthy.
        primary: Name,
        /// Receives the traffic otherwise.
        secondary: Name,
        /// Number of unhealthy servers in the primary group that causes failover. At least 1.
        failover_threshold: u16,
        /// Time that the primary group must have enough healthy servers before failback. 0 to 1 h.
        failback_after: Duration,
    },
}

impl ListenerTarget {
    /// Whether there is a primary and a secondary side.
    pub const fn has_sides(&self) -> bool {
        matches!(self, Self::PrimarySecondaryGroup(_) | Self::PrimarySecondary { .. })
    }
}

/// Which flows of a listener have flow-table entries. In the modes `nat` and `full-nat` all have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// Flows of migrating slots.
    Auto,
    /// All flows.
    Always,
}

/// Where untracked UDP on a migrating slot goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownDatagrams {
    /// To the previous backend, until the idle timeout: no flow moves, and new flows reach the current backend later.
    Keep,
    /// To the current backend.
    Follow,
}

/// Transport protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The protocol in the maps.
    pub const fn ip(self) -> IpProtocol {
        match self {
            Self::Tcp => IpProtocol::Tcp,
            Self::Udp => IpProtocol::Udp,
        }
    }
}

/// A named list of servers, each with its own port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerGroup {
    /// Identity that outlives a rename; the name by default. Unique among groups of both kinds.
    pub id: Id,
    /// Unique name.
    pub name: Name,
    /// Servers; (address, port) is unique.
    pub servers: Vec<ConfigServer>,
    /// Slots of the group's table.
    pub table_size: TableSize,
    /// Duration of slow start; `None` for off. 1 s to 300 s.
    pub slow_start: Option<Duration>,
}

/// A primary server and a secondary one. Only the primary has a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimarySecondaryGroup {
    /// Identity that outlives a rename; the name by default. Unique among groups of both kinds.
    pub id: Id,
    /// Unique name.
    pub name: Name,
    /// Receives all traffic while it is healthy; never a VIP.
    pub primary: SocketAddr,
    /// Receives all traffic while the primary is unhealthy; never a VIP, and not the primary.
    pub secondary: SocketAddr,
    /// Time that the primary must be healthy before failback. 0 to 1 h.
    pub failback_after: Duration,
}

/// A server of a named group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigServer {
    /// Address; never a VIP.
    pub address: IpAddr,
    /// Port. 1 to 65,535, or 0 for that of the packet, behind a port range.
    pub port: u16,
    /// Share of new flows.
    pub weight: Weight,
    /// The ID by which QUIC connection IDs name it; unique within the group among the servers of its address family.
    pub quic_server_id: Option<u32>,
}

/// A server of a default server group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultServer {
    /// Address, unique within the group; never a VIP.
    pub address: IpAddr,
    /// Share of new flows.
    pub weight: Weight,
    /// The ID by which QUIC connection IDs name it; unique within the group among the servers of its address family.
    pub quic_server_id: Option<u32>,
}

/// A name: 1 to 63 characters of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub(super) String);

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether names and ids may contain a character.
    pub(super) const fn allows(c: char) -> bool {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identity of a load balancer, a listener or a server group: characters as in a [`Name`]. What is set at run time
/// refers to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub(super) String);

impl Id {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&Name> for Id {
    /// The default id of what has this name.
    fn from(name: &Name) -> Self {
        Self(name.0.clone())
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fits = (1..=Name::MAX_LEN).contains(&text.len()) && text.chars().all(Name::allows);
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidId(text.to_owned())) }
    }
}

/// A text that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id: an id has 1 to 63 characters of A-Z a-z 0-9 . _ -")]
pub struct InvalidId(String);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A weight: 0 to 100. A server of weight 0 receives no new flows and keeps its established ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(pub(super) u8);

impl Weight {
    /// The largest weight, and the default.
    pub const MAX: u8 = 100;

    /// The weight as a number.
    pub fn value(self) -> u8 {
        self.0
    }
}

/// Slots of a server table: a prime from 251 to 65,537.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableSize(pub(super) u32);

impl TableSize {
    /// The minimum.
    pub const MIN: Self = Self(251);
    /// The default and the maximum.
    pub const DEFAULT: Self = Self(65_537);

    /// The number of slots.
    pub fn slots(self) -> u32 {
        self.0
    }
}
