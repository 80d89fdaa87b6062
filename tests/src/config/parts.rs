//! Parts of a plan: what single scenarios set for a listener, a group or a load balancer.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Servers of a listener.
#[derive(Debug, Clone)]
pub enum Target {
    /// The default server group, on this port.
    DefaultGroup(u16),
    /// A server group.
    Group(String),
    /// A primary/secondary server group.
    Pair(String),
    /// Two server groups: primary/secondary mode.
    Groups {
        /// The primary group.
        primary: String,
        /// The secondary group.
        secondary: String,
        /// Number of unhealthy primaries at which the secondary takes over.
        threshold: u8,
        /// Time before failback, as in the file; `None` for the default.
        failback_after: Option<&'static str>,
    },
}

/// Settings of one service's listener, in place of those of all listeners.
#[derive(Debug, Clone, Default)]
pub struct ListenerSettings {
    /// Its servers; `None` for those of its service.
    pub target: Option<Target>,
    /// `scheduler`.
    pub scheduler: Option<&'static str>,
    /// `on_no_healthy`.
    pub on_no_healthy: Option<&'static str>,
    /// `state`.
    pub state: Option<&'static str>,
    /// `bandwidth`.
    pub bandwidth: Option<&'static str>,
    /// `new_connections`.
    pub new_connections: Option<u32>,
    /// `syn_cookies`.
    pub syn_cookies: Option<u32>,
}

/// An access list, and what it means to be on it.
#[derive(Debug, Clone)]
pub struct AccessList {
    /// Its name.
    pub name: &'static str,
    /// `access_list_type`.
    pub kind: &'static str,
    /// Networks.
    pub entries: Vec<String>,
}

impl AccessList {
    /// The settings of a listener with this list.
    pub fn settings(&self) -> String {
        format!("access_list = {:?}\naccess_list_type = {:?}\n", self.name, self.kind)
    }
}

impl fmt::Display for AccessList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n[[access_list]]\nname = {:?}\nentries = {:?}\n", self.name, self.entries)
    }
}

/// A server group.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// `id`; `None` for its name.
    pub id: Option<&'static str>,
    /// `table_size`; `None` for the default.
    pub table_size: Option<u32>,
    /// `slow_start`; `None` for the default.
    pub slow_start: Option<Duration>,
    /// Addresses and weights of its servers.
    pub servers: Vec<(SocketAddr, u8)>,
    /// `quic_server_id` of each server, in their order; empty for none.
    pub quic_server_ids: Vec<u32>,
}

/// A primary/secondary server group.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Its name.
    pub name: String,
    /// The server that has the traffic while it is healthy.
    pub primary: SocketAddr,
    /// The other one.
    pub secondary: SocketAddr,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultGroup(port) => writeln!(f, "default_group_port = {port}"),
            Self::Group(name) => writeln!(f, "server_group = {name:?}"),
            Self::Pair(name) => writeln!(f, "primary_secondary_group = {name:?}"),
            Self::Groups { primary, secondary, threshold, failback_after } => write!(
                f,
                "primary = {primary:?}\nsecondary = {secondary:?}\nfailover_threshold = {threshold}\n{}",
                lines([("failback_after", *failback_after)])
            ),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n[[server_group]]\nname = {:?}\n{}", self.name, lines([("id", self.id)]))?;
        if let Some(slots) = self.table_size {
            writeln!(f, "table_size = {slots}")?;
        }
        if let Some(time) = self.slow_start {
            writeln!(f, "slow_start = \"{}s\"", time.as_secs())?;
        }
        f.write_str("servers = [\n")?;
        for (n, (at, weight)) in self.servers.iter().enumerate() {
            let id = self.quic_server_ids.get(n).map(|id| format!(", quic_server_id = {id}"));
            // Behind a port range servers have no port.
            let port = if at.port() == 0 { String::new() } else { format!("port = {}, ", at.port()) };
            let (address, id) = (at.ip(), id.unwrap_or_default());
            writeln!(f, "  {{ address = \"{address}\", {port}weight = {weight}{id} }},")?;
        }
        f.write_str("]\n")
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = |at: SocketAddr| format!("{{ address = \"{}\", port = {} }}", at.ip(), at.port());
        let (primary, secondary) = (entry(self.primary), entry(self.secondary));
        write!(
            f,
            "\n[[primary_secondary_group]]\nname = {:?}\nprimary = {primary}\nsecondary = {secondary}\n",
            self.name
        )
    }
}

/// Lines of optional settings whose values are words.
pub(super) fn lines<const N: usize>(settings: [(&str, Option<&str>); N]) -> String {
    settings.into_iter().filter_map(|(key, value)| Some((key, value?))).fold(
        String::new(),
        |mut text, (key, value)| {
            let _ = writeln!(text, "{key} = {value:?}");
            text
        },
    )
}

/// Addresses in quotes, for a list.
pub(super) fn quoted(addresses: &[IpAddr]) -> String {
    addresses.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ")
}
