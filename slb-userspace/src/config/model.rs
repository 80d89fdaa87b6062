//! What a configuration means, once it has been found valid: no value in here needs to be checked again.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use slb_common::net::headers::protocol;

pub use check::{
    CheckKind, DEFAULT_WINDOW, HealthCheck, HttpCheck, Method, Passive, Status, Tls, TlsCheck, UdpCheck,
};

mod check;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Settings of the daemon itself.
    pub daemon: Daemon,
    /// Load balancers, in the order of the file. Names are unique.
    pub load_balancers: Vec<LoadBalancer>,
    /// Named server groups, in the order of the file. Names are unique.
    pub server_groups: Vec<ServerGroup>,
    /// Primary/secondary server groups, in the order of the file. Names are unique.
    pub primary_secondary_groups: Vec<PrimarySecondaryGroup>,
}

/// Settings of the daemon itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Interfaces the XDP program is attached to. At least one, no duplicates.
    pub interfaces: Vec<String>,
    /// What comes in by each of them, where that is not [`InterfaceRole::Both`].
    pub roles: BTreeMap<String, InterfaceRole>,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// Directory on a BPF file system that holds the pinned maps and links. Absolute.
    pub pin_dir: PathBuf,
    /// Unix socket of the API. Absolute.
    pub socket: PathBuf,
    /// Unix socket of the part of the API that changes nothing, for all users. Absolute; another one than `socket`.
    pub read_only_socket: Option<PathBuf>,
    /// Directory of what is changed by hand at run time and must outlive the daemon. Absolute.
    pub state_dir: PathBuf,
    /// Connections the flow table holds. 1,024 to 16,777,216.
    pub flow_table_entries: u32,
    /// Servers the maps have room for. 1,024 to 1,048,576.
    pub max_servers: u32,
    /// Where tunnels begin (mode `ipip`): at most one address of each family.
    pub tunnel_addresses: Vec<IpAddr>,
    /// Seed of the flow hash and of the server tables, the same on every node that shares VIPs; `None` where the daemon is to use one
    /// of its own.
    pub hash_seed: Option<u64>,
    /// Addresses of this host that health checks come from: at most one of each family; the kernel's choice otherwise.
    pub probe_source: Vec<IpAddr>,
    /// Mark of the packets of health checks. Not 0.
    pub probe_mark: Option<u32>,
}

impl Daemon {
    /// The seed of the flow hash and of the server tables, once the daemon has filled it in where none is configured; before that 0.
    pub fn seed(&self) -> u64 {
        self.hash_seed.unwrap_or(0)
    }
}

/// What comes in by an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InterfaceRole {
    /// Packets of clients.
    Client,
    /// Answers of servers.
    Server,
    /// Both.
    #[default]
    Both,
}

/// How the XDP program is attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver can, otherwise generic; the one in force is reported.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic hook.
    Generic,
}

/// A load balancer: VIPs, listeners, and the default server group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadBalancer {
    /// Unique name.
    pub name: Name,
    /// Whether it forwards.
    pub state: RunState,
    /// Virtual IP addresses. At least one; each belongs to one load balancer only.
    pub addresses: Vec<IpAddr>,
    /// What becomes of packets for them that no listener takes; `None` for what [`Unmatched::of`] says of each.
    pub unmatched: Option<Unmatched>,
    /// Servers of the default group; they have no port of their own.
    pub servers: Vec<DefaultServer>,
    /// Table of the default group.
    pub table_size: TableSize,
    /// Time in which a server of the default group comes to its weight; `None` for at once. 1 s to 300 s.
    pub slow_start: Option<Duration>,
    /// Listeners. At most 50; names unique, and (protocol, port) unique, within the load balancer.
    pub listeners: Vec<Listener>,
}

/// Whether a load balancer or a listener forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It does.
    Running,
    /// It is configured, and takes no packets.
    Stopped,
}

/// What becomes of packets for a VIP that no running listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmatched {
    /// They are dropped.
    Drop,
    /// They are answered as a host answers for a closed port.
    Reject,
    /// They are passed to the kernel.
    Pass,
}

impl Unmatched {
    /// What becomes of them where nothing is configured. The kernel answers for an address of this host; what is for any other VIP it
    /// would route back to the router it came from.
    pub const fn of(is_local: bool) -> Self {
        if is_local { Self::Pass } else { Self::Reject }
    }
}

impl LoadBalancer {
    /// The listeners that forward.
    pub fn running(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(|listener| self.runs(listener))
    }

    /// Whether a listener of this load balancer forwards.
    pub fn runs(&self, listener: &Listener) -> bool {
        self.state == RunState::Running && listener.state == RunState::Running
    }
}

/// Where new flows of one protocol and port go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name, unique within the load balancer.
    pub name: Name,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the VIPs. 1 to 65,535.
    pub port: u16,
    /// Whether it forwards.
    pub state: RunState,
    /// The servers behind it.
    pub target: Target,
    /// How packets reach the server.
    pub mode: Mode,
    /// Which flows are remembered.
    pub tracking: Tracking,
    /// What becomes of datagrams of flows that are not remembered, where the table has changed.
    pub unknown_datagrams: UnknownDatagrams,
    /// How long connections of a server go on once it takes no new flows; `None` for as long as it is configured. 10 s to
    /// 900 s.
    pub connection_drain: Option<Duration>,
    /// Silence after which a flow is forgotten. 10 s to 900 s.
    pub idle_timeout: Duration,
    /// How servers are checked; `None` takes every server as able to serve.
    pub health_check: Option<HealthCheck>,
    /// Where new flows go while no server is able to serve.
    pub on_no_healthy: OnNoHealthy,
    /// What decides which server a new flow goes to.
    pub scheduler: Scheduler,
    /// How long after its last flow a client's new ones go to the same server; `None` for not at all. 1 s to 3,600 s.
    pub session_persistence: Option<Duration>,
}

/// What decides which server a new flow goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    /// The flow: its client's address and port.
    Maglev,
    /// The client's address alone: all its flows go to one server, for as long as the table does not change for it.
    MaglevClient,
    /// Servers take turns, each as often as any other one.
    RoundRobin,
    /// Servers take turns, by weight.
    WeightedRoundRobin,
    /// How many flows the servers have: the one gets it that has the fewest for its weight.
    WeightedLeastConnections,
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
pub enum Target {
    /// The load balancer's default server group, on this port.
    DefaultGroup {
        /// Port on every server of the default group. 1 to 65,535.
        backend_port: u16,
    },
    /// The named server group, on each server's own port. The group exists.
    ServerGroup(Name),
    /// The named primary/secondary server group. The group exists.
    PrimarySecondaryGroup(Name),
    /// Primary/secondary mode: two server groups, which exist and differ.
    PrimarySecondary {
        /// Gets the traffic, as long as enough of its servers are healthy.
        primary: Name,
        /// Gets it otherwise.
        secondary: Name,
        /// Unhealthy servers of the primary group at which traffic goes to the secondary one. At least 1.
        failover_threshold: u16,
        /// How long the primary group must have enough healthy servers before traffic comes back. 0 to 1 h.
        failback_after: Duration,
    },
}

impl Target {
    /// Whether there is a primary and a secondary side.
    pub const fn has_sides(&self) -> bool {
        matches!(self, Self::PrimarySecondaryGroup(_) | Self::PrimarySecondary { .. })
    }
}

/// How a packet reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Destination address and port are rewritten; replies return through SLB.
    Nat,
    /// Hardware addresses are rewritten: the server is on the same network, and holds the VIP. Replies go directly.
    Dsr,
    /// The packet is put into another one, to the server, which holds the VIP. Replies go directly.
    Ipip,
}

/// Which flows of a listener are remembered. In mode `nat` all are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// Those that a change of the table would move.
    Auto,
    /// All.
    Always,
}

/// What becomes of datagrams of flows that are not remembered, on a part of the table that has changed hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownDatagrams {
    /// They go where they went before, for the idle time: no flow moves, and new ones follow the table later.
    Keep,
    /// They go where the table says now.
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
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }
}

/// A named list of servers, each with its own port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerGroup {
    /// Unique name.
    pub name: Name,
    /// Servers; (address, port) is unique.
    pub servers: Vec<Server>,
    /// Slots of the group's table.
    pub table_size: TableSize,
    /// Time in which a server comes to its weight; `None` for at once. 1 s to 300 s.
    pub slow_start: Option<Duration>,
}

/// A primary server, and one that takes its place. Only the primary is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimarySecondaryGroup {
    /// Unique name.
    pub name: Name,
    /// Gets all traffic while it is healthy; never a VIP.
    pub primary: SocketAddr,
    /// Gets all traffic while the primary is unhealthy; never a VIP, and not the primary.
    pub secondary: SocketAddr,
    /// How long the primary must be healthy before traffic comes back. 0 to 1 h.
    pub failback_after: Duration,
}

/// A server of a named group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Address; never a VIP.
    pub address: IpAddr,
    /// Port. 1 to 65,535.
    pub port: u16,
    /// Share of new flows.
    pub weight: Weight,
}

/// A server of a default group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultServer {
    /// Address, unique within the group; never a VIP.
    pub address: IpAddr,
    /// Share of new flows.
    pub weight: Weight,
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
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A weight: 0 to 100. Zero takes no new flows and keeps the ones it has.
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

/// Slots of a table: a prime from 251 to 65,537.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableSize(pub(super) u32);

impl TableSize {
    /// The smallest.
    pub const MIN: Self = Self(251);
    /// The default, and the largest.
    pub const DEFAULT: Self = Self(65_537);

    /// The number of slots.
    pub fn slots(self) -> u32 {
        self.0
    }
}
