//! Makes the status document, with a daemon or, from the pins, without one.

pub(super) mod interfaces;
mod limits;
mod listeners;
pub mod readings;
pub(super) mod servers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use slb_common::{
    abi::{
        ids::{ServiceId, TableId},
        service::Service,
        stats::{Action, Counters, Reason},
        unpad_name,
    },
    datapath::flow_gc::FlowTableUsage,
};

use self::{
    interfaces::attached,
    listeners::{empty_listener, note_outage, stopped},
    readings::Readings,
    servers::{Servers, is_tracked},
};
use super::{configured_ids::ConfiguredIds, interfaces::InterfaceView};
use crate::neigh;
use slb_api::types::{
    self as api, ApiCounters, ApiListener, ApiLoadBalancer, ApiOverride, DaemonStatus, FlowTableStatus,
    ReasonCount, Status,
};
use slb_config::model::Config;
use slb_control::{
    dataplane::{
        digest::{self, Digest},
        state::{MapState, to_ip},
    },
    model::ListenerId,
    source_usage::SourceUsage,
};

/// Explanations of servers, by table and address.
pub type ServerDetails = BTreeMap<(TableId, SocketAddr), String>;

/// Overrides of servers, by table and address.
pub type ServerOverrides = BTreeMap<(TableId, SocketAddr), ApiOverride>;

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
    /// Used ports of local addresses, as of the last GC pass; empty without a daemon.
    pub sources: &'a SourceUsage,
    /// Time since boot (`CLOCK_BOOTTIME`).
    pub now: Duration,
    /// The interfaces of this network namespace.
    pub interfaces: &'a [neigh::Link],
    /// Interfaces as the daemon publishes them.
    pub view: Option<&'a InterfaceView>,
}

/// Describes `state`.
pub fn status(state: &MapState, readings: &Readings, context: StatusContext<'_>) -> Status {
    let ids = context.config.map(ConfiguredIds::of).unwrap_or_default();
    let servers = Servers::of(state, readings, &context);
    let mut balancers: BTreeMap<String, BTreeMap<String, ListenerParts<'_>>> = BTreeMap::new();
    for (id, service) in &state.services {
        let listeners = balancers.entry(padded_name(&service.load_balancer)).or_default();
        if service.table() == TableId::NONE {
            continue;
        }
        let parts = listeners
            .entry(padded_name(&service.listener))
            .or_insert_with(|| ListenerParts::new(empty_listener(service, &ids)));
        parts.add(*id, service, state, readings, &servers);
        if context.outages.is_none() && servers.has_no_slots(service.table()) {
            note_outage(&mut parts.listener, to_ip(&service.address));
        }
    }
    for (balancer, listener) in context.config.into_iter().flat_map(|config| stopped(config, &ids)) {
        let listeners = balancers.entry(balancer).or_default();
        listeners.entry(listener.name.clone()).or_insert_with(|| ListenerParts::new(listener));
    }
    let digests = balancers.values().flat_map(BTreeMap::values).flat_map(|parts| &parts.digests);
    let digest = digest::all(digests.copied()).to_string();
    let load_balancers = balancers.into_iter().map(|(name, listeners)| {
        let id = ids.load_balancer(&name);
        let owned = context.config.map(|config| &config.api_objects);
        let source = id.and_then(|id| Some(owned?.load_balancer(id).name().to_owned()));
        let id = id.map(ToString::to_string);
        let listeners = listeners.into_values().map(|parts| {
            let id = ids.listener(&name, &parts.listener.name);
            let outages = id.and_then(|id| context.outages?.get(&id));
            parts.document(outages.into_iter().flatten().cloned())
        });
        let listeners = listeners.collect();
        ApiLoadBalancer { id, name, source, listeners }
    });
    let load_balancers = load_balancers.collect();
    Status {
        digest: Some(digest),
        hash_seed: Some(state.settings.seed),
        flow_table: flow_table(readings.current_flows.fill, readings.counters.evicted()),
        interfaces: attached(state, readings, context.interfaces, context.view),
        load_balancers,
        reasons: readings.counters.packets().map(reason_count).collect(),
        daemon: context.daemon,
    }
}

/// A listener while its services are added to it.
struct ListenerParts<'a> {
    listener: ApiListener,
    /// Digests of its services. A stopped listener has none.
    digests: Vec<(&'a Service, Digest)>,
    /// Tables whose servers it has. Services of a listener may share one.
    tables: BTreeSet<TableId>,
}

impl<'a> ListenerParts<'a> {
    fn new(listener: ApiListener) -> Self {
        Self { listener, digests: Vec::new(), tables: BTreeSet::new() }
    }

    fn add(
        &mut self,
        id: ServiceId,
        service: &'a Service,
        state: &MapState,
        readings: &Readings,
        servers: &Servers<'_>,
    ) {
        let listener = &mut self.listener;
        listener.addresses.push(to_ip(&service.address));
        listener.counters = add(listener.counters, api_counters(readings.counters.service(id)));
        if let Some(limits) = &mut listener.limits {
            let is_flooded = readings.flooded.contains(&u32::from(service.token_buckets));
            limits::add_drops(limits, readings.counters.limit_drops(id), is_flooded);
        }
        if is_tracked(service) {
            let by_service = &readings.current_flows.by_service;
            let flows = state.index.entries.get(&id).and_then(|entry| by_service.get(&entry.tag()));
            listener.current_flows = Some(listener.current_flows.unwrap_or(0) + flows.unwrap_or(&0));
        }
        self.digests.push((service, servers.digest(service)));
        if self.tables.insert(service.table()) {
            listener.servers.extend(servers.documents(service));
        }
    }

    fn document(self, outages: impl Iterator<Item = api::ApiOutage>) -> ApiListener {
        let mut listener = self.listener;
        listener.addresses.sort();
        listener.servers.sort_by_key(|server| server.address);
        listener.outages.extend(outages);
        let is_running = !self.digests.is_empty();
        listener.digest = is_running.then(|| digest::all(self.digests).to_string());
        listener
    }
}

fn reason_count((action, reason, packets): (Action, Reason, u64)) -> ReasonCount {
    ReasonCount { verdict: action.name().to_owned(), reason: reason.name().to_owned(), packets }
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

fn padded_name(padded: &[u8; slb_common::abi::NAME_LEN]) -> String {
    unpad_name(padded).unwrap_or("?").to_owned()
}

fn api_counters(from: Counters) -> ApiCounters {
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
pub(super) mod tests;
