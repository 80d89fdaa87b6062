//! ICMP errors about fragments. Over IPv4 the first one has the same headers as a whole packet.

use std::net::{IpAddr, SocketAddr};

use slb_common::abi::stats::Reason;

use super::{ALL, CLIENT, Ends, FORGED, SHORT, TCP6, UDP6, UNMATCHED, error};
use crate::packets::{
    fragments::cut,
    frames::Builder,
    scenario::{Expect, Scenario},
};

pub(super) fn cases() -> Vec<Scenario> {
    [TCP6, UDP6].into_iter().flat_map(|ends| [first(ends, ALL), first(ends, SHORT), refused(ends)]).collect()
}

/// "Packet too big" about the fragment with this number, with `bytes` bytes behind its headers. Checksums are those of
/// the whole packet.
fn about(
    ends: &Ends,
    number: usize,
    ends_of: [SocketAddr; 2],
    bytes: usize,
    mtu: u32,
    source: IpAddr,
) -> Builder {
    let [from, to] = ends_of;
    let fragment = cut(ends.packet(from, to).build(), 7, 32)[number].frame();
    let end = fragment.transport.saturating_add(bytes).min(fragment.end);
    error(source, from.ip(), [2, 0, 0, 0], mtu, &fragment.bytes[fragment.network..end])
}

/// The first fragment has the ports of the flow.
fn first(ends: Ends, bytes: usize) -> Scenario {
    let Ends { client, listener, server } = ends;
    let router = ends.router();
    let to_vip = about(&ends, 0, [listener.at, client], bytes, 1400, router);
    let to_server = about(&ends, 0, [server.at, client], bytes, 1400, router);
    let of_server = about(&ends, 0, [client, server.at], bytes, 1400, server.at.ip());
    let to_client = about(&ends, 0, [client, listener.at], bytes, 1400, listener.at.ip());
    let to_server = super::sent(to_server, server.hop);
    let to_client = super::sent(to_client, CLIENT);
    ends.begun(&format!("ICMP errors about first fragments to {}, {bytes} bytes embedded", listener.at))
        .frame(to_vip.build(), Expect::ErrorToServer(listener, server, to_server))
        .frame(of_server.build(), Expect::ErrorToClient(listener, server, to_client))
}

/// A later fragment names no flow.
fn refused(ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let router = ends.router();
    let to_vip = |number, bytes, mtu| about(&ends, number, [listener.at, client], bytes, mtu, router).build();
    ends.begun(&format!("ICMP errors about fragments of no known flow to {}", listener.at))
        .frame(to_vip(1, ALL, 1400), UNMATCHED)
        .frame(to_vip(0, 7, 1400), UNMATCHED)
        .frame(to_vip(0, SHORT, 1279), FORGED)
        .frame(to_vip(1, ALL, 1279), FORGED)
        .frame(
            about(&ends, 1, [client, server.at], ALL, 1400, server.at.ip()).build(),
            Expect::Pass(Reason::OtherProtocol),
        )
}
