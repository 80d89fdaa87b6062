//! The documents of the API. Layouts of maps never appear here.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// `GET /v1/status`: everything SLB is doing right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon, if one answers.
    pub daemon: Option<Daemon>,
    /// Interfaces the program is attached to.
    pub interfaces: Vec<Interface>,
    /// Load balancers by name.
    pub load_balancers: Vec<LoadBalancer>,
    /// Packets by verdict and reason, since the maps were made; every packet is counted under exactly one.
    pub reasons: Vec<Reason>,
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

/// A listener and the servers behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Name.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Port on every VIP.
    pub port: u16,
    /// Forwarding mode.
    pub mode: String,
    /// VIPs.
    pub addresses: Vec<IpAddr>,
    /// Server group; `None` is the load balancer's default group.
    pub server_group: Option<String>,
    /// Traffic of this listener.
    pub counters: Counters,
    /// Its servers. Listeners with the same servers, ports and health check share them, and their counters.
    pub servers: Vec<Server>,
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
    /// Why it is in that state, where there is something to say.
    pub detail: Option<String>,
    /// Interface, and hardware address of the next hop, packets leave through; `None` while unresolved.
    pub next_hop: Option<NextHop>,
    /// Slots of the table it holds: its part of all slots is the part of new flows to expect.
    pub slots: u32,
    /// Traffic of this server.
    pub counters: Counters,
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
    /// Flows begun.
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
