//! The documents of the API. Layouts of maps never appear here.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

pub use crate::control::overrides::Aside;
use crate::control::overrides::Place;

/// `GET /v1/status`: everything SLB is doing right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon, if one answers.
    pub daemon: Option<Daemon>,
    /// Digest of which server each flow gets, over all listeners: 16 hexadecimal digits, equal on nodes with the same
    /// configuration, `hash_seed` and health.
    pub digest: Option<String>,
    /// Seed of the flow hash and of the server tables; the same on nodes that choose the same server for each new flow. Left out of
    /// what `[daemon] read_only_socket` answers: who knows it can choose endpoints that all hash to one slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_seed: Option<u64>,
    /// How full the flow table is.
    pub flow_table: FlowTable,
    /// Interfaces the program is attached to.
    pub interfaces: Vec<Interface>,
    /// Load balancers by name.
    pub load_balancers: Vec<LoadBalancer>,
    /// Packets by verdict and reason, since the maps were made; every packet is counted under exactly one.
    pub reasons: Vec<Reason>,
}

/// The flow table: entries, and flows that have made room for others since the maps were made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTable {
    /// Entries that it has.
    pub entries: u64,
    /// Entries in use, for flows and for session affinity.
    pub used: u64,
    /// Live flows whose client has shown that it hears the server: these make no room for new ones.
    pub assured: u64,
    /// Live flows that were not assured and have made room for new ones.
    pub evicted: u64,
    /// Assured flows of clients with far more than a share of a full table that have made room for other clients' flows.
    pub evicted_assured: u64,
}

/// The running daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Age of everything shown but counters: seconds since its control loop has last run, which it does twice a second.
    pub age_seconds: u64,
    /// Log lines that could not be written since then.
    pub lost_log_lines: u64,
    /// Times that a task of the daemon has panicked and was started again since then.
    pub restarted_tasks: u64,
    /// Its configuration.
    pub configuration: Configuration,
    /// Interfaces that the program should be attached to and is not, or that do not forward.
    pub interfaces_without: Vec<Without>,
    /// Why pins are missing, without which forwarding ends with the daemon, if so.
    pub pins_trouble: Option<String>,
    /// Packets that the program has forwarded and the kernel has lost, by the interface they were to leave by; `None` where
    /// that is not counted.
    pub losses: Option<Vec<Loss>>,
    /// VIPs, in the order of the configuration.
    pub vips: Vec<Vip>,
    /// What is set at run time for single servers.
    pub overrides: Vec<Override>,
    /// Why nothing can be set, if so.
    pub overrides_trouble: Option<String>,
}

/// What an administrator has set for a server in place of what is configured. It lasts until it is reset, or the server's
/// entry goes from the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Name of its server group; or else
    pub server_group: Option<String>,
    /// the load balancer whose default group it is in.
    pub load_balancer: Option<String>,
    /// Address and port; the address alone in a default group.
    pub server: String,
    /// Its weight.
    pub weight: Option<u8>,
    /// Why it takes no new flows.
    pub state: Option<Aside>,
    /// Who set it last.
    pub by: By,
    /// When, as in RFC 3339.
    pub at: String,
}

impl Override {
    /// The entry of the configuration it is for.
    pub fn place(&self) -> Result<Place> {
        place(self.server_group.as_deref(), self.load_balancer.as_deref(), &self.server)
    }

    /// The same, set for another entry.
    #[must_use]
    pub fn at(self, place: &Place) -> Self {
        let (server_group, load_balancer) = match place {
            Place::Group { group, .. } => (Some(group.clone()), None),
            Place::Default { load_balancer, .. } => (None, Some(load_balancer.clone())),
        };
        Self { server_group, load_balancer, server: place.server(), ..self }
    }
}

/// The entry of the configuration that a server of a group is.
pub fn place(server_group: Option<&str>, load_balancer: Option<&str>, server: &str) -> Result<Place> {
    match (server_group, load_balancer) {
        (Some(group), None) => {
            let parsed = server.parse();
            let server = parsed.with_context(|| {
                format!(
                    "server {server}: address and port are expected, as in 10.0.0.11:8080 or [fd00::11]:8080"
                )
            })?;
            Ok(Place::Group { group: group.to_owned(), server })
        }
        (None, Some(balancer)) => {
            let parsed = server.parse();
            let server = parsed.with_context(|| {
                format!("server {server}: an address without a port is expected: those of a default group have none")
            })?;
            Ok(Place::Default { load_balancer: balancer.to_owned(), server })
        }
        _ => bail!("server {server}: either a server group or a load balancer must be named"),
    }
}

/// `POST /v1/servers`: something to be set for servers of one group; all of it or, if a server is not there, none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Servers {
    /// Name of the server group; or else
    pub server_group: Option<String>,
    /// the load balancer whose default group is meant.
    pub load_balancer: Option<String>,
    /// Addresses and ports; addresses alone in a default group.
    pub servers: Vec<String>,
    /// What is to be set.
    pub set: Set,
    /// Even if it leaves a listener without a server that receives new flows.
    #[serde(default)]
    pub force: bool,
}

/// What is to be set for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Set {
    /// This weight, 0 to 100.
    Weight(u8),
    /// No new flows: its flows are to end.
    Drain,
    /// No new flows: it is out of service.
    Disable,
    /// New flows again.
    Enable,
    /// Everything as it is configured.
    Reset,
}

/// Where the running configuration stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The daemon's file, which the next start uses.
    pub file: String,
    /// How the file differs from what is running, if it does: `differs`, or why it cannot be used.
    pub difference: Option<String>,
    /// Seconds until the running configuration falls back, unless it is confirmed.
    pub confirm_within_seconds: Option<u64>,
    /// A change that waits for its servers.
    pub pending: Option<Pending>,
}

/// A change that becomes active once its servers are known: also the answer to `GET /v1/pending`, or `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// `start`, `reload`, `apply` or `fallback`.
    pub change: String,
    /// What it waits for, in words.
    pub waits_for: Vec<String>,
    /// Seconds until it becomes active at the latest.
    pub at_most_seconds: u64,
}

/// `POST /v1/apply`: a configuration to put in force. `POST /v1/diff` takes the same, without a limit; without a text it
/// is the daemon's own file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Name of the text, for messages.
    pub name: Option<String>,
    /// The configuration, in TOML.
    pub text: Option<String>,
    /// Seconds after which it falls back unless it is confirmed; without, it stays in force.
    pub confirm_within_seconds: Option<u64>,
}

/// What an order has changed: the answer to `POST /v1/reload`, `/v1/apply`, `/v1/confirm`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// In words, one for each change.
    pub changes: Vec<String>,
    /// What the author of the configuration should know; whole lines, as `slbd check` writes them.
    pub warnings: String,
    /// What it has waited for before it became active, in words.
    pub waited: Option<String>,
    /// Seconds until it falls back, unless it is confirmed.
    pub confirm_within_seconds: Option<u64>,
}

/// What a configuration would change: the answer to `POST /v1/diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// In words, one for each change.
    pub changes: Vec<String>,
    /// Why it would be refused, if so.
    pub refused: Option<String>,
    /// What its author should know.
    pub warnings: String,
}

/// Who asked for a change: the process at the other end of the socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// User id.
    pub uid: Option<u32>,
    /// Its name, if it has one.
    pub user: Option<String>,
    /// Process id.
    pub pid: Option<i32>,
}

/// A VIP, as it stands on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Name of its load balancer.
    pub load_balancer: String,
    /// Whether it is an address of this host.
    pub is_local: bool,
    /// What becomes of packets for it that no listener takes.
    pub unmatched: Unmatched,
    /// Why hosts on a link of this host get no answer when they ask for its hardware address, and what to do.
    pub unanswered: Option<String>,
}

/// What becomes of packets for a VIP that no running listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unmatched {
    /// They are dropped.
    Drop,
    /// They are answered as a host answers for a closed port.
    Reject,
    /// They are passed to the kernel.
    Pass,
}

/// An interface the program should be attached to and is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Without {
    /// Name.
    pub name: String,
    /// Whether there is an interface of that name.
    pub exists: bool,
    /// Why it does not forward, where it is there.
    pub why: Option<String>,
}

/// Packets that the kernel has lost at an interface since the daemon has watched it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Name of the interface.
    pub interface: String,
    /// Were to leave there, which the interface does not do for redirected packets.
    pub redirect: u64,
    /// Were to leave there, and the driver did not take them.
    pub transmit: u64,
    /// Came in there, and what was decided was not carried out.
    pub exception: u64,
}

/// An interface the program is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Index in the kernel.
    pub index: u32,
    /// The mode in force.
    pub mode: AttachMode,
    /// What comes in by it.
    #[serde(default)]
    pub role: Role,
    /// What is special about it, in words; only the daemon knows.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What comes in by an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Packets of clients.
    Client,
    /// Answers of servers.
    Server,
    /// Both.
    #[default]
    Both,
}

/// Where the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the kernel's generic hook.
    Generic,
}

/// A load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// Name.
    pub name: String,
    /// Its listeners.
    pub listeners: Vec<Listener>,
}

/// Whether a listener forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does.
    Running,
    /// It is configured, and it or its load balancer is stopped: its packets are none of SLB's. Only the daemon knows of it.
    Stopped,
}

/// A listener and the servers behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Name.
    pub name: String,
    /// Whether it forwards.
    pub state: State,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Port on every VIP.
    pub port: u16,
    /// Forwarding mode.
    pub mode: String,
    /// VIPs.
    pub addresses: Vec<IpAddr>,
    /// Server group, the primary one where there are two; `None` is the load balancer's default group.
    pub server_group: Option<String>,
    /// Traffic of this listener.
    pub counters: Counters,
    /// Flows that go on now; `None` where SLB does not track flows (modes `dsr` and `ipip`).
    pub current_flows: Option<u64>,
    /// The same as [`Status::digest`] of this listener alone; `None` where it is stopped.
    pub digest: Option<String>,
    /// VIPs of which no server receives new flows.
    pub outages: Vec<Outage>,
    /// Its servers; none where it is stopped. Listeners with the same servers, ports and health check share them, and their counters.
    pub servers: Vec<Server>,
}

/// No server receives new flows of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// At which of its VIPs.
    pub addresses: Vec<IpAddr>,
    /// Why, in words; only the daemon knows.
    pub why: Option<String>,
    /// Seconds since when, as of the last change; only the daemon knows.
    pub seconds: Option<u64>,
}

/// A server behind a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Address and port packets are sent to.
    pub address: SocketAddr,
    /// Weight, 0 to 100.
    pub weight: u8,
    /// Health.
    pub health: Health,
    /// What an administrator has set for it.
    pub set: Option<Override>,
    /// Why it is in that state, where there is something to say.
    pub detail: Option<String>,
    /// Interface, and hardware address of the next hop, packets leave through; `None` while unresolved.
    pub next_hop: Option<NextHop>,
    /// Slots of the table it holds: its part of all slots is the part of new flows to expect.
    pub slots: u32,
    /// Traffic of this server.
    pub counters: Counters,
    /// Flows that go on now; `None` where SLB does not track flows (modes `dsr` and `ipip`).
    pub current_flows: Option<u64>,
    /// That it receives no new flows, and its flows are to end.
    pub draining: Option<Draining>,
}

/// A server whose flows are to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Seconds until the deadline, at which its connections are reset; `None` where there is none (`connection_drain`).
    pub seconds_left: Option<u64>,
    /// Whether the configuration does not name it any more.
    pub is_removed: bool,
}

/// Where packets to a server leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// Index of the interface.
    pub interface: u32,
    /// Hardware address of the next hop.
    pub mac: String,
}

/// Health of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No probe has been answered or missed yet.
    Unknown,
    /// Able to serve.
    Healthy,
    /// Not able to serve.
    Unhealthy,
    /// Not checked; taken as able to serve.
    Unchecked,
    /// Able to serve, while another one has the traffic.
    Standby,
}

/// Packets, bytes (of whole frames) and flows, summed over all processors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Flows begun since the maps were made.
    pub new_flows: u64,
}

/// Packets that met one verdict for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// `forward`, `answer`, `pass` or `drop`.
    pub verdict: String,
    /// The reason, in snake case.
    pub reason: String,
    /// Packets.
    pub packets: u64,
}
