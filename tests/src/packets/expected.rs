//! Expected verdicts, frames and counters of a packet case.

use std::{collections::BTreeMap, net::SocketAddr};

use slb_common::{
    abi::{
        ids::ServiceId,
        service::mode,
        stats::{Action, Counters, Reason},
    },
    datapath::Verdict,
    net::vlan::Vlan,
};
use slb_control::dataplane::state::MapState;

use super::{
    check::{self, Rewrite},
    fragments::Fragment,
    frames::Frame,
    host::Totals,
    icmp::{self, IcmpCause},
    reset,
    toa::Toa,
    world::{self, Hop, LO, PacketListener, PacketServer},
};

/// Expected result of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Forwarded to a server in the listener's mode.
    ToServer(PacketListener, PacketServer, FlowKind),
    /// Forwarded to a server from this source.
    ToServerFrom(PacketListener, PacketServer, SocketAddr, FlowKind),
    /// As [`Self::ToServerFrom`], with other TCP options.
    ToServerWith(Toa, PacketListener, PacketServer, SocketAddr, FlowKind),
    /// Forwarded to the client by this hop.
    ToClient(PacketListener, PacketServer, Hop),
    /// A packet to a source, forwarded to this client; without a tag if the server is in a VLAN.
    ToClientOf(PacketListener, PacketServer, SocketAddr),
    /// This fragment, forwarded to the server in the listener's mode.
    FragmentToServer(PacketListener, PacketServer, FlowKind, Fragment),
    /// This fragment, forwarded to the server from this source.
    FragmentToServerFrom(PacketListener, PacketServer, SocketAddr, Fragment),
    /// This fragment, forwarded to the client by the client path.
    FragmentToClient(PacketListener, PacketServer, Fragment),
    /// This fragment to a source, forwarded as by [`Self::ToClientOf`].
    FragmentToClientOf(PacketListener, PacketServer, SocketAddr, Fragment),
    /// An ICMP error, forwarded to the server as this frame.
    ErrorToServer(PacketListener, PacketServer, &'static [u8]),
    /// An ICMP error, forwarded to the client as this frame.
    ErrorToClient(PacketListener, PacketServer, &'static [u8]),
    /// Rewritten to a RST and forwarded to the server.
    EndServer(PacketListener, PacketServer, FlowKind),
    /// Rewritten to a RST and forwarded to the client.
    EndClient(PacketListener, PacketServer, Hop),
    /// Answered with a RST: the connection is terminated.
    End,
    /// Answered with a RST: unmatched.
    Refuse,
    /// Echo reply.
    Answer(PacketListener),
    /// Answered with an ICMP error.
    IcmpError(IcmpCause),
    /// Passed to the kernel unchanged.
    Pass(Reason),
    /// Dropped.
    Drop(Reason),
}

/// Whether a packet begins a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowKind {
    /// The packet counts as a new flow.
    New,
    /// The packet does not count as a new flow.
    Old,
}

/// The client path, unless a case says otherwise.
pub const CLIENT: Hop = Hop { id: 0, out: LO, peer: world::CLIENT_MAC, own: world::OWN_MAC, vlan: None };

/// Expected counters.
#[derive(Default)]
pub(super) struct ExpectedCounters {
    pub(super) totals: Totals,
    pub(super) services: BTreeMap<u32, Counters>,
    pub(super) backends: BTreeMap<u32, Counters>,
}

impl ExpectedCounters {
    /// Counts a client's packet; `len` is that of the frame that arrived.
    fn count_in(&mut self, listener: &PacketListener, server: &PacketServer, len: u64, flow: FlowKind) {
        for counters in
            [self.services.entry(listener.id).or_default(), self.backends.entry(server.id).or_default()]
        {
            counters.packets_in += 1;
            counters.bytes_in += len;
            counters.new_flows += u64::from(flow == FlowKind::New);
        }
    }

    /// Counts a server's packet; `len` is that of the frame that leaves.
    fn count_out(&mut self, listener: &PacketListener, server: &PacketServer, len: usize) {
        for counters in
            [self.services.entry(listener.id).or_default(), self.backends.entry(server.id).or_default()]
        {
            counters.packets_out += 1;
            counters.bytes_out += len as u64;
        }
    }

    /// Packets of source-translated flows: reason, next hop and frame. `len` is that of the frame that arrived.
    fn of_source(&mut self, frame: &Frame, expect: &Expect, len: u64) -> (Reason, Hop, Vec<u8>) {
        match expect {
            Expect::ToServerFrom(listener, server, source, flow) => {
                self.count_in(listener, server, len, *flow);
                let rewrite = Rewrite::Both(*source, server.at);
                let frame = frame.in_vlan(server.hop.vlan);
                let bytes = check::rewritten(&frame, server.hop.peer, server.hop.own, rewrite);
                (Reason::ToServer, server.hop, bytes)
            }
            Expect::ToServerWith(toa, listener, server, source, flow) => {
                self.count_in(listener, server, len, *flow);
                let rewrite = Rewrite::Both(*source, server.at);
                let bytes = check::rewritten(&toa.of(frame), server.hop.peer, server.hop.own, rewrite);
                (Reason::ToServer, server.hop, bytes)
            }
            Expect::ToClientOf(listener, server, client) => {
                self.count_out(listener, server, frame.bytes.len());
                let untagged = server.hop.vlan.map(|_| Vlan::NONE);
                let rewrite = Rewrite::Both(listener.at, *client);
                let bytes = check::rewritten(&frame.in_vlan(untagged), CLIENT.peer, CLIENT.own, rewrite);
                (Reason::ToClient, CLIENT, bytes)
            }
            Expect::FragmentToServerFrom(listener, server, source, fragment) => {
                self.count_in(listener, server, len, FlowKind::Old);
                let bytes = part_of_rewritten(fragment, &server.hop, Rewrite::Both(*source, server.at));
                (Reason::ToServer, server.hop, bytes)
            }
            Expect::FragmentToClientOf(listener, server, client, fragment) => {
                self.count_out(listener, server, frame.bytes.len());
                let hop = Hop { vlan: server.hop.vlan.map(|_| Vlan::NONE), ..CLIENT };
                let bytes = part_of_rewritten(fragment, &hop, Rewrite::Both(listener.at, *client));
                (Reason::ToClient, hop, bytes)
            }
            _ => unreachable!("{expect:?} has no source"),
        }
    }

    /// Counts the frame; returns the expected verdict and frame.
    pub(super) fn note(
        &mut self,
        frame: &Frame,
        ifindex: u32,
        expect: &Expect,
        held: &MapState,
    ) -> (Verdict, Vec<u8>) {
        let (came, frame) = (frame, &frame.untagged());
        let len = came.bytes.len() as u64;
        let send = |hop: &Hop| {
            if hop.out == ifindex { Verdict::Transmit } else { Verdict::Redirect(hop.out) }
        };
        let (action, reason, verdict, bytes) = match expect {
            Expect::ToServer(listener, server, flow) | Expect::EndServer(listener, server, flow) => {
                self.count_in(listener, server, len, *flow);
                let hop = &server.hop;
                let rewrite = to_server(held, listener, server);
                let frame = sent(frame, expect).in_vlan(hop.vlan);
                let bytes = check::rewritten(&frame, hop.peer, hop.own, rewrite);
                let is_end = matches!(expect, Expect::EndServer(..));
                let reason = if is_end { Reason::Reset } else { Reason::ToServer };
                (Action::Forward, reason, send(hop), bytes)
            }
            Expect::ToServerFrom(..)
            | Expect::ToServerWith(..)
            | Expect::ToClientOf(..)
            | Expect::FragmentToServerFrom(..)
            | Expect::FragmentToClientOf(..) => {
                let (reason, hop, bytes) = self.of_source(frame, expect, len);
                (Action::Forward, reason, send(&hop), bytes)
            }
            Expect::ToClient(listener, server, hop) | Expect::EndClient(listener, server, hop) => {
                self.count_out(listener, server, sent(frame, expect).bytes.len());
                let rewrite = Rewrite::Source(listener.at);
                let frame = sent(frame, expect).in_vlan(hop.vlan);
                let bytes = check::rewritten(&frame, hop.peer, hop.own, rewrite);
                let is_end = matches!(expect, Expect::EndClient(..));
                let reason = if is_end { Reason::Reset } else { Reason::ToClient };
                (Action::Forward, reason, send(hop), bytes)
            }
            Expect::FragmentToServer(listener, server, flow, fragment) => {
                self.count_in(listener, server, len, *flow);
                let bytes = part_of_rewritten(fragment, &server.hop, to_server(held, listener, server));
                (Action::Forward, Reason::ToServer, send(&server.hop), bytes)
            }
            Expect::FragmentToClient(listener, server, fragment) => {
                self.count_out(listener, server, frame.bytes.len());
                let bytes = part_of_rewritten(fragment, &CLIENT, Rewrite::Source(listener.at));
                (Action::Forward, Reason::ToClient, send(&CLIENT), bytes)
            }
            Expect::ErrorToServer(listener, server, bytes) => {
                self.count_in(listener, server, len, FlowKind::Old);
                (Action::Forward, Reason::ToServer, send(&server.hop), bytes.to_vec())
            }
            Expect::ErrorToClient(listener, server, bytes) => {
                self.count_out(listener, server, sent(frame, expect).bytes.len());
                (Action::Forward, Reason::ToClient, send(&CLIENT), bytes.to_vec())
            }
            Expect::End => (Action::Answer, Reason::Reset, Verdict::Transmit, reset::back(frame).bytes),
            Expect::Refuse => {
                (Action::Answer, Reason::Unmatched, Verdict::Transmit, reset::back(frame).bytes)
            }
            Expect::Answer(listener) => {
                let counters = self.services.entry(listener.id).or_default();
                counters.packets_in += 1;
                counters.bytes_in += len;
                let mac = |at: usize| frame.bytes[at..at + 6].try_into().expect("six bytes");
                let bytes = check::rewritten(frame, mac(6), mac(0), Rewrite::Reply);
                (Action::Answer, Reason::Echo, Verdict::Transmit, bytes)
            }
            Expect::IcmpError(cause) => {
                let reason = match cause {
                    IcmpCause::HopLimit => Reason::HopLimit,
                    IcmpCause::TooBig(_) => Reason::TooBig,
                    IcmpCause::NoPort | IcmpCause::NoProtocol => Reason::Unmatched,
                };
                let bytes = icmp::icmp_error(&frame.bytes, frame.network, *cause);
                (Action::Answer, reason, Verdict::Transmit, bytes)
            }
            Expect::Pass(reason) => (Action::Pass, *reason, Verdict::Pass, came.bytes.clone()),
            Expect::Drop(reason) => (Action::Drop, *reason, Verdict::Drop, came.bytes.clone()),
        };
        *self.totals.entry((action as u8, reason as u32)).or_default() += 1;
        (verdict, bytes)
    }
}

/// How a packet to a server is rewritten. In the modes `ipip` and `gue` the caller adds the outer headers.
fn to_server(held: &MapState, listener: &PacketListener, server: &PacketServer) -> Rewrite {
    match mode_of(held, listener) {
        mode::NAT => Rewrite::Destination(server.at),
        _ => Rewrite::Nothing,
    }
}

/// The frame that is forwarded, before it is rewritten.
pub(super) fn sent(frame: &Frame, expect: &Expect) -> Frame {
    match expect {
        Expect::EndServer(..) | Expect::EndClient(..) => reset::forward(&frame.untagged()),
        _ => frame.untagged(),
    }
}

/// The same fragment of the rewritten packet, in the VLAN of the hop.
fn part_of_rewritten(fragment: &Fragment, hop: &Hop, rewrite: Rewrite) -> Vec<u8> {
    let whole = fragment.whole.untagged();
    let bytes = check::rewritten(&whole, hop.peer, hop.own, rewrite);
    fragment.of(&Frame { bytes, ..whole }).in_vlan(hop.vlan).bytes
}

/// The mode of a listener, which determines how frames are rewritten.
pub(super) fn mode_of(state: &MapState, listener: &PacketListener) -> u8 {
    state.services.get(&ServiceId::new(listener.id)).map_or(mode::NAT, |service| service.mode)
}
