//! What a configuration has followed besides the data plane: targets of health checks, servers whose next hops are resolved, and
//! VIPs. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use super::members::{Members, running};
use crate::{config::model::Config, health::Target};

/// All VIPs, of load balancers that are stopped too.
pub fn addresses(config: &Config) -> BTreeSet<IpAddr> {
    config.load_balancers.iter().flat_map(|balancer| balancer.addresses.iter().copied()).collect()
}

/// What is to be checked.
pub fn targets(config: &Config) -> BTreeSet<Target> {
    let members = Members::of(config);
    running(config)
        .flat_map(|(balancer, listener)| {
            let checked = members.behind(balancer, listener).servers.into_iter().filter(|m| m.is_checked);
            checked.filter_map(move |member| Target::of(balancer, listener, member.address))
        })
        .collect()
}

/// The servers, whose next hops must be known.
pub fn destinations(config: &Config) -> BTreeSet<IpAddr> {
    let members = Members::of(config);
    running(config)
        .flat_map(|(balancer, listener)| members.behind(balancer, listener).servers)
        .map(|member| member.address.ip())
        .collect()
}
