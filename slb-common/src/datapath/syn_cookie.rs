//! SYN cookies (RFC 4987, 3.6): in a flood of SYNs, SLB answers SYNs itself and keeps nothing about them. A client that
//! answers is real: SLB then opens the connection to a server in the client's name.
//!
//! A program of its own, for packets to a listener with SYN cookies, and for packets of flows that began with one: the
//! server has another initial sequence number than the cookie, so numbers are translated for as long as the flow lasts.
//! The answers of servers have another program, [`super::cookie_reply`]. After both, the usual programs go on.
//!
//! The kernel makes and checks the cookies, with its own secrets. The client's SYN is lost: of its options the cookie
//! holds the maximum segment size alone. So neither side scales windows, sends timestamps or selective acknowledgements.

use core::borrow::Borrow as _;

use super::{
    access,
    cookie_segments::{HeaderNumbers, SegmentShape, segment_size},
    flows::{EntrySnapshot, Flows, NOT_FOUND},
    frame_calls::FrameCalls,
    parse::{Fragmentation, Packet, TcpFlags},
    path::{Egress, PacketPath, Verdict, conclude},
    path_calls::PathCalls,
    refusal::Refusal,
    tracked::{found, update_connection_count},
};
use crate::{
    abi::{
        flow::{Client, state},
        interface::{CLIENT, Interface},
        programs::TailCalled,
        service::{IndexEntry, policy},
        stats::{CookieEvent, Reason},
        syn_cookie::{OffsetKey, SequenceOffset},
    },
    net::headers::{Ipv4Hdr, Ipv6Hdr, TcpHdr},
};

/// The MTU of Ethernet, for which clients of larger links get a segment size, too: servers may be on other links.
const ETHERNET_MTU: u32 = 1500;

/// The usual program decides on the packet.
const LEAVE: Refusal = Refusal::Next(TailCalled::ToServer);

/// A SYN in a flood that gets no cookie.
const SYN_REFUSED: Refusal = Refusal::drop(Reason::SynCookie);

/// The maximum segment sizes that a cookie may hold (`msstab` in Linux), in ascending order.
pub const fn segment_sizes(is_v4: bool) -> [u32; 4] {
    if is_v4 { [536, 1300, 1440, 1460] } else { [1220, 1420, 1440, 8940] }
}

/// Decides on a client's segment, or leaves it to [`TailCalled::ToServer`].
#[inline(always)]
pub fn syn_cookie<G: FrameCalls, T: PathCalls>(
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
    let service = path.listener(packet, packet.destination_port).ok_or(Refusal::UNMATCHED)?;
    if path.roles & CLIENT == 0 {
        return Err(Refusal::drop(Reason::WrongInterface));
    }
    match maps.source_refusal(packet, service) {
        access::ADMITTED => {}
        reason => return Err(Refusal::Drop(reason)),
    }
    let flows = Flows::open(path.index, maps);
    let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
    let tag = service.flow_tag(packet.destination_port);
    let key = OffsetKey::new(&query.client, tag);
    let distance = if flows.is_empty(&query) { NOT_FOUND } else { maps.find_flow(&query, tag) };
    match found::<true, T>(&flows, &query, distance, tag) {
        None => path.without_entry(head, packet, service, &key),
        Some(found) if found.flow.source.is_of_cookie() => {
            path.translate(head, packet, service, &flows, &found, &key)
        }
        Some(_) => match maps.sequence_offset(&key) {
            // The SYN was dropped after its flow had begun.
            Some(known) if awaits_server(packet, known) => {
                open(head, packet.network, packet.vlan_device, known)
            }
            _ => Err(LEAVE),
        },
    }
}

impl<T: PathCalls> PacketPath<'_, T, false> {
    /// Decides on a segment without a flow-table entry.
    #[inline(always)]
    fn without_entry<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        service: &IndexEntry,
        key: &OffsetKey,
    ) -> Result<Egress, Refusal> {
        let (maps, flags) = (self.maps, packet.flags);
        if service.policy & policy::SYN_COOKIES == 0 {
            return Err(LEAVE);
        }
        let limited = maps.service(service.id()).ok_or(LEAVE)?;
        let buckets = maps.token_buckets(limited.token_buckets.into()).ok_or(LEAVE)?;
        let now = maps.nanoseconds();
        let is_whole = packet.fragmentation == Fragmentation::WHOLE;
        if flags.is_syn() {
            if !buckets.is_flood(service.syn_cookies, now) {
                // During a resize the entry of the flow may still be in the old table.
                if !maps.is_resizing() {
                    maps.erase_sequence_offset(key);
                }
                return Err(LEAVE);
            }
            return if is_whole { self.answer(head, packet, service) } else { Err(SYN_REFUSED) };
        }
        let known = maps.sequence_offset(key).unwrap_or_default();
        let may_be_cookie = buckets.flood().may_be_answered(now) && !flags.syn() && flags.acknowledges();
        let is_checked = may_be_cookie && !flags.rst() && is_whole && !maps.is_resizing();
        // The first segment of an established client has the number after its SYN, a probe of the window that of the SYN.
        let sequence = packet.sequence.wrapping_sub(1);
        let first = if is_checked && maps.is_cookie(packet, sequence) {
            Some(sequence)
        } else if is_checked && maps.is_cookie(packet, packet.sequence) {
            Some(packet.sequence)
        } else {
            None
        };
        match first {
            // A known offset may be that of an earlier connection of the endpoint.
            Some(first) if !known.is_of(first) => self.accept(head, packet, service, first, key),
            _ if known.is_known() => self.lost_entry(head, packet, known, key),
            _ => {
                if is_checked {
                    maps.count_cookie(service.id(), CookieEvent::Refused);
                }
                Err(LEAVE)
            }
        }
    }

    /// Answers a SYN by a cookie.
    #[inline(always)]
    fn answer<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        service: &IndexEntry,
    ) -> Result<Egress, Refusal> {
        let mss = match segment_size(&head.frame(), packet) {
            0 => segment_sizes(packet.source.is_v4())[0],
            mss => mss,
        };
        let cookie = self.maps.generate_cookie(packet, packet.sequence, mss).ok_or(SYN_REFUSED)?;
        let numbers = HeaderNumbers::new(cookie, packet.sequence.wrapping_add(1));
        let own_mss = self.own_segment_size(packet.source.is_v4());
        if !head.rewrite_segment(packet.network, numbers, SegmentShape::syn_ack(own_mss)) {
            return Err(SYN_REFUSED);
        }
        self.maps.count_cookie(service.id(), CookieEvent::Sent);
        Ok(Egress::answer(Reason::SynCookie as u32))
    }

    /// The maximum segment size that clients on this interface get.
    #[inline(always)]
    fn own_segment_size(&self, is_v4: bool) -> u32 {
        let mtu = match self.maps.interface(self.ifindex).map_or(0, Interface::mtu).into() {
            // Not known yet.
            0 => ETHERNET_MTU,
            mtu if mtu > ETHERNET_MTU => ETHERNET_MTU,
            mtu => mtu,
        };
        let headers = size_of::<TcpHdr>() + if is_v4 { size_of::<Ipv4Hdr>() } else { size_of::<Ipv6Hdr>() };
        mtu.saturating_sub(headers as u32)
    }

    /// Opens the connection of a client that has acknowledged a cookie. `sequence` is the number of its SYN.
    #[inline(always)]
    fn accept<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        service: &IndexEntry,
        sequence: u32,
        key: &OffsetKey,
    ) -> Result<Egress, Refusal> {
        let maps = self.maps;
        let cookie = packet.acknowledges.wrapping_sub(1);
        let [smallest, sizes @ ..] = segment_sizes(packet.source.is_v4());
        let mut mss = smallest;
        for size in sizes {
            // Equal if it is the size in the cookie. A cookie of the minute before equals none: the smallest size suits
            // each client.
            if maps.generate_cookie(packet, sequence, size) == Some(cookie) {
                mss = size;
            }
        }
        let known = SequenceOffset { cookie, sequence, mss: mss as u16, ..SequenceOffset::default() };
        if !maps.put_sequence_offset(key, &known) {
            return Err(Refusal::Rst(Reason::FlowTableFull));
        }
        maps.count_cookie(service.id(), CookieEvent::Accepted);
        open(head, packet.network, packet.vlan_device, known)
    }

    /// Decides on a segment of a flow that began with a cookie.
    #[inline(always)]
    fn translate<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        service: &IndexEntry,
        flows: &Flows<'_, T>,
        found: &EntrySnapshot<'_>,
        key: &OffsetKey,
    ) -> Result<Egress, Refusal> {
        let (was, flags) = (found.sequence_word.state(), packet.flags);
        let Some(known) = self.maps.sequence_offset(key) else {
            // Neither has a number of the server.
            if flags.rst() || flags.is_syn() {
                head.mark(TcpFlags::TO_SERVER, 0);
                return Err(LEAVE);
            }
            end_flow(flows, found, service.policy, self.maps);
            return Err(Refusal::Rst(Reason::LostOffset));
        };
        // The server may have accepted the SYN, while the client has not yet shown that it knows.
        let repeats_syn = flags.is_syn() && known.is_of(packet.sequence) && was & state::ASSURED == 0;
        let awaits_server = was & state::RESET == 0 && awaits_server(packet, known);
        if repeats_syn || awaits_server {
            return open(head, packet.network, packet.vlan_device, known);
        }
        head.mark(TcpFlags::TO_SERVER, known.offset);
        Err(LEAVE)
    }

    /// Decides on a segment of a flow that began with a cookie and whose entry was evicted or flushed. An established
    /// connection is picked up mid-stream.
    #[inline(always)]
    fn lost_entry<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        known: SequenceOffset,
        key: &OffsetKey,
    ) -> Result<Egress, Refusal> {
        if self.maps.is_resizing() {
            return Err(Refusal::drop(Reason::NotReady));
        }
        if awaits_server(packet, known) {
            return open(head, packet.network, packet.vlan_device, known);
        }
        // The daemon, which is about to erase the offset of a flow without an entry, sees that it has changed.
        self.maps.put_sequence_offset(key, &known.picked_up());
        head.mark(TcpFlags::TO_SERVER, known.offset);
        Err(LEAVE)
    }
}

/// Whether a client's segment shows that the SYN to the server, or its answer, was lost.
#[inline(always)]
const fn awaits_server(packet: &Packet, known: SequenceOffset) -> bool {
    let flags = packet.flags;
    !known.is_answered() && !flags.rst() && flags.acknowledges() && known.is_acknowledged(packet.acknowledges)
}

/// Ends a flow whose numbers cannot be translated any more.
#[inline(always)]
pub(super) fn end_flow<T: PathCalls>(
    flows: &Flows<'_, T>,
    found: &EntrySnapshot<'_>,
    policies: u32,
    maps: &T,
) {
    let was = found.sequence_word.state();
    flows.mark(found, was | state::RESET);
    if let Some(backend) = flows.live_backend(found.flow.backend) {
        update_connection_count(policies, was, was | state::RESET, backend, maps);
    }
}

/// Makes of a client's segment the SYN that opens its connection, which the usual programs then forward.
#[inline(always)]
fn open<G: FrameCalls>(
    head: &mut G,
    network: usize,
    vlan_device: u32,
    known: SequenceOffset,
) -> Result<Egress, Refusal> {
    let numbers = HeaderNumbers::new(known.sequence, 0);
    if !head.rewrite_segment(network, numbers, SegmentShape::syn(known.mss.into())) {
        return Err(Refusal::drop(Reason::NoHeadroom));
    }
    let is_sound = head.parse().is_some_and(|metadata| metadata.borrow().is_sound());
    if !is_sound {
        return Err(Refusal::drop(Reason::NotReady));
    }
    head.arrive_by(vlan_device);
    // If the connection is refused, the client expects a RST with this number.
    head.mark(TcpFlags::OF_COOKIE, known.cookie.wrapping_add(1));
    Err(LEAVE)
}
