//! Warm up: which servers need a health result or next hop before a new configuration replaces the active one. Pure.
//!
//! A pool must not lose weight of healthy servers in a change. If it would, the change waits for its servers without a
//! health result or next hop. The old servers receive new flows meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use slb_common::abi::{backend::Backend, health::ServerHealth, ids::TableId};

use super::{
    known_services::{ContinuedServices, ServiceIdentity},
    listener_servers::running,
    model::{Desired, DesiredPool, DesiredServer, ServiceKey, key_at},
};
use crate::dataplane::state::MapState;
use crate::inputs::Target;
use slb_config::model::Config;

/// What the change waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WarmUp {
    /// Health checks without a result.
    pub targets: BTreeSet<Target>,
    /// Servers without a next hop.
    pub servers: BTreeSet<IpAddr>,
}

impl WarmUp {
    /// Whether the change waits for nothing.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.servers.is_empty()
    }
}

/// For each service, the weight of its servers that receive new flows and are healthy or unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthyWeights(BTreeMap<ServiceIdentity, u32>);

impl HealthyWeights {
    /// From a desired state.
    pub fn desired(desired: &Desired) -> Self {
        Self(pools(desired).map(|(service, pool)| (service, healthy_weight(pool))).collect())
    }

    /// From the maps, as an earlier run left them.
    pub fn actual(actual: &MapState) -> Self {
        let mut weights: BTreeMap<TableId, u32> = BTreeMap::new();
        for backend in actual.backends.values() {
            let is_known = backend.health().can_serve();
            if is_known && backend.flags & (Backend::ACCEPTS_NEW | Backend::REMOVED) == Backend::ACCEPTS_NEW {
                *weights.entry(backend.table()).or_default() += u32::from(backend.weight);
            }
        }
        let services = actual.services.values();
        let serving = services.filter_map(|service| {
            Some((
                ServiceIdentity::of_actual(service)?,
                weights.get(&service.table()).copied().unwrap_or_default(),
            ))
        });
        Self(serving.collect())
    }
}

/// What the change to `config` waits for. `after` is its desired state, and `before` the weight that serves now.
pub fn warm_up(before: &HealthyWeights, config: &Config, after: &Desired) -> WarmUp {
    let continued =
        ContinuedServices::new(pools(after).map(|(service, _)| service), before.0.keys().cloned());
    let before: BTreeMap<ServiceKey, u32> =
        before.0.iter().map(|(service, weight)| (service.key(), *weight)).collect();
    let pools: BTreeMap<_, _> = pools(after).map(|(service, pool)| (service.key(), pool)).collect();
    let mut warm_up = WarmUp::default();
    for (balancer, listener) in running(config) {
        for vip in &balancer.addresses {
            let key = key_at(listener, *vip);
            let old = continued.key_before(key).and_then(|key| before.get(&key));
            let (Some(old), Some(new)) = (old, pools.get(&key)) else { continue };
            if healthy_weight(new) >= *old {
                continue;
            }
            for (address, server) in new.servers.iter().filter(|(_, server)| is_candidate(server)) {
                if server.health == ServerHealth::Unknown {
                    warm_up.targets.extend(Target::of(balancer, listener, *address));
                }
                if server.next_hop.is_none() {
                    warm_up.servers.insert(address.ip());
                }
            }
        }
    }
    warm_up
}

fn pools(desired: &Desired) -> impl Iterator<Item = (ServiceIdentity, &DesiredPool)> {
    let services = desired.services.iter();
    services.filter_map(|service| Some((ServiceIdentity::of_desired(service), &desired.pools[service.pool?])))
}

fn healthy_weight(pool: &DesiredPool) -> u32 {
    let healthy =
        |(_, server): &&(SocketAddr, DesiredServer)| server.accepts_new_flows() && !server.is_last_resort;
    pool.servers.iter().filter(healthy).map(|(_, server)| u32::from(server.weight)).sum()
}

/// Whether a server would receive new flows with a healthy result and a next hop.
fn is_candidate(server: &DesiredServer) -> bool {
    server.weight > 0
        && server.admin_state.is_none()
        && !server.is_standby
        && server.health != ServerHealth::Unhealthy
}

#[cfg(test)]
mod tests {
    use slb_common::abi::{MacPair, backend::NextHop};

    use super::*;
    use crate::{
        desired::{ObservedInputs, desired},
        model::{Health, HealthVerdict, ServerRoute},
        targets::targets,
    };
    use slb_config::samples::forwarding;

    /// A listener with servers, given by the last octet of their addresses.
    fn config(servers: &[u8], more: &str) -> Config {
        let servers: Vec<_> =
            servers.iter().map(|n| format!("{{ address = \"10.0.0.{n}\", port = 514 }}")).collect();
        forwarding(&format!(
            r#"
            [[load_balancer]]
            name = "lb"
            addresses = ["192.0.2.10"]
            [[load_balancer.listener]]
            name = "log"
            protocol = "udp"
            port = 514
            server_group = "g"
            {more}
            health_check = {{ kind = "udp" }}
            [[server_group]]
            name = "g"
            servers = [{}]
            "#,
            servers.join(", ")
        ))
    }

    /// What the change waits for, given health results (last octet, healthy) and servers without a next hop.
    fn waits(
        before: &Config,
        after: &Config,
        verdicts: &[(u8, bool)],
        unreachable: &[u8],
    ) -> (Vec<u8>, Vec<u8>) {
        let octet = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => unreachable!(),
        };
        let all: BTreeSet<Target> = targets(before).union(&targets(after)).cloned().collect();
        let mut health = BTreeMap::new();
        let mut next_hops = BTreeMap::new();
        for target in all {
            let server = target.address.ip();
            if !unreachable.contains(&octet(server)) {
                let hop = NextHop { ifindex: 1, mtu: 1500, macs: MacPair::new([1; 6], [2; 6]) };
                next_hops.insert(server, Ok(ServerRoute { hop, through_gateway: false }));
            }
            if let Some((_, healthy)) = verdicts.iter().find(|(n, _)| *n == octet(server)) {
                health.insert(target, HealthVerdict { health: Health::of(*healthy), detail: None });
            }
        }
        let known = ObservedInputs {
            health: Some(&health),
            next_hops: Some(&next_hops),
            ..ObservedInputs::default()
        };
        let serving = HealthyWeights::desired(&desired(before, known));
        let warm_up = warm_up(&serving, after, &desired(after, known));
        let targets = warm_up.targets.iter().map(|target| octet(target.address.ip()));
        (targets.collect(), warm_up.servers.into_iter().map(octet).collect())
    }

    #[test]
    fn warm_up_waits_for_servers_that_replace_healthy_ones() {
        let (old, new) = (config(&[1, 2], ""), config(&[3, 4], ""));
        let good = [(1, true), (2, true)];
        assert_eq!(waits(&old, &new, &good, &[]), (vec![3, 4], vec![]));
        let one_is_known = [(1, true), (2, true), (3, true)];
        assert_eq!(waits(&old, &new, &one_is_known, &[]), (vec![4], vec![]), "half of the weight is missing");
        let one_has_failed = [(1, true), (2, true), (3, true), (4, false)];
        assert_eq!(waits(&old, &new, &one_has_failed, &[]), (vec![], vec![]), "there is nothing to wait for");
        let known = [(1, true), (2, true), (3, true), (4, true)];
        assert_eq!(waits(&old, &new, &known, &[3]), (vec![], vec![3]), "no next hop yet");
    }

    #[test]
    fn warm_up_waits_for_none_if_no_healthy_server_is_lost() {
        let (old, new) = (config(&[1, 2], ""), config(&[3, 4], ""));
        assert!(
            waits(&old, &new, &[(1, false), (2, false)], &[]).0.is_empty(),
            "the old servers have failed"
        );
        assert!(waits(&old, &new, &[], &[]).0.is_empty(), "nothing is known of the old servers either");
        let more = config(&[1, 2, 3], "");
        assert!(waits(&old, &more, &[(1, true), (2, true)], &[]).0.is_empty(), "a server is added");
        assert!(waits(&old, &config(&[1], ""), &[(1, true), (2, true)], &[]).0.is_empty(), "one is removed");
        let stopped = config(&[3, 4], "state = \"stopped\"");
        assert!(waits(&old, &stopped, &[(1, true), (2, true)], &[]).0.is_empty(), "the listener is stopped");
    }
}
