//! What is probed, and which way.

use std::net::{IpAddr, SocketAddr};

use crate::config::{
    difference,
    model::{CheckKind, HealthCheck, Listener, LoadBalancer, Mode},
};

/// What is probed, and how.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The server, with the port the probe goes to.
    pub address: SocketAddr,
    /// Which way the probe's packets go.
    pub via: Via,
    /// How it is probed. Its `port` is already part of `address`.
    pub check: HealthCheck,
    /// Where it takes traffic, if what comes of that counts, too.
    pub watched: Option<SocketAddr>,
}

/// Which way the packets of a probe go: the way of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// To the server's own address.
    Direct,
    /// To the VIP, at the server's hardware address.
    Dsr {
        /// The VIP.
        vip: IpAddr,
    },
    /// To the VIP, in a tunnel to the server.
    Ipip {
        /// The VIP.
        vip: IpAddr,
    },
}

impl Via {
    /// The VIP that is probed, if one is.
    pub fn vip(self) -> Option<IpAddr> {
        match self {
            Self::Direct => None,
            Self::Dsr { vip } | Self::Ipip { vip } => Some(vip),
        }
    }
}

impl Target {
    /// The target of a server that takes traffic on `server`, whose port the check may override.
    pub fn new(server: SocketAddr, via: Via, check: &HealthCheck) -> Self {
        let port = match check.kind {
            // All services of a host share the one check that knows no ports.
            CheckKind::Icmp => 0,
            _ => check.port.unwrap_or(server.port()),
        };
        let address = SocketAddr::new(server.ip(), port);
        let watched = check.passive.map(|_| server);
        Self { address, via, check: HealthCheck { port: None, ..check.clone() }, watched }
    }

    /// The target of a server of a listener, if the listener checks its servers.
    ///
    /// Where packets go to the VIP, one VIP stands for all of the load balancer: the first of the server's family, else
    /// the first.
    pub fn of(balancer: &LoadBalancer, listener: &Listener, server: SocketAddr) -> Option<Self> {
        let check = listener.health_check.as_ref()?;
        let same_family = |vip: &&IpAddr| vip.is_ipv4() == server.is_ipv4();
        let vip = || balancer.addresses.iter().find(same_family).or(balancer.addresses.first()).copied();
        let via = match listener.mode {
            Mode::Nat => Via::Direct,
            Mode::Dsr => Via::Dsr { vip: vip()? },
            Mode::Ipip => Via::Ipip { vip: vip()? },
        };
        Some(Self::new(server, via, check))
    }

    /// All that it is, in words that later builds write in the same way.
    pub fn in_words(&self) -> String {
        let Self { address, via, check, watched } = self;
        let via = match via {
            Via::Direct => "directly".to_owned(),
            Via::Dsr { vip } => format!("by dsr to {vip}"),
            Via::Ipip { vip } => format!("by ipip to {vip}"),
        };
        let watched = watched.map(|server| format!(", traffic of {server}")).unwrap_or_default();
        format!("{address} {via}: {}{watched}", difference::in_full(check))
    }

    /// The same server, probed at its own address.
    pub fn directly(&self) -> Self {
        Self { via: Via::Direct, ..self.clone() }
    }

    /// Where the probe's packets are addressed to.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.via.vip().unwrap_or(self.address.ip()), self.address.port())
    }
}
