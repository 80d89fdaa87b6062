//! Tests of the whole document, from a state and readings.

use std::net::IpAddr;

use slb_common::{
    abi::{
        Handle,
        backend::Backend,
        ids::{BackendId, ServiceId, ServiceTag, TableId},
        mode::Mode,
        pad_name,
        service::IndexEntry,
    },
    net::headers::protocol,
};

use super::*;
use crate::dataplane::counters::CounterSnapshot;
use slb_control::dataplane::{
    digest::SlotSummary,
    state::{ServerTable, SlotOrder, TableMember, TableSpec, to_address},
};

/// Slots of each table.
const SLOTS: u32 = 251;

/// `tables` listeners in one load balancer, each with a table of `servers` servers. Ids begin at `1 << 4`.
pub(in crate::server) fn state(tables: u32, servers: u32) -> MapState {
    let mut state = MapState::default();
    for table in 0..tables {
        let service = Service {
            handle: Handle::new(16 + table, 1),
            address: to_address(IpAddr::from([192, 0, 2, 1])),
            port: (1000 + table as u16).to_be(),
            protocol: protocol::TCP,
            mode: Mode::Nat.number(),
            lookup_table: table,
            load_balancer: pad_name("shop"),
            listener: pad_name(&format!("l{table}")),
            ..Service::default()
        };
        state.services.insert(ServiceId::new(16 + table), service);
        let entry = IndexEntry { service: 100 + table, ..IndexEntry::default() };
        state.index.entries.insert(ServiceId::new(16 + table), entry);
        let mut spec = TableSpec { slots: SLOTS, seed: 7, order: SlotOrder::Maglev, ..TableSpec::default() };
        for server in 0..servers {
            let id = 16 + table * servers + server;
            let address = SocketAddr::from(([10, 0, table as u8, server as u8], 80));
            let backend = Backend {
                handle: Handle::new(id, 1),
                address: to_address(address.ip()),
                port: address.port().to_be(),
                lookup_table: table,
                weight: 100,
                flags: Backend::ALIVE | Backend::ACCEPTS_NEW,
                ..Backend::default()
            };
            state.backends.insert(BackendId::new(id), backend);
            spec.members.push(TableMember { backend: BackendId::new(id), address, weight: 100 });
        }
        state.tables.insert(TableId::new(table), ServerTable::new(spec));
    }
    state
}

/// Traffic that tells ids apart.
fn counters(ids: u32, step: u64) -> Vec<Counters> {
    (0..u64::from(ids)).map(|id| Counters { packets_in: step * id, ..Counters::default() }).collect()
}

fn document(state: &MapState, readings: &Readings) -> Status {
    status(
        state,
        readings,
        StatusContext {
            daemon: None,
            config: None,
            details: &BTreeMap::new(),
            set: &BTreeMap::new(),
            outages: None,
            sources: &BTreeMap::new(),
            now: Duration::ZERO,
            interfaces: &[],
            view: None,
        },
    )
}

#[test]
fn listeners_and_servers_have_the_counters_of_their_ids() {
    let state = state(3, 2);
    let mut readings = Readings {
        counters: CounterSnapshot::new(counters(19, 1000), Vec::new(), counters(22, 1), &[]),
        ..Readings::default()
    };
    readings.current_flows.by_service.insert(ServiceTag::new(101), 5);
    readings.current_flows.by_server.insert(Handle::new(18, 1), 4);
    let status = document(&state, &readings);
    let [balancer] = &status.load_balancers[..] else { panic!("{status:?}") };
    let shown: Vec<_> = balancer
        .listeners
        .iter()
        .map(|listener| {
            let servers = listener.servers.iter();
            let servers = servers.map(|server| (server.counters.packets_from_clients, server.current_flows));
            let traffic = listener.counters.packets_from_clients;
            (listener.name.as_str(), traffic, listener.current_flows, servers.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("l0", 16_000, Some(0), vec![(16, Some(0)), (17, Some(0))]),
            ("l1", 17_000, Some(5), vec![(18, Some(4)), (19, Some(0))]),
            ("l2", 18_000, Some(0), vec![(20, Some(0)), (21, Some(0))]),
        ]
    );
}

/// Slots and digests follow from what the daemon has built. `slb` without a daemon reads the tables: both are equal.
#[test]
fn slots_and_digests_are_those_of_the_tables_in_the_maps() {
    let built = state(2, 3);
    let of_built = document(&built, &Readings::default());
    for listener in &of_built.load_balancers[0].listeners {
        let slots: u32 = listener.servers.iter().map(|server| server.slots).sum();
        assert_eq!(slots, SLOTS);
        assert!(
            listener.servers.iter().all(|server| server.slots > SLOTS / 4) && listener.outages.is_empty()
        );
    }
    let read = |(id, table): (&TableId, &ServerTable)| {
        let (lookup_table, _) = table.lookup_tables(TableId::NONE);
        (*id, SlotSummary::read(lookup_table.current_backends(), &built.backends))
    };
    let readings = Readings { tables: built.tables.iter().map(read).collect(), ..Readings::default() };
    let unknown = built.tables.keys().map(|id| (*id, ServerTable::default())).collect();
    let found = MapState { tables: unknown, ..built.clone() };
    assert_eq!(document(&found, &readings), of_built);
    let unread = document(&found, &Readings::default());
    assert!(unread.load_balancers[0].listeners.iter().all(|listener| !listener.outages.is_empty()));
    assert_ne!(unread.digest, of_built.digest);
}
