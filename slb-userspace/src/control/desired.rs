//! What the data plane should hold, from the configuration and what is known of servers and neighbours. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use slb_common::{
    abi::{
        backend::NextHop,
        service::{Tunnel, mode, policy},
    },
    net::headers::protocol,
};

use crate::{
    config::model::{
        Config, HealthCheck, Listener, LoadBalancer, Mode, Name, Protocol, ServerGroup, TableSize,
        Target as Servers, Tracking, UnknownDatagrams,
    },
    dataplane::state::to_address,
    health::Target,
};

/// Idle time after which a TCP connection is forgotten.
pub const TCP_IDLE: Duration = Duration::from_secs(900);
/// Idle time after which a UDP flow is forgotten.
pub const UDP_IDLE: Duration = Duration::from_secs(90);

/// What is known besides the configuration.
#[derive(Debug, Default, Clone, Copy)]
pub struct Known<'a> {
    /// Verdicts on what is checked; what is not in here has not been decided yet.
    pub health: Option<&'a BTreeMap<Target, Verdict>>,
    /// Next hops, or why there is none; what is not in here is not resolved yet.
    pub next_hops: Option<&'a BTreeMap<IpAddr, Result<Reached, String>>>,
}

/// How a server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Where packets leave.
    pub hop: NextHop,
    /// Whether a router is in between.
    pub through_gateway: bool,
}

/// What a health check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the server is able to serve.
    pub healthy: bool,
    /// Why not, or what the last failure was.
    pub detail: Option<String>,
}

/// What the data plane should hold, still without ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Seed of the flow hash and of the tables.
    pub seed: u64,
    /// Services; (address, port, protocol) is unique.
    pub services: Vec<Service>,
    /// Pools, which services name by their index.
    pub pools: Vec<Pool>,
    /// Where tunnels begin.
    pub tunnel: Tunnel,
}

/// One VIP, port and protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The VIP.
    pub address: IpAddr,
    /// Port; 0 for echo.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Name of the load balancer.
    pub load_balancer: String,
    /// Name of the listener; empty for echo.
    pub listener: String,
    /// Name of the server group; `None` for the default group and for echo.
    pub group: Option<String>,
    /// Index of the pool; `None` for echo.
    pub pool: Option<usize>,
    /// Idle time after which a flow is forgotten.
    pub idle: Duration,
    /// One of [`slb_common::abi::service::mode`].
    pub mode: u8,
    /// Bits of [`slb_common::abi::service::policy`].
    pub policy: u32,
}

/// Servers that are checked in one way, of one address family where packets are translated: what a table is built of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Slots of the table.
    pub slots: TableSize,
    /// Servers in the order of their addresses, which are unique.
    pub servers: Vec<(SocketAddr, Server)>,
}

/// A server of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Weight, 0 to 100.
    pub weight: u8,
    /// Health.
    pub health: Health,
    /// Why it is in that state, where there is something to say.
    pub detail: Option<String>,
    /// Where packets to it leave; `None` while unresolved.
    pub next_hop: Option<NextHop>,
}

/// Health of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Checked, but not decided yet: keeps the flows it has and gets no new ones.
    Unknown,
    /// Able to serve.
    Healthy,
    /// Not able to serve.
    Unhealthy,
    /// Not checked; taken as able to serve.
    Unchecked,
}

impl Server {
    /// Whether new flows may be given to it.
    pub fn takes_new(&self) -> bool {
        self.weight > 0
            && self.next_hop.is_some()
            && matches!(self.health, Health::Healthy | Health::Unchecked)
    }

    /// Whether it is able to serve, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.health != Health::Unhealthy
    }
}

/// What makes two listeners share a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PoolKey<'a> {
    servers: ServersKey<'a>,
    check: Option<&'a HealthCheck>,
    /// Modes ask different things of servers.
    mode: Mode,
    /// Only servers of this family; any where packets are not translated.
    is_v4: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum ServersKey<'a> {
    Default { load_balancer: &'a Name, backend_port: u16 },
    Group(&'a Name),
}

/// Works out what the data plane should hold.
pub fn desired(config: &Config, known: Known<'_>) -> Desired {
    let members = Members::of(config);
    let mut services = Vec::new();
    let mut pools = Vec::new();
    let mut indexes = BTreeMap::new();
    for balancer in &config.load_balancers {
        if balancer.listeners.is_empty() {
            continue;
        }
        services.extend(balancer.addresses.iter().map(|address| echo(balancer, *address)));
        for listener in &balancer.listeners {
            for address in &balancer.addresses {
                let key = PoolKey {
                    servers: servers_key(balancer, listener),
                    check: listener.health_check.as_ref(),
                    mode: listener.mode,
                    is_v4: family(listener, *address),
                };
                let pool = *indexes.entry(key).or_insert_with(|| {
                    pools.push(pool(&members, balancer, listener, family(listener, *address), known));
                    pools.len() - 1
                });
                services.push(service(balancer, listener, *address, pool));
            }
        }
    }
    Desired { seed: config.daemon.hash_seed, services, pools, tunnel: tunnel(config) }
}

/// What is to be checked.
pub fn targets(config: &Config) -> BTreeSet<Target> {
    let members = Members::of(config);
    config
        .load_balancers
        .iter()
        .flat_map(|balancer| balancer.listeners.iter().map(move |listener| (balancer, listener)))
        .filter_map(|(balancer, listener)| Some((balancer, listener, listener.health_check.as_ref()?)))
        .flat_map(|(balancer, listener, check)| {
            members.behind(balancer, listener).1.into_iter().map(|(server, _)| Target::new(server, check))
        })
        .collect()
}

/// The servers, whose next hops must be known.
pub fn destinations(config: &Config) -> BTreeSet<IpAddr> {
    let members = Members::of(config);
    config
        .load_balancers
        .iter()
        .flat_map(|balancer| balancer.listeners.iter().map(move |listener| (balancer, listener)))
        .flat_map(|(balancer, listener)| members.behind(balancer, listener).1)
        .map(|(server, _)| server.ip())
        .collect()
}

/// The family of the servers that can serve a VIP; `None` where any can.
fn family(listener: &Listener, vip: IpAddr) -> Option<bool> {
    match listener.mode {
        Mode::Nat => Some(vip.is_ipv4()),
        // The packet arrives as it is: what counts is that the server holds the VIP.
        Mode::Dsr | Mode::Ipip => None,
    }
}

fn tunnel(config: &Config) -> Tunnel {
    let addresses = config.daemon.tunnel_addresses.iter();
    addresses.fold(Tunnel::default(), |tunnel, address| match address {
        IpAddr::V4(_) => Tunnel { v4: to_address(*address), ..tunnel },
        IpAddr::V6(_) => Tunnel { v6: to_address(*address), ..tunnel },
    })
}

fn servers_key<'a>(balancer: &'a LoadBalancer, listener: &'a Listener) -> ServersKey<'a> {
    match &listener.target {
        Servers::DefaultGroup { backend_port } => {
            ServersKey::Default { load_balancer: &balancer.name, backend_port: *backend_port }
        }
        Servers::ServerGroup(name) => ServersKey::Group(name),
    }
}

/// Who is behind the listeners of a configuration.
pub(super) struct Members<'a> {
    groups: BTreeMap<&'a Name, &'a ServerGroup>,
}

impl<'a> Members<'a> {
    pub(super) fn of(config: &'a Config) -> Self {
        Self { groups: config.server_groups.iter().map(|group| (&group.name, group)).collect() }
    }

    /// The servers behind a listener with their weights, and the size of their table.
    pub(super) fn behind(
        &self,
        balancer: &LoadBalancer,
        listener: &Listener,
    ) -> (TableSize, Vec<(SocketAddr, u8)>) {
        match &listener.target {
            Servers::DefaultGroup { backend_port } => (
                balancer.table_size,
                balancer
                    .servers
                    .iter()
                    .map(|server| (SocketAddr::new(server.address, *backend_port), server.weight.value()))
                    .collect(),
            ),
            // The model promises that the group exists.
            Servers::ServerGroup(name) => {
                self.groups.get(name).map_or((TableSize::DEFAULT, Vec::new()), |group| {
                    let servers = group
                        .servers
                        .iter()
                        .map(|server| (SocketAddr::new(server.address, server.port), server.weight.value()));
                    (group.table_size, servers.collect())
                })
            }
        }
    }
}

fn pool(
    members: &Members<'_>,
    balancer: &LoadBalancer,
    listener: &Listener,
    is_v4: Option<bool>,
    known: Known<'_>,
) -> Pool {
    let (slots, members) = members.behind(balancer, listener);
    let mut servers: Vec<_> = members
        .into_iter()
        .filter(|(address, _)| is_v4.is_none_or(|is_v4| address.is_ipv4() == is_v4))
        .map(|(address, weight)| {
            let (health, detail) = match &listener.health_check {
                None => (Health::Unchecked, None),
                Some(check) => match known.health.and_then(|health| health.get(&Target::new(address, check)))
                {
                    None => (Health::Unknown, None),
                    Some(verdict) if verdict.healthy => (Health::Healthy, verdict.detail.clone()),
                    Some(verdict) => (Health::Unhealthy, verdict.detail.clone()),
                },
            };
            let (next_hop, unreachable) = match known.next_hops.and_then(|hops| hops.get(&address.ip())) {
                Some(Ok(reached)) if listener.mode == Mode::Dsr && reached.through_gateway => {
                    let why = "gets no packets: mode `dsr` needs it on the same network, and it is reached through a router";
                    (None, Some(why.to_owned()))
                }
                Some(Ok(reached)) => (Some(reached.hop), None),
                Some(Err(why)) => (None, Some(format!("gets no packets: {why}"))),
                None => (None, None),
            };
            (address, Server { weight, health, detail: detail.or(unreachable), next_hop })
        })
        .collect();
    servers.sort_by_key(|(address, _)| *address);
    Pool { slots, servers }
}

fn service(balancer: &LoadBalancer, listener: &Listener, address: IpAddr, pool: usize) -> Service {
    let idle = match listener.protocol {
        Protocol::Tcp => TCP_IDLE,
        Protocol::Udp => UDP_IDLE,
    };
    Service {
        address,
        port: listener.port,
        protocol: listener.protocol.number(),
        load_balancer: balancer.name.to_string(),
        listener: listener.name.to_string(),
        group: match &listener.target {
            Servers::DefaultGroup { .. } => None,
            Servers::ServerGroup(name) => Some(name.to_string()),
        },
        pool: Some(pool),
        idle,
        mode: match listener.mode {
            Mode::Nat => mode::NAT,
            Mode::Dsr => mode::DSR,
            Mode::Ipip => mode::IPIP,
        },
        policy: match listener.tracking {
            Tracking::Auto => 0,
            Tracking::Always => policy::TRACK,
        } | match listener.unknown_datagrams {
            UnknownDatagrams::Keep => 0,
            UnknownDatagrams::Follow => policy::FOLLOW,
        },
    }
}

/// A VIP with a listener answers echo requests.
fn echo(balancer: &LoadBalancer, address: IpAddr) -> Service {
    Service {
        address,
        port: 0,
        protocol: if address.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 },
        load_balancer: balancer.name.to_string(),
        listener: String::new(),
        group: None,
        pool: None,
        idle: Duration::ZERO,
        mode: mode::NAT,
        policy: 0,
    }
}
