//! `[daemon]`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;

/// Settings of the daemon itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Interfaces the XDP program is attached to. At least one, no duplicates.
    pub interfaces: Vec<String>,
    /// Roles of interfaces that are not [`InterfaceRole::Both`].
    pub roles: BTreeMap<String, InterfaceRole>,
    /// The XDP hook.
    pub xdp_mode: XdpMode,
    /// Directory on a BPF file system that holds the pinned maps and links. Absolute.
    pub pin_dir: PathBuf,
    /// Unix socket of the API. Absolute.
    pub socket: PathBuf,
    /// Unix socket of the read-only part of the API, for all users. Absolute; differs from `socket`.
    pub read_only_socket: Option<PathBuf>,
    /// Address and port at which the daemon serves its metrics over HTTP; `None` for the API's sockets only. The port is
    /// not 0.
    pub metrics_address: Option<SocketAddr>,
    /// Directory of the state that outlives the daemon, such as overrides. Absolute.
    pub state_dir: PathBuf,
    /// Capacity of the flow table, in entries. 1,024 to 16,777,216.
    pub flow_table_entries: u32,
    /// Capacity of the maps, in servers. 1,024 to 1,048,576.
    pub max_servers: u32,
    /// Source addresses of tunnels (modes `ipip` and `gue`): at most one per address family.
    pub tunnel_addresses: Vec<IpAddr>,
    /// Networks of the source addresses of clients' packets in tunnels, which then vary by flow: at most one per address
    /// family. Without one the source is that of `tunnel_addresses`.
    pub tunnel_sources: Vec<IpNet>,
    /// UDP destination port of tunnel packets of mode `gue`. Not 0.
    pub gue_port: u16,
    /// Addresses at which connections to servers begin (mode `full-nat`): unique, at most 32 per address family, no
    /// VIPs and no servers' addresses.
    pub local_addresses: Vec<IpAddr>,
    /// Seed of the flow hash and of the server tables. All nodes of a VIP need the same one. `None` if none is
    /// configured: the daemon then fills in its own.
    pub hash_seed: Option<u64>,
    /// Source addresses of health checks: at most one per address family. The kernel chooses otherwise.
    pub probe_source: Vec<IpAddr>,
    /// `SO_MARK` of health-check packets. Not 0.
    pub probe_mark: Option<u32>,
}

impl DaemonConfig {
    /// The seed of the flow hash and of the server tables; 0 until the daemon has filled in a missing one.
    pub fn seed(&self) -> u64 {
        self.hash_seed.unwrap_or(0)
    }
}

/// Which packets may arrive at an interface.
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

/// The XDP hook of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// Native if all drivers support it, else generic. The status shows the active one.
    Auto,
    /// Native XDP only.
    Native,
    /// Generic XDP only.
    Generic,
}
