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
    /// Whether a port of a range, in network byte order, still leads to its service.
    ports: HashMap<(ServiceTag, u16), bool>,
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
            ports: HashMap::new(),
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
        let Self { actual, ports, .. } = self;
        let leads = || {
            let listener = actual.index.listener_of(entry, flow.range_port);
            listener.is_some_and(|listener| listener.service == entry.service)
        };
        flow.range_port == 0 || *ports.entry((flow.service, flow.range_port)).or_insert_with(leads)
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
        let idle = terminates.then_some(service.idle_timeout);
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
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use slb_common::abi::{
        ids::{ServiceId, ServiceTag},
        mode::Mode,
    };

    use super::*;
    use crate::dataplane::state::to_address;
    use slb_common::abi::{local_address::LocalAddress, source::Source};

    const HZ: u32 = 250;

    fn actual(flags: u8) -> MapState {
        let mut state = MapState::default();
        let backend = Backend {
            address: to_address(IpAddr::from([10, 0, 0, 1])),
            port: 8080_u16.to_be(),
            handle: Handle::new(3, 7),
            flags,
            ..Backend::default()
        };
        state.backends.insert(BackendId::new(3), backend);
        let service = Service { protocol: IpProtocol::Tcp.number(), idle_timeout: 30, ..Service::default() };
        state.services.insert(ServiceId::new(1), service);
        state
    }

    fn entry() -> IndexEntry {
        IndexEntry {
            address: to_address(IpAddr::from([192, 0, 2, 10])),
            port: 80_u16.to_be(),
            protocol: IpProtocol::Tcp.number(),
            ..IndexEntry::default()
        }
    }

    fn flow(left: Option<u32>) -> FlowRecord {
        let left = left.map(Jiffies::new);
        FlowRecord { left, ..FlowRecord::sample(ServiceTag::new(1), Handle::new(3, 7)) }
    }

    const ENDED: TerminatedConnection = TerminatedConnection {
        client: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), 40_000),
        source: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), 40_000),
        vip: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), 80),
        server: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 8080),
    };

    #[test]
    fn flow_beyond_its_idle_timeout_ends() {
        let actual = actual(Backend::ALIVE | Backend::ACCEPTS_NEW);
        let mut finished_flows = FinishedFlows::new(&actual, HZ);
        assert_eq!(finished_flows.fate_of(&flow(Some(5 * HZ)), &entry()), GcAction::Keep);
        assert_eq!(finished_flows.fate_of(&flow(None), &entry()), GcAction::Terminate);
        assert_eq!(finished_flows.ended, [ENDED]);
        assert_eq!(finished_flows.next_pass(), Duration::from_secs(6));
    }

    #[test]
    fn server_end_is_provoked_from_the_flows_source() {
        let mut actual = actual(Backend::ALIVE | Backend::ACCEPTS_NEW);
        let local: SocketAddr = "10.0.0.200:5000".parse().unwrap();
        let address = to_address(local.ip());
        actual.index.locals.slots.insert(9, LocalAddress { address, ..LocalAddress::default() });
        let mut finished_flows = FinishedFlows::new(&actual, HZ);
        let source = Source::candidate(9, local.port().to_be()).allocated();
        let translated = FlowRecord { source, ..flow(None) };
        assert_eq!(finished_flows.fate_of(&translated, &entry()), GcAction::Terminate);
        assert_eq!(finished_flows.ended, [TerminatedConnection { source: local, ..ENDED }]);
    }

    #[test]
    fn flows_of_a_terminating_server_end() {
        let actual = actual(Backend::TERMINATING);
        let mut finished_flows = FinishedFlows::new(&actual, HZ);
        assert_eq!(finished_flows.fate_of(&flow(Some(5 * HZ)), &entry()), GcAction::Terminate);
        assert_eq!(finished_flows.ended, [ENDED]);
        assert_eq!(
            finished_flows.next_pass(),
            Duration::from_secs(30),
            "a new one may be silent for so long by then"
        );
    }

    /// Behind a range, also the ends of a provoked connection are those of the flow's port.
    #[test]
    fn flow_whose_port_leads_elsewhere_ends() {
        let mut actual = actual(Backend::ALIVE | Backend::ACCEPTS_NEW);
        actual.backends.get_mut(&BackendId::new(3)).unwrap().port = 0;
        let range = |service: u32, (first_port, last_port): (u16, u16)| IndexEntry {
            port: 0,
            protocol: IpProtocol::Tcp.number() | IndexEntry::RANGE,
            first_port,
            last_port,
            service,
            ..entry()
        };
        let entry = range(1, (8000, 8999));
        let single = IndexEntry { port: 8080_u16.to_be(), service: 2, ..self::entry() };
        let to = |port: u16, left| FlowRecord { range_port: port.to_be(), ..flow(left) };
        let fates = |actual: &MapState, port| {
            let mut finished_flows = FinishedFlows::new(actual, HZ);
            (finished_flows.fate_of(&to(port, Some(5 * HZ)), &entry), finished_flows.ended)
        };
        let at = |address: [u8; 4], port| SocketAddr::from((address, port));
        let ended = |port| TerminatedConnection {
            vip: at([192, 0, 2, 10], port),
            server: at([10, 0, 0, 1], port),
            ..ENDED
        };
        actual.index.entries = [entry, range(3, (1, u16::MAX))]
            .into_iter()
            .zip(0..)
            .map(|(entry, id)| (ServiceId::new(id), entry))
            .collect();
        assert_eq!(fates(&actual, 8080), (GcAction::Keep, vec![]));
        assert_eq!(fates(&actual, 7999), (GcAction::Terminate, vec![ended(7999)]), "it has left the range");
        let mut finished_flows = FinishedFlows::new(&actual, HZ);
        assert_eq!(finished_flows.fate_of(&to(8081, None), &entry), GcAction::Terminate);
        assert_eq!(finished_flows.ended, [ended(8081)], "it has expired");
        actual.index.entries.insert(ServiceId::new(7), single);
        assert_eq!(fates(&actual, 8080), (GcAction::Terminate, vec![ended(8080)]), "a listener of its own");
        assert_eq!(fates(&actual, 8081), (GcAction::Keep, vec![]));
    }

    #[test]
    fn active_flow_renews_its_affinity_entry() {
        let actual = actual(Backend::ALIVE | Backend::ACCEPTS_NEW);
        let mut finished_flows = FinishedFlows::new(&actual, HZ);
        let entry = IndexEntry { policy: policy::PERSIST, persistence: 33, ..entry() };
        assert_eq!(finished_flows.fate_of(&flow(Some(5 * HZ)), &entry), GcAction::RefreshAffinity(3));
        assert_eq!(
            finished_flows.fate_of(&FlowRecord { is_finished: true, ..flow(Some(5 * HZ)) }, &entry),
            GcAction::Keep
        );
    }

    #[test]
    fn finished_udp_and_dsr_flows_are_not_ended() {
        let actual = actual(Backend::TERMINATING);
        let mut finished_flows = FinishedFlows::new(&actual, HZ);
        assert_eq!(
            finished_flows.fate_of(&FlowRecord { is_finished: true, ..flow(None) }, &entry()),
            GcAction::Keep
        );
        assert_eq!(
            finished_flows.fate_of(&FlowRecord { backend: Handle::new(3, 6), ..flow(None) }, &entry()),
            GcAction::Keep
        );
        assert_eq!(
            finished_flows.fate_of(&flow(None), &IndexEntry { mode: Mode::Dsr.number(), ..entry() }),
            GcAction::Keep
        );
        assert_eq!(
            finished_flows
                .fate_of(&flow(None), &IndexEntry { protocol: IpProtocol::Udp.number(), ..entry() }),
            GcAction::Keep
        );
        assert_eq!(finished_flows.ended, []);
    }

    #[test]
    fn flows_of_a_listener_with_another_table_are_rehomed_to_it() {
        let mut actual = actual(Backend::TERMINATING);
        let elsewhere = IndexEntry { lookup_table: 1, service: 1, ..entry() };
        let there =
            Backend { lookup_table: 1, handle: Handle::new(4, 9), ..actual.backends[&BackendId::new(3)] };
        let gone = Backend { handle: Handle::new(5, 8), flags: REMOVED_TERMINATING, ..there };
        let other = Backend { handle: Handle::new(6, 9), port: 1, ..there };
        actual
            .backends
            .extend([(4, there), (5, gone), (6, other)].map(|(id, backend)| (BackendId::new(id), backend)));
        for protocol in [IpProtocol::Tcp.number(), IpProtocol::Udp.number()] {
            let mut finished_flows = FinishedFlows::new(&actual, HZ);
            assert_eq!(
                finished_flows.fate_of(&flow(Some(5 * HZ)), &IndexEntry { protocol, ..elsewhere }),
                GcAction::Keep
            );
            assert_eq!(
                finished_flows.rehomed,
                RehomeMap::from([((ServiceTag::new(1), Handle::new(3, 7)), there.handle)])
            );
            assert_eq!((finished_flows.ended.len(), finished_flows.next_pass()), (0, MIN_GC_INTERVAL));
        }
        let mut finished_flows = FinishedFlows::new(&actual, HZ);
        assert_eq!(
            finished_flows.fate_of(&flow(Some(5 * HZ)), &IndexEntry { lookup_table: 2, ..elsewhere }),
            GcAction::Terminate,
            "nowhere to go"
        );
        assert!(finished_flows.rehomed.is_empty());
        let client = FlowRecord { is_affinity: true, ..flow(Some(5 * HZ)) };
        let persists = IndexEntry { policy: policy::PERSIST, ..elsewhere };
        assert_eq!(
            finished_flows.affinity_fate(&client, Some(&elsewhere)),
            GcAction::Terminate,
            "affinity entries expire"
        );
        assert_eq!(finished_flows.affinity_fate(&client, None), GcAction::Terminate, "the listener is gone");
        assert!(finished_flows.rehomed.is_empty());
        assert_eq!(finished_flows.affinity_fate(&client, Some(&persists)), GcAction::Keep);
        assert_eq!(
            finished_flows.rehomed,
            RehomeMap::from([((ServiceTag::new(1), Handle::new(3, 7)), there.handle)])
        );
    }

    #[test]
    fn gc_interval_follows_timeouts_scheduler_and_persistence() {
        const KEEPS: u32 = policy::PERSIST;
        let service = |policy, persistence, idle_timeout| Service {
            protocol: IpProtocol::Tcp.number(),
            policy,
            persistence,
            idle_timeout,
            ..Service::default()
        };
        for (services, within, keeps) in [
            (vec![], 60, None),
            (vec![service(0, 0, 900)], 60, None),
            (vec![service(0, 4, 30)], 30, None),
            (vec![service(policy::LEAST_CONNECTIONS, 0, 900)], 5, None),
            (vec![service(KEEPS, 3600, 900)], 60, Some(60)),
            (vec![service(KEEPS, 3600, 900), service(KEEPS, 8, 900)], 4, Some(4)),
            (vec![service(KEEPS, 40, 10)], 10, Some(20)),
            (vec![service(KEEPS, 1, 900)], 1, Some(1)),
        ] {
            let services = (0..).map(ServiceId::new).zip(services).collect();
            let actual = MapState { services, ..MapState::default() };
            let found = (max_gc_interval(&actual), affinity_gc_interval(&actual));
            assert_eq!(found, (Duration::from_secs(within), keeps.map(Duration::from_secs)), "{actual:?}");
        }
    }

    #[test]
    fn gc_pass_ends_a_limited_number_and_the_next_comes_soon() {
        let actual = actual(Backend::TERMINATING);
        let mut finished_flows = FinishedFlows::new(&actual, HZ);
        assert_eq!(
            (0..2 * MAX_TERMINATED)
                .filter(|_| finished_flows.fate_of(&flow(None), &entry()) == GcAction::Terminate)
                .count(),
            MAX_TERMINATED
        );
        assert_eq!(finished_flows.next_pass(), MIN_GC_INTERVAL);
    }

    #[test]
    fn removed_server_is_done_once_a_gc_pass_ends_none_of_its_flows() {
        let removed = actual(REMOVED_TERMINATING);
        let server = BTreeSet::from([Handle::new(3, 7)]);
        let rst_delivered = |flow: &FlowRecord, entry: &IndexEntry| {
            let mut finished_flows = FinishedFlows::new(&removed, HZ);
            finished_flows.fate_of(flow, entry);
            (finished_flows.rst_delivered(), finished_flows.next_pass())
        };
        let soon = Duration::from_secs(20);
        assert_eq!(rst_delivered(&flow(None), &entry()), (BTreeSet::new(), soon), "a RST in this GC pass");
        assert_eq!(rst_delivered(&flow(Some(5 * HZ)), &entry()), (BTreeSet::new(), soon));
        let over = FlowRecord { is_finished: true, ..flow(Some(5 * HZ)) };
        assert_eq!(rst_delivered(&over, &entry()).0, server);
        let dsr = IndexEntry { mode: Mode::Dsr.number(), ..entry() };
        assert_eq!(
            rst_delivered(&flow(Some(0)), &dsr).0,
            BTreeSet::new(),
            "an end that sends a packet receives a RST"
        );
        assert_eq!(rst_delivered(&flow(None), &dsr).0, server);
        assert_eq!(
            rst_delivered(&flow(Some(0)), &IndexEntry { protocol: IpProtocol::Udp.number(), ..entry() }).0,
            server
        );
        let drains = actual(Backend::ALIVE | Backend::REMOVED);
        assert_eq!(
            FinishedFlows::new(&drains, HZ).rst_delivered(),
            BTreeSet::new(),
            "it has not been cut yet"
        );
    }
}
