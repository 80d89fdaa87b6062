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
        finished_flows.fate_of(&flow(None), &IndexEntry { protocol: IpProtocol::Udp.number(), ..entry() }),
        GcAction::Keep
    );
    assert_eq!(finished_flows.ended, []);
}

#[test]
fn flows_of_a_listener_with_another_table_are_rehomed_to_it() {
    let mut actual = actual(Backend::TERMINATING);
    let elsewhere = IndexEntry { lookup_table: 1, service: 1, ..entry() };
    let there = Backend { lookup_table: 1, handle: Handle::new(4, 9), ..actual.backends[&BackendId::new(3)] };
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
    assert_eq!(FinishedFlows::new(&drains, HZ).rst_delivered(), BTreeSet::new(), "it has not been cut yet");
}
