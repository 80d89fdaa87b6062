//! What the formats have in common: services with servers and checks, in the terms of SLB.

use std::{net::IpAddr, time::Duration};

use crate::source::Lines;

/// All that is taken from a source.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) services: Vec<Service>,
    /// Interfaces that the source names.
    pub(crate) interfaces: Vec<String>,
    /// Addresses from which the source connects to servers.
    pub(crate) local_addresses: Vec<IpAddr>,
    pub(crate) gue_port: Option<u16>,
}

/// An address at which a service is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Vip {
    Address(IpAddr),
    /// Each IPv4 address of the host.
    AnyV4,
    /// Each IPv6 address of the host.
    AnyV6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// Ports of a service; both ends belong to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl Ports {
    pub(crate) const ANY: Self = Self { first: 1, last: u16::MAX };

    /// A port; 0 is any port, as in IPVS.
    pub(crate) const fn of(port: u16) -> Self {
        if port == 0 { Self::ANY } else { Self { first: port, last: port } }
    }

    pub(crate) const fn single(self) -> Option<u16> {
        if self.first == self.last { Some(self.first) } else { None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Mode {
    Nat,
    FullNat,
    Dsr,
    Ipip,
    Gue,
}

impl Mode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        }
    }

    pub(crate) const fn rewrites_port(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Scheduler {
    #[default]
    Maglev,
    MaglevClient,
    RoundRobin,
    WeightedRoundRobin,
    WeightedLeastConnections,
}

impl Scheduler {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::MaglevClient => "maglev-client",
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::WeightedLeastConnections => "wlc",
        }
    }
}

/// A protocol and ports at addresses, with servers behind them.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// The lines that introduce it.
    pub(crate) at: Lines,
    /// All lines that describe it, also those of its servers.
    pub(crate) sources: Vec<Lines>,
    /// Proposed name.
    pub(crate) name: String,
    pub(crate) vips: Vec<(Vip, Lines)>,
    pub(crate) protocol: Protocol,
    pub(crate) ports: Ports,
    pub(crate) mode: Mode,
    pub(crate) scheduler: Scheduler,
    pub(crate) persistence: Option<Duration>,
    pub(crate) established_timeout: Option<Duration>,
    pub(crate) slow_start: Option<Duration>,
    pub(crate) check: Check,
    pub(crate) primary: Pool,
    /// Servers that receive traffic while the primary ones do not; may be empty.
    pub(crate) backup: Pool,
    /// Unhealthy primary servers at which the backup takes over; `None` for all.
    pub(crate) failover_threshold: Option<usize>,
    /// Whether the source keeps it, and serves no traffic with it.
    pub(crate) is_stopped: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Pool {
    /// Proposed name.
    pub(crate) name: String,
    pub(crate) servers: Vec<Server>,
}

impl Pool {
    /// The same servers, their name below that of a service.
    pub(crate) fn named(self, service: &str) -> Self {
        Self { name: format!("{service}-{}", self.name), ..self }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) at: Lines,
    /// An address, or a name that is not looked up.
    pub(crate) host: String,
    /// `None` for the port of the service.
    pub(crate) port: Option<u16>,
    pub(crate) weight: u64,
}

/// A health check. `None` is the default of SLB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) kind: CheckKind,
    pub(crate) port: Option<u16>,
    pub(crate) interval: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) healthy: Option<u64>,
    pub(crate) unhealthy: Option<u64>,
    /// Failed connections of clients, and the time in which they count.
    pub(crate) passive: Option<(u64, Duration)>,
}

impl Check {
    pub(crate) const fn new(kind: CheckKind) -> Self {
        Self {
            kind,
            port: None,
            interval: None,
            timeout: None,
            healthy: None,
            unhealthy: None,
            passive: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CheckKind {
    /// Servers are unchecked.
    None,
    Tcp,
    Icmp,
    Tls {
        host: Option<String>,
        verify: bool,
    },
    Http(HttpCheck),
    /// Payloads as SLB writes them.
    Udp {
        request: Option<String>,
        expect: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpCheck {
    pub(crate) tls: bool,
    pub(crate) verify: bool,
    pub(crate) is_get: bool,
    pub(crate) path: String,
    pub(crate) host: Option<String>,
    pub(crate) expect: Vec<Status>,
}

/// A status that passes, or all of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Code(u16),
    Class(u16),
}
