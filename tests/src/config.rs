//! The daemon's configuration of a world, as TOML.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use parts::{Group, ListenerSettings, Pair, Target};

use crate::{
    net::{Family, Topology},
    server::Service,
};

mod parts;

/// Interval of every listener's health check.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of every listener's health check.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Consecutive failures until a server is unhealthy.
pub const UNHEALTHY_THRESHOLD: u32 = 2;

/// Entries of the flow table; more than the flows of most scenarios.
const FLOW_TABLE_ENTRIES: u32 = 262_144;

/// Suffix of the names of additional listeners in mode `dsr`.
const DIRECT: &str = "-direct";

/// The last line.
const END: &str = "# The end.\n";

/// Mode of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// SLB translates: a listener's port differs from the servers'.
    Nat,
    /// SLB rewrites only the MACs.
    Dsr,
    /// SLB encapsulates packets.
    Ipip,
}

impl Mode {
    /// Port of a service at the VIPs.
    pub fn port(self, service: Service) -> u16 {
        match self {
            Self::Nat => service.vip_port(),
            // Without translation the ports are equal.
            Self::Dsr | Self::Ipip => service.backend_port(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
        }
    }
}

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
    /// Timeout of every health check.
    pub check_timeout: Duration,
    /// Settings of single listeners.
    pub listeners: BTreeMap<Service, ListenerSettings>,
    /// Server groups: those of services, by their names, in place of the plan's servers; and others.
    pub groups: Vec<Group>,
    /// Primary/secondary server groups.
    pub pairs: Vec<Pair>,
    /// `slow_start` of single services' groups.
    pub slow_start: BTreeMap<Service, Duration>,
    /// Replacements in the text, in order. For what has no field. Each replaced piece must exist.
    pub changes: Vec<(String, String)>,
    /// Health checks by service, such as `kind = "http", path = "/healthz"`; a TCP check by default.
    pub checks: BTreeMap<Service, &'static str>,
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
            unknown_datagrams: None,
            roles: BTreeMap::new(),
            xdp_mode: "native",
            hash_seed: Some(1),
            vips: Family::ALL.map(Family::vip).into(),
            state: None,
            unmatched: None,
            check_timeout: CHECK_TIMEOUT,
            listeners: BTreeMap::new(),
            groups: Vec::new(),
            pairs: Vec::new(),
            slow_start: BTreeMap::new(),
            changes: Vec::new(),
            checks: BTreeMap::new(),
            daemon: String::new(),
            drain_timeout: None,
            established_timeout: None,
            scheduler: None,
            session_persistence: None,
        }
    }

    /// Replaces a piece of the text.
    pub fn change(&mut self, from: impl Into<String>, to: impl Into<String>) {
        self.changes.push((from.into(), to.into()));
    }

    /// Appends to the text.
    pub fn append(&mut self, text: &str) {
        // The text before END is the last group.
        self.change(END, format!("{text}\n{END}"));
    }

    /// Port of a service at the VIPs.
    pub fn vip_port(&self, service: Service) -> u16 {
        self.mode.port(service)
    }

    /// The configuration: one load balancer with a VIP of each family. `lines` uses the default server group, other
    /// listeners have their own groups. In mode `nat`, every listener has another port than its servers.
    pub fn toml(&self) -> String {
        let seed = self.hash_seed.map_or_else(String::new, |seed| format!("hash_seed = {seed}\n"));
        let balancer = parts::lines([("state", self.state), ("unmatched", self.unmatched)]);
        let quoted = |addresses: &[IpAddr]| {
            addresses.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ")
        };
        let mut text = format!(
            "[daemon]\ninterfaces = [{}]\nxdp_mode = {:?}\npin_dir = {:?}\nsocket = {:?}\n\
             state_dir = {:?}\n{seed}flow_table_entries = {}\ntunnel_addresses = [{}]\n{}\n\
             [[load_balancer]]\nname = {:?}\n{balancer}addresses = [{}]\n",
            self.interfaces.iter().map(|name| self.interface(name)).collect::<Vec<_>>().join(", "),
            self.xdp_mode,
            self.pin_dir,
            self.socket,
            self.state_dir,
            self.flow_table_entries,
            quoted(&self.tunnel_addresses),
            self.daemon,
            self.names.load_balancer,
            quoted(&self.vips)
        );
        for (address, weight) in self.addresses() {
            let _ = write!(text, "\n[[load_balancer.server]]\naddress = \"{address}\"\nweight = {weight}\n");
        }
        for service in Service::ALL {
            text += &self.listener(service, self.mode, "");
        }
        for service in Service::ALL.into_iter().filter(|service| self.direct && service.protocol() == "tcp") {
            text += &self.listener(service, Mode::Dsr, DIRECT);
        }
        for service in Service::ALL.into_iter().filter(|service| *service != Service::Lines) {
            let group = self.service_group(service);
            if !self.groups.iter().any(|other| other.name == group.name) {
                let _ = write!(text, "{group}");
            }
        }
        self.groups.iter().for_each(|group| text += &group.to_string());
        self.pairs.iter().for_each(|pair| text += &pair.to_string());
        text.push_str(END);
        self.changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{from:?} is not in the configuration:\n{text}");
            text.replacen(from, to, 1)
        })
    }

    /// A listener. `suffix` follows the service's name, where the service has two listeners.
    fn listener(&self, service: Service, mode: Mode, suffix: &str) -> String {
        let settings = self.listeners.get(&service).cloned().unwrap_or_default();
        let target = settings.target.unwrap_or_else(|| match service {
            Service::Lines => Target::DefaultGroup(service.backend_port()),
            _ => Target::Group(self.service_group(service).name),
        });
        let unknown_datagrams = match (service, self.unknown_datagrams) {
            (Service::Echo, Some(word)) => format!("unknown_datagrams = \"{word}\"\n"),
            _ => String::new(),
        };
        let check = match (self.checks.get(&service), service) {
            (Some(check), _) => (*check).to_owned(),
            // The check of a UDP server probes its HTTP server.
            (None, Service::Echo) => format!("kind = \"tcp\", port = {}", Service::Http.backend_port()),
            (None, _) => "kind = \"tcp\"".to_owned(),
        };
        let more = parts::lines([
            ("drain_timeout", self.drain_timeout),
            ("established_timeout", self.established_timeout.filter(|_| service.protocol() == "tcp")),
            ("scheduler", settings.scheduler.or(self.scheduler)),
            ("session_persistence", self.session_persistence),
            ("on_no_healthy", settings.on_no_healthy),
            ("state", settings.state),
        ]);
        format!(
            "\n[[load_balancer.listener]]\nname = \"{}{suffix}{}\"\nprotocol = \"{}\"\nport = {}\nmode = \"{}\"\n{target}{unknown_datagrams}{more}{}",
            service.name(),
            self.names.listeners,
            service.protocol(),
            mode.port(service),
            mode.name(),
            health_check_within(&check, self.check_timeout)
        )
    }

    /// The group of a service, with all servers of the plan.
    pub fn service_group(&self, service: Service) -> Group {
        let servers = self.addresses();
        Group {
            name: format!("{}{}", service.name(), self.names.groups),
            slow_start: self.slow_start.get(&service).copied(),
            servers: servers
                .map(|(address, weight)| (SocketAddr::new(address, service.backend_port()), weight))
                .collect(),
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

/// A listener's health check of this kind.
pub fn health_check(kind: &str) -> String {
    health_check_within(kind, CHECK_TIMEOUT)
}

fn health_check_within(kind: &str, timeout: Duration) -> String {
    format!(
        "health_check = {{ {kind}, interval = \"{}s\", timeout = \"{}s\", healthy_threshold = 1, \
         unhealthy_threshold = {UNHEALTHY_THRESHOLD} }}\n",
        CHECK_INTERVAL.as_secs(),
        timeout.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{CHECK_TIMEOUT, Group, ListenerSettings, Mode, Names, Pair, Plan, PlannedServer, Target};
    use crate::{net::Family, server::Service};

    #[test]
    fn plan_renders_valid_configuration_without_warnings() {
        for mode in [Mode::Nat, Mode::Dsr, Mode::Ipip] {
            is_valid(mode, false);
        }
        is_valid(Mode::Nat, true);
    }

    /// Targets of every kind, whatever groups they leave unused.
    fn targets_are_valid(mut plan: Plan) {
        plan.pairs = vec![Pair {
            name: "pair".to_owned(),
            primary: ([10, 90, 1, 10], Service::Http.backend_port()).into(),
            secondary: ([10, 90, 2, 10], Service::Http.backend_port()).into(),
        }];
        let groups = Target::Groups {
            primary: "http".to_owned(),
            secondary: "http2".to_owned(),
            threshold: 1,
            failback_after: "1s",
        };
        plan.groups.push(Group { name: "http2".to_owned(), ..plan.groups[0].clone() });
        for target in [groups, Target::Pair("pair".to_owned()), Target::Group("http2".to_owned())] {
            plan.listeners.entry(Service::Http).or_default().target = Some(target);
            let parsed = slb_config::parse("slb.toml", &plan.toml());
            parsed.unwrap_or_else(|rejected| panic!("{rejected}"));
        }
    }

    fn is_valid(mode: Mode, direct: bool) {
        let server = |n: u8, weight| PlannedServer {
            name: format!("b{n}"),
            addresses: [[10, 90, n, 10].into(), [0xfd90, n.into(), 0, 0, 0, 0, 0, 10].into()].into(),
            weight,
        };
        let plan = Plan {
            interfaces: vec!["client0".to_owned(), "b1".to_owned()],
            pin_dir: PathBuf::from("/sys/fs/bpf/slbt-1-1"),
            socket: PathBuf::from("/run/slb.sock"),
            state_dir: PathBuf::from("/var/lib/slb"),
            flow_table_entries: super::FLOW_TABLE_ENTRIES,
            names: Names::default(),
            servers: vec![server(1, 100), server(2, 0)],
            mode,
            direct,
            tunnel_addresses: vec![[10, 90, 0, 1].into(), [0xfd90, 0, 0, 0, 0, 0, 0, 1].into()],
            unknown_datagrams: (mode != Mode::Nat).then_some("follow"),
            roles: [("client0".to_owned(), "client")].into(),
            xdp_mode: "auto",
            hash_seed: None,
            vips: Family::ALL.map(Family::vip).into(),
            state: Some("running"),
            unmatched: Some("drop"),
            check_timeout: CHECK_TIMEOUT,
            listeners: [(
                Service::Bulk,
                ListenerSettings {
                    scheduler: Some("wlc"),
                    on_no_healthy: Some("all"),
                    state: Some("running"),
                    target: None,
                },
            )]
            .into(),
            groups: vec![Group {
                name: "http".to_owned(),
                slow_start: None,
                servers: vec![
                    (([10, 90, 1, 10], 8080).into(), 7),
                    (([0xfd90, 1, 0, 0, 0, 0, 0, 10], 8080).into(), 7),
                ],
            }],
            pairs: Vec::new(),
            slow_start: [(Service::Echo, std::time::Duration::from_secs(5))].into(),
            changes: Vec::new(),
            checks: [(Service::Http, "kind = \"http\", path = \"/healthz\"")].into(),
            daemon: "probe_mark = 7\n".to_owned(),
            drain_timeout: Some("10s"),
            established_timeout: Some("10s"),
            scheduler: Some("wrr"),
            session_persistence: Some("5m"),
        };
        targets_are_valid(plan.clone());
        let parsed = slb_config::parse("slb.toml", &plan.toml());
        let loaded = parsed.unwrap_or_else(|rejected| panic!("{rejected}"));
        let listeners = Service::ALL.len() + if direct { 3 } else { 0 };
        assert_eq!(loaded.config.load_balancers[0].listeners.len(), listeners);
        assert_eq!(loaded.warnings.to_string(), "");
        assert_eq!(loaded.config.daemon.interfaces, plan.interfaces);
    }
}
