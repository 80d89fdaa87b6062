//! The daemon's configuration of a world, as TOML.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use listener::{
    CHECK_INTERVAL, CHECK_TIMEOUT, HealthCheck, Listener, LoadBalancer, Mode, UNHEALTHY_THRESHOLD,
};
pub use parts::{AccessList, Group, ListenerSettings, Pair, Target};

use crate::{
    net::{Family, Topology},
    server::Service,
};

mod listener;
mod parts;

/// Entries of the flow table; more than the flows of most scenarios.
const FLOW_TABLE_ENTRIES: u32 = 262_144;

/// Suffix of the names of additional listeners in mode `dsr`.
const DIRECT: &str = "-direct";

/// The daemon's configuration.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Interfaces that run the program.
    pub interfaces: Vec<String>,
    /// Directory of the pins.
    pub pin_dir: PathBuf,
    /// Socket of the API.
    pub socket: PathBuf,
    /// Directory in which overrides are stored.
    pub state_dir: PathBuf,
    /// Entries of the flow table.
    pub flow_table_entries: u32,
    /// Names of load balancer, listeners and groups.
    pub names: Names,
    /// Servers, in the order of the backends.
    pub servers: Vec<PlannedServer>,
    /// Mode of every listener.
    pub mode: Mode,
    /// Whether TCP listeners exist a second time, with the same servers in mode `dsr`, at the servers' own ports.
    pub direct: bool,
    /// Outer source addresses of tunnel packets.
    pub tunnel_addresses: Vec<IpAddr>,
    /// Sources of mode `full-nat`.
    pub local_addresses: Vec<IpAddr>,
    /// `unknown_datagrams` of UDP listeners; `None` for the default.
    pub unknown_datagrams: Option<&'static str>,
    /// Roles of interfaces; others have the default role.
    pub roles: BTreeMap<String, &'static str>,
    /// `xdp_mode`.
    pub xdp_mode: &'static str,
    /// `hash_seed`; `None` for a random one.
    pub hash_seed: Option<u64>,
    /// VIPs.
    pub vips: Vec<IpAddr>,
    /// `state` of the load balancer; `None` for the default.
    pub state: Option<&'static str>,
    /// `unmatched` of the load balancer; `None` for the default.
    pub unmatched: Option<&'static str>,
    /// `announce` of the load balancer; `None` for the default.
    pub announce: Option<&'static str>,
    /// Interval of every health check of services.
    pub check_interval: Duration,
    /// Timeout of every health check of services.
    pub check_timeout: Duration,
    /// Settings of single listeners.
    pub listeners: BTreeMap<Service, ListenerSettings>,
    /// Server groups: those of services, by their names, in place of the plan's servers; and others.
    pub groups: Vec<Group>,
    /// Primary/secondary server groups.
    pub pairs: Vec<Pair>,
    /// Listeners in addition to those of services, before them.
    pub additional_listeners: Vec<Listener>,
    /// Load balancers in addition to that of services.
    pub additional_load_balancers: Vec<LoadBalancer>,
    /// `id` of what was renamed.
    pub ids: Ids,
    /// `slow_start` of single services' groups.
    pub slow_start: BTreeMap<Service, Duration>,
    /// Health checks by service, such as `kind = "http", path = "/healthz"`; a TCP check by default.
    pub checks: BTreeMap<Service, &'static str>,
    /// `max_servers`; `None` for the default.
    pub max_servers: Option<u32>,
    /// Additional lines of `[daemon]`.
    pub daemon: String,
    /// `drain_timeout` of all listeners; `None` for the default.
    pub drain_timeout: Option<&'static str>,
    /// `established_timeout` of TCP listeners; `None` for the default.
    pub established_timeout: Option<&'static str>,
    /// `scheduler` of all listeners; `None` for the default.
    pub scheduler: Option<&'static str>,
    /// `session_persistence` of all listeners; `None` for the default.
    pub session_persistence: Option<&'static str>,
    /// Access list of all listeners of services; `None` for none.
    pub access: Option<AccessList>,
}

/// Names that may change while flows stay.
#[derive(Debug, Clone)]
pub struct Names {
    /// Name of the load balancer.
    pub load_balancer: String,
    /// Suffix of listener names, after the service's name.
    pub listeners: String,
    /// Suffix of server group names, after the service's name.
    pub groups: String,
}

impl Default for Names {
    fn default() -> Self {
        Self { load_balancer: "shop".to_owned(), listeners: String::new(), groups: String::new() }
    }
}

/// Ids that stay while names change.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    /// `id` of the load balancer; `None` for its name.
    pub load_balancer: Option<&'static str>,
    /// `id` of single services' listeners.
    pub listeners: BTreeMap<Service, &'static str>,
    /// `id` of single services' groups.
    pub groups: BTreeMap<Service, &'static str>,
}

/// A server of the plan. Every group has an entry for each of its addresses.
#[derive(Debug, Clone)]
pub struct PlannedServer {
    /// Its name in answers.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its weight, 0 to 100.
    pub weight: u8,
}

impl PlannedServer {
    /// Its entries in a group: its endpoints on this port, and its weight.
    pub fn entries(&self, port: u16) -> impl Iterator<Item = (SocketAddr, u8)> {
        self.addresses.iter().map(move |address| (SocketAddr::new(*address, port), self.weight))
    }
}

impl Plan {
    /// A plan with all backends of the network and these weights.
    ///
    /// # Panics
    /// The number of weights differs from the number of backends.
    pub fn new(topology: &Topology, weights: &[u8], pin_dir: PathBuf, socket: PathBuf) -> Self {
        assert_eq!(topology.backends.len(), weights.len(), "one weight per backend");
        let servers = topology.backends.iter().zip(weights).map(|(backend, weight)| PlannedServer {
            name: backend.name.clone(),
            addresses: Family::ALL.map(|family| backend.address(family)).into(),
            weight: *weight,
        });
        Self {
            interfaces: topology.interfaces(),
            pin_dir,
            state_dir: socket.with_extension("state"),
            names: Names::default(),
            flow_table_entries: FLOW_TABLE_ENTRIES,
            socket,
            servers: servers.collect(),
            mode: Mode::Nat,
            direct: false,
            tunnel_addresses: Vec::new(),
            local_addresses: Vec::new(),
            unknown_datagrams: None,
            roles: BTreeMap::new(),
            xdp_mode: "native",
            hash_seed: Some(1),
            vips: Family::ALL.map(Family::vip).into(),
            state: None,
            unmatched: None,
            announce: None,
            check_interval: CHECK_INTERVAL,
            check_timeout: CHECK_TIMEOUT,
            listeners: BTreeMap::new(),
            groups: Vec::new(),
            pairs: Vec::new(),
            additional_listeners: Vec::new(),
            additional_load_balancers: Vec::new(),
            ids: Ids::default(),
            slow_start: BTreeMap::new(),
            checks: BTreeMap::new(),
            max_servers: None,
            daemon: String::new(),
            drain_timeout: None,
            established_timeout: None,
            scheduler: None,
            session_persistence: None,
            access: None,
        }
    }

    /// Adds a group, in place of one of the same name.
    pub fn put_group(&mut self, group: Group) {
        self.groups.retain(|other| other.name != group.name);
        self.groups.push(group);
    }

    /// Port of a service at the VIPs.
    pub fn vip_port(&self, service: Service) -> u16 {
        self.mode.port(service)
    }

    /// The configuration: one load balancer with a VIP of each family. `lines` uses the default server group, other
    /// listeners have their own groups. In mode `nat`, every listener has another port than its servers.
    pub fn toml(&self) -> String {
        let mut text = self.daemon_and_balancer();
        for (address, weight) in self.addresses() {
            let _ = write!(text, "\n[[load_balancer.server]]\naddress = \"{address}\"\nweight = {weight}\n");
        }
        let of_services = Service::ALL.into_iter().map(|service| self.service_listener(service));
        let direct = Service::ALL.into_iter().filter(|service| self.direct && service.protocol() == "tcp");
        let direct = direct.map(|service| self.listener(service, Mode::Dsr, DIRECT));
        let listeners = self.additional_listeners.iter().cloned().chain(of_services).chain(direct);
        listeners.for_each(|listener| text += &listener.to_string());
        self.additional_load_balancers.iter().for_each(|balancer| text += &balancer.to_string());
        for service in Service::ALL.into_iter().filter(|service| *service != Service::Lines) {
            let group = self.service_group(service);
            if !self.groups.iter().any(|other| other.name == group.name) {
                let _ = write!(text, "{group}");
            }
        }
        self.groups.iter().for_each(|group| text += &group.to_string());
        self.pairs.iter().for_each(|pair| text += &pair.to_string());
        self.access.iter().for_each(|list| text += &list.to_string());
        text
    }

    /// The settings of the daemon, and those of the load balancer without its servers and listeners.
    fn daemon_and_balancer(&self) -> String {
        let seed = self.hash_seed.map_or_else(String::new, |seed| format!("hash_seed = {seed}\n"));
        let room = self.max_servers.map_or_else(String::new, |servers| format!("max_servers = {servers}\n"));
        // Left out where it is empty: an older release does not know it.
        let locals = match &self.local_addresses[..] {
            [] => String::new(),
            locals => format!("local_addresses = [{}]\n", parts::quoted(locals)),
        };
        let settings = parts::lines([
            ("id", self.ids.load_balancer),
            ("state", self.state),
            ("unmatched", self.unmatched),
            ("announce", self.announce),
        ]);
        format!(
            "[daemon]\ninterfaces = [{}]\nxdp_mode = {:?}\npin_dir = {:?}\nsocket = {:?}\n\
             state_dir = {:?}\n{seed}{room}flow_table_entries = {}\ntunnel_addresses = [{}]\n{locals}{}\n\
             [[load_balancer]]\nname = {:?}\n{settings}addresses = [{}]\n",
            self.interfaces.iter().map(|name| self.interface(name)).collect::<Vec<_>>().join(", "),
            self.xdp_mode,
            self.pin_dir,
            self.socket,
            self.state_dir,
            self.flow_table_entries,
            parts::quoted(&self.tunnel_addresses),
            self.daemon,
            self.names.load_balancer,
            parts::quoted(&self.vips)
        )
    }

    /// The listener of a service.
    pub fn service_listener(&self, service: Service) -> Listener {
        let id = self.ids.listeners.get(&service).copied();
        Listener { id, ..self.listener(service, self.mode, "") }
    }

    /// A listener. `suffix` follows the service's name, where the service has two listeners.
    fn listener(&self, service: Service, mode: Mode, suffix: &str) -> Listener {
        let settings = self.listeners.get(&service).cloned().unwrap_or_default();
        let target = settings.target.unwrap_or_else(|| match service {
            Service::Lines => Target::DefaultGroup(service.backend_port()),
            _ => Target::Group(self.service_group(service).name),
        });
        let kind = match (self.checks.get(&service), service) {
            (Some(check), _) => (*check).to_owned(),
            // The check of a UDP server probes its HTTP server.
            (None, Service::Echo) => format!("kind = \"tcp\", port = {}", Service::Http.backend_port()),
            (None, _) => "kind = \"tcp\"".to_owned(),
        };
        Listener {
            mode,
            check: Some(HealthCheck { kind, interval: self.check_interval, timeout: self.check_timeout }),
            unknown_datagrams: self.unknown_datagrams.filter(|_| service == Service::Echo),
            drain_timeout: self.drain_timeout,
            established_timeout: self.established_timeout.filter(|_| service.protocol() == "tcp"),
            scheduler: settings.scheduler.or(self.scheduler),
            session_persistence: self.session_persistence,
            access: self.access.clone(),
            on_no_healthy: settings.on_no_healthy,
            state: settings.state,
            bandwidth: settings.bandwidth,
            new_connections: settings.new_connections,
            syn_cookies: settings.syn_cookies,
            ..Listener::new(
                format!("{}{suffix}{}", service.name(), self.names.listeners),
                service.protocol(),
                mode.port(service),
                target,
            )
        }
    }

    /// The group of a service, with all servers of the plan.
    pub fn service_group(&self, service: Service) -> Group {
        Group {
            id: self.ids.groups.get(&service).copied(),
            slow_start: self.slow_start.get(&service).copied(),
            ..self.group(format!("{}{}", service.name(), self.names.groups), service.backend_port())
        }
    }

    /// A group with all servers of the plan, on this port.
    pub fn group(&self, name: impl Into<String>, port: u16) -> Group {
        Group {
            name: name.into(),
            servers: self.servers.iter().flat_map(|server| server.entries(port)).collect(),
            ..Group::default()
        }
    }

    /// An entry of `interfaces`.
    fn interface(&self, name: &str) -> String {
        match self.roles.get(name) {
            Some(role) => format!("{{ name = {name:?}, role = {role:?} }}"),
            None => format!("{name:?}"),
        }
    }

    /// Name and weight of every server.
    pub fn weights(&self) -> Vec<(&str, u8)> {
        self.servers.iter().map(|server| (server.name.as_str(), server.weight)).collect()
    }

    fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        self.servers
            .iter()
            .flat_map(|server| server.addresses.iter().map(|address| (*address, server.weight)))
    }
}

#[cfg(test)]
mod tests;
