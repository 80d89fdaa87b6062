//! Listeners and load balancers of a plan.

use std::{fmt, net::IpAddr, time::Duration};

use super::parts::{AccessList, Target, lines, quoted};
use crate::server::Service;

/// Interval of every listener's health check.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of every listener's health check.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Consecutive failures until a server is unhealthy.
pub const UNHEALTHY_THRESHOLD: u32 = 2;

/// Mode of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// SLB translates: a listener's port differs from the servers'.
    Nat,
    /// SLB translates the source as well.
    FullNat,
    /// SLB rewrites only the MACs.
    Dsr,
    /// SLB encapsulates packets in IP packets.
    Ipip,
    /// SLB encapsulates packets in UDP datagrams.
    Gue,
}

impl Mode {
    /// Port of a service at the VIPs.
    pub fn port(self, service: Service) -> u16 {
        match self {
            Self::Nat | Self::FullNat => service.vip_port(),
            // Without translation the ports are equal.
            Self::Dsr | Self::Ipip | Self::Gue => service.backend_port(),
        }
    }

    /// The mode's name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        }
    }
}

/// A listener's health check.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    /// Its kind and that kind's settings, such as `kind = "http", path = "/healthz"`.
    pub kind: String,
    /// `interval`, in whole seconds.
    pub interval: Duration,
    /// `timeout`, in whole seconds.
    pub timeout: Duration,
}

impl HealthCheck {
    /// A check of this kind, with [`CHECK_INTERVAL`] and [`CHECK_TIMEOUT`].
    pub fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), interval: CHECK_INTERVAL, timeout: CHECK_TIMEOUT }
    }
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, interval = \"{}s\", timeout = \"{}s\", healthy_threshold = 1, \
             unhealthy_threshold = {UNHEALTHY_THRESHOLD}",
            self.kind,
            self.interval.as_secs(),
            self.timeout.as_secs()
        )
    }
}

/// A listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// `id`; `None` for its name.
    pub id: Option<&'static str>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its port at the VIPs.
    pub port: u16,
    /// Its port range, as in the file, in place of the port.
    pub range: Option<&'static str>,
    /// Its mode.
    pub mode: Mode,
    /// `toa`.
    pub toa: bool,
    /// Its servers.
    pub target: Target,
    /// Its health check; `None` for none.
    pub check: Option<HealthCheck>,
    /// `unknown_datagrams`; `None` for the default, as below.
    pub unknown_datagrams: Option<&'static str>,
    /// `drain_timeout`.
    pub drain_timeout: Option<&'static str>,
    /// `established_timeout`.
    pub established_timeout: Option<&'static str>,
    /// `scheduler`.
    pub scheduler: Option<&'static str>,
    /// `session_persistence`.
    pub session_persistence: Option<&'static str>,
    /// `on_no_healthy`.
    pub on_no_healthy: Option<&'static str>,
    /// `state`.
    pub state: Option<&'static str>,
    /// `bandwidth`; `None` for no limit.
    pub bandwidth: Option<&'static str>,
    /// `new_connections`; `None` for no limit.
    pub new_connections: Option<u32>,
    /// `syn_cookies`; `None` for never.
    pub syn_cookies: Option<u32>,
    /// Its access list; `None` for none.
    pub access: Option<AccessList>,
    /// `quic`, as in the file; `None` for none.
    pub quic: Option<&'static str>,
}

impl Listener {
    /// A listener in mode `nat` with a TCP check of the servers' own ports, and default settings.
    pub fn new(name: impl Into<String>, protocol: &'static str, port: u16, target: Target) -> Self {
        Self {
            name: name.into(),
            id: None,
            protocol,
            port,
            range: None,
            mode: Mode::Nat,
            toa: false,
            target,
            check: Some(HealthCheck::new("kind = \"tcp\"")),
            unknown_datagrams: None,
            drain_timeout: None,
            established_timeout: None,
            scheduler: None,
            session_persistence: None,
            on_no_healthy: None,
            state: None,
            bandwidth: None,
            new_connections: None,
            syn_cookies: None,
            access: None,
            quic: None,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = lines([
            ("id", self.id),
            ("unknown_datagrams", self.unknown_datagrams),
            ("drain_timeout", self.drain_timeout),
            ("established_timeout", self.established_timeout),
            ("scheduler", self.scheduler),
            ("session_persistence", self.session_persistence),
            ("on_no_healthy", self.on_no_healthy),
            ("state", self.state),
            ("bandwidth", self.bandwidth),
        ]);
        let toa = if self.toa { "toa = true\n" } else { "" };
        let connections = self.new_connections.map(|number| format!("new_connections = {number}\n"));
        let connections = connections.unwrap_or_default();
        let cookies = self.syn_cookies.map(|number| format!("syn_cookies = {number}\n"));
        let cookies = cookies.unwrap_or_default();
        let access = self.access.as_ref().map(AccessList::settings).unwrap_or_default();
        let quic = self.quic.map(|quic| format!("quic = {quic}\n")).unwrap_or_default();
        let check = self.check.as_ref().map_or("kind = \"none\"".to_owned(), HealthCheck::to_string);
        let Self { name, protocol, mode, target, .. } = self;
        let port = self.range.map_or_else(|| self.port.to_string(), |range| format!("{range:?}"));
        write!(
            f,
            "\n[[load_balancer.listener]]\nname = {name:?}\nprotocol = {protocol:?}\nport = {port}\nmode = {:?}\n\
             {toa}{target}{settings}{connections}{cookies}{access}{quic}health_check = {{ {check} }}\n",
            mode.name()
        )
    }
}

/// A load balancer without a default group.
#[derive(Debug, Clone)]
pub struct LoadBalancer {
    /// Its name.
    pub name: String,
    /// Its VIPs.
    pub addresses: Vec<IpAddr>,
    /// Its listeners.
    pub listeners: Vec<Listener>,
}

impl fmt::Display for LoadBalancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, addresses, listeners } = self;
        write!(f, "\n[[load_balancer]]\nname = {name:?}\naddresses = [{}]\n", quoted(addresses))?;
        listeners.iter().try_for_each(|listener| write!(f, "{listener}"))
    }
}
