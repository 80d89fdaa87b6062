//! ICMP errors to a VIP or a client that are not forwarded.

use slb_common::abi::{
    backend::Backend,
    interface::{CLIENT as CLIENTS, SERVER as SERVERS_ONLY},
    rate_limit::RateLimiter,
    service::mode,
    stats::Reason,
};

use super::{ALL, CLIENT, Ends, SHORT, TCP4, TCP6, UDP4, embedded, error};
use crate::packets::{
    frames::{flag, tcp},
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

pub(super) fn cases() -> Vec<Scenario> {
    vec![passed(), larger_than_the_clients_link(TCP4), larger_than_the_clients_link(TCP6), terminating()]
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

/// No error answers an error that does not fit into the client's link.
fn larger_than_the_clients_link(ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let head = if client.is_ipv4() { [3, 4, 0, 0] } else { [2, 0, 0, 0] };
    let headers = if client.is_ipv4() { 28 } else { 48 };
    let of_len = |from, to, source, len: usize| {
        let mut message = embedded(ends.packet(from, to), ALL);
        message.resize(len - headers, 0);
        error(source, from.ip(), head, 1400, &message)
    };
    let mtu = MTU as usize;
    let fits = of_len(client, server.at, ends.router(), mtu).build();
    let sent = super::sent(of_len(client, listener.at, listener.at.ip(), mtu), CLIENT);
    ends.begun(&format!("ICMP errors to {} of the size of its link's MTU", client.ip()))
        .frame(fits, Expect::ErrorToClient(listener, server, sent))
        .frame(of_len(client, server.at, ends.router(), mtu + 1).build(), Expect::Drop(Reason::TooBig))
}

/// Errors of a connection that is reset leave the RSTs to segments.
fn terminating() -> Scenario {
    let Ends { client, listener, server } = TCP4;
    let world = PacketWorld::standard()
        .with(listener, |service| service.mode = mode::DSR)
        .flags(server, Backend::TERMINATING);
    let error = || TCP4.too_big(TCP4.router(), listener.at, client, SHORT, 1400).build();
    let case = Scenario::new("dsr: ICMP errors of a terminating server use up no RSTs");
    let case = case.in_world(world).host_only();
    let case =
        (0..RateLimiter::PER_SECOND).fold(case, |case, _| case.frame(error(), Expect::Drop(Reason::Reset)));
    let segment = || tcp(client, listener.at, flag::ACK).build();
    case.frame(segment(), Expect::End)
        .change(PacketWorld::standard())
        .frame(tcp(client, listener.at, flag::SYN).build(), Expect::ToServer(listener, server, FlowKind::New))
}
