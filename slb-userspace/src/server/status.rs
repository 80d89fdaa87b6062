//! Makes the status document from the maps, with a daemon or, from the pins, without one.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use slb_common::{
    abi::{
        backend::Backend,
        interface::{CLIENT, SERVER},
        service::{Service, mode, policy},
        stats::Counters as MapCounters,
        unpad_name,
    },
    datapath::flow_gc::FlowTableUsage,
    net::headers::protocol,
};

use super::{configured_ids::ConfiguredIds, interfaces::InterfaceView};
use crate::{
    dataplane::bpf::{flows::CurrentFlows, maps::Maps},
    neigh,
};
use slb_api::types::{
    self as api, ApiCounters, ApiHealth, ApiInterfaceRole, ApiListener, ApiLoadBalancer, ApiNextHop,
    ApiOverride, ApiServer, AttachMode, DaemonStatus, DrainStatus, FlowTableStatus, InterfaceStatus,
    ReasonCount, Status,
};
use slb_config::model::{Config, ListenerTarget, Mode, Protocol};
use slb_control::dataplane::{
    digest::{self, Digest, TableDigest},
    state::{MapState, NO_TABLE, backend_address, mac, to_ip},
};
use slb_control::model::ListenerId;

/// Explanations of servers, by table and address.
pub type ServerDetails = BTreeMap<(u32, SocketAddr), String>;

/// Overrides of servers, by table and address.
pub type ServerOverrides = BTreeMap<(u32, SocketAddr), ApiOverride>;

/// Outages, by listener.
pub type ListenerOutages = BTreeMap<ListenerId, Vec<api::ApiOutage>>;

/// Information besides the maps.
pub struct StatusContext<'a> {
    /// The daemon, if one runs.
    pub daemon: Option<DaemonStatus>,
    /// Its active configuration.
    pub config: Option<&'a Config>,
    /// Explanations of servers' health.
    pub details: &'a ServerDetails,
    /// Overrides of servers.
    pub set: &'a ServerOverrides,
    /// Outages that the daemon knows.
    pub outages: Option<&'a ListenerOutages>,
    /// Time since boot (`CLOCK_BOOTTIME`).
    pub now: Duration,
    /// The interfaces of this network namespace.
    pub interfaces: &'a [neigh::Link],
    /// Interfaces as the daemon publishes them.
    pub view: Option<&'a InterfaceView>,
}

/// Describes `state`, with the counters in `maps`.
pub fn status(state: &MapState, maps: &Maps, context: StatusContext<'_>) -> Result<Status> {
    let ids = context.config.map(ConfiguredIds::of).unwrap_or_default();
    let mut balancers: BTreeMap<String, Vec<ApiListener>> = BTreeMap::new();
    // Services of a listener share a table, and several listeners may.
    let mut tables: BTreeMap<u32, (TableDigest, Vec<ApiServer>)> = BTreeMap::new();
    let mut digests: BTreeMap<(String, String), Vec<(&Service, Digest)>> = BTreeMap::new();
    let mut shown = BTreeSet::new();
    let current = maps.current_flows(state.index.hz.max(1))?;
    let tracked = tracked(state);
    for (id, service) in &state.services {
        let listeners = balancers.entry(name(&service.load_balancer)).or_default();
        if service.lookup_table == NO_TABLE {
            continue;
        }
        let position = listeners.iter().position(|known| known.name == name(&service.listener));
        let position = position.unwrap_or_else(|| {
            listeners.push(empty_listener(service, &ids));
            listeners.len() - 1
        });
        let listener = &mut listeners[position];
        listener.addresses.push(to_ip(&service.address));
        listener.counters = add(listener.counters, counters(maps.service_counters(*id)?));
        if is_tracked(service) {
            let flows = state.index.entries.get(id).and_then(|entry| current.by_service.get(&entry.service));
            listener.current_flows = Some(listener.current_flows.unwrap_or(0) + flows.unwrap_or(&0));
        }
        let (content, servers) = match tables.entry(service.lookup_table) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let content = maps.table_digest(service.lookup_table, &state.backends)?;
                let of_table = tracked.contains(&service.lookup_table).then_some(&current);
                let servers = servers(state, service.lookup_table, &content, maps, &context, of_table)?;
                new.insert((content, servers))
            }
        };
        if context.outages.is_none() && servers.iter().all(|server| server.slots == 0) {
            note_outage(listener, to_ip(&service.address));
        }
        let of_listener = digests.entry((name(&service.load_balancer), name(&service.listener))).or_default();
        of_listener.push((service, content.of_service(service, state.settings.seed)));
        if shown.insert((service.load_balancer, service.listener, service.lookup_table)) {
            listener.servers.extend_from_slice(servers);
        }
    }
    for (balancer, listener) in context.config.into_iter().flat_map(|config| stopped(config, &ids)) {
        balancers.entry(balancer).or_default().push(listener);
    }
    for (balancer, listeners) in &mut balancers {
        for listener in listeners {
            listener.addresses.sort();
            listener.servers.sort_by_key(|server| server.address);
            let services = digests.get(&(balancer.clone(), listener.name.clone()));
            let id = ids.listener(balancer, &listener.name);
            let known = id.and_then(|id| context.outages?.get(&id));
            listener.outages.extend(known.into_iter().flatten().cloned());
            listener.digest = services.map(|services| digest::all(services.iter().copied()).to_string());
        }
    }
    Ok(Status {
        daemon: context.daemon,
        digest: Some(digest::all(digests.into_values().flatten()).to_string()),
        hash_seed: Some(state.settings.seed),
        flow_table: flow_table(current.fill, maps.evicted()?),
        interfaces: attached(state, maps, context.interfaces, context.view),
        load_balancers: balancers
            .into_iter()
            .map(|(name, mut listeners)| {
                listeners.sort_by(|a, b| a.name.cmp(&b.name));
                let id = ids.load_balancer(&name).map(ToString::to_string);
                ApiLoadBalancer { id, name, listeners }
            })
            .collect(),
        reasons: maps
            .totals()?
            .into_iter()
            .map(|(action, reason, packets)| ReasonCount {
                verdict: action.name().to_owned(),
                reason: reason.name().to_owned(),
                packets,
            })
            .collect(),
    })
}

fn empty_listener(service: &Service, ids: &ConfiguredIds<'_>) -> ApiListener {
    let listener = ids.listener(&name(&service.load_balancer), &name(&service.listener));
    let group = Some(name(&service.group)).filter(|group| !group.is_empty());
    ApiListener {
        id: listener.map(|listener| listener.listener.to_string()),
        name: name(&service.listener),
        state: api::ApiRunState::Running,
        protocol: if service.protocol == protocol::TCP { "tcp" } else { "udp" }.to_owned(),
        port: u16::from_be(service.port),
        mode: match service.mode {
            mode::NAT => "nat",
            mode::DSR => "dsr",
            mode::IPIP => "ipip",
            _ => "unknown",
        }
        .to_owned(),
        addresses: Vec::new(),
        server_group_id: group.as_deref().and_then(|group| ids.group(group)).map(ToString::to_string),
        server_group: group,
        counters: ApiCounters::default(),
        current_flows: None,
        digest: None,
        outages: Vec::new(),
        servers: Vec::new(),
    }
}

/// Records a VIP with an empty table, which is all that the maps show of an outage.
fn note_outage(listener: &mut ApiListener, vip: IpAddr) {
    match listener.outages.first_mut() {
        Some(outage) => outage.addresses.push(vip),
        None => listener.outages.push(api::ApiOutage { addresses: vec![vip], why: None, seconds: None }),
    }
}

/// Stopped listeners, each with its load balancer's name.
fn stopped<'a>(
    config: &'a Config,
    ids: &'a ConfiguredIds<'_>,
) -> impl Iterator<Item = (String, ApiListener)> + 'a {
    let listeners = config.load_balancers.iter();
    let listeners = listeners.flat_map(|balancer| balancer.listeners.iter().map(move |l| (balancer, l)));
    listeners.filter(|(balancer, listener)| !balancer.runs(listener)).map(|(balancer, listener)| {
        let group = match &listener.target {
            ListenerTarget::DefaultGroup { .. } => None,
            ListenerTarget::ServerGroup(name)
            | ListenerTarget::PrimarySecondaryGroup(name)
            | ListenerTarget::PrimarySecondary { primary: name, .. } => Some(name.as_str()),
        };
        let stopped = ApiListener {
            id: Some(listener.id.to_string()),
            name: listener.name.to_string(),
            state: api::ApiRunState::Stopped,
            protocol: match listener.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            }
            .to_owned(),
            port: listener.port,
            mode: match listener.mode {
                Mode::Nat => "nat",
                Mode::Dsr => "dsr",
                Mode::Ipip => "ipip",
            }
            .to_owned(),
            addresses: balancer.addresses.clone(),
            server_group: group.map(str::to_owned),
            server_group_id: group.and_then(|group| ids.group(group)).map(ToString::to_string),
            counters: ApiCounters::default(),
            current_flows: None,
            digest: None,
            outages: Vec::new(),
            servers: Vec::new(),
        };
        (balancer.name.to_string(), stopped)
    })
}

fn servers(
    state: &MapState,
    table: u32,
    content: &TableDigest,
    maps: &Maps,
    context: &StatusContext<'_>,
    current: Option<&CurrentFlows>,
) -> Result<Vec<ApiServer>> {
    state
        .backends
        .iter()
        .filter(|(_, backend)| backend.lookup_table == table)
        // Removed servers without connections are not shown.
        .filter(|(_, backend)| backend.flags & GONE != GONE)
        .map(|(id, backend)| {
            Ok(ApiServer {
                address: backend_address(backend),
                weight: backend.weight,
                health: health(backend),
                set: context.set.get(&(table, backend_address(backend))).cloned(),
                detail: context.details.get(&(table, backend_address(backend))).cloned(),
                next_hop: state
                    .next_hops
                    .get(&backend.next_hop)
                    .map(|hop| ApiNextHop { interface: hop.ifindex, mac: mac(hop.macs.receiver()) }),
                slots: content.slots.get(id).copied().unwrap_or(0),
                counters: counters(maps.backend_counters(*id)?),
                current_flows: current.map(|all| all.by_server.get(&backend.handle).copied().unwrap_or(0)),
                draining: draining(backend, is_drained(context, table, backend), context.now),
            })
        })
        .collect()
}

/// Whether all flows of a service are tracked.
fn is_tracked(service: &Service) -> bool {
    service.mode == mode::NAT || service.policy & policy::TRACK != 0
}

/// Tables whose flows are all tracked.
fn tracked(state: &MapState) -> BTreeSet<u32> {
    let untracked = state.services.values().filter(|service| !is_tracked(service));
    let untracked: BTreeSet<u32> = untracked.map(|service| service.lookup_table).collect();
    state
        .services
        .values()
        .map(|service| service.lookup_table)
        .filter(|lookup_table| !untracked.contains(lookup_table))
        .collect()
}

/// Whether an administrator drains a server.
fn is_drained(context: &StatusContext<'_>, table: u32, backend: &Backend) -> bool {
    let set = context.set.get(&(table, backend_address(backend)));
    set.is_some_and(|set| set.state == Some(api::AdminState::Draining))
}

/// The drain of a server; `None` if it is not draining.
fn draining(backend: &Backend, is_drained: bool, now: Duration) -> Option<DrainStatus> {
    let is_removed = backend.flags & Backend::REMOVED != 0;
    let left = u64::from(backend.deadline).saturating_sub(now.as_secs());
    let seconds_left = (backend.deadline != 0).then_some(left);
    (is_removed || is_drained || seconds_left.is_some()).then_some(DrainStatus { seconds_left, is_removed })
}

fn flow_table(fill: FlowTableUsage, [evicted, evicted_assured]: [u64; 2]) -> FlowTableStatus {
    FlowTableStatus {
        entries: fill.entries as u64,
        used: fill.used as u64,
        assured: fill.assured as u64,
        evicted,
        evicted_assured,
    }
}

fn attached(
    state: &MapState,
    maps: &Maps,
    interfaces: &[neigh::Link],
    view: Option<&InterfaceView>,
) -> Vec<InterfaceStatus> {
    let mut attached: Vec<_> = interfaces
        .iter()
        .filter(|interface| state.interfaces.contains(&interface.index))
        .filter(|interface| view.is_none_or(|view| view.attached.contains_key(&interface.index)))
        .filter_map(|interface| {
            Some(InterfaceStatus {
                name: interface.name.clone(),
                index: interface.index,
                mode: if interface.xdp?.native { AttachMode::Native } else { AttachMode::Generic },
                role: role(maps, interface.index),
                notes: view
                    .and_then(|view| Some(view.attached.get(&interface.index)?.notes.clone()))
                    .unwrap_or_default(),
            })
        })
        .collect();
    attached.sort_by_key(|interface| interface.index);
    attached
}

fn role(maps: &Maps, ifindex: u32) -> ApiInterfaceRole {
    match maps.interface(ifindex).map(|interface| (interface.flags & CLIENT, interface.flags & SERVER)) {
        Some((CLIENT, 0)) => ApiInterfaceRole::Client,
        Some((0, SERVER)) => ApiInterfaceRole::Server,
        _ => ApiInterfaceRole::Both,
    }
}

fn name(padded: &[u8; slb_common::abi::NAME_LEN]) -> String {
    unpad_name(padded).unwrap_or("?").to_owned()
}

/// Flags of a removed server that stays in the maps only until the RSTs of its connections are delivered.
const GONE: u8 = Backend::REMOVED | Backend::TERMINATING;

fn health(backend: &Backend) -> ApiHealth {
    match backend.health {
        Backend::HEALTH_HEALTHY => ApiHealth::Healthy,
        Backend::HEALTH_UNHEALTHY => ApiHealth::Unhealthy,
        Backend::HEALTH_UNCHECKED => ApiHealth::Unchecked,
        Backend::HEALTH_STANDBY => ApiHealth::Standby,
        _ => ApiHealth::Unknown,
    }
}

fn counters(from: MapCounters) -> ApiCounters {
    ApiCounters {
        packets_from_clients: from.packets_in,
        bytes_from_clients: from.bytes_in,
        packets_to_clients: from.packets_out,
        bytes_to_clients: from.bytes_out,
        total_flows: from.new_flows,
    }
}

fn add(a: ApiCounters, b: ApiCounters) -> ApiCounters {
    ApiCounters {
        packets_from_clients: a.packets_from_clients + b.packets_from_clients,
        bytes_from_clients: a.bytes_from_clients + b.bytes_from_clients,
        packets_to_clients: a.packets_to_clients + b.packets_to_clients,
        bytes_to_clients: a.bytes_to_clients + b.bytes_to_clients,
        total_flows: a.total_flows + b.total_flows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_config::samples::shop;

    #[test]
    fn draining_server_keeps_its_health_and_shows_its_deadline() {
        let now = Duration::from_secs(1000);
        for health in [Backend::HEALTH_HEALTHY, Backend::HEALTH_UNHEALTHY, Backend::HEALTH_STANDBY] {
            let backend = Backend { health, ..Backend::default() };
            let leaving = Backend { deadline: 1030, flags: Backend::ALIVE, ..backend };
            let removed = Backend { flags: Backend::ALIVE | Backend::REMOVED, ..leaving };
            assert_eq!(super::health(&leaving), super::health(&backend));
            assert_eq!(super::health(&removed), super::health(&backend));
            let shown = |seconds_left, is_removed| Some(DrainStatus { seconds_left, is_removed });
            assert_eq!(draining(&backend, false, now), None);
            assert_eq!(draining(&backend, true, now), shown(None, false), "no drain_timeout");
            assert_eq!(draining(&leaving, true, now), shown(Some(30), false));
            assert_eq!(draining(&removed, false, now), shown(Some(30), true));
            assert_eq!(draining(&leaving, false, 2 * now), shown(Some(0), false));
        }
    }

    #[test]
    fn stopped_listeners_are_shown_with_their_configuration() {
        let all = |config: &Config| -> Vec<_> {
            let shown = |(balancer, listener): (String, ApiListener)| {
                assert!(listener.state == api::ApiRunState::Stopped && listener.servers.is_empty());
                (balancer, listener.name, listener.protocol, listener.port, listener.server_group)
            };
            stopped(config, &ConfiguredIds::of(config)).map(shown).collect()
        };
        let shop_is = |name: &str, protocol: &str, port, group: Option<&str>| {
            ("shop".to_owned(), name.to_owned(), protocol.to_owned(), port, group.map(str::to_owned))
        };
        let (dns, web) = (shop_is("dns", "udp", 53, None), shop_is("web", "tcp", 80, Some("web")));
        assert_eq!(all(&shop(&[])), []);
        assert_eq!(
            all(&shop(&[("port = 80\n", "port = 80\nstate = \"stopped\"\n")])),
            std::slice::from_ref(&web)
        );
        assert_eq!(all(&shop(&[("\"shop\"\n", "\"shop\"\nstate = \"stopped\"\n")])), [dns, web]);
    }
}
