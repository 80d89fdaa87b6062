//! What the data plane should hold, from the configuration and what is known of servers and neighbours. Pure.

use std::{
    collections::BTreeMap,
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

use super::{
    failover::Failover,
    members::{Behind, Member, Members, Side, family, overridden},
    one_way::Evidence,
    overrides::{Aside, Overrides, Place},
};
use crate::{
    config::model::{
        Config, HealthCheck, Listener, LoadBalancer, Mode, Name, OnNoHealthy, Protocol, Scheduler, TableSize,
        Target as Servers, Tracking, UnknownDatagrams, Unmatched,
    },
    dataplane::state::to_address,
    health::{Target, passive::Terms},
    neigh::vips::Standing,
};

/// What is known besides the configuration.
#[derive(Debug, Default, Clone, Copy)]
pub struct Known<'a> {
    /// Verdicts on what is checked; what is not in here has not been decided yet.
    pub health: Option<&'a BTreeMap<Target, Verdict>>,
    /// What this host cannot probe, and why. The verdict of before stands, if there is one.
    pub not_probed: Option<&'a BTreeMap<Target, String>>,
    /// Servers of mode `nat` whose answers do not come back.
    pub one_way: Option<&'a BTreeMap<SocketAddr, Evidence>>,
    /// Next hops, or why there is none; what is not in here is not resolved yet.
    pub next_hops: Option<&'a BTreeMap<IpAddr, Result<Reached, String>>>,
    /// The listeners whose traffic goes to their secondary side.
    pub failover: Option<&'a Failover>,
    /// What is set for single servers in place of what is configured.
    pub overrides: Option<&'a Overrides>,
    /// How VIPs stand on this host. One that is not in here may be its address.
    pub vips: Option<&'a BTreeMap<IpAddr, Standing>>,
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
    /// Port; 0 for the VIP itself.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Name of the load balancer.
    pub load_balancer: String,
    /// Name of the listener; empty for the VIP itself.
    pub listener: String,
    /// Name of the server group; `None` for the default group and for the VIP itself.
    pub group: Option<String>,
    /// Index of the pool; `None` for the VIP itself.
    pub pool: Option<usize>,
    /// Idle time after which a flow is forgotten.
    pub idle: Duration,
    /// One of [`slb_common::abi::service::mode`].
    pub mode: u8,
    /// Bits of [`slb_common::abi::service::policy`].
    pub policy: u32,
    /// How long after its last flow a client is kept to its server.
    pub persistence: Duration,
}

/// Servers that are checked in one way, of one address family where packets are translated: what a table is built of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Slots of the table.
    pub slots: TableSize,
    /// How servers share its slots.
    pub spread: Spread,
    /// How long connections of a server go on that takes no new flows; `None` for as long as it is configured.
    pub drain: Option<Duration>,
    /// Time in which servers come to their weight; `None` for at once.
    pub slow_start: Option<Duration>,
    /// When servers are held out because of what comes of their connections, if ever.
    pub passive: Option<Terms>,
    /// Servers in the order of their addresses, which are unique.
    pub servers: Vec<(SocketAddr, Server)>,
}

/// How servers share the slots of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spread {
    /// By the hash of flows, and by weight.
    Hashed,
    /// In turns, one like the other.
    Evenly,
    /// In turns, by weight.
    ByWeight,
    /// In turns, such that of the next slots one belongs to the server with the fewest flows.
    ByFlows,
}

/// A server of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Weight, 0 to 100.
    pub weight: u8,
    /// Why it takes no new flows, where an administrator has said so.
    pub aside: Option<Aside>,
    /// Its entry, where something is set for it in place of what is configured.
    pub overridden: Option<Place>,
    /// Health.
    pub health: Health,
    /// Why it is in that state, where there is something to say.
    pub detail: Option<String>,
    /// Where packets to it leave; `None` while unresolved.
    pub next_hop: Option<NextHop>,
    /// Whether it stands by: the other side of primary and secondary gets the traffic.
    pub is_standby: bool,
    /// Whether it receives new flows although it is not known to be healthy: no server of the pool is.
    pub is_last_resort: bool,
}

/// Health of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Checked, but no result yet. Receives new flows only while no server of its pool is known to be healthy.
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
        !self.is_standby && self.could_take_new()
    }

    /// Whether it would take new flows, had its side the traffic.
    pub fn stands_by(&self) -> bool {
        self.is_standby && self.could_take_new()
    }

    fn could_take_new(&self) -> bool {
        self.weight > 0
            && self.aside.is_none()
            && self.next_hop.is_some()
            && (self.is_last_resort || matches!(self.health, Health::Healthy | Health::Unchecked))
    }

    /// Whether it takes no new flows until somebody changes that: its connections have as long as the listener grants.
    pub fn is_leaving(&self) -> bool {
        self.weight == 0 || self.aside.is_some() || !self.is_alive()
    }

    /// Whether it is able to serve, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.health != Health::Unhealthy || self.is_last_resort
    }
}

/// What makes two listeners share a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PoolKey<'a> {
    servers: ServersKey<'a>,
    check: Option<&'a HealthCheck>,
    drain: Option<Duration>,
    /// Modes ask different things of servers.
    mode: Mode,
    /// Where servers are checked at the VIP, whose.
    checked_at: Option<&'a [IpAddr]>,
    /// Only servers of this family; any where packets are not translated.
    is_v4: Option<bool>,
    /// Which side gets the traffic.
    side: Side,
    on_no_healthy: OnNoHealthy,
    spread: Spread,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum ServersKey<'a> {
    Default { load_balancer: &'a Name, backend_port: u16 },
    Group(&'a Name),
    Pair(&'a Name),
    Groups { primary: &'a Name, secondary: &'a Name },
}

/// Works out what the data plane should hold.
pub fn desired(config: &Config, known: Known<'_>) -> Desired {
    let members = Members::of(config);
    let mut services = Vec::new();
    let mut pools = Vec::new();
    let mut indexes = BTreeMap::new();
    for balancer in &config.load_balancers {
        services.extend(balancer.addresses.iter().filter_map(|address| vip(balancer, *address, known)));
        for listener in balancer.running() {
            for address in &balancer.addresses {
                let side = known.failover.map_or(Side::Primary, |failover| failover.side(listener, *address));
                let key = PoolKey {
                    servers: servers_key(balancer, listener),
                    check: listener.health_check.as_ref(),
                    drain: listener.connection_drain,
                    mode: listener.mode,
                    checked_at: checked_at(balancer, listener),
                    is_v4: family(listener, *address),
                    side,
                    on_no_healthy: listener.on_no_healthy,
                    spread: spread(listener),
                };
                let pool = *indexes.entry(key).or_insert_with(|| {
                    let is_v4 = family(listener, *address);
                    pools.push(pool(&members, balancer, listener, is_v4, side, known));
                    pools.len() - 1
                });
                services.push(service(balancer, listener, *address, pool));
            }
        }
    }
    Desired { seed: config.daemon.seed(), services, pools, tunnel: tunnel(config) }
}

/// What a first start begins with: the VIPs, and no listener yet. Until the first servers are known to be well, packets for them are
/// dropped, as those of clients that come again in a moment, in place of going back to the router.
pub fn vips_alone(config: &Config, vips: &BTreeMap<IpAddr, Standing>) -> Desired {
    let known = Known { vips: Some(vips), ..Known::default() };
    let services = config
        .load_balancers
        .iter()
        .flat_map(|balancer| balancer.addresses.iter().filter_map(|address| vip(balancer, *address, known)));
    let dropped = |vip: Service| {
        let is_passed = vip.policy & (policy::DROP_UNMATCHED | policy::REJECT_UNMATCHED) == 0;
        (!is_passed).then_some(Service { policy: policy::NO_ECHO | policy::DROP_UNMATCHED, ..vip })
    };
    Desired {
        seed: config.daemon.seed(),
        services: services.filter_map(dropped).collect(),
        pools: Vec::new(),
        tunnel: tunnel(config),
    }
}

/// The VIPs one of which is probed at each server: what one load balancer's servers hold, another's need not.
fn checked_at<'a>(balancer: &'a LoadBalancer, listener: &Listener) -> Option<&'a [IpAddr]> {
    (listener.mode != Mode::Nat && listener.health_check.is_some()).then_some(balancer.addresses.as_slice())
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
        Servers::PrimarySecondaryGroup(name) => ServersKey::Pair(name),
        Servers::PrimarySecondary { primary, secondary, .. } => ServersKey::Groups { primary, secondary },
    }
}

/// What is known of the health of what is checked, and the detail.
pub(super) fn health_of(
    target: Option<&Target>,
    health: Option<&BTreeMap<Target, Verdict>>,
) -> (Health, Option<String>) {
    let Some(target) = target else { return (Health::Unchecked, None) };
    match health.and_then(|health| health.get(target)) {
        None => (Health::Unknown, None),
        Some(verdict) if verdict.healthy => (Health::Healthy, verdict.detail.clone()),
        Some(verdict) => (Health::Unhealthy, verdict.detail.clone()),
    }
}

/// Where packets of a listener to a server leave, or why they do not; `None` where that is not known yet.
pub(super) fn reach(
    listener: &Listener,
    next_hops: &BTreeMap<IpAddr, Result<Reached, String>>,
    server: IpAddr,
) -> Option<Result<NextHop, String>> {
    Some(match next_hops.get(&server)? {
        Ok(reached) if listener.mode == Mode::Dsr && reached.through_gateway => {
            Err("mode `dsr` needs it on the same network, and it is reached through a router".to_owned())
        }
        Ok(reached) => Ok(reached.hop),
        Err(why) => Err(why.clone()),
    })
}

fn pool(
    members_of: &Members<'_>,
    balancer: &LoadBalancer,
    listener: &Listener,
    is_v4: Option<bool>,
    side: Side,
    known: Known<'_>,
) -> Pool {
    let Behind { slots, servers } = members_of.behind(balancer, listener);
    let mut servers: Vec<_> = servers
        .into_iter()
        .filter(|member| is_v4.is_none_or(|is_v4| member.address.is_ipv4() == is_v4))
        .map(|member| (member.address, server(member, balancer, listener, side, known)))
        .collect();
    servers.sort_by_key(|(address, _)| *address);
    if !servers.iter().any(|(_, server)| server.takes_new()) {
        servers.iter_mut().for_each(|(_, server)| server.is_last_resort = is_last_resort(listener, server));
    }
    let slow_start = members_of.slow_start(balancer, listener, side);
    let passive = listener.health_check.as_ref().and_then(Terms::of);
    Pool { slots, spread: spread(listener), drain: listener.connection_drain, slow_start, passive, servers }
}

/// Whether a server receives new flows while no server of its pool is known to be healthy. One that has not been checked yet
/// does: no result is not a failure, and without it the pool would drop everything until the first result.
fn is_last_resort(listener: &Listener, server: &Server) -> bool {
    let is_allowed = listener.on_no_healthy == OnNoHealthy::All || server.health == Health::Unknown;
    is_allowed && !server.is_standby
}

fn server(
    member: Member,
    balancer: &LoadBalancer,
    listener: &Listener,
    side: Side,
    known: Known<'_>,
) -> Server {
    let target = Target::of(balancer, listener, member.address).filter(|_| member.is_checked);
    let (health, detail) = health_of(target.as_ref(), known.health);
    let not_probed = target.as_ref().and_then(|target| known.not_probed?.get(target)).cloned();
    let shows_answers = listener.mode == Mode::Nat && listener.protocol == Protocol::Tcp;
    let one_way = known.one_way.filter(|_| shows_answers).and_then(|servers| servers.get(&member.address));
    let one_way = one_way.map(|evidence| evidence.detail().to_owned());
    let (next_hop, unreachable) =
        match known.next_hops.and_then(|hops| reach(listener, hops, member.address.ip())) {
            Some(Ok(hop)) => (Some(hop), None),
            Some(Err(why)) => (None, Some(format!("gets no packets: {why}"))),
            None => (None, None),
        };
    // Who is not on the side that has the traffic stands by with what is set for its own.
    let (weight, side, is_standby) = match member.weight(side) {
        Some(weight) => (weight, side, false),
        None => (member.weight(side.other()).unwrap_or(0), side.other(), true),
    };
    let (overridden, setting) = overridden(&member, side, balancer, listener, known.overrides);
    Server {
        weight: setting.weight.unwrap_or(weight),
        aside: setting.state,
        overridden,
        health,
        detail: joined([detail.or(unreachable), not_probed, one_way]),
        next_hop,
        is_standby,
        is_last_resort: false,
    }
}

/// All that there is to say.
fn joined(words: [Option<String>; 3]) -> Option<String> {
    let words: Vec<_> = words.into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join("; "))
}

fn service(balancer: &LoadBalancer, listener: &Listener, address: IpAddr, pool: usize) -> Service {
    Service {
        address,
        port: listener.port,
        protocol: listener.protocol.number(),
        load_balancer: balancer.name.to_string(),
        listener: listener.name.to_string(),
        group: match &listener.target {
            Servers::DefaultGroup { .. } => None,
            Servers::ServerGroup(name) | Servers::PrimarySecondaryGroup(name) => Some(name.to_string()),
            Servers::PrimarySecondary { primary, .. } => Some(primary.to_string()),
        },
        pool: Some(pool),
        idle: listener.idle_timeout,
        mode: match listener.mode {
            Mode::Nat => mode::NAT,
            Mode::Dsr => mode::DSR,
            Mode::Ipip => mode::IPIP,
        },
        policy: policy_of(listener),
        persistence: listener.session_persistence.unwrap_or_default(),
    }
}

fn policy_of(listener: &Listener) -> u32 {
    let policy = match listener.tracking {
        Tracking::Auto => 0,
        Tracking::Always => policy::TRACK,
    } | match listener.unknown_datagrams {
        UnknownDatagrams::Keep => 0,
        UnknownDatagrams::Follow => policy::FOLLOW,
    } | match listener.scheduler {
        Scheduler::Maglev => 0,
        Scheduler::MaglevClient => policy::BY_CLIENT,
        Scheduler::RoundRobin | Scheduler::WeightedRoundRobin => policy::ROUND_ROBIN,
        Scheduler::WeightedLeastConnections => policy::LEAST_CONNECTIONS,
    } | match listener.session_persistence {
        None => 0,
        Some(_) => policy::PERSIST,
    };
    if policy & policy::ELSEWHERE == 0 { policy } else { policy | policy::TRACK }
}

fn spread(listener: &Listener) -> Spread {
    match listener.scheduler {
        Scheduler::Maglev | Scheduler::MaglevClient => Spread::Hashed,
        Scheduler::RoundRobin => Spread::Evenly,
        Scheduler::WeightedRoundRobin => Spread::ByWeight,
        Scheduler::WeightedLeastConnections => Spread::ByFlows,
    }
}

/// What SLB does for a VIP itself, if anything: answers echo requests, while a listener runs, and takes what no listener does.
fn vip(balancer: &LoadBalancer, address: IpAddr, known: Known<'_>) -> Option<Service> {
    let echo = if balancer.running().next().is_some() { 0 } else { policy::NO_ECHO };
    let unmatched = match unmatched(balancer, address, known.vips) {
        Unmatched::Pass => 0,
        Unmatched::Drop => policy::DROP_UNMATCHED,
        Unmatched::Reject => policy::REJECT_UNMATCHED,
    };
    if unmatched == 0 && echo == policy::NO_ECHO {
        return None;
    }
    Some(Service {
        address,
        port: 0,
        protocol: if address.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 },
        load_balancer: balancer.name.to_string(),
        listener: String::new(),
        group: None,
        pool: None,
        idle: Duration::ZERO,
        mode: mode::NAT,
        policy: echo | unmatched,
        persistence: Duration::ZERO,
    })
}

/// What becomes of packets for a VIP that no listener takes.
pub fn unmatched(
    balancer: &LoadBalancer,
    address: IpAddr,
    vips: Option<&BTreeMap<IpAddr, Standing>>,
) -> Unmatched {
    balancer.unmatched.unwrap_or_else(|| {
        // What is not known may be the host's own: that is never taken from it.
        let is_local = vips.and_then(|vips| vips.get(&address)).is_none_or(|standing| standing.is_local);
        Unmatched::of(is_local)
    })
}
