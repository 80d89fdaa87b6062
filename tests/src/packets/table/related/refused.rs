//! ICMP errors to a VIP or a client that are not forwarded.

use slb_common::abi::{
    interface::{CLIENT as CLIENTS, SERVER as SERVERS_ONLY},
    stats::Reason,
};

use super::{Ends, SHORT, UDP4, embedded, error};
use crate::packets::{
    scenario::{Expect, Scenario},
    world::*,
};

pub(super) fn cases() -> Vec<Scenario> {
    vec![passed()]
}

/// A VIP that the host uses itself, too: errors about what the host has sent from it are the host's.
fn passed() -> Scenario {
    let Ends { client, listener, .. } = UDP4;
    let world = PacketWorld::standard().with(ECHO4, |vip| vip.policy = 0);
    let mut own_port = listener.at;
    own_port.set_port(4);
    let of = |source, from| {
        let sent = embedded(UDP4.packet(from, client), SHORT);
        error(source, listener.at.ip(), [3, 4, 0, 0], 1400, &sent).build()
    };
    let hosts = Expect::Pass(Reason::OtherProtocol);
    let (router, vip) = (UDP4.router(), listener.at.ip());
    Scenario::new("ICMP errors about the host's own packets")
        .in_world(world)
        .frame(of(router, own_port), hosts)
        .frame(of(vip, own_port), hosts)
        .frame(of(vip, listener.at), Expect::Drop(Reason::MartianSource))
        .interfaces(interfaces_in_roles(SERVERS_ONLY, CLIENTS | SERVERS_ONLY))
        .frame(of(router, own_port), hosts)
        .frame(of(router, listener.at), Expect::Drop(Reason::WrongInterface))
}
