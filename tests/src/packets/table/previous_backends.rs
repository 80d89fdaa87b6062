//! Migrating slots in modes without tracking in steady state: which server gets a packet, and which flows become
//! tracked.

use std::net::SocketAddr;

use slb_common::abi::{
    backend::Backend,
    service::{mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{Frame, flag, tcp, udp},
    scenario::{Expect, Flow, Scenario},
    world::*,
};

const PREVIOUS: Server = WEB4;
const OWNER: Server = OTHER4;

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, mode) in [("dsr", mode::DSR), ("ipip", mode::IPIP)] {
        let slots = Slots { mode };
        let named = |case: Scenario| Scenario { name: format!("{name}: {}", case.name), ..case };
        let all = slots.connections().into_iter().chain(slots.previous_backends()).chain(slots.datagrams());
        cases.extend(all.chain(slots.tracking()).chain(slots.full()).map(named));
    }
    cases.push(
        Scenario::new("nat: who is unknown goes on with the keeper, a datagram begins anew")
            .in_world(
                World::standard()
                    .table(1, &[OWNER])
                    .kept_by(1, PREVIOUS)
                    .table(3, &[NAME4B])
                    .kept_by(3, NAME4),
            )
            .frame(send(flag::ACK), to(PREVIOUS, Flow::Old))
            .frame(send_from(1, flag::SYN), to(OWNER, Flow::New))
            .frame(send_from(1, flag::ACK), to(OWNER, Flow::Old))
            .frame(ask(0), Expect::ToServer(DNS4, NAME4B, Flow::New)),
    );
    cases
}

fn send(flags: u8) -> Frame {
    send_from(0, flags)
}

/// Each number is another flow.
fn send_from(number: u16, flags: u8) -> Frame {
    tcp(client(number), HTTP4.at, flags).build()
}

fn ask(number: u16) -> Frame {
    udp(client(number), DNS4.at, b"?").build()
}

fn client(number: u16) -> SocketAddr {
    SocketAddr::new(CLIENT4.ip(), CLIENT4.port() + number)
}

fn to(server: Server, flow: Flow) -> Expect {
    Expect::ToServer(HTTP4, server, flow)
}

fn asked(server: Server) -> Expect {
    // Untracked datagrams of old and new flows look alike, so none counts as new.
    Expect::ToServer(DNS4, server, Flow::Old)
}

#[derive(Clone, Copy)]
struct Slots {
    mode: u8,
}

impl Slots {
    /// No slot is migrating.
    fn quiet(self) -> World {
        let change = |world: World, listener| world.with(listener, |service| service.mode = self.mode);
        [HTTP4, DNS4].into_iter().fold(World::standard(), change)
    }

    /// All slots are migrating.
    fn moved(self, previous_backend: Server, current_backend: Server) -> World {
        self.quiet()
            .table(1, &[current_backend])
            .kept_by(1, previous_backend)
            .table(3, &[NAME4B])
            .kept_by(3, NAME4)
    }

    fn case(self, name: &str) -> Scenario {
        Scenario::new(name).in_world(self.moved(PREVIOUS, OWNER))
    }

    fn connections(self) -> Vec<Scenario> {
        vec![
            self.case("who is unknown goes on with the keeper, and stays there")
                .frame(send(flag::ACK | flag::PSH), to(PREVIOUS, Flow::Old))
                .change(self.moved(FOURTH, OWNER))
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old))
                .frame(send_from(1, flag::ACK), to(FOURTH, Flow::Old)),
            self.case("who asks goes to the owner, and stays there")
                .frame(send(flag::SYN), to(OWNER, Flow::New))
                .frame(send(flag::SYN), to(OWNER, Flow::Old))
                .frame(send(flag::ACK | flag::PSH), to(OWNER, Flow::Old))
                .change(self.moved(PREVIOUS, FOURTH))
                .frame(send(flag::ACK), to(OWNER, Flow::Old))
                .frame(send_from(1, flag::ACK), to(PREVIOUS, Flow::Old))
                .frame(send_from(2, flag::SYN), to(FOURTH, Flow::New)),
            self.case("what begins nothing goes to the keeper and is not remembered")
                .frame(send(flag::RST), to(PREVIOUS, Flow::Old))
                .change(self.moved(FOURTH, OWNER))
                .frame(send(flag::ACK), to(FOURTH, Flow::Old)),
            self.case("a RST ends what is remembered")
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old))
                .frame(send(flag::RST), to(PREVIOUS, Flow::Old))
                .frame(send(flag::SYN), to(OWNER, Flow::New))
                .frame(send(flag::ACK), to(OWNER, Flow::Old)),
            self.case("a FIN is remembered")
                .frame(send(flag::ACK | flag::FIN), to(PREVIOUS, Flow::Old))
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old)),
            self.case("a keeper that is owner too has what nobody remembers")
                .change(self.moved(OWNER, OWNER))
                .frame(send(flag::SYN), to(OWNER, Flow::New))
                .frame(send(flag::SYN), to(OWNER, Flow::New))
                .frame(send(flag::ACK), to(OWNER, Flow::Old)),
            self.case("a flow begun before any slot changed hands")
                .in_world(self.quiet())
                .frame(send(flag::SYN), to(PREVIOUS, Flow::New))
                .change(self.moved(PREVIOUS, OWNER))
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old)),
        ]
    }

    fn previous_backends(self) -> Vec<Scenario> {
        let draining = || self.moved(PREVIOUS, OWNER).flags(PREVIOUS, Backend::ALIVE);
        vec![
            self.case("a keeper that takes nothing new keeps what it has")
                .change(draining())
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old))
                .frame(send(flag::SYN), to(OWNER, Flow::New))
                .frame(send(flag::ACK), to(OWNER, Flow::Old)),
            self.case("a dead keeper keeps connections")
                .change(self.moved(PREVIOUS, OWNER).flags(PREVIOUS, 0))
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old))
                .frame(send_from(1, flag::SYN), to(OWNER, Flow::New)),
            self.case("a keeper that is gone keeps nothing")
                .frame(send_from(1, flag::ACK), to(PREVIOUS, Flow::Old))
                .change(self.moved(PREVIOUS, OWNER).without(PREVIOUS))
                .frame(send(flag::ACK), to(OWNER, Flow::Old))
                .frame(send_from(1, flag::ACK), to(OWNER, Flow::Old)),
            self.case("a dead owner gets nothing, and the keeper's go on")
                .change(self.moved(PREVIOUS, OWNER).flags(OWNER, 0))
                .frame(send(flag::SYN), Expect::Drop(Reason::NoServer))
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old)),
        ]
    }

    fn datagrams(self) -> Vec<Scenario> {
        let follow = || self.moved(PREVIOUS, OWNER).with(DNS4, |service| service.policy = policy::FOLLOW);
        let turned = || self.quiet().table(3, &[NAME4]).kept_by(3, NAME4B);
        vec![
            self.case("unknown datagrams stay with the keeper")
                .frame(ask(0), asked(NAME4))
                .change(turned())
                .frame(ask(0), asked(NAME4))
                .frame(ask(1), asked(NAME4B)),
            self.case("unknown datagrams follow the owner")
                .change(follow())
                .frame(ask(0), asked(NAME4B))
                .change(turned().with(DNS4, |service| service.policy = policy::FOLLOW))
                .frame(ask(0), asked(NAME4B))
                .frame(ask(1), asked(NAME4)),
            self.case("datagrams leave a dead keeper")
                .frame(ask(0), asked(NAME4))
                .change(self.moved(PREVIOUS, OWNER).flags(NAME4, 0))
                .frame(ask(0), asked(NAME4B))
                .frame(ask(1), asked(NAME4B))
                .change(self.moved(PREVIOUS, OWNER))
                .frame(ask(0), asked(NAME4B)),
            self.case("datagrams leave a keeper without a next hop, connections wait for it")
                .frame(ask(0), asked(NAME4))
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old))
                .change(self.moved(PREVIOUS, OWNER).unreached(NAME4).unreached(PREVIOUS))
                .frame(ask(0), asked(NAME4B))
                .frame(ask(1), asked(NAME4B))
                .frame(send(flag::ACK), Expect::Drop(Reason::NoNextHop))
                .change(self.moved(PREVIOUS, OWNER))
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old)),
            self.case("datagrams leave a keeper that is gone")
                .change(self.moved(PREVIOUS, OWNER).without(NAME4))
                .frame(ask(0), asked(NAME4B)),
        ]
    }

    fn tracking(self) -> Vec<Scenario> {
        let always = |world: World| {
            [HTTP4, DNS4]
                .into_iter()
                .fold(world, |world, listener| world.with(listener, |service| service.policy = policy::TRACK))
        };
        let other = || always(self.quiet().table(1, &[OWNER]).table(3, &[NAME4B]));
        vec![
            self.case("tracked always: flows stay although no slot is said to have changed hands")
                .in_world(always(self.quiet()))
                .frame(send(flag::SYN), to(PREVIOUS, Flow::New))
                .frame(send(flag::SYN), to(PREVIOUS, Flow::Old))
                .frame(send_from(1, flag::ACK), to(PREVIOUS, Flow::Old))
                .frame(ask(0), asked(NAME4))
                .change(other())
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old))
                .frame(send_from(1, flag::ACK), to(PREVIOUS, Flow::Old))
                .frame(send_from(2, flag::ACK), to(OWNER, Flow::Old))
                .frame(ask(0), asked(NAME4))
                .frame(ask(1), asked(NAME4B)),
            self.case("not tracked: flows go where the table says")
                .in_world(self.quiet())
                .frame(send(flag::SYN), to(PREVIOUS, Flow::New))
                .change(self.quiet().table(1, &[OWNER]))
                .frame(send(flag::ACK), to(OWNER, Flow::Old)),
            self.case("tracked always, and slots that have changed hands")
                .change(always(self.moved(PREVIOUS, OWNER)))
                .frame(send(flag::SYN), to(OWNER, Flow::New))
                .frame(send_from(1, flag::ACK), to(PREVIOUS, Flow::Old))
                .frame(send(flag::ACK), to(OWNER, Flow::Old)),
        ]
    }

    /// The flow table refuses new entries: a new flow must be found again without one.
    fn full(self) -> Vec<Scenario> {
        let draining = self.moved(PREVIOUS, OWNER).flags(PREVIOUS, Backend::ALIVE);
        vec![
            self.case("a full flow table: new flows begin with the keeper, where they are found")
                .host_only()
                .full()
                .frame(send(flag::SYN), to(PREVIOUS, Flow::New))
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old))
                .frame(ask(0), asked(NAME4)),
            self.case("a full flow table: what the owner could not keep is not begun")
                .host_only()
                .change(draining)
                .full()
                .frame(send(flag::SYN), Expect::Drop(Reason::FlowTableFull))
                .frame(send(flag::ACK), to(PREVIOUS, Flow::Old)),
            self.case("a full flow table: what the keeper of old had goes on with the owner")
                .host_only()
                .change(self.moved(OWNER, OWNER).flags(OWNER, Backend::ALIVE))
                .full()
                .frame(send(flag::SYN), to(OWNER, Flow::New))
                .frame(send(flag::ACK), to(OWNER, Flow::Old)),
        ]
    }
}
