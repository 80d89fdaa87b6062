//! Selects the flow-table entries that `slb flows flush` erases. Pure.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use slb_common::abi::{
    Handle,
    ids::{ServiceTag, TableId},
    ports::EndpointText,
    service::Service,
    unpad_name,
};

use crate::dataplane::state::{FlowRecord, MapState, backend_address, to_ip};

/// Names that an error lists at most.
const LISTED: usize = 10;

/// An address, with a port or for any port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointFilter {
    address: IpAddr,
    port: Option<u16>,
}

impl EndpointFilter {
    fn is(self, other: SocketAddr) -> bool {
        self.address == other.ip() && self.port.is_none_or(|port| port == other.port())
    }

    /// Whether a service has the endpoint.
    fn is_of(self, service: &Service) -> bool {
        self.address == to_ip(&service.address) && self.port.is_none_or(|port| service.ports().contains(port))
    }

    /// Whether a server may have the endpoint: one behind a port range has any port.
    fn may_be(self, server: SocketAddr) -> bool {
        self.is(server) || (self.address == server.ip() && server.port() == 0)
    }
}

impl FromStr for EndpointFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(end) = text.parse::<SocketAddr>() {
            return Ok(Self { address: end.ip(), port: Some(end.port()) });
        }
        let address = text.parse().map_err(|_| {
            format!("{text}: an address, or address and port, are expected, as in 192.0.2.10, 192.0.2.10:80 or [2001:db8::10]:80")
        })?;
        Ok(Self { address, port: None })
    }
}

impl fmt::Display for EndpointFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// Conditions of a flush. An entry is erased if it meets all that are set; without conditions every entry is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlushFilter {
    /// Client addresses.
    pub client: Option<IpNet>,
    /// VIP, with or without a port.
    pub vip: Option<EndpointFilter>,
    /// Listener, as `LOAD_BALANCER/LISTENER`.
    pub listener: Option<String>,
    /// Server, with or without a port.
    pub server: Option<EndpointFilter>,
    /// Only entries that are not assured.
    pub not_assured: bool,
}

impl FlushFilter {
    /// Whether there is no condition.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Resolves the filter to ids in the actual state.
    ///
    /// # Errors
    /// No running listener has this VIP or name, or no server this address. The text lists the existing ones.
    pub fn resolve(&self, actual: &MapState) -> Result<ResolvedFilter, String> {
        let running = || actual.services.iter().filter(|(_, service)| service.table() != TableId::NONE);
        let is_chosen = |service: &Service| {
            self.vip.is_none_or(|vip| vip.is_of(service))
                && self.listener.as_ref().is_none_or(|listener| *listener == name(service))
        };
        let services = (self.vip.is_some() || self.listener.is_some()).then(|| {
            let chosen = running().filter(|(_, service)| is_chosen(service));
            chosen.filter_map(|(id, _)| Some(actual.index.entries.get(id)?.tag())).collect::<BTreeSet<_>>()
        });
        if services.as_ref().is_some_and(BTreeSet::is_empty) {
            let there = running().map(|(_, service)| format!("{} at {}", name(service), end_of(service)));
            return Err(format!("no running listener is {self}; there are: {}", listed(there)));
        }
        let servers = self.server.map(|server| {
            let chosen = actual.backends.values().filter(|backend| server.may_be(backend_address(backend)));
            chosen.map(|backend| backend.handle).collect::<BTreeSet<_>>()
        });
        if let (Some(server), Some(true)) = (self.server, servers.as_ref().map(BTreeSet::is_empty)) {
            let there =
                actual.backends.values().map(|backend| EndpointText(backend_address(backend)).to_string());
            return Err(format!("there is no server {server}; there are: {}", listed(there)));
        }
        let ports = [self.vip, self.server].map(|end| end.and_then(|end| end.port));
        Ok(ResolvedFilter { client: self.client, services, servers, ports, not_assured: self.not_assured })
    }
}

impl fmt::Display for FlushFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, vip, listener, server, not_assured } = self;
        let parts = [
            client.map(|client| format!("client {client}")),
            vip.map(|vip| format!("VIP {vip}")),
            listener.as_ref().map(|listener| format!("listener {listener}")),
            server.map(|server| format!("server {server}")),
            not_assured.then(|| "not assured".to_owned()),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "all".to_owned() } else { parts.join(", ") }.as_str())
    }
}

/// The VIP and ports of a service.
fn end_of(service: &Service) -> String {
    let (address, ports) = (to_ip(&service.address), service.ports());
    match (ports.as_single(), address) {
        (Some(port), _) => SocketAddr::new(address, port).to_string(),
        (None, IpAddr::V4(address)) => format!("{address}:{ports}"),
        (None, IpAddr::V6(address)) => format!("[{address}]:{ports}"),
    }
}

fn name(service: &Service) -> String {
    let [balancer, listener] =
        [&service.load_balancer, &service.listener].map(|name| unpad_name(name).unwrap_or("?"));
    format!("{balancer}/{listener}")
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect::<BTreeSet<_>>().into_iter().collect();
    match names.len() {
        0 => "none".to_owned(),
        count if count <= LISTED => names.join(", "),
        count => format!("{} and {} more", names[..LISTED].join(", "), count - LISTED),
    }
}

/// A [`FlushFilter`] resolved to ids of the flow table.
#[derive(Debug, Clone)]
pub struct ResolvedFilter {
    client: Option<IpNet>,
    services: Option<BTreeSet<ServiceTag>>,
    servers: Option<BTreeSet<Handle>>,
    /// Ports of VIP and server, which flows behind a port range have.
    ports: [Option<u16>; 2],
    not_assured: bool,
}

impl ResolvedFilter {
    /// Whether an entry passes the filter.
    pub fn matches(&self, entry: &FlowRecord) -> bool {
        !(self.not_assured && entry.is_assured)
            && self.services.as_ref().is_none_or(|services| services.contains(&entry.service))
            && self.servers.as_ref().is_none_or(|servers| servers.contains(&entry.backend))
            // An affinity entry holds for all ports of a range.
            && (entry.range_port == 0
                || self.ports.iter().flatten().all(|port| port.to_be() == entry.range_port))
            && self.client.is_none_or(|client| client.contains(&to_ip(&entry.client)))
    }
}
