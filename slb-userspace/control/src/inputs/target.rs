//! Targets of health checks, and the paths of their probes.

use std::net::{IpAddr, SocketAddr};

use slb_config::{
    diff::in_full,
    model::{CheckKind, HealthCheck, Listener, LoadBalancer, Mode},
};

/// The target of a health check.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The server's address, and the port that is probed.
    pub address: SocketAddr,
    /// The path of the probe.
    pub via: Via,
    /// The health check. Its `port` is already part of `address`.
    pub check: HealthCheck,
    /// The endpoint that takes traffic, if passive signals count too.
    pub watched: Option<SocketAddr>,
}

/// The path of a probe: the path of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// To the server's own address (mode `nat`).
    Direct,
    /// To the VIP, with the server's hardware address (mode `dsr`).
    Dsr {
        /// The VIP.
        vip: IpAddr,
    },
    /// To the VIP, in an IP tunnel to the server (mode `ipip`).
    Ipip {
        /// The VIP.
        vip: IpAddr,
    },
    /// To the VIP, in a UDP tunnel to the server (mode `gue`).
    Gue {
        /// The VIP.
        vip: IpAddr,
    },
}

impl Via {
    /// The VIP that is probed; `None` for [`Self::Direct`].
    pub fn vip(self) -> Option<IpAddr> {
        match self {
            Self::Direct => None,
            Self::Dsr { vip } | Self::Ipip { vip } | Self::Gue { vip } => Some(vip),
        }
    }
}

impl Target {
    /// The target of the server endpoint `server`. The check may override the port.
    pub fn new(server: SocketAddr, via: Via, check: &HealthCheck) -> Self {
        let port = match check.kind {
            // An ICMP check has no port, so all endpoints of a host share it.
            CheckKind::Icmp => 0,
            _ => check.port.unwrap_or(server.port()),
        };
        let address = SocketAddr::new(server.ip(), port);
        let watched = check.passive.map(|_| server);
        Self { address, via, check: HealthCheck { port: None, ..check.clone() }, watched }
    }

    /// The target of a server of a listener; `None` if the listener has no health check.
    ///
    /// In modes `dsr`, `ipip` and `gue` one VIP stands for all of the load balancer: the first of the server's address family,
    /// else the first.
    pub fn of(balancer: &LoadBalancer, listener: &Listener, server: SocketAddr) -> Option<Self> {
        let check = listener.health_check.as_ref()?;
        let same_family = |vip: &&IpAddr| vip.is_ipv4() == server.is_ipv4();
        let vip = || balancer.addresses.iter().find(same_family).or(balancer.addresses.first()).copied();
        let via = match listener.mode {
            Mode::Nat | Mode::FullNat => Via::Direct,
            Mode::Dsr => Via::Dsr { vip: vip()? },
            Mode::Ipip => Via::Ipip { vip: vip()? },
            Mode::Gue => Via::Gue { vip: vip()? },
        };
        Some(Self::new(server, via, check))
    }

    /// All fields as text, in a format that later versions keep.
    pub fn describe(&self) -> String {
        let Self { address, via, check, watched } = self;
        let via = match via {
            Via::Direct => "directly".to_owned(),
            Via::Dsr { vip } => format!("by dsr to {vip}"),
            Via::Ipip { vip } => format!("by ipip to {vip}"),
            Via::Gue { vip } => format!("by gue to {vip}"),
        };
        let watched = watched.map(|server| format!(", traffic of {server}")).unwrap_or_default();
        format!("{address} {via}: {}{watched}", in_full(check))
    }

    /// The same server, probed at its own address.
    pub fn direct_target(&self) -> Self {
        Self { via: Via::Direct, ..self.clone() }
    }

    /// The destination of the probe's packets.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.via.vip().unwrap_or(self.address.ip()), self.address.port())
    }
}
