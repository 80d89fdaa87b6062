//! Finished flows: what a flow-table GC pass does with each entry. Pure.
//!
//! A pass ends connections whose ends may not know that they have ended. It also finds flows to rehome after a table
//! split. It ends TCP connections of mode `nat` that have expired, and those of terminating servers. In `dsr`,
//! `ipip` and `gue` SLB does not see the answers, so silence proves nothing: an end receives its RST when it sends.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use slb_common::{
    abi::{
        Handle,
        backend::Backend,
        flow::persistence_units,
        ids::{BackendId, ServiceTag, TableId},
        protocol::IpProtocol,
        service::{IndexEntry, Service, policy},
        time::Jiffies,
    },
    datapath::flow_gc::GcAction,
};

use super::drain::RST_DELIVERY_SECONDS;
use crate::dataplane::{
    rehome::RehomeMap,
    state::{FlowRecord, MapState, backend_address, to_ip},
};

/// Connections that one GC pass ends at most.
pub const MAX_TERMINATED: usize = 1000;
/// Longest time between two GC passes. Expired entries must be erased before the wraparound of jiffies.
const MAX_GC_INTERVAL: Duration = Duration::from_secs(60);
/// Longest time between two GC passes, in seconds, where connection counts matter (`wlc`).
const CONNECTION_COUNT_SECONDS: u32 = 5;
/// Shortest time between two GC passes.
const MIN_GC_INTERVAL: Duration = Duration::from_secs(1);

const REMOVED_TERMINATING: u8 = Backend::REMOVED | Backend::TERMINATING;

/// A connection that a GC pass has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminatedConnection {
    /// The client endpoint.
    pub client: SocketAddr,
    /// The client as its server sees it: in mode `full-nat` the flow's source.
    pub source: SocketAddr,
    /// The VIP and port that the client connected to.
    pub vip: SocketAddr,
    /// The server endpoint.
    pub server: SocketAddr,
}

/// The state of one GC pass.
pub(super) struct FinishedFlows<'a> {
    actual: &'a MapState,
    hz: u32,
    /// The listeners of the VIP and protocol of each service with a range, the narrowest first.
    beside: HashMap<ServiceTag, Vec<&'a IndexEntry>>,
    /// Connections that this pass has ended.
    pub(super) ended: Vec<TerminatedConnection>,
    /// Removed terminating servers, each with whether the pass has found RSTs outstanding.
    removed: BTreeMap<Handle, bool>,
    /// Flows and affinity entries to rehome after a table split: (service, old server) -> server in the new table.
    pub(super) rehomed: RehomeMap,
    /// Servers by table and endpoint, built at the first use.
    servers: OnceCell<BTreeMap<(TableId, SocketAddr), Handle>>,
    /// Time until the next connection expires; 0 if the pass left some for the next one.
    next: Option<Jiffies>,
}

impl<'a> FinishedFlows<'a> {
    pub(super) fn new(actual: &'a MapState, hz: u32) -> Self {
        let removed = actual
            .backends
            .values()
            .filter(|backend| backend.flags & REMOVED_TERMINATING == REMOVED_TERMINATING);
        let removed = removed.map(|backend| (backend.handle, false)).collect();
        Self {
            actual,
            hz,
            beside: HashMap::new(),
            ended: Vec::new(),
            removed,
            rehomed: RehomeMap::new(),
            servers: OnceCell::new(),
            next: None,
        }
    }

    /// Decides the fate of a flow's entry.
    pub(super) fn fate_of(&mut self, flow: &FlowRecord, entry: &IndexEntry) -> GcAction {
        if self.terminates(flow, entry) {
            GcAction::Terminate
        } else if flow.left.is_some() && !flow.is_finished && entry.policies().has(policy::PERSIST) {
            GcAction::RefreshAffinity(persistence_units(entry.persistence))
        } else {
            GcAction::Keep
        }
    }

    /// Decides the fate of an affinity entry. `entry` is `None` if its service no longer exists.
    pub(super) fn affinity_fate(&mut self, client: &FlowRecord, entry: Option<&IndexEntry>) -> GcAction {
        match entry {
            Some(entry) if entry.policies().has(policy::PERSIST) => {
                self.rehomed(client, entry);
                GcAction::Keep
            }
            _ => GcAction::Terminate,
        }
    }

    /// Records the new server of an entry whose server is in another table. Returns whether there is one.
    fn rehomed(&mut self, flow: &FlowRecord, entry: &IndexEntry) -> bool {
        let backend = self.actual.backends.get(&BackendId::of(flow.backend));
        let Some(backend) = backend.filter(|backend| backend.handle == flow.backend) else { return false };
        if backend.table() == entry.table() {
            return false;
        }
        let to = self.server(entry.table(), backend_address(backend));
        let Some(to) = to else { return false };
        if let Some(has_rst_outstanding) = self.removed.get_mut(&to) {
            // The flow is its own from this pass on.
            *has_rst_outstanding = true;
        }
        self.rehomed.insert((flow.service, flow.backend), to);
        true
    }

    /// Whether this pass ends the flow. If so, it is added to `ended`.
    fn terminates(&mut self, flow: &FlowRecord, entry: &IndexEntry) -> bool {
        if flow.is_finished {
            return false;
        }
        let backend = self.actual.backends.get(&BackendId::of(flow.backend));
        let Some(backend) = backend.filter(|backend| backend.handle == flow.backend) else { return false };
        if self.rehomed(flow, entry) {
            return false;
        }
        if entry.protocol() != Some(IpProtocol::Tcp) {
            return false;
        }
        // In `dsr`, `ipip` and `gue` no RST is provoked for an expired flow, so none is outstanding.
        if (entry.sees_replies() || flow.left.is_some())
            && let Some(has_rst_outstanding) = self.removed.get_mut(&flow.backend)
        {
            *has_rst_outstanding = true;
        }
        if !entry.sees_replies() {
            return false;
        }
        if let Some(left) = flow.left
            && backend.flags & Backend::TERMINATING == 0
            && self.has_port(flow, entry)
        {
            self.next = Some(self.next.map_or(left, |next| next.min(left)));
            return false;
        }
        if self.ended.len() == MAX_TERMINATED {
            self.next = Some(Jiffies::new(0));
            return false;
        }
        let client = SocketAddr::new(to_ip(&flow.client), u16::from_be(flow.port));
        let vip_port = if flow.range_port == 0 { entry.port } else { flow.range_port };
        self.ended.push(TerminatedConnection {
            client,
            source: self.source_of(flow).unwrap_or(client),
            vip: SocketAddr::new(to_ip(&entry.address), u16::from_be(vip_port)),
            server: SocketAddr::new(to_ip(&backend.address), u16::from_be(backend.port_for(vip_port))),
        });
        true
    }

    /// Whether packets to the flow's port still find its service: a port may leave a range, or get a listener of its own.
    fn has_port(&mut self, flow: &FlowRecord, entry: &IndexEntry) -> bool {
        if flow.range_port == 0 {
            return true;
        }
        let Self { actual, beside, .. } = self;
        let beside = beside.entry(flow.service).or_insert_with(|| actual.index.listeners_beside(entry));
        let listener =
            beside.iter().find(|listener| listener.ports().contains(u16::from_be(flow.range_port)));
        listener.is_some_and(|listener| listener.service == entry.service)
    }

    /// The source of a flow's packets towards its server, if that is not the client endpoint.
    fn source_of(&self, flow: &FlowRecord) -> Option<SocketAddr> {
        let source = Some(flow.source).filter(|source| source.is_allocated())?;
        let local = self.actual.index.locals.slots.get(&source.local())?;
        Some(SocketAddr::new(to_ip(&local.address), u16::from_be(source.port())))
    }

    /// The handle of a server in a table.
    fn server(&self, table: TableId, address: SocketAddr) -> Option<Handle> {
        let servers = self.servers.get_or_init(|| {
            let all = self.actual.backends.values();
            let (removed, configured): (Vec<&Backend>, Vec<_>) =
                all.partition(|backend| backend.flags & Backend::REMOVED != 0);
            // Configured servers come last, so that they replace removed ones.
            let all = removed.into_iter().chain(configured);
            all.map(|backend| ((backend.table(), backend_address(backend)), backend.handle)).collect()
        });
        servers.get(&(table, address)).copied()
    }

    /// Removed terminating servers for which the pass has found no RST outstanding.
    pub(super) fn rst_delivered(&self) -> BTreeSet<Handle> {
        let rst_delivered = self.removed.iter().filter(|(_, has_rst_outstanding)| !**has_rst_outstanding);
        rst_delivered.map(|(server, _)| *server).collect()
    }

    /// Time until the next GC pass.
    pub(super) fn next_pass(&self) -> Duration {
        let next = self.next.map(|left| Duration::from_secs(left.seconds(self.hz).into()) + MIN_GC_INTERVAL);
        let removed = self.removed.values().any(|has_rst_outstanding| *has_rst_outstanding);
        let removed = removed.then(|| Duration::from_secs(RST_DELIVERY_SECONDS.into()));
        // Rehomed flows may be finished with their new server.
        let rehomed = (!self.rehomed.is_empty()).then_some(MIN_GC_INTERVAL);
        let within = max_gc_interval(self.actual);
        let next = [next, removed, rehomed].into_iter().flatten().min();
        next.map_or(within, |next| next.min(within).max(MIN_GC_INTERVAL))
    }
}

/// Longest time until the next GC pass, whatever the flow table contains.
pub(super) fn max_gc_interval(actual: &MapState) -> Duration {
    let of = |service: &Service| {
        let terminates = service.sees_replies() && service.protocol() == Some(IpProtocol::Tcp);
        let idle = terminates.then_some(service.idle_timeout.into());
        let counted = service.policies().has(policy::LEAST_CONNECTIONS).then_some(CONNECTION_COUNT_SECONDS);
        [idle, counted].into_iter().flatten().min()
    };
    let shortest = actual.services.values().filter_map(of).min().map(clamp_interval);
    shortest.into_iter().chain(affinity_gc_interval(actual)).min().unwrap_or(MAX_GC_INTERVAL)
}

/// Longest time between two GC passes at which no affinity entry expires while a flow of its client continues. It is
/// half of the shortest session persistence. `None` without session persistence.
pub(super) fn affinity_gc_interval(actual: &MapState) -> Option<Duration> {
    let keeping = actual.services.values().filter(|service| service.policies().has(policy::PERSIST));
    keeping.map(|service| u32::from(service.persistence) / 2).min().map(clamp_interval)
}

/// This many seconds, clamped to the permitted time between passes.
fn clamp_interval(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into()).clamp(MIN_GC_INTERVAL, MAX_GC_INTERVAL)
}

#[cfg(test)]
mod tests;
