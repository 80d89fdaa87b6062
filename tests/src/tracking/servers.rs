//! The servers of the model, and the configuration that names them.

use std::{fmt::Write as _, net::SocketAddr};

use crate::eligible_servers::{KnownHealth, ServerState, is_eligible};

/// Number of servers, configured or not.
pub const SERVERS: usize = 8;
/// Port of the VIP and of the servers.
pub const PORT: u16 = 80;

/// A server, configured or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelServer {
    /// Whether it is configured.
    pub exists: bool,
    /// How often it has been configured: a server that is removed and added again is a new one.
    pub incarnation: u32,
    /// Weight.
    pub weight: u8,
    /// Result of its health check; `None` without a result.
    pub healthy: Option<bool>,
}

impl ModelServer {
    /// Its state, apart from the termination of its flows, which depends on the time.
    pub fn state(&self) -> ServerState {
        ServerState {
            is_configured: self.exists,
            is_in_service: self.weight > 0,
            health: match self.healthy {
                Some(true) => KnownHealth::Healthy,
                Some(false) => KnownHealth::Unhealthy,
                None => KnownHealth::Unknown,
            },
            ..ServerState::SERVING
        }
    }
}

/// All of them.
pub type ModelServers = [ModelServer; SERVERS];

/// Whether new flows may go to server `n`.
pub fn takes_new(servers: &ModelServers, n: usize) -> bool {
    is_eligible(&servers.each_ref().map(ModelServer::state), n)
}

/// Configuration apart from the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Value of the setting `mode`.
    pub mode: &'static str,
    /// Whether every flow is tracked (`tracking = "always"`).
    pub always_tracked: bool,
    /// Whether untracked datagrams go to the current backend (`unknown_datagrams = "follow"`).
    pub follows_current: bool,
    /// Whether the TCP and the UDP listener share a server table.
    pub shared: bool,
    /// `drain_timeout` in seconds; `None` is off.
    pub drain: Option<u64>,
    /// Scheduling of TCP flows.
    pub scheduling: Scheduling,
    /// Scheduling of UDP flows.
    pub datagrams: Scheduling,
}

/// Scheduler and session persistence of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduling {
    /// Value of the setting `scheduler`.
    pub scheduler: &'static str,
    /// `session_persistence` in seconds; 0 is off.
    pub persistence: u64,
}

impl Scheduling {
    /// Only the server table decides.
    pub const TABLE: Self = Self { scheduler: "maglev", persistence: 0 };

    fn text(&self) -> String {
        let Self { scheduler, persistence } = self;
        let persistence = if *persistence == 0 { "off".to_owned() } else { format!("{persistence}s") };
        format!("scheduler = \"{scheduler}\"\nsession_persistence = \"{persistence}\"")
    }

    fn is_stateless(&self) -> bool {
        self.scheduler.starts_with("maglev") && self.persistence == 0
    }

    /// The combinations that a test uses.
    pub const ALL: [Self; 9] = [
        Self::TABLE,
        Self { scheduler: "maglev-client", persistence: 0 },
        Self { scheduler: "maglev-client", persistence: 60 },
        Self { scheduler: "rr", persistence: 0 },
        Self { scheduler: "wrr", persistence: 0 },
        Self { scheduler: "wlc", persistence: 0 },
        Self { scheduler: "maglev", persistence: 60 },
        Self { scheduler: "wrr", persistence: 3600 },
        Self { scheduler: "wlc", persistence: 60 },
    ];
}

impl Setting {
    /// Whether no flow is tracked in steady state.
    pub fn is_stateless(&self) -> bool {
        self.mode != "nat"
            && !self.always_tracked
            && self.scheduling.is_stateless()
            && self.datagrams.is_stateless()
    }

    /// Whether no UDP flow is tracked in steady state.
    pub fn forgets_datagrams(&self) -> bool {
        Self { scheduling: self.datagrams, ..*self }.is_stateless()
    }

    /// The configuration file.
    pub fn text(&self, servers: &ModelServers) -> String {
        let Self { mode, always_tracked, follows_current, shared, drain, scheduling, datagrams } = self;
        let [scheduling, datagrams] = [scheduling, datagrams].map(Scheduling::text);
        let drain = drain.map_or("off".to_owned(), |seconds| format!("{seconds}s"));
        let tracking = if *always_tracked { "always" } else { "auto" };
        let unknown = match (*mode, follows_current) {
            ("nat", _) => "",
            (_, true) => "unknown_datagrams = \"follow\"",
            (_, false) => "unknown_datagrams = \"keep\"",
        };
        // Listeners with equal health checks share a server table.
        let probe = if *shared { 9 } else { 10 };
        let mut list = String::new();
        for (n, server) in servers.iter().enumerate().filter(|(_, server)| server.exists) {
            let _ = write!(
                list,
                "{{ address = \"{}\", port = {PORT}, weight = {} }}, ",
                address(n).ip(),
                server.weight
            );
        }
        format!(
            r#"
            [daemon]
            interfaces = ["eth0"]
            tunnel_addresses = ["10.0.0.254"]
            [[load_balancer]]
            name = "shop"
            addresses = ["198.51.100.10"]
            [[load_balancer.listener]]
            name = "streams"
            protocol = "tcp"
            port = {PORT}
            server_group = "all"
            mode = "{mode}"
            tracking = "{tracking}"
            {scheduling}
            drain_timeout = "{drain}"
            health_check = {{ kind = "tcp", port = 9 }}
            [[load_balancer.listener]]
            name = "datagrams"
            protocol = "udp"
            port = {PORT}
            server_group = "all"
            mode = "{mode}"
            tracking = "{tracking}"
            drain_timeout = "{drain}"
            {unknown}
            {datagrams}
            health_check = {{ kind = "tcp", port = {probe} }}
            [[server_group]]
            name = "all"
            table_size = 251
            servers = [{list}]
            "#
        )
    }
}

/// Address and port of the n-th server.
pub fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8 + 1], PORT))
}

/// Hardware address of the n-th server.
pub fn server_mac(n: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0x51, n as u8]
}

/// The server with this hardware address.
pub fn server_of_mac(server_mac: [u8; 6]) -> Option<usize> {
    match server_mac {
        [2, 0, 0, 0, 0x51, n] if usize::from(n) < SERVERS => Some(n.into()),
        _ => None,
    }
}
