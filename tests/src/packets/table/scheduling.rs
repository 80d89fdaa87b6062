//! Schedulers and session persistence: which server a new flow gets.

use std::net::SocketAddr;

use slb_common::abi::{
    backend::Backend,
    ids::BackendId,
    service::{Service, mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{Frame, flag, tcp, udp},
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const SECOND: u32 = HZ;

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, listener, servers) in
        [("IPv4", HTTP4, [WEB4, OTHER4, FOURTH]), ("IPv6", HTTP6, [WEB6, OTHER6, DISTANT6])]
    {
        for (mode, mode_name) in [(mode::NAT, "nat"), (mode::DSR, "dsr")] {
            // Mode `dsr` needs servers on the same link.
            let servers = if mode == mode::DSR { &servers[..2] } else { &servers[..] };
            let group = SchedulingCase { listener, servers: servers.to_vec(), mode };
            let named =
                |case: Scenario| Scenario { name: format!("{mode_name}/{family}: {}", case.name), ..case };
            let all = [
                group.round_robin_cases(),
                group.least_connections_cases(),
                group.persistence(),
                group.persistence_ends(),
            ];
            cases.extend(all.into_iter().flatten().map(named));
        }
    }
    cases.extend(datagrams());
    cases.push(conflict());
    cases
}

/// A listener and the servers behind it.
struct SchedulingCase {
    listener: PacketListener,
    servers: Vec<PacketServer>,
    mode: u8,
}

impl SchedulingCase {
    fn table(&self) -> u32 {
        self.listener.table.expect("a listener with servers")
    }

    /// The standard world with this policy of the listener; the table is not filled yet.
    fn with(&self, policy: u32) -> PacketWorld {
        PacketWorld::standard().with(self.listener, |service| {
            service.mode = self.mode;
            service.policy = policy | policy::TRACK;
            service.persistence = if policy & policy::PERSIST == 0 { 0 } else { 60 };
        })
    }

    fn round_robin_world(&self, policy: u32) -> PacketWorld {
        self.with(policy).round_robin(self.table(), &self.servers)
    }

    /// The first server has most of the turns, many in a row.
    fn uneven(&self) -> PacketWorld {
        let servers = self.servers.iter().zip([100, 1]).map(|(server, weight)| (*server, weight));
        self.with(policy::ROUND_ROBIN).weighted_round_robin(self.table(), servers)
    }

    fn persistence_world(&self, servers: &[PacketServer]) -> PacketWorld {
        // The first call makes all servers members of the table; the second fills it with some.
        self.with(policy::PERSIST).table(self.table(), &self.servers).table(self.table(), servers)
    }

    fn client(&self, n: u16) -> SocketAddr {
        let client = if self.listener.at.is_ipv4() { CLIENT4 } else { CLIENT6 };
        SocketAddr::new(client.ip(), client.port() + n)
    }

    fn stranger(&self) -> SocketAddr {
        let at: SocketAddr =
            if self.listener.at.is_ipv4() { "203.0.113.99:4711" } else { "[2001:db8:c::99]:4711" }
                .parse()
                .expect("an endpoint");
        at
    }

    fn send(&self, n: u16, flags: u8) -> Frame {
        tcp(self.client(n), self.listener.at, flags).build()
    }

    fn syn(&self, n: u16) -> Frame {
        self.send(n, flag::SYN)
    }

    fn begun(&self, server: usize) -> Expect {
        Expect::ToServer(self.listener, self.servers[server], FlowKind::New)
    }

    fn old(&self, server: usize) -> Expect {
        Expect::ToServer(self.listener, self.servers[server], FlowKind::Old)
    }

    fn round_robin_cases(&self) -> Vec<Scenario> {
        let last = self.servers.len() - 1;
        let case = |name: &str| Scenario::new(name).in_world(self.round_robin_world(policy::ROUND_ROBIN));
        let round = |case: Scenario, first: u16| {
            (0..self.servers.len())
                .fold(case, |case, server| case.frame(self.syn(first + server as u16), self.begun(server)))
        };
        let mut cases = vec![
            round(round(case("servers take turns"), 0), 100),
            round(case("segments of established flows take no turn"), 0)
                .frame(self.send(0, flag::ACK), self.old(0))
                .frame(self.send(last as u16, flag::ACK | flag::PSH), self.old(last))
                .frame(self.syn(50), self.begun(0))
                .frame(self.syn(51), self.begun(1)),
            case("a server that takes no new flows is left out")
                .change(self.round_robin_world(policy::ROUND_ROBIN).flags(self.servers[0], Backend::ALIVE))
                .frame(self.syn(0), self.begun(1))
                .frame(self.syn(1), self.begun(1)),
            case("a run of slots of a server without new flows is skipped")
                .change(self.uneven())
                .frame(self.syn(0), self.begun(0))
                .frame(self.syn(1), self.begun(1))
                .change(self.uneven().flags(self.servers[0], Backend::ALIVE))
                .frame(self.syn(2), self.begun(1)),
            case("a table without servers")
                .change(self.with(policy::ROUND_ROBIN).round_robin(self.table(), &[]))
                .frame(self.syn(0), Expect::Drop(Reason::NoServer)),
            case("a table without a server that takes new flows")
                .change(
                    self.servers.iter().fold(self.round_robin_world(policy::ROUND_ROBIN), |world, server| {
                        world.flags(*server, Backend::ALIVE)
                    }),
                )
                .frame(self.syn(0), Expect::Drop(Reason::NoServer)),
            case("full flow table: a SYN is dropped")
                .host_only()
                .full()
                .frame(self.syn(0), Expect::Drop(Reason::FlowTableFull)),
            round(case("flows stay when the table changes"), 0)
                .change(self.with(policy::ROUND_ROBIN).round_robin(self.table(), &self.servers[..1]))
                .frame(self.send(last as u16, flag::ACK), self.old(last))
                .frame(self.syn(60), self.begun(0)),
        ];
        if self.mode == mode::NAT {
            let of_server =
                || tcp(SocketAddr::new(self.servers[0].at.ip(), 999), self.listener.at, flag::SYN).build();
            cases.push(
                case("a client that is a server gets another server").frame(of_server(), self.begun(1)),
            );
            cases.push(
                case("a client that is the server of most slots gets another server")
                    .change(self.uneven())
                    .frame(self.syn(0), self.begun(0))
                    .frame(self.syn(1), self.begun(1))
                    .frame(of_server(), self.begun(1))
                    .frame(self.syn(2), self.begun(0)),
            );
            cases.push(
                case("a client that is the only server is dropped as hairpin")
                    .change(self.with(policy::ROUND_ROBIN).round_robin(self.table(), &self.servers[..1]))
                    .frame(of_server(), Expect::Drop(Reason::Hairpin)),
            );
        }
        cases
    }

    fn least_connections_cases(&self) -> Vec<Scenario> {
        let last = self.servers.len() - 1;
        let case = |name: &str| {
            let begun = Scenario::new(name).in_world(self.round_robin_world(policy::LEAST_CONNECTIONS));
            (0..=last).fold(begun, |case, server| case.frame(self.syn(server as u16), self.begun(server)))
        };
        let heavy = || {
            let mut world = self.round_robin_world(policy::LEAST_CONNECTIONS);
            world
                .state
                .backends
                .get_mut(&BackendId::new(self.servers[1].id))
                .expect("a server")
                .effective_weight = 3;
            world
        };
        let mut cases = vec![
            case("a client's RST decrements the connection count")
                .frame(self.send(1, flag::RST), self.old(1))
                .frame(self.syn(10), self.begun(1)),
            case("a client's FIN decrements the connection count")
                .frame(self.send(1, flag::ACK | flag::FIN), self.old(1))
                .frame(self.send(1, flag::ACK | flag::FIN), self.old(1))
                .frame(self.send(1, flag::RST), self.old(1))
                .frame(self.syn(10), self.begun(1))
                // The server has as many flows as the others again, so round robin decides.
                .frame(self.syn(11), self.begun((last + 2) % (last + 1))),
            Scenario::new("a server of three times the weight has three times the flows")
                .in_world(heavy())
                .frame(self.syn(0), self.begun(1))
                .frame(self.syn(1), self.begun(1)),
            case("a server that takes no new flows is left out")
                .change(
                    self.round_robin_world(policy::LEAST_CONNECTIONS).flags(self.servers[1], Backend::ALIVE),
                )
                .frame(self.send(1, flag::RST), self.old(1))
                .frame(self.syn(10), self.begun(0)),
        ];
        if self.mode != mode::NAT {
            let again = |case: Scenario| {
                case.frame(self.syn(1), self.old(1))
                    .frame(self.send(1, flag::ACK), self.old(1))
                    .frame(self.send(1, flag::ACK | flag::FIN), self.old(1))
            };
            let ended = case("a reused client port counts as one connection at a time")
                .frame(self.send(1, flag::ACK), self.old(1))
                .frame(self.send(1, flag::ACK | flag::FIN), self.old(1));
            cases.push(
                again(again(ended))
                    .frame(self.syn(10), self.begun(1))
                    .frame(self.syn(11), self.begun(1))
                    .frame(self.syn(12), self.begun(0)),
            );
        }
        if self.mode == mode::NAT {
            let answer = |flags| tcp(self.servers[1].at, self.client(1), flags).build();
            let back = Expect::ToClient(self.listener, self.servers[1], CLIENT);
            cases.push(
                case("a server's RST decrements the connection count")
                    .frame(answer(flag::RST), back)
                    .frame(self.syn(10), self.begun(1)),
            );
        }
        cases
    }

    fn persistence(&self) -> Vec<Scenario> {
        let [first, second] = [self.servers[0], self.servers[1]];
        let begun = |name: &str| {
            let case = Scenario::new(name).in_world(self.persistence_world(&[first]));
            case.frame(self.syn(0), self.begun(0))
        };
        let moved = || self.persistence_world(&[second]);
        vec![
            begun("new flows follow the client's affinity entry, not the table")
                .change(moved())
                .frame(self.syn(1), self.begun(0))
                .frame(self.syn(2), self.begun(0))
                .frame(self.send(1, flag::ACK), self.old(0))
                .frame(tcp(self.stranger(), self.listener.at, flag::SYN).build(), self.begun(1)),
            begun("a mid-stream segment without an entry follows the table")
                .change(moved())
                .frame(self.send(1, flag::ACK), self.old(1)),
            begun("an affinity entry of a server without new flows is replaced")
                .change(moved().flags(first, Backend::ALIVE))
                .frame(self.send(0, flag::ACK), self.old(0))
                .frame(self.syn(1), self.begun(1))
                // The affinity entry of the client now names the other server.
                .change(self.persistence_world(&[first]))
                .frame(self.syn(2), self.begun(1))
                .frame(self.send(0, flag::ACK), self.old(0)),
            begun("an affinity entry of a removed server or a reused id is ignored")
                .change(moved().without(first))
                .frame(self.syn(1), self.begun(1))
                .change(moved().server(PacketServer { generation: 2, ..first }))
                .frame(self.syn(2), self.begun(1)),
            begun("an affinity entry of a server in another table is ignored")
                .change(moved().table(11, &[first]))
                .frame(self.syn(1), self.begun(1)),
            begun("a listener without persistence ignores affinity entries")
                .change(self.with(0).table(self.table(), &[second]))
                .frame(self.syn(1), self.begun(1)),
            Scenario::new("servers take turns for clients with session persistence")
                .in_world(self.round_robin_world(policy::ROUND_ROBIN | policy::PERSIST))
                .frame(self.syn(0), self.begun(0))
                .frame(self.syn(1), self.begun(0))
                .frame(tcp(self.stranger(), self.listener.at, flag::SYN).build(), self.begun(1))
                .frame(self.syn(2), self.begun(0)),
        ]
    }

    fn persistence_ends(&self) -> Vec<Scenario> {
        let [first, second] = [self.servers[0], self.servers[1]];
        let at = |seconds: u32| 500 + seconds * SECOND;
        let case = |name: &str| {
            let case =
                Scenario::new(name).host_only().in_world(self.persistence_world(&[first])).clock(at(0));
            case.frame(self.syn(0), self.begun(0)).change(self.persistence_world(&[second]))
        };
        vec![
            case("an affinity entry expires")
                .clock(at(62))
                .frame(self.syn(1), self.begun(1))
                .frame(self.syn(2), self.begun(1)),
            case("each new flow extends the affinity entry")
                .clock(at(59))
                .frame(self.syn(1), self.begun(0))
                .clock(at(118))
                .frame(self.syn(2), self.begun(0))
                .clock(at(180))
                .frame(self.syn(3), self.begun(1)),
        ]
    }
}

/// A flow with a reverse-tuple conflict goes to another server; the affinity entry stays.
fn conflict() -> Scenario {
    let syn = |listener: PacketListener, port| {
        tcp(SocketAddr::new(CLIENT4.ip(), port), listener.at, flag::SYN).build()
    };
    let to = |listener, server| Expect::ToServer(listener, server, FlowKind::New);
    let persist = |service: &mut Service| {
        service.policy = policy::PERSIST | policy::ROUND_ROBIN | policy::TRACK;
        service.persistence = 60;
    };
    // Another listener with the same servers.
    let world =
        PacketWorld::standard().with(HTTP4, persist).table(10, &[WEB4]).round_robin(1, &[WEB4, OTHER4]);
    Scenario::new("a reverse-tuple conflict does not change the affinity entry")
        .in_world(world)
        .frame(syn(HTTP4, 1), to(HTTP4, WEB4))
        .frame(syn(FOURTH4, 2), to(FOURTH4, WEB4))
        .frame(syn(HTTP4, 2), to(HTTP4, OTHER4))
        .frame(syn(HTTP4, 3), to(HTTP4, WEB4))
}

fn datagrams() -> Vec<Scenario> {
    let ask = |port| udp(SocketAddr::new(CLIENT4.ip(), port), DNS4.at, b"odd").build();
    let persist = |service: &mut Service| {
        service.policy = policy::PERSIST | policy::TRACK;
        service.persistence = 60;
    };
    let turn = |service: &mut Service| service.policy = policy::ROUND_ROBIN | policy::TRACK;
    let world = |servers: &[PacketServer]| PacketWorld::standard().with(DNS4, persist).table(3, servers);
    let to = |server, flow| Expect::ToServer(DNS4, server, flow);
    vec![
        Scenario::new("UDP: new flows follow the client's affinity entry")
            .in_world(world(&[NAME4]))
            .frame(ask(1), to(NAME4, FlowKind::New))
            .change(world(&[NAME4B]))
            .frame(ask(2), to(NAME4, FlowKind::New))
            .frame(ask(1), to(NAME4, FlowKind::Old))
            .change(world(&[NAME4B]).flags(NAME4, 0))
            .frame(ask(1), to(NAME4B, FlowKind::New))
            .frame(ask(3), to(NAME4B, FlowKind::New)),
        Scenario::new("UDP: servers take turns")
            .in_world(PacketWorld::standard().with(DNS4, turn).round_robin(3, &[NAME4, NAME4B]))
            .frame(ask(1), to(NAME4, FlowKind::New))
            .frame(ask(2), to(NAME4B, FlowKind::New))
            .frame(ask(1), to(NAME4, FlowKind::Old))
            .frame(ask(3), to(NAME4, FlowKind::New)),
    ]
}
