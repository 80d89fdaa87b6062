//! What a starting daemon reads from the maps of an earlier one. Pure.
//!
//! Until the first probes and neighbour entries arrive, the last known state remains valid. A restart moves no flow and
//! empties no table.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use slb_common::abi::{
    backend::{Backend, NextHop},
    health::ServerHealth,
    ids::TableId,
};

use super::{
    known_services::{KnownServices, ServiceIdentity},
    listener_servers::{ServerGroups, running},
    model::{Health, HealthVerdict, key_at},
};
use crate::dataplane::state::{MapState, backend_address, to_ip};
use crate::inputs::Target;
use slb_config::model::Config;

/// Last health results of each listener's servers. A server that was unchecked counts as healthy until its first probe.
pub fn health(config: &Config, actual: &MapState) -> BTreeMap<Target, HealthVerdict> {
    let services = KnownServices::among(ServiceIdentity::of_config(config), actual);
    let before: BTreeMap<(TableId, SocketAddr), bool> = actual
        .backends
        .values()
        .filter(|backend| backend.flags & Backend::REMOVED == 0 && backend.health() != ServerHealth::Unknown)
        .map(|backend| {
            ((backend.table(), backend_address(backend)), backend.health() != ServerHealth::Unhealthy)
        })
        .collect();
    let members = ServerGroups::of(config);
    let mut health = BTreeMap::new();
    for (balancer, listener) in running(config) {
        for address in &balancer.addresses {
            let key = key_at(listener, *address);
            let Some(table) = services.at(key).map(|(_, service)| service.table()) else { continue };
            for server in members.servers_behind(balancer, listener).servers.iter().filter(|s| s.is_checked) {
                if let Some(&healthy) = before.get(&(table, server.address))
                    && let Some(target) = Target::of(balancer, listener, server.address)
                {
                    health.insert(target, HealthVerdict { health: Health::of(healthy), detail: None });
                }
            }
        }
    }
    health
}

/// Next hops in the maps, by server address.
pub fn next_hops(actual: &MapState) -> BTreeMap<IpAddr, NextHop> {
    actual
        .backends
        .values()
        .filter_map(|backend| Some((to_ip(&backend.address), *actual.next_hops.get(&backend.next_hop_id())?)))
        .collect()
}
