//! Packets to a server whose source is translated: finds or chooses the flow's source (mode `full-nat`, and mode `nat`
//! where the server would answer the client past SLB).
//!
//! A flow first tries its client's own port on each local address, then other ports. The order follows from the client's
//! address and the local addresses: a flow whose entry was lost mostly gets its source again.

use core::borrow::Borrow as _;

use super::{
    flows::{Allocation, Flows, NOT_FOUND},
    frame_calls::FrameCalls,
    metadata::Metadata,
    parse::Packet,
    path::{Egress, PacketPath, Verdict, conclude},
    path_calls::PathCalls,
    refusal::{PackedRefusal, Refusal},
    tracked::found,
};
use crate::{
    abi::{
        backend::Backend,
        family::Family,
        flow::{Client, state},
        interface::Interface,
        local_address::{Candidates, MAX_CANDIDATES},
        programs::TailCalled,
        service::{IndexEntry, mode},
        source::Source,
        stats::{GeneratedPacket, Reason},
    },
    hash::mix,
    net::vlan::Vlan,
    opaque::masked,
};

/// Ports that a flow tries besides its client's own.
const TRIES: u32 = 512;
/// Of these, tries after which sources count as scarce.
const PLENTY: u32 = 16;
/// Of these, tries without a rate limit. More of them cost a flood of new flows too much.
const CHEAP: u32 = 64;
/// Distance of ports tried one after the other: a prime, so that it leads through all ports of a range that is no
/// multiple of it.
const STRIDE: u32 = 31_337;

/// Finds or chooses the source of a packet whose server another program has selected.
#[inline(always)]
pub fn source<G: FrameCalls, T: PathCalls>(
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
    let service = path.listener(packet, packet.destination_port);
    let source = path.source_of(metadata.borrow(), service.ok_or(Refusal::UNMATCHED)?)?;
    if source == Source::WANTED {
        head.refuse(PackedRefusal::dropped(Reason::NoSourcePort as u32));
        return Err(Refusal::Next(TailCalled::Refused));
    }
    head.translate_source(source);
    Err(Refusal::Next(TailCalled::Forward))
}

impl<T: PathCalls> PacketPath<'_, T, false> {
    /// The source that a packet gets, or [`Source::UNTRANSLATED`]; [`Source::WANTED`] if none is free.
    #[inline(always)]
    fn source_of(&self, metadata: &Metadata, service: &IndexEntry) -> Result<Source, Refusal> {
        let Self { index, maps, .. } = *self;
        let (packet, selected) = (&metadata.packet, metadata.selection);
        let flows = Flows::open(index, maps);
        let query = flows.query(Client::new(&packet.source, packet.source_port, packet.protocol));
        let tag = service.flow_tag(packet.destination_port);
        let distance = maps.find_flow(&query, tag);
        let is_full_nat = service.mode == mode::FULL_NAT;
        let entry =
            if distance == NOT_FOUND { None } else { found::<true, T>(&flows, &query, distance, tag) };
        // A RST begins no flow.
        let Some(entry) = entry else {
            return if is_full_nat { Err(Refusal::drop(Reason::Reset)) } else { Ok(Source::UNTRANSLATED) };
        };
        if entry.flow.source.is_allocated() {
            return Ok(entry.flow.source);
        }
        let backend = flows.live_backend(selected.server()).ok_or(Reason::NoServer)?;
        // A flow that its server has answered keeps the client endpoint.
        let begins = entry.sequence_word.state() & (state::ASSURED | state::ANSWERED) == 0;
        let family = if packet.source.is_v4() { Family::V4 } else { Family::V6 };
        let may_have = begins && index.locals.candidates(family).count != 0;
        let needs_source = is_full_nat || entry.flow.source.unmarked() == Source::WANTED;
        let is_translated = needs_source || (may_have && self.answers_past_slb(packet, backend));
        if !is_translated {
            return Ok(Source::UNTRANSLATED);
        }
        // The source may be that of a flow whose entry is still in the table that this one replaces.
        let is_resizing = maps.is_resizing();
        let source = flows.assign_source(&query, distance, &entry, |slot| {
            if is_resizing { Source::WANTED } else { self.choose(packet, backend, slot) }
        });
        if source.is_allocated() {
            return Ok(source);
        }
        // Another processor has changed the entry meanwhile.
        let is_changed = source == Source::NONE;
        if is_resizing | is_changed { Err(Refusal::drop(Reason::NotReady)) } else { Ok(Source::WANTED) }
    }

    /// Whether the server would answer a client past SLB: it is the client, or the client is on its link, which is a VLAN
    /// of an interface if the next hop has one.
    #[inline(always)]
    fn answers_past_slb(&self, packet: &Packet, backend: &Backend) -> bool {
        if backend.address.same(&packet.source) {
            return true;
        }
        let link = self.maps.link_of_client(packet);
        let Some(hop) = self.maps.next_hop(backend.next_hop).filter(|hop| hop.ifindex != 0 && link != 0)
        else {
            return false;
        };
        let entry = self.maps.interface(link);
        let (below, vlan) = entry.map_or((link, Vlan::NONE), Interface::link);
        let is_its_interface = below == hop.ifindex || entry.map_or(0, Interface::group) == hop.ifindex;
        is_its_interface && vlan == hop.macs.vlan
    }

    /// Allocates the first free source that a flow tries; [`Source::WANTED`] if it finds none. `slot` is that of its entry.
    #[inline(always)]
    fn choose(&self, packet: &Packet, backend: &Backend, slot: u32) -> Source {
        let locals = &self.index.locals;
        let candidates = locals.candidates(if packet.source.is_v4() { Family::V4 } else { Family::V6 });
        let server = backend.server_hash_for(packet.destination_port);
        let [high, low] = packet.source.halves();
        let first = mix(mix(high ^ self.index.seed) ^ low);
        let allocate = |source, is_scarce| {
            self.maps.allocate_source(slot, server, Allocation::new(source, packet.protocol, is_scarce))
        };
        let own = u16::from_be(packet.source_port);
        for n in 0..MAX_CANDIDATES as u32 {
            let Some(local) = candidate(candidates, first, n).filter(|_| n < candidates.count) else { break };
            let address = &locals.slots[usize::from(local)];
            let source = Source::candidate(local, packet.source_port);
            if own >= address.first_port && own <= address.last_port && allocate(source, false) {
                return source.allocated();
            }
        }
        let start = mix(first ^ u64::from(packet.source_port)) as u32;
        for n in 0..TRIES {
            if n == CHEAP && !self.maps.may_send(GeneratedPacket::SourceSearches, self.index.hz) {
                break;
            }
            let Some(local) = candidate(candidates, first, n) else { break };
            let address = &locals.slots[usize::from(local)];
            let (low, high) = (u32::from(address.first_port), u32::from(address.last_port));
            let step = n.checked_div(candidates.count).unwrap_or(0).wrapping_mul(STRIDE);
            let port = low + start.wrapping_add(step) % (high.wrapping_sub(low) + 1).max(1);
            let source = Source::candidate(local, (port as u16).to_be());
            if allocate(source, n >= PLENTY) {
                return source.allocated();
            }
        }
        Source::WANTED
    }
}

/// The choice that a client's flows try after `n` others; `None` if there is no choice.
#[inline(always)]
fn candidate(candidates: &Candidates, first: u64, n: u32) -> Option<u8> {
    if candidates.count == 0 {
        return None;
    }
    let at = (first as u32).wrapping_add(n) % candidates.count;
    Some(candidates.slots[masked::<MAX_CANDIDATES>(at.into())])
}
