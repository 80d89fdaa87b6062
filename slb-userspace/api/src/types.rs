//! Documents of the API. They expose no map layouts.

mod flow_table;
mod limits;
mod quic;
mod source_ports;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use flow_table::FlowTableStatus;
pub use limits::{ApiLimits, ApiSynCookies};
pub use quic::ApiQuic;
pub use source_ports::ApiSourcePorts;

/// `GET /v1/status`: everything that SLB does now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon, if one answers.
    pub daemon: Option<DaemonStatus>,
    /// Digest of the server of each slot, over all listeners: 16 hexadecimal digits. Nodes with the same configuration,
    /// `hash_seed` and health have equal digests.
    pub digest: Option<String>,
    /// Seed of the flow hash and of the server tables. Nodes need the same seed to choose the same servers. `[daemon]
    /// read_only_socket` omits it: with it a client can choose client endpoints that hash to one slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_seed: Option<u64>,
    /// Use of the flow table.
    pub flow_table: FlowTableStatus,
    /// Interfaces the program is attached to.
    pub interfaces: Vec<InterfaceStatus>,
    /// Load balancers by name.
    pub load_balancers: Vec<ApiLoadBalancer>,
    /// Packets by verdict and reason since the maps were made. Each packet is counted under one reason.
    pub reasons: Vec<ReasonCount>,
}

/// The running daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Seconds since the event loop last ran, which is the age of everything except counters. It runs twice a second.
    pub age_seconds: u64,
    /// Log lines lost since the start.
    pub lost_log_lines: u64,
    /// Restarts of panicked tasks since the start.
    pub restarted_tasks: u64,
    /// State of its configuration.
    pub configuration: ConfigurationStatus,
    /// Configured interfaces that are not attached or do not forward.
    pub interfaces_without: Vec<InactiveInterface>,
    /// Why pins are missing, if they are. Without pins forwarding ends with the daemon.
    pub pins_trouble: Option<String>,
    /// Packets that the kernel lost after SLB forwarded them, by outgoing interface; `None` if not counted.
    pub losses: Option<Vec<InterfaceLosses>>,
    /// VIPs in the order of the configuration.
    pub vips: Vec<VipStatus>,
    /// Overrides.
    pub overrides: Vec<ApiOverride>,
    /// Why no override can be set, if so.
    pub overrides_trouble: Option<String>,
}

/// An override: a weight or an admin state that an administrator has set for a server. It lasts until it is reset, or
/// until the configuration no longer names the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiOverride {
    /// Name of the server group; `None` for a default server group.
    pub server_group: Option<String>,
    /// Name of the load balancer, for a server of its default server group.
    pub load_balancer: Option<String>,
    /// Address and port; the address alone in a default server group.
    pub server: String,
    /// Weight that replaces the configured one.
    pub weight: Option<u8>,
    /// Admin state: draining or disabled; `None` for enabled.
    pub state: Option<AdminState>,
    /// Who set it last.
    pub by: Requester,
    /// Time of the last change, as in RFC 3339.
    pub at: String,
}

/// Admin state of a server that takes no new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// Its flows continue until they end or its drain deadline passes.
    Draining,
    /// Out of service. Health checks continue.
    Disabled,
}

/// `POST /v1/servers`: changes overrides of servers in one group. If one of the servers does not exist, nothing
/// changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverrideRequest {
    /// Name of the server group; `None` for a default server group.
    pub server_group: Option<String>,
    /// Name of the load balancer, for its default server group.
    pub load_balancer: Option<String>,
    /// Addresses with ports; addresses alone in a default server group.
    pub servers: Vec<String>,
    /// The change.
    pub set: Set,
    /// Even if a listener is left without a server that receives new flows.
    #[serde(default)]
    pub force: bool,
}

/// A change of an override.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Set {
    /// Sets the weight, 0 to 100.
    Weight(u8),
    /// Drains: no new flows; established ones may end until the deadline.
    Drain,
    /// Disables: no new flows, out of service.
    Disable,
    /// Ends draining or disabled: new flows again.
    Enable,
    /// Removes the override.
    Reset,
}

/// State of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// The daemon's file, which the next start uses.
    pub file: String,
    /// `differs` if the file differs from the active configuration, or why it cannot be used; `None` if they are equal.
    pub difference: Option<String>,
    /// Seconds until the active configuration is rolled back unless it is confirmed.
    pub confirm_within_seconds: Option<u64>,
    /// The change that waits for its servers.
    pub pending: Option<ApiPendingChange>,
}

/// A change that becomes active once its servers are known. `GET /v1/pending` answers it, or `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiPendingChange {
    /// `start`, `reload`, `apply` or `rollback`.
    pub change: String,
    /// What it waits for, in words.
    pub waits_for: Vec<String>,
    /// Seconds until the latest time at which it becomes active.
    pub at_most_seconds: u64,
}

/// `POST /v1/apply`: a configuration to apply. `POST /v1/diff` takes the same without `confirm_within_seconds`; without
/// `text` it compares the daemon's file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigText {
    /// Name of the text, for messages.
    pub name: Option<String>,
    /// The configuration, in TOML.
    pub text: Option<String>,
    /// Seconds after which it is rolled back unless it is confirmed; `None` to keep it.
    pub confirm_within_seconds: Option<u64>,
}

/// The process that sent a command: the peer of the socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requester {
    /// User id.
    pub uid: Option<u32>,
    /// Name of the user, if known.
    pub user: Option<String>,
    /// Process id.
    pub pid: Option<i32>,
}

/// A VIP and its state on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// The address.
    pub address: IpAddr,
    /// Name of its load balancer.
    pub load_balancer: String,
    /// Id of its load balancer.
    #[serde(default)]
    pub load_balancer_id: Option<String>,
    /// Whether it is a local address.
    pub is_local: bool,
    /// Action for packets that no running listener takes.
    pub unmatched: ApiUnmatched,
    /// Why hosts on a link get no answer to ARP or neighbour solicitations for it, and what to do; `None` if they do.
    pub unanswered: Option<String>,
    /// The interfaces at which SLB announces it; `None` if it is not to be announced.
    #[serde(default)]
    pub announced: Option<Vec<VipAtInterface>>,
    /// Why hosts may not reach an announced VIP.
    #[serde(default)]
    pub announcement_troubles: Vec<String>,
}

/// An interface at which SLB announces a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipAtInterface {
    /// Its name.
    pub interface: String,
    /// ARP requests and neighbour solicitations that were answered since the daemon started.
    pub answers: u64,
}

/// Action for packets to a VIP that no running listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiUnmatched {
    /// Drop them.
    Drop,
    /// Answer as a host does for a closed port.
    Reject,
    /// Pass them to the kernel.
    Pass,
}

/// A configured interface that is not attached or does not forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InactiveInterface {
    /// Name.
    pub name: String,
    /// Whether the interface exists.
    pub exists: bool,
    /// Why an existing interface does not forward.
    pub why: Option<String>,
}

/// Packets that the kernel lost at an interface, since the daemon has watched it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceLosses {
    /// Name of the interface.
    pub interface: String,
    /// Packets redirected to the interface, which does not transmit redirected frames.
    pub redirect: u64,
    /// Packets that the driver did not accept for transmission.
    pub transmit: u64,
    /// Packets received at the interface whose verdict was not carried out.
    pub exception: u64,
}

/// An interface that the program is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name.
    pub name: String,
    /// Index in the kernel.
    pub index: u32,
    /// The active XDP mode.
    pub mode: AttachMode,
    /// Which packets may arrive at it.
    #[serde(default)]
    pub role: ApiInterfaceRole,
    /// Remarks; only the daemon knows them.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Which packets may arrive at an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiInterfaceRole {
    /// Packets of clients.
    Client,
    /// Answers of servers.
    Server,
    /// Both.
    #[default]
    Both,
}

/// XDP mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// Native XDP: in the driver.
    Native,
    /// Generic XDP: behind the driver, on socket buffers.
    Generic,
}

/// A load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiLoadBalancer {
    /// Its id, which outlives a rename; only the daemon knows it.
    #[serde(default)]
    pub id: Option<String>,
    /// Name.
    pub name: String,
    /// Its owner, `file` or `api`; only the daemon knows it.
    #[serde(default)]
    pub source: Option<String>,
    /// Its listeners.
    pub listeners: Vec<ApiListener>,
}

/// Whether a listener is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiRunState {
    /// It forwards.
    Running,
    /// It or its load balancer is stopped: SLB does not handle its packets. Only the daemon knows of it.
    Stopped,
}

/// A listener and the servers behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiListener {
    /// Its id, which outlives a rename, unique in the load balancer; only the daemon knows it.
    #[serde(default)]
    pub id: Option<String>,
    /// Name.
    pub name: String,
    /// Whether it is running.
    pub state: ApiRunState,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Port on every VIP; of a range the first one.
    pub port: u16,
    /// Its range, as `8000-8999`, or `any`; `None` for a single port.
    #[serde(default)]
    pub port_range: Option<String>,
    /// Forwarding mode.
    pub mode: String,
    /// Whether segments that open a connection carry the client endpoint to the server.
    #[serde(default)]
    pub toa: bool,
    /// VIPs.
    pub addresses: Vec<IpAddr>,
    /// Server group, the primary one of two; `None` for the default server group.
    pub server_group: Option<String>,
    /// Its id, which outlives a rename; only the daemon knows it.
    #[serde(default)]
    pub server_group_id: Option<String>,
    /// Its access list; `None` lets every client in.
    #[serde(default)]
    pub access_list: Option<ApiAccessList>,
    /// Its routing by QUIC connection ID; `None` if the hash alone decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic: Option<ApiQuic>,
    /// Its limits; `None` without any.
    #[serde(default)]
    pub limits: Option<ApiLimits>,
    /// Traffic of this listener.
    pub counters: ApiCounters,
    /// Flows now; `None` where flows are untracked (modes `dsr`, `ipip` and `gue`).
    pub current_flows: Option<u64>,
    /// [`Status::digest`] of this listener alone; `None` if it is stopped.
    pub digest: Option<String>,
    /// VIPs without a server that receives new flows.
    pub outages: Vec<ApiOutage>,
    /// Its servers; none if it is stopped. Listeners with equal servers, ports and health check share servers and their
    /// counters.
    pub servers: Vec<ApiServer>,
}

/// The access list of a listener. Packets of denied clients count under the reason `access_denied`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiAccessList {
    /// Its name; only the daemon knows it.
    pub name: Option<String>,
    /// What it means to be on the list.
    #[serde(rename = "type")]
    pub kind: ApiAccessListKind,
}

/// What it means for a client to be on an access list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiAccessListKind {
    /// Only clients on the list reach the listener.
    White,
    /// Clients on the list do not reach the listener.
    Black,
}

/// An outage: no server receives new flows of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiOutage {
    /// Affected VIPs.
    pub addresses: Vec<IpAddr>,
    /// The reason in words; only the daemon knows it.
    pub why: Option<String>,
    /// Duration in seconds as of the last change; only the daemon knows it.
    pub seconds: Option<u64>,
}

/// A server behind a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiServer {
    /// Address and port that packets are sent to.
    pub address: SocketAddr,
    /// Weight, 0 to 100.
    pub weight: u8,
    /// The ID by which QUIC connection IDs name it; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_server_id: Option<u32>,
    /// Health.
    pub health: ApiHealth,
    /// Its override.
    pub set: Option<ApiOverride>,
    /// Explanation of the health, if there is one.
    pub detail: Option<String>,
    /// The next hop that packets leave by; `None` while unresolved.
    pub next_hop: Option<ApiNextHop>,
    /// Number of its slots. Its share of all slots is its expected share of new flows.
    pub slots: u32,
    /// Traffic of this server.
    pub counters: ApiCounters,
    /// Flows now; `None` where flows are untracked (modes `dsr`, `ipip` and `gue`).
    pub current_flows: Option<u64>,
    /// Set while it drains: it receives no new flows.
    pub draining: Option<DrainStatus>,
    /// Of the local addresses that its flows have as their source (mode `full-nat`), the one with the largest share of
    /// used ports. `None` without such flows, and without a daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<ApiSourcePorts>,
}

/// A drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// Seconds to the deadline, when connections are reset; `None` without a deadline (`drain_timeout`).
    pub seconds_left: Option<u64>,
    /// Whether the configuration no longer names the server.
    pub is_removed: bool,
}

/// The next hop of packets to a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiNextHop {
    /// Index of the interface.
    pub interface: u32,
    /// Hardware address of the next hop.
    pub mac: String,
}

/// Health of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiHealth {
    /// No probe result yet.
    Unknown,
    /// It passes its check.
    Healthy,
    /// It fails its check or is ejected.
    Unhealthy,
    /// No health check; counts as able to serve.
    Unchecked,
    /// Able to serve, while the other side has the traffic.
    Standby,
}

/// Packets, bytes (of whole frames) and flows, summed over all CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiCounters {
    /// Packets from clients.
    pub packets_from_clients: u64,
    /// Bytes from clients.
    pub bytes_from_clients: u64,
    /// Packets to clients.
    pub packets_to_clients: u64,
    /// Bytes to clients.
    pub bytes_to_clients: u64,
    /// Flows that began since the maps were made.
    pub total_flows: u64,
}

/// Number of packets with one verdict and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// `forward`, `answer`, `pass` or `drop`.
    pub verdict: String,
    /// The reason, in snake case.
    pub reason: String,
    /// Packets.
    pub packets: u64,
}
