//! Finished flows: what a flow-table GC pass does with each entry. Pure.
//!
//! A pass ends connections whose ends may not know that they are over. It also finds flows to rehome after a table
//! split. It ends TCP connections of mode `nat` that have expired, and those of terminating servers. In `dsr` and
//! `ipip` SLB does not see the answers, so silence proves nothing: an end receives its RST when it sends.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use slb_common::{
    abi::{
        Handle,
        backend::Backend,
        flow::persistence_units,
        service::{IndexEntry, Service, mode, policy},
    },
    datapath::flow_gc::Fate,
    net::headers::protocol,
};

use super::drain::TOLD;
use crate::dataplane::{
    rehome::Rehomed,
    state::{FlowRecord, State, backend_address, to_ip},
};

/// Connections that one GC pass ends at most.
pub const MOST: usize = 1000;
/// Longest time between two GC passes. Expired entries must be erased before the wraparound of jiffies.
const LOOK: Duration = Duration::from_secs(60);
/// Longest time between two GC passes, in seconds, where connection counts matter (`wlc`).
const LOADS: u32 = 5;
/// Shortest time between two GC passes.
const SPACING: Duration = Duration::from_secs(1);

const REMOVED: u8 = Backend::REMOVED | Backend::TERMINATING;

/// A connection that a GC pass has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The client endpoint.
    pub client: SocketAddr,
    /// The VIP and port that the client connected to.
    pub vip: SocketAddr,
    /// The server endpoint.
    pub server: SocketAddr,
}

/// The state of one GC pass.
pub(super) struct Watch<'a> {
    held: &'a State,
    hz: u32,
    /// Connections that this pass has ended.
    pub(super) ended: Vec<Ended>,
    /// Removed terminating servers, each with whether the pass has found RSTs outstanding.
    removed: BTreeMap<Handle, bool>,
    /// Flows and affinity entries to rehome after a table split: (service, old server) -> server in the new table.
    pub(super) moves: Rehomed,
    /// Servers by table and endpoint, built at the first use.
    servers: OnceCell<BTreeMap<(u32, SocketAddr), Handle>>,
    /// Jiffies until the next connection expires; 0 if the pass left some for the next one.
    next: Option<u32>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(held: &'a State, hz: u32) -> Self {
        let removed = held.backends.values().filter(|backend| backend.flags & REMOVED == REMOVED);
        let removed = removed.map(|backend| (backend.handle, false)).collect();
        Self {
            held,
            hz,
            ended: Vec::new(),
            removed,
            moves: Rehomed::new(),
            servers: OnceCell::new(),
            next: None,
        }
    }

    /// Decides the fate of a flow's entry.
    pub(super) fn note(&mut self, flow: &FlowRecord, entry: &IndexEntry) -> Fate {
        if self.ends(flow, entry) {
            Fate::Ends
        } else if flow.left.is_some() && !flow.is_finished && entry.policy & policy::PERSIST != 0 {
            Fate::Holds(persistence_units(entry.persistence))
        } else {
            Fate::Goes
        }
    }

    /// Decides the fate of an affinity entry. `entry` is `None` if its service no longer exists.
    pub(super) fn note_client(&mut self, client: &FlowRecord, entry: Option<&IndexEntry>) -> Fate {
        match entry {
            Some(entry) if entry.policy & policy::PERSIST != 0 => {
                self.moves(client, entry);
                Fate::Goes
            }
            _ => Fate::Ends,
        }
    }

    /// Records the new server of an entry whose server is in another table. Returns whether there is one.
    fn moves(&mut self, flow: &FlowRecord, entry: &IndexEntry) -> bool {
        let backend = self.held.backends.get(&flow.backend.id());
        let Some(backend) = backend.filter(|backend| backend.handle == flow.backend) else { return false };
        if backend.lookup_table == entry.lookup_table {
            return false;
        }
        let to = self.server(entry.lookup_table, backend_address(backend));
        self.moves.extend(to.map(|to| ((flow.service, flow.backend), to)));
        to.is_some()
    }

    /// Whether this pass ends the flow. If so, it is added to `ended`.
    fn ends(&mut self, flow: &FlowRecord, entry: &IndexEntry) -> bool {
        if flow.is_finished {
            return false;
        }
        let backend = self.held.backends.get(&flow.backend.id());
        let Some(backend) = backend.filter(|backend| backend.handle == flow.backend) else { return false };
        if self.moves(flow, entry) {
            return false;
        }
        if entry.protocol != protocol::TCP {
            return false;
        }
        // In `dsr` and `ipip` no RST is provoked for an expired flow, so none is outstanding.
        if (entry.mode == mode::NAT || flow.left.is_some())
            && let Some(has_rst_outstanding) = self.removed.get_mut(&flow.backend)
        {
            *has_rst_outstanding = true;
        }
        if entry.mode != mode::NAT {
            return false;
        }
        if let Some(left) = flow.left
            && backend.flags & Backend::TERMINATING == 0
        {
            self.next = Some(self.next.map_or(left, |next| next.min(left)));
            return false;
        }
        if self.ended.len() == MOST {
            self.next = Some(0);
            return false;
        }
        self.ended.push(Ended {
            client: SocketAddr::new(to_ip(&flow.client), u16::from_be(flow.port)),
            vip: SocketAddr::new(to_ip(&entry.address), u16::from_be(entry.port)),
            server: backend_address(backend),
        });
        true
    }

    /// The handle of a server in a table.
    fn server(&self, table: u32, address: SocketAddr) -> Option<Handle> {
        let servers = self.servers.get_or_init(|| {
            let all = self.held.backends.values();
            let (lingering, configured): (Vec<&Backend>, Vec<_>) =
                all.partition(|backend| backend.flags & Backend::REMOVED != 0);
            // Configured servers come last, so that they replace removed ones.
            let all = lingering.into_iter().chain(configured);
            all.map(|backend| ((backend.lookup_table, backend_address(backend)), backend.handle)).collect()
        });
        servers.get(&(table, address)).copied()
    }

    /// Removed terminating servers for which the pass has found no RST outstanding.
    pub(super) fn told(&self) -> BTreeSet<Handle> {
        let told = self.removed.iter().filter(|(_, has_rst_outstanding)| !**has_rst_outstanding);
        told.map(|(server, _)| *server).collect()
    }

    /// Time until the next GC pass.
    pub(super) fn next_look(&self) -> Duration {
        let next = self.next.map(|left| Duration::from_secs((left / self.hz.max(1)).into()) + SPACING);
        let removed = self.removed.values().any(|has_rst_outstanding| *has_rst_outstanding);
        let removed = removed.then(|| Duration::from_secs(TOLD.into()));
        // Rehomed flows may be finished with their new server.
        let moves = (!self.moves.is_empty()).then_some(SPACING);
        let within = look_within(self.held);
        let next = [next, removed, moves].into_iter().flatten().min();
        next.map_or(within, |next| next.min(within).max(SPACING))
    }
}

/// Longest time until the next GC pass, whatever the flow table contains.
pub(super) fn look_within(held: &State) -> Duration {
    let of = |service: &Service| {
        let ends = service.mode == mode::NAT && service.protocol == protocol::TCP;
        let idle = ends.then_some(service.idle_timeout);
        let counted = (service.policy & policy::LEAST_CONNECTIONS != 0).then_some(LOADS);
        [idle, counted].into_iter().flatten().min()
    };
    let shortest = held.services.values().filter_map(of).min().map(spaced);
    shortest.into_iter().chain(looks_keep_clients(held)).min().unwrap_or(LOOK)
}

/// Longest time between two GC passes at which no affinity entry expires while a flow of its client continues. It is
/// half of the shortest session persistence. `None` without session persistence.
pub(super) fn looks_keep_clients(held: &State) -> Option<Duration> {
    let keeping = held.services.values().filter(|service| service.policy & policy::PERSIST != 0);
    keeping.map(|service| service.persistence / 2).min().map(spaced)
}

/// This many seconds, clamped to the permitted time between passes.
fn spaced(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into()).clamp(SPACING, LOOK)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::dataplane::state::to_address;

    const HZ: u32 = 250;

    fn held(flags: u8) -> State {
        let mut state = State::default();
        let backend = Backend {
            address: to_address(IpAddr::from([10, 0, 0, 1])),
            port: 8080_u16.to_be(),
            handle: Handle::new(3, 7),
            flags,
            ..Backend::default()
        };
        state.backends.insert(3, backend);
        let service = Service { protocol: protocol::TCP, idle_timeout: 30, ..Service::default() };
        state.services.insert(1, service);
        state
    }

    fn entry() -> IndexEntry {
        IndexEntry {
            address: to_address(IpAddr::from([192, 0, 2, 10])),
            port: 80_u16.to_be(),
            protocol: protocol::TCP,
            ..IndexEntry::default()
        }
    }

    fn flow(left: Option<u32>) -> FlowRecord {
        FlowRecord { left, ..FlowRecord::sample(1, Handle::new(3, 7)) }
    }

    const ENDED: Ended = Ended {
        client: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), 40_000),
        vip: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), 80),
        server: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 8080),
    };

    #[test]
    fn what_has_been_silent_for_too_long_ends() {
        let held = held(Backend::ALIVE | Backend::NEW);
        let mut watch = Watch::new(&held, HZ);
        assert_eq!(watch.note(&flow(Some(5 * HZ)), &entry()), Fate::Goes);
        assert_eq!(watch.note(&flow(None), &entry()), Fate::Ends);
        assert_eq!(watch.ended, [ENDED]);
        assert_eq!(watch.next_look(), Duration::from_secs(6));
    }

    #[test]
    fn what_a_cut_server_has_ends() {
        let held = held(Backend::TERMINATING);
        let mut watch = Watch::new(&held, HZ);
        assert_eq!(watch.note(&flow(Some(5 * HZ)), &entry()), Fate::Ends);
        assert_eq!(watch.ended, [ENDED]);
        assert_eq!(watch.next_look(), Duration::from_secs(30), "a new one may be silent for so long by then");
    }

    #[test]
    fn a_flow_that_goes_on_keeps_its_client_to_its_server() {
        let held = held(Backend::ALIVE | Backend::NEW);
        let mut watch = Watch::new(&held, HZ);
        let entry = IndexEntry { policy: policy::PERSIST, persistence: 33, ..entry() };
        assert_eq!(watch.note(&flow(Some(5 * HZ)), &entry), Fate::Holds(3));
        assert_eq!(watch.note(&FlowRecord { is_finished: true, ..flow(Some(5 * HZ)) }, &entry), Fate::Goes);
    }

    #[test]
    fn what_is_over_or_of_another_kind_is_left_alone() {
        let held = held(Backend::TERMINATING);
        let mut watch = Watch::new(&held, HZ);
        assert_eq!(watch.note(&FlowRecord { is_finished: true, ..flow(None) }, &entry()), Fate::Goes);
        assert_eq!(
            watch.note(&FlowRecord { backend: Handle::new(3, 6), ..flow(None) }, &entry()),
            Fate::Goes
        );
        assert_eq!(watch.note(&flow(None), &IndexEntry { mode: mode::DSR, ..entry() }), Fate::Goes);
        assert_eq!(watch.note(&flow(None), &IndexEntry { protocol: protocol::UDP, ..entry() }), Fate::Goes);
        assert_eq!(watch.ended, []);
    }

    #[test]
    fn flows_of_a_listener_in_another_table_come_to_their_servers_there() {
        let mut held = held(Backend::TERMINATING);
        let elsewhere = IndexEntry { lookup_table: 1, service: 1, ..entry() };
        let there = Backend { lookup_table: 1, handle: Handle::new(4, 9), ..held.backends[&3] };
        let gone = Backend { handle: Handle::new(5, 8), flags: REMOVED, ..there };
        let other = Backend { handle: Handle::new(6, 9), port: 1, ..there };
        held.backends.extend([(4, there), (5, gone), (6, other)]);
        for protocol in [protocol::TCP, protocol::UDP] {
            let mut watch = Watch::new(&held, HZ);
            assert_eq!(watch.note(&flow(Some(5 * HZ)), &IndexEntry { protocol, ..elsewhere }), Fate::Goes);
            assert_eq!(watch.moves, Rehomed::from([((1, Handle::new(3, 7)), there.handle)]));
            assert_eq!((watch.ended.len(), watch.next_look()), (0, SPACING));
        }
        let mut watch = Watch::new(&held, HZ);
        assert_eq!(
            watch.note(&flow(Some(5 * HZ)), &IndexEntry { lookup_table: 2, ..elsewhere }),
            Fate::Ends,
            "nowhere to go"
        );
        assert!(watch.moves.is_empty());
        let client = FlowRecord { is_client: true, ..flow(Some(5 * HZ)) };
        let persists = IndexEntry { policy: policy::PERSIST, ..elsewhere };
        assert_eq!(watch.note_client(&client, Some(&elsewhere)), Fate::Ends, "clients are not kept any more");
        assert_eq!(watch.note_client(&client, None), Fate::Ends, "the listener is gone");
        assert!(watch.moves.is_empty());
        assert_eq!(watch.note_client(&client, Some(&persists)), Fate::Goes);
        assert_eq!(watch.moves, Rehomed::from([((1, Handle::new(3, 7)), there.handle)]));
    }

    #[test]
    fn looks_are_often_enough_for_what_they_are_of_use_for() {
        const KEEPS: u32 = policy::PERSIST;
        let service = |policy, persistence, idle_timeout| Service {
            protocol: protocol::TCP,
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
            let services = (0..).zip(services).collect();
            let held = State { services, ..State::default() };
            let found = (look_within(&held), looks_keep_clients(&held));
            assert_eq!(found, (Duration::from_secs(within), keeps.map(Duration::from_secs)), "{held:?}");
        }
    }

    #[test]
    fn one_look_ends_so_many_and_the_next_comes_soon() {
        let held = held(Backend::TERMINATING);
        let mut watch = Watch::new(&held, HZ);
        assert_eq!((0..2 * MOST).filter(|_| watch.note(&flow(None), &entry()) == Fate::Ends).count(), MOST);
        assert_eq!(watch.next_look(), SPACING);
    }

    #[test]
    fn a_removed_server_has_been_told_of_when_a_look_finds_nothing_to_end() {
        let removed = held(REMOVED);
        let server = BTreeSet::from([Handle::new(3, 7)]);
        let told = |flow: &FlowRecord, entry: &IndexEntry| {
            let mut watch = Watch::new(&removed, HZ);
            watch.note(flow, entry);
            (watch.told(), watch.next_look())
        };
        let soon = Duration::from_secs(20);
        assert_eq!(told(&flow(None), &entry()), (BTreeSet::new(), soon), "told in this very look");
        assert_eq!(told(&flow(Some(5 * HZ)), &entry()), (BTreeSet::new(), soon));
        let over = FlowRecord { is_finished: true, ..flow(Some(5 * HZ)) };
        assert_eq!(told(&over, &entry()).0, server);
        let dsr = IndexEntry { mode: mode::DSR, ..entry() };
        assert_eq!(told(&flow(Some(0)), &dsr).0, BTreeSet::new(), "who speaks is told");
        assert_eq!(told(&flow(None), &dsr).0, server);
        assert_eq!(told(&flow(Some(0)), &IndexEntry { protocol: protocol::UDP, ..entry() }).0, server);
        let drains = held(Backend::ALIVE | Backend::REMOVED);
        assert_eq!(Watch::new(&drains, HZ).told(), BTreeSet::new(), "it has not been cut yet");
    }
}
