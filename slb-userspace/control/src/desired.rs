//! The desired state of the data plane, computed from configuration, health, next hops, failover and overrides. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use slb_common::abi::{
    family::Family, health::ServerHealth, policy_set::PolicySet, ports::Ports, protocol::IpProtocol,
    service::policy, tunnel::Tunnel,
};

use super::model::{
    Desired, DesiredAccess, DesiredPool, DesiredServer, DesiredService, HealthVerdict, ListenerId,
    ServerRoute, health_of, resolved_next_hop,
};
use super::{
    failover::Failover,
    listener_servers::{ListenerServer, ListenerServers, ServerGroups, family, server_override},
    local_addresses::desired_local_addresses,
    model::Side,
    one_way::CheckEvidence,
    overrides::Overrides,
};
use crate::dataplane::state::to_address;
use crate::{
    inputs::{Target, VipState},
    outlier_detection::EjectionPolicy,
};
use slb_config::model::{
    AccessListKind, Config, HealthCheck, Listener, ListenerAccess, ListenerTarget as Servers, LoadBalancer,
    Mode, Name, OnNoHealthy, Protocol, QuicRouting, Scheduler, Tracking, UnknownDatagrams, Unmatched,
};

/// Observations, besides the configuration. `None` means that nothing of the kind is known.
#[derive(Debug, Default, Clone, Copy)]
pub struct ObservedInputs<'a> {
    /// Results of health checks. A target without a result is missing.
    pub health: Option<&'a BTreeMap<Target, HealthVerdict>>,
    /// Targets that this host cannot probe, and why. They keep their last verdict.
    pub not_probed: Option<&'a BTreeMap<Target, String>>,
    /// Servers of mode `nat` whose answers do not return through SLB.
    pub one_way: Option<&'a BTreeMap<SocketAddr, CheckEvidence>>,
    /// Next hops, or why there is none. An unresolved one is missing.
    pub next_hops: Option<&'a BTreeMap<IpAddr, Result<ServerRoute, String>>>,
    /// Listeners whose traffic goes to their secondary side.
    pub failover: Option<&'a Failover>,
    /// Weights and admin states set at run time.
    pub overrides: Option<&'a Overrides>,
    /// The state of VIPs and local addresses on this host. A missing one may be an address of this host.
    pub vips: Option<&'a BTreeMap<IpAddr, VipState>>,
}

/// Listeners with equal keys share a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PoolKey<'a> {
    servers: PoolServers<'a>,
    check: Option<&'a HealthCheck>,
    drain: Option<Duration>,
    /// Servers have different duties in each mode.
    mode: Mode,
    /// The VIPs at which servers are probed, if they are.
    checked_at: Option<&'a [IpAddr]>,
    /// Address family of the servers in mode `nat`; `None` for any.
    family: Option<Family>,
    /// The side that has the traffic.
    side: Side,
    on_no_healthy: OnNoHealthy,
    scheduler: Scheduler,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum PoolServers<'a> {
    Default { load_balancer: &'a Name, default_group_port: u16 },
    Group(&'a Name),
    Pair(&'a Name),
    Groups { primary: &'a Name, secondary: &'a Name },
}

/// Computes the desired state.
pub fn desired(config: &Config, observations: ObservedInputs<'_>) -> Desired {
    let members = ServerGroups::of(config);
    let mut services = Vec::new();
    let mut pools = Vec::new();
    let mut indexes = BTreeMap::new();
    for balancer in &config.load_balancers {
        services
            .extend(balancer.addresses.iter().filter_map(|address| vip(balancer, *address, observations)));
        for listener in balancer.running() {
            let access = access(config, listener);
            for address in &balancer.addresses {
                let side =
                    observations.failover.map_or(Side::Primary, |failover| failover.side(listener, *address));
                let key = PoolKey {
                    servers: servers_key(balancer, listener),
                    check: listener.health_check.as_ref(),
                    drain: listener.drain_timeout,
                    mode: listener.mode,
                    checked_at: checked_at(balancer, listener),
                    family: family(listener, *address),
                    side,
                    on_no_healthy: listener.on_no_healthy,
                    scheduler: listener.scheduler.of_table(),
                };
                let pool = *indexes.entry(key).or_insert_with(|| {
                    let family = family(listener, *address);
                    pools.push(pool(&members, balancer, listener, family, side, observations));
                    pools.len() - 1
                });
                let access = access.clone();
                services.push(DesiredService { access, ..service(balancer, listener, *address, pool) });
            }
        }
    }
    Desired {
        seed: config.daemon.seed(),
        services,
        pools,
        tunnel: tunnel(config),
        gue_port: config.daemon.gue_port,
        locals: desired_local_addresses(config, observations.vips),
    }
}

/// The desired state at a first start: VIPs without listeners. Packets are dropped until the first servers are known to
/// be healthy. Clients retransmit, and no packet goes back to the router.
pub fn vips_without_listeners(config: &Config, vips: &BTreeMap<IpAddr, VipState>) -> Desired {
    let observations = ObservedInputs { vips: Some(vips), ..ObservedInputs::default() };
    let services = config.load_balancers.iter().flat_map(|balancer| {
        balancer.addresses.iter().filter_map(|address| vip(balancer, *address, observations))
    });
    let dropped = |vip: DesiredService| {
        let is_passed = !vip.policies.has(policy::DROP_UNMATCHED | policy::REJECT_UNMATCHED);
        (!is_passed).then_some(DesiredService {
            policies: PolicySet::new(policy::NO_ECHO | policy::DROP_UNMATCHED),
            ..vip
        })
    };
    Desired {
        seed: config.daemon.seed(),
        services: services.filter_map(dropped).collect(),
        pools: Vec::new(),
        tunnel: tunnel(config),
        gue_port: config.daemon.gue_port,
        locals: desired_local_addresses(config, observations.vips),
    }
}

/// The VIPs at which servers of `dsr`, `ipip` and `gue` are probed. Servers of another load balancer need not hold them.
fn checked_at<'a>(balancer: &'a LoadBalancer, listener: &Listener) -> Option<&'a [IpAddr]> {
    (!listener.mode.sees_replies() && listener.health_check.is_some())
        .then_some(balancer.addresses.as_slice())
}

fn tunnel(config: &Config) -> Tunnel {
    let addresses = config.daemon.tunnel_addresses.iter().map(|address| IpNet::from(*address));
    // The networks come last: they replace the address of their family.
    let sources = addresses.chain(config.daemon.tunnel_sources.iter().copied());
    sources.fold(Tunnel::default(), |tunnel, source| {
        let (address, by_flow) = (to_address(source.network()), by_flow(source));
        match source {
            IpNet::V4(_) => Tunnel { v4: address, by_flow_v4: by_flow, ..tunnel },
            IpNet::V6(_) => Tunnel { v6: address, by_flow_v6: by_flow, ..tunnel },
        }
    })
}

/// The bits of a network's addresses that vary by flow, in network byte order: host bits, at most the last 32.
fn by_flow(network: IpNet) -> u32 {
    let host_bits = network.max_prefix_len() - network.prefix_len();
    1_u32.checked_shl(host_bits.into()).map_or(u32::MAX, |end| end - 1).to_be()
}

fn servers_key<'a>(balancer: &'a LoadBalancer, listener: &'a Listener) -> PoolServers<'a> {
    match &listener.target {
        Servers::DefaultGroup { default_group_port } => {
            PoolServers::Default { load_balancer: &balancer.name, default_group_port: *default_group_port }
        }
        Servers::ServerGroup(name) => PoolServers::Group(name),
        Servers::PrimarySecondaryGroup(name) => PoolServers::Pair(name),
        Servers::PrimarySecondary { primary, secondary, .. } => PoolServers::Groups { primary, secondary },
    }
}

fn pool(
    members_of: &ServerGroups<'_>,
    balancer: &LoadBalancer,
    listener: &Listener,
    family: Option<Family>,
    side: Side,
    observations: ObservedInputs<'_>,
) -> DesiredPool {
    let ListenerServers { slots, servers } = members_of.servers_behind(balancer, listener);
    let mut servers: Vec<_> = servers
        .into_iter()
        .filter(|member| family.is_none_or(|family| Family::of(member.address.ip()) == family))
        .map(|member| (member.address, server(members_of, member, balancer, listener, side, observations)))
        .collect();
    servers.sort_by_key(|(address, _)| *address);
    if !servers.iter().any(|(_, server)| server.accepts_new_flows()) {
        servers.iter_mut().for_each(|(_, server)| server.is_last_resort = is_last_resort(listener, server));
    }
    let slow_start = members_of.slow_start(balancer, listener, side);
    let passive = listener.health_check.as_ref().and_then(EjectionPolicy::of);
    DesiredPool {
        slots,
        scheduler: listener.scheduler.of_table(),
        drain: listener.drain_timeout,
        slow_start,
        passive,
        servers,
    }
}

/// Whether a server receives new flows while no server of its pool is known to be healthy. An unknown server does: no
/// result is not a failure. Otherwise the pool would drop every packet until the first result.
fn is_last_resort(listener: &Listener, server: &DesiredServer) -> bool {
    let is_allowed = listener.on_no_healthy == OnNoHealthy::All || server.health == ServerHealth::Unknown;
    is_allowed && !server.is_standby
}

fn server(
    members_of: &ServerGroups<'_>,
    member: ListenerServer,
    balancer: &LoadBalancer,
    listener: &Listener,
    side: Side,
    observations: ObservedInputs<'_>,
) -> DesiredServer {
    let target = Target::of(balancer, listener, member.address).filter(|_| member.is_checked);
    let (health, detail) = health_of(target.as_ref(), observations.health);
    let not_probed = target.as_ref().and_then(|target| observations.not_probed?.get(target)).cloned();
    let shows_answers = listener.mode.sees_replies() && listener.protocol == Protocol::Tcp;
    let one_way =
        observations.one_way.filter(|_| shows_answers).and_then(|servers| servers.get(&member.address));
    let one_way = one_way.map(|evidence| evidence.detail().to_owned());
    let (next_hop, unreachable) = match observations
        .next_hops
        .and_then(|hops| resolved_next_hop(listener, hops, member.address.ip()))
    {
        Some(Ok(hop)) => (Some(hop), None),
        Some(Err(why)) => (None, Some(format!("gets no packets: {why}"))),
        None => (None, None),
    };
    // A server that is only on the other side is standby, with that side's weight and override.
    let (weight, side, is_standby) = match member.weight(side) {
        Some(weight) => (weight, side, false),
        None => (member.weight(side.other()).unwrap_or(0), side.other(), true),
    };
    let (server_override, setting) =
        server_override(&member, members_of.group_on(balancer, listener, side), observations.overrides);
    DesiredServer {
        weight: setting.weight.unwrap_or(weight),
        quic_server_id: member.quic_server_id,
        admin_state: setting.state,
        server_override,
        health,
        detail: joined([detail.or(unreachable), not_probed, one_way]),
        next_hop,
        is_standby,
        is_last_resort: false,
    }
}

fn joined(words: [Option<String>; 3]) -> Option<String> {
    let words: Vec<_> = words.into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join("; "))
}

fn service(balancer: &LoadBalancer, listener: &Listener, address: IpAddr, pool: usize) -> DesiredService {
    DesiredService {
        address,
        port: listener.port,
        protocol: listener.protocol.ip(),
        id: Some(ListenerId::of(balancer, listener)),
        load_balancer: balancer.name.to_string(),
        listener: listener.name.to_string(),
        group: match &listener.target {
            Servers::DefaultGroup { .. } => None,
            Servers::ServerGroup(name) | Servers::PrimarySecondaryGroup(name) => Some(name.to_string()),
            Servers::PrimarySecondary { primary, .. } => Some(primary.to_string()),
        },
        pool: Some(pool),
        idle: listener.idle_timeout,
        mode: listener.mode,
        policies: policies_of(listener),
        persistence: listener.session_persistence.unwrap_or_default(),
        access: None,
        bandwidth: listener.bandwidth,
        new_connections: listener.new_connections.unwrap_or_default(),
        quic: listener.quic.as_ref().map(QuicRouting::format),
        syn_cookies: listener.syn_cookies.unwrap_or_default(),
    }
}

fn access(config: &Config, listener: &Listener) -> Option<DesiredAccess> {
    let ListenerAccess { list, kind } = listener.access.as_ref()?;
    let list = config.access_lists.iter().find(|access_list| access_list.name == *list);
    // The configuration has every list that it names.
    Some(DesiredAccess { networks: list.map(|list| list.networks.clone()).unwrap_or_default(), kind: *kind })
}

fn policies_of(listener: &Listener) -> PolicySet {
    let bits = match listener.tracking {
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
    } | match listener.access.as_ref().map(|access| access.kind) {
        None => 0,
        Some(AccessListKind::White) => policy::ALLOW_LISTED,
        Some(AccessListKind::Black) => policy::DENY_LISTED,
    } | match listener.bandwidth {
        None => 0,
        Some(_) => policy::LIMIT_BANDWIDTH,
    } | match listener.new_connections {
        None => 0,
        Some(_) => policy::LIMIT_NEW_CONNECTIONS,
    } | match listener.syn_cookies {
        None => 0,
        Some(_) => policy::SYN_COOKIES,
    } | if listener.toa { policy::TOA } else { 0 }
        | if listener.quic.is_some() { policy::QUIC } else { 0 };
    let policies = PolicySet::new(bits);
    // The entry tells a retransmitted SYN from a new connection.
    if policies.has(policy::PINNED_ELSEWHERE | policy::LIMIT_NEW_CONNECTIONS) {
        policies.with(policy::TRACK)
    } else {
        policies
    }
}

/// The service of a VIP itself: echo replies while a listener runs, and what happens to unmatched packets. `None` if
/// SLB passes both to the kernel.
fn vip(balancer: &LoadBalancer, address: IpAddr, observations: ObservedInputs<'_>) -> Option<DesiredService> {
    let echo = if balancer.running().next().is_some() { 0 } else { policy::NO_ECHO };
    let unmatched = match unmatched(balancer, address, observations.vips) {
        Unmatched::Pass => 0,
        Unmatched::Drop => policy::DROP_UNMATCHED,
        Unmatched::Reject => policy::REJECT_UNMATCHED,
    };
    if unmatched == 0 && echo == policy::NO_ECHO {
        return None;
    }
    Some(DesiredService {
        address,
        port: Ports::default(),
        protocol: IpProtocol::icmp(Family::of(address)),
        id: None,
        load_balancer: balancer.name.to_string(),
        listener: String::new(),
        group: None,
        pool: None,
        idle: Duration::ZERO,
        mode: Mode::Nat,
        policies: PolicySet::new(echo | unmatched),
        persistence: Duration::ZERO,
        access: None,
        bandwidth: None,
        new_connections: 0,
        quic: None,
        syn_cookies: 0,
    })
}

/// What happens to packets for a VIP that no running listener takes.
pub fn unmatched(
    balancer: &LoadBalancer,
    address: IpAddr,
    vips: Option<&BTreeMap<IpAddr, VipState>>,
) -> Unmatched {
    balancer.unmatched.unwrap_or_else(|| {
        // An unknown address may be this host's own. Its packets must reach the kernel.
        let is_local = vips.and_then(|vips| vips.get(&address)).is_none_or(|standing| standing.is_local);
        Unmatched::of(is_local)
    })
}
