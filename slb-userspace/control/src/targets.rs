//! What the daemon observes for a configuration: health-check targets, next hops of servers, and VIPs. Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::listener_servers::{ServerGroups, running};
use crate::inputs::Target;
use slb_common::{abi::mode::Mode, net::headers::protocol};
use slb_config::model::{Announce, Config};

/// The addresses whose state on this host matters: all VIPs, also those of stopped load balancers, and local addresses.
pub fn addresses(config: &Config) -> BTreeSet<IpAddr> {
    let vips = config.load_balancers.iter().flat_map(|balancer| balancer.addresses.iter().copied());
    vips.chain(local_addresses(config)).collect()
}

/// Local addresses of mode `full-nat`.
pub fn local_addresses(config: &Config) -> BTreeSet<IpAddr> {
    config.daemon.local_addresses.iter().copied().collect()
}

/// VIPs that SLB is to announce; with `running` those alone that a running listener serves.
pub fn announced(config: &Config, running: bool) -> BTreeSet<IpAddr> {
    let announcing = config.load_balancers.iter().filter(|balancer| {
        balancer.announce == Announce::Arp && (!running || balancer.running().next().is_some())
    });
    announcing.flat_map(|balancer| balancer.addresses.iter().copied()).collect()
}

/// All targets of health checks.
pub fn targets(config: &Config) -> BTreeSet<Target> {
    let members = ServerGroups::of(config);
    running(config)
        .flat_map(|(balancer, listener)| {
            let checked =
                members.servers_behind(balancer, listener).servers.into_iter().filter(|m| m.is_checked);
            checked.filter_map(move |member| Target::of(balancer, listener, member.address))
        })
        .collect()
}

/// Source address and IP protocol of the tunnel packets of running listeners. The protocol is that of the inner packet in
/// mode `ipip`, and UDP in mode `gue`.
pub fn tunnels(config: &Config) -> BTreeSet<(IpAddr, u8)> {
    let protocols: BTreeSet<u8> = running(config)
        .flat_map(|(_, listener)| match listener.mode {
            Mode::Ipip => &[protocol::IPV4, protocol::IPV6][..],
            Mode::Gue => &[protocol::UDP],
            Mode::Nat | Mode::FullNat | Mode::Dsr => &[],
        })
        .copied()
        .collect();
    // An unspecified address: a socket cannot be bound to a network.
    let networks = config.daemon.tunnel_sources.iter().map(|network| match network {
        IpNet::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpNet::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    });
    let addresses = config.daemon.tunnel_addresses.iter().copied().chain(networks);
    addresses.flat_map(|from| protocols.iter().map(move |protocol| (from, *protocol))).collect()
}

/// Addresses of all servers of running listeners. Their next hops are resolved.
pub fn destinations(config: &Config) -> BTreeSet<IpAddr> {
    let members = ServerGroups::of(config);
    running(config)
        .flat_map(|(balancer, listener)| members.servers_behind(balancer, listener).servers)
        .map(|member| member.address.ip())
        .collect()
}
