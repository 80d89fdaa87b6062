//! Fragments of TCP segments and UDP datagrams.
//!
//! Only the first fragment has ports. It is forwarded as a whole packet is, and leaves a record. Later fragments follow
//! the record to the same server or client, whatever has changed meanwhile. One that arrives before the first, or
//! without it, is an unmatched packet with the reason `fragment`.

use core::borrow::Borrow as _;

use super::{
    access,
    flows::Flows,
    fragment_record::FragmentFlow,
    frame_calls::FrameCalls,
    maps::Maps,
    metadata::PackedSelection,
    parse::{Fragmentation, Packet},
    path::{Egress, PacketPath, Verdict, conclude},
    path_calls::PathCalls,
    refusal::Refusal,
    reply::{Reply, is_path_from},
};
use crate::abi::{
    Handle,
    flow::{Client, ClientPath},
    fragment::FragmentRecord,
    interface::{CLIENT, SERVER},
    programs::TailCalled,
    service::{ServiceIndex, mode},
    source::Source,
    stats::Reason,
};

/// How long a record holds, in seconds: as long as Linux waits for the fragments of an IPv4 packet. Identifications of
/// IPv4 are used again soon.
const LIFETIME: u32 = 30;

/// Decides on a later fragment that the slow path has parsed.
#[inline(always)]
pub fn fragment<G: FrameCalls, T: PathCalls>(
    head: &mut G,
    ifindex: u32,
    maps: &T,
) -> Result<Verdict, TailCalled> {
    let decided = decide(head, ifindex, maps);
    conclude(decided, head, maps)
}

#[inline(always)]
fn decide<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Result<Egress, Refusal> {
    let path = PacketPath::open(ifindex, maps)?;
    let metadata = head.metadata().ok_or(Refusal::pass(Reason::NotReady))?;
    let packet = &metadata.borrow().packet;
    let record = maps.fragment(&packet.fragment_key());
    let lifetime = LIFETIME * path.index.hz;
    let fresh = record.filter(|record| maps.now().wrapping_sub(record.since) < lifetime);
    let record = fresh.ok_or(Refusal::Unmatched(Reason::Fragment as u32))?;
    let backend = maps.backend(record.server.id()).filter(|backend| backend.handle == record.server);
    let backend = backend.ok_or(Reason::NoServer)?;
    if record.client.0 == 0 {
        return Err(path.follow_to_server(head, packet, record));
    }
    if path.roles & SERVER == 0 || !is_path_from(backend, packet, ifindex, maps) {
        return Err(Refusal::drop(Reason::WrongInterface));
    }
    let service =
        maps.service(record.service & 0xffff).filter(|service| service.handle.tag() == record.service);
    let service = service.ok_or(Reason::NoServer)?;
    let (client, out) = (record.client, maps.interface_at(record.client.interface()));
    let (backend, source) = (record.server.id(), record.source);
    let end = if source.is_allocated() {
        // The flow knows its client.
        let hash = ServiceIndex::server_hash(&packet.source, record.ports as u16);
        let found = Flows::open(path.index, maps).find_by_source(hash, source, packet.protocol);
        found.ok_or(Reason::Fragment)?.1
    } else {
        Client::new(&packet.destination, (record.ports >> 16) as u16, packet.protocol)
    };
    let reply = Reply { service, backend, client, out, is_finished: false, end, source, offset: 0 };
    path.send_to_client::<true, G>(head, packet, &reply)
}

impl<T: PathCalls> PacketPath<'_, T, false> {
    /// Follows the first fragment of a client's packet.
    #[inline(always)]
    fn follow_to_server<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        record: FragmentRecord,
    ) -> Refusal {
        if self.roles & CLIENT == 0 {
            return Refusal::drop(Reason::WrongInterface);
        }
        let port = (record.ports >> 16) as u16;
        let service = self.listener(packet, port);
        let Some(service) = service.filter(|service| service.service == record.service) else {
            return Refusal::drop(Reason::Fragment);
        };
        match self.maps.source_refusal(packet, service) {
            access::ADMITTED => {}
            reason => return Refusal::Drop(reason),
        }
        // No ICMP error is sent about a later fragment (RFC 1812, 4.3.2.7).
        if packet.hop_limit <= 1 && service.mode != mode::DSR {
            return Refusal::drop(Reason::HopLimit);
        }
        let source = if record.source.is_allocated() { record.source } else { Source::UNTRANSLATED };
        head.follow(record.ports, PackedSelection::new(record.server), source);
        Refusal::Next(TailCalled::Forward)
    }
}

impl<T: PathCalls, const FAST: bool> PacketPath<'_, T, FAST> {
    /// Records a first fragment of a flow with this source, if it is one. It is forwarded to the server.
    #[inline(always)]
    pub(super) fn record_to_server(&self, packet: &Packet, server: Handle, service: u32, source: Source) {
        self.record(packet, server, ClientPath(0), FragmentFlow { service, source });
    }

    /// Records a first fragment, if it is one. It is forwarded to the client of `reply`.
    #[inline(always)]
    pub(super) fn record_to_client(&self, packet: &Packet, server: Handle, reply: &Reply<'_>) {
        let Reply { service, client, source, .. } = *reply;
        self.record(packet, server, client, FragmentFlow { service: service.handle.tag(), source });
    }

    #[inline(always)]
    fn record(&self, packet: &Packet, server: Handle, client: ClientPath, flow: FragmentFlow) {
        if !FAST && packet.fragmentation == Fragmentation::FIRST {
            self.maps.record_fragment(packet, server, client, flow);
        }
    }
}

impl Packet {
    /// Removes the record of another packet with the same identification. If this first fragment is not forwarded, its
    /// later ones must not follow that.
    #[inline(always)]
    pub(super) fn begin_fragments<T: Maps>(&self, maps: &T) {
        if self.fragmentation == Fragmentation::FIRST {
            maps.remove_fragment(&self.fragment_key());
        }
    }
}
