//! QUIC: connection IDs that name a server, in all modes, on the fast path and the slow path.
//!
//! The table of each listener has one server, which every hash leads to. Connection IDs name that one and another one.

use std::net::SocketAddr;

use slb_common::abi::{
    Handle,
    backend::Backend,
    ids::TableId,
    quic::CidFormat,
    service::{mode, policy},
    stats::Reason,
};
use slb_control::dataplane::quic_server::QuicServerKey;

use super::{
    full_nat::{PORTS, local},
    related::{Ends, UDP4, UDP6},
};
use crate::packets::{
    fragments::cut,
    frames::{Builder, udp},
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
const BY_HASH: u16 = 1;
const NAMED: u16 = 2;
const UNKNOWN: u16 = 3;
const INITIAL: u8 = 0xc0;
const HANDSHAKE: u8 = 0xe0;

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, ends) in [("udp4", UDP4), ("udp6", UDP6)] {
        for (name, mode) in [
            ("nat", mode::NAT),
            ("full-nat", mode::FULL_NAT),
            ("dsr", mode::DSR),
            ("ipip", mode::IPIP),
            ("gue", mode::GUE),
        ] {
            let of = |what: &str| format!("quic: {name}, {family}: {what}");
            let quic = Quic { ends, mode };
            cases.extend([
                quic.routes(of("connection IDs name servers")),
                quic.goes_by_hash(of("packets without a server ID")),
                quic.drains(of("server that drains")),
                quic.is_gone(of("server that is gone")),
                quic.fragments(of("fragments")),
                quic.health_flap(of("server that was dead for a while")),
                quic.foreign_entry(of("endpoint of another connection")),
            ]);
            if !mode::sees_replies(mode) {
                cases.extend([
                    quic.migrating_slot(of("migrating slot")),
                    quic.tracked(of("tracked flows")),
                    quic.full_table(of("full flow table")),
                ]);
            }
        }
    }
    cases.push(reverse_tuple_conflict());
    cases.push(martian_source());
    cases
}

/// A datagram with a short header.
fn short(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    vec![0x41, 0x3f, high, low, 7, 7, 7, 7, 8, 9]
}

/// A datagram with a long header of version 1.
fn long(first: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    vec![first, 0, 0, 0, 1, 8, 0x21, high, low, 7, 7, 7, 7, 7, 0]
}

#[derive(Clone, Copy)]
struct Quic {
    ends: Ends,
    mode: u8,
}

impl Quic {
    /// The server that connection IDs alone lead to.
    const fn named(self) -> PacketServer {
        if self.ends.client.is_ipv4() { NAME4B } else { OTHER6 }
    }

    fn world(self) -> PacketWorld {
        let Ends { listener, server, .. } = self.ends;
        let table = TableId::new(listener.table.expect("it has servers"));
        let mut world = PacketWorld::standard()
            .with(listener, |service| {
                service.mode = self.mode;
                service.policy |= policy::QUIC;
                service.quic = CidFormat::new(2, 1).number();
            })
            .locals(if self.mode == mode::FULL_NAT { &[LOCAL4, LOCAL6] } else { &[] }, PORTS);
        for (server_id, server) in [(BY_HASH, server), (NAMED, self.named())] {
            let key = QuicServerKey { table, server_id: server_id.into() };
            world.state.quic_servers.insert(key, Handle::new(server.id, server.generation.into()));
        }
        world
    }

    /// Each number is another client.
    const fn client(self, n: u16) -> SocketAddr {
        SocketAddr::new(self.ends.client.ip(), self.ends.client.port() + n)
    }

    fn packet(self, n: u16, payload: &[u8]) -> Builder {
        udp(self.client(n), self.ends.listener.at, payload)
    }

    /// To a server; `is_first` says that it is the first packet of this client.
    fn to(self, n: u16, server: PacketServer, is_first: bool) -> Expect {
        // No datagram shows that it begins an untracked flow.
        let kind = if is_first && mode::sees_replies(self.mode) { FlowKind::New } else { FlowKind::Old };
        if self.mode == mode::FULL_NAT {
            let source = local(self.ends, self.client(n).port());
            return Expect::ToServerFrom(self.ends.listener, server, source, kind);
        }
        Expect::ToServer(self.ends.listener, server, kind)
    }

    /// Whether an entry has a packet that may begin a connection, whatever its connection ID.
    const fn is_tracked(self) -> bool {
        mode::sees_replies(self.mode)
    }

    /// Short and long headers, of known and new clients, on the fast path and the slow path.
    fn routes(self, name: String) -> Scenario {
        let (hash, named) = (self.ends.server, self.named());
        let tagged = |n, payload: &[u8]| self.packet(n, payload).tag(VLAN, 0).build();
        let first = if self.is_tracked() { hash } else { named };
        Scenario::new(name)
            .in_world(self.world())
            .frame(self.packet(0, &long(INITIAL, NAMED)).build(), self.to(0, first, true))
            .frame(self.packet(0, &long(INITIAL, NAMED)).build(), self.to(0, first, false))
            .frame(self.packet(0, &long(HANDSHAKE, NAMED)).build(), self.to(0, named, true))
            .frame(self.packet(0, &short(NAMED)).build(), self.to(0, named, false))
            .frame(tagged(0, &short(NAMED)), self.to(0, named, false))
            // The client has another endpoint now.
            .frame(self.packet(1, &short(NAMED)).build(), self.to(1, named, true))
            .frame(tagged(2, &short(NAMED)), self.to(2, named, true))
            .frame(self.packet(3, &short(BY_HASH)).build(), self.to(3, hash, true))
    }

    /// While its server is dead, a connection's packets go by the hash, and make an entry. Afterwards they name their
    /// server as before.
    fn health_flap(self, name: String) -> Scenario {
        let (hash, named) = (self.ends.server, self.named());
        Scenario::new(name)
            .in_world(self.world())
            .frame(self.packet(0, &short(NAMED)).build(), self.to(0, named, true))
            .frame(self.packet(1, &short(NAMED)).build(), self.to(1, named, true))
            .change(self.world().flags(named, 0))
            .frame(self.packet(0, &short(NAMED)).build(), self.to(0, hash, true))
            .frame(self.packet(1, &short(NAMED)).build(), self.to(1, hash, true))
            .frame(self.packet(0, &short(NAMED)).build(), self.to(0, hash, false))
            .change(self.world())
            .frame(self.packet(0, &short(NAMED)).build(), self.to(0, named, true))
            .frame(self.packet(1, &short(NAMED)).tag(VLAN, 0).build(), self.to(1, named, true))
            .frame(self.packet(0, &short(UNKNOWN)).build(), self.to(0, self.after(named), false))
    }

    /// A client that has moved may get an endpoint that has an entry of another connection.
    fn foreign_entry(self, name: String) -> Scenario {
        let (hash, named) = (self.ends.server, self.named());
        Scenario::new(name)
            .in_world(self.world())
            .frame(self.packet(0, &long(INITIAL, UNKNOWN)).build(), self.to(0, hash, true))
            .frame(self.packet(0, &short(NAMED)).build(), self.to(0, named, true))
            .frame(self.packet(0, &short(NAMED)).build(), self.to(0, named, false))
            // What may begin a connection stays with the entry.
            .frame(self.packet(0, &long(INITIAL, UNKNOWN)).build(), self.to(0, self.after(named), false))
            .frame(self.packet(0, &short(BY_HASH)).tag(VLAN, 0).build(), self.to(0, hash, true))
    }

    /// The server of a packet that names none, after one that named `named`.
    const fn after(self, named: PacketServer) -> PacketServer {
        if self.is_tracked() { named } else { self.ends.server }
    }

    /// Packets that name no server go by the hash.
    fn goes_by_hash(self, name: String) -> Scenario {
        let mut unroutable = short(NAMED);
        unroutable[1] = 0xff;
        let mut shorter = long(INITIAL, NAMED);
        shorter[5] = 2;
        let payloads =
            [short(UNKNOWN), long(INITIAL, UNKNOWN), unroutable, shorter, short(NAMED)[..3].to_vec(), vec![]];
        let case = Scenario::new(name).in_world(self.world());
        payloads.iter().zip(0..).fold(case, |case, (payload, n)| {
            let to = |is_first| self.to(n, self.ends.server, is_first);
            case.frame(self.packet(n, payload).build(), to(true))
                .frame(self.packet(n, payload).tag(VLAN, 0).build(), to(false))
        })
    }

    /// A server that takes no new flows keeps its connections. Packets that may begin one go by the hash.
    fn drains(self, name: String) -> Scenario {
        let (hash, named) = (self.ends.server, self.named());
        Scenario::new(name)
            .in_world(self.world().flags(named, Backend::ALIVE))
            .frame(self.packet(0, &short(NAMED)).build(), self.to(0, named, true))
            .frame(self.packet(1, &long(HANDSHAKE, NAMED)).build(), self.to(1, named, true))
            .frame(self.packet(2, &long(INITIAL, NAMED)).build(), self.to(2, hash, true))
            .frame(self.packet(3, &long(INITIAL, NAMED)).tag(VLAN, 0).build(), self.to(3, hash, true))
            .frame(self.packet(4, &short(NAMED)).tag(VLAN, 0).build(), self.to(4, named, true))
    }

    /// Without its server a connection ID names none: it is dead or terminating, or its id has another server now.
    fn is_gone(self, name: String) -> Scenario {
        let (hash, named) = (self.ends.server, self.named());
        let worlds = [
            self.world().flags(named, 0),
            self.world().flags(named, Backend::TERMINATING),
            self.world().server(PacketServer { generation: 2, ..named }),
        ];
        let case = Scenario::new(name).in_world(self.world());
        worlds.into_iter().zip(0..).fold(case, |case, (mut world, n)| {
            let stale = Handle::new(named.id, named.generation.into());
            world
                .state
                .quic_servers
                .values_mut()
                .filter(|server| server.id() == named.id)
                .for_each(|server| *server = stale);
            case.change(world)
                .frame(self.packet(2 * n, &short(NAMED)).build(), self.to(2 * n, hash, true))
                .frame(
                    self.packet(2 * n + 1, &short(NAMED)).tag(VLAN, 0).build(),
                    self.to(2 * n + 1, hash, true),
                )
        })
    }

    /// Later fragments go where the first one went.
    fn fragments(self, name: String) -> Scenario {
        let (listener, named) = (self.ends.listener, self.named());
        let whole = self.packet(0, &[short(NAMED), vec![1; 60]].concat()).build();
        let mut case = Scenario::new(name).in_world(self.world());
        if self.mode == mode::FULL_NAT {
            case = case.frame(self.packet(0, &short(NAMED)).build(), self.to(0, named, true));
        }
        for (n, fragment) in cut(whole, 7, 32).into_iter().enumerate() {
            let expect = match self.to(0, named, n == 0) {
                Expect::ToServer(.., kind) => Expect::FragmentToServer(listener, named, kind, fragment),
                _ => Expect::FragmentToServerFrom(
                    listener,
                    named,
                    local(self.ends, self.client(0).port()),
                    fragment,
                ),
            };
            case = case.frame(fragment.frame(), expect);
        }
        case
    }

    /// A server ID decides before the previous backend of the slot.
    fn migrating_slot(self, name: String) -> Scenario {
        let Ends { listener, server, .. } = self.ends;
        let table = listener.table.expect("it has servers");
        let (named, previous) = (self.named(), if server.at.is_ipv4() { FIFTH } else { WEB6 });
        Scenario::new(name)
            .in_world(self.world().with_previous_backend(table, previous))
            .frame(self.packet(0, &short(UNKNOWN)).build(), self.to(0, previous, true))
            .frame(self.packet(0, &short(NAMED)).build(), self.to(0, named, false))
            .frame(self.packet(0, &short(NAMED)).tag(VLAN, 0).build(), self.to(0, named, false))
            .frame(self.packet(1, &short(BY_HASH)).build(), self.to(1, server, true))
            .frame(self.packet(0, &short(UNKNOWN)).build(), self.to(0, previous, false))
    }

    /// With tracking an entry has the packets that may begin a connection; the others go to the server that they name,
    /// before scheduler and affinity.
    fn tracked(self, name: String) -> Scenario {
        let Ends { listener, server, .. } = self.ends;
        let world = |more| self.world().with(listener, |service| service.policy |= policy::TRACK | more);
        let named = self.named();
        let mut case = Scenario::new(name);
        for (more, n) in [(0, 0), (policy::ROUND_ROBIN, 2), (policy::LEAST_CONNECTIONS, 4)] {
            case = case
                .change(world(more))
                .frame(self.packet(n, &short(NAMED)).build(), self.to(n, named, true))
                .frame(self.packet(n, &long(INITIAL, BY_HASH)).build(), self.to(n, named, false))
                .frame(self.packet(n, &short(BY_HASH)).build(), self.to(n, server, false))
                .frame(self.packet(n + 1, &long(INITIAL, NAMED)).build(), self.to(n + 1, server, true))
                .frame(self.packet(n + 1, &short(UNKNOWN)).build(), self.to(n + 1, server, false))
                .frame(self.packet(n + 1, &short(NAMED)).build(), self.to(n + 1, named, false))
                .frame(self.packet(n + 1, &short(UNKNOWN)).build(), self.to(n + 1, named, false));
        }
        let persists = self.world().with(listener, |service| {
            service.policy |= policy::TRACK | policy::PERSIST;
            service.persistence = 60;
        });
        case.change(persists)
            .frame(self.packet(6, &short(UNKNOWN)).build(), self.to(6, server, true))
            .frame(self.packet(7, &short(NAMED)).build(), self.to(7, named, true))
            .frame(self.packet(8, &short(UNKNOWN)).build(), self.to(8, server, true))
    }

    /// A packet whose connection ID names a server needs no entry.
    fn full_table(self, name: String) -> Scenario {
        let listener = self.ends.listener;
        let pinned = self.world().with(listener, |service| {
            service.policy |= policy::TRACK | policy::ROUND_ROBIN;
        });
        Scenario::new(name)
            .in_world(pinned)
            .host_only()
            .full()
            .frame(self.packet(0, &short(NAMED)).build(), self.to(0, self.named(), true))
            .frame(self.packet(1, &short(UNKNOWN)).build(), Expect::Drop(Reason::FlowTableFull))
    }
}

/// A client endpoint that has a flow with the named server through another listener: replies could not be told apart.
fn reverse_tuple_conflict() -> Scenario {
    let quic = Quic { ends: UDP4, mode: mode::NAT };
    let world = quic.world().table(10, &[NAME4B]);
    let twin = PacketListener { table: Some(10), ..DNS4_TWIN };
    let world = world.with(DNS4_TWIN, |service| service.lookup_table = 10);
    Scenario::new("quic: nat: the named server has another flow of the client endpoint")
        .in_world(world)
        .frame(udp(quic.client(0), twin.at, b"?").build(), Expect::ToServer(twin, NAME4B, FlowKind::New))
        // No other server has the connection.
        .frame(quic.packet(0, &short(NAMED)).build(), Expect::Drop(Reason::PortConflict))
        // The hash leads to another server, which may begin one.
        .frame(quic.packet(0, &long(INITIAL, NAMED)).build(), quic.to(0, NAME4, true))
        .frame(quic.packet(0, &short(NAMED)).build(), Expect::Drop(Reason::PortConflict))
        .frame(quic.packet(0, &long(INITIAL, NAMED)).build(), quic.to(0, NAME4, false))
}

/// A connection ID lets no martian source in.
fn martian_source() -> Scenario {
    let quic = Quic { ends: UDP4, mode: mode::DSR };
    let martian = SocketAddr::new(VIP4, 4000);
    Scenario::new("quic: dsr: martian source")
        .in_world(quic.world())
        .frame(udp(martian, DNS4.at, &short(NAMED)).build(), Expect::Drop(Reason::MartianSource))
}
