//! ICMP errors about packets of flows (RFC 792; RFC 4443, 3): they go to the end that has sent the embedded packet. A
//! program of its own, behind a tail call of the slow path.
//!
//! From the client's side, a router or the client sends them to the VIP, about a packet that a server has sent from it.
//! They go to that server in the listener's mode. In mode `nat` a server, or a router before it, sends them to the
//! client, in mode `full-nat` to the flow's source.
//!
//! Invariants:
//!
//! - An ICMP error makes no entry in the flow table and changes none.
//! - No ICMP error and no RST answers it (RFC 1122, 3.2.2).
//! - An ICMP error to a VIP embeds a packet of that VIP; any other is forged. So is one with a path MTU that no link may
//!   have.

use super::{
    access,
    embedded::minimum_mtu,
    flows::{Conflicts, Flows, NOT_FOUND},
    frame_calls::FrameCalls,
    gue,
    icmp_nat::Translation,
    ipip,
    macs::{macs, readdress},
    maps::Direction,
    parse::Packet,
    path::{Egress, PacketPath, Verdict},
    path_calls::PathCalls,
    refusal::Refusal,
    reply::{self, Reply},
    tracked::{Selection, found},
};
use crate::{
    abi::{
        MacPair,
        flow::Client,
        interface::{CLIENT, SERVER},
        service::{IndexEntry, mode},
        stats::Reason,
        syn_cookie::OffsetKey,
    },
    hash::flow_label,
};
use core::borrow::Borrow as _;

impl<T: PathCalls> PacketPath<'_, T, false> {
    /// Decides on an ICMP message other than an echo request.
    #[inline(always)]
    pub(super) fn related<G: FrameCalls>(&self, head: &mut G, packet: &Packet) -> Result<Egress, Refusal> {
        const UNRELATED: Refusal = Refusal::Unmatched(Reason::OtherProtocol as u32);
        let minimum = minimum_mtu(&packet.destination, &self.index.tunnel, self.index.gue_port);
        let metadata = head.parse_embedded(packet, minimum).ok_or(Reason::NotReady)?;
        let (metadata, is_vip) = (metadata.borrow(), self.index.vip(&packet.destination).is_some());
        let (embedded, is_forged) = (&metadata.packet, metadata.is_refused_for(Reason::ForgedIcmp));
        let (vip, port) = (&embedded.destination, embedded.destination_port);
        let is_tunnel = self.index.tunnel.has(&packet.destination);
        let is_of_another = is_vip && embedded.network != 0 && !packet.destination.same(vip);
        if is_of_another || (is_forged && (is_vip | is_tunnel)) {
            return Err(Refusal::drop(Reason::ForgedIcmp));
        }
        if !metadata.is_sound() && !is_forged {
            return Err(UNRELATED);
        }
        if is_vip {
            // Without a listener, the error may be about a packet that the host has sent from the VIP.
            let Some(service) = self.listener(embedded, port) else { return Err(UNRELATED) };
            if self.roles & CLIENT == 0 {
                return Err(Refusal::drop(Reason::WrongInterface));
            }
            if self.index.is_martian(&packet.source) {
                return Err(Refusal::drop(Reason::MartianSource));
            }
            access::check_embedded(embedded, service, self.maps)?;
            return match self.server_of(embedded, service)? {
                Some(selection) => self.error_to_server(head, packet, embedded, service, &selection),
                None => Err(UNRELATED),
            };
        }
        if self.roles & SERVER == 0 || !packet.destination.same(vip) {
            return Err(UNRELATED);
        }
        match reply::related(embedded, self.ifindex, self.index, self.maps)? {
            Some(_) if is_forged => Err(Refusal::drop(Reason::ForgedIcmp)),
            Some(reply) => self.error_to_client(head, packet, embedded, &reply),
            None => Err(UNRELATED),
        }
    }

    /// The server that has sent the embedded packet; `None` if there is none.
    #[inline(always)]
    fn server_of(&self, embedded: &Packet, service: &IndexEntry) -> Result<Option<Selection<'_>>, Refusal> {
        let Self { index, maps, .. } = *self;
        let flows = Flows::open(index, maps);
        let query = flows.query(Client::new(&embedded.source, embedded.source_port, embedded.protocol));
        let tag = service.flow_tag(embedded.destination_port);
        let distance = maps.find_flow(&query, tag);
        let entry =
            if distance == NOT_FOUND { None } else { found::<true, T>(&flows, &query, distance, tag) };
        if let Some((entry, backend)) =
            entry.and_then(|entry| flows.live_backend(entry.flow.backend).map(|backend| (entry, backend)))
        {
            let source = entry.flow.source;
            if service.mode == mode::FULL_NAT && !source.is_allocated() {
                return Ok(None);
            }
            return Ok(Some(Selection { source, ..Selection::new(backend, false, maps)? }));
        }
        // The flow may still have its entry in the table that this one replaces.
        if maps.is_resizing() {
            return Err(Refusal::drop(Reason::NotReady));
        }
        if mode::sees_replies(service.mode) {
            return Ok(None);
        }
        let by_hash = maps.server_by_hash(embedded, service, Conflicts::default().0);
        let id = match by_hash.backend() {
            // No RST answers an ICMP error, nor counts against the rate limit.
            Err(Refusal::Rst(reason)) => return Err(Refusal::drop(reason)),
            other => other?,
        };
        let backend = maps.backend(id).ok_or(Reason::NoServer)?;
        Selection::new(backend, false, maps).map(Some)
    }

    #[inline(always)]
    fn error_to_server<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        embedded: &Packet,
        service: &IndexEntry,
        selection: &Selection<'_>,
    ) -> Result<Egress, Refusal> {
        let (mode, Selection { backend, hop, source, .. }) = (service.mode, selection);
        if packet.hop_limit <= 1 && mode != mode::DSR {
            return Err(Refusal::drop(Reason::HopLimit));
        }
        let overhead = ipip::overhead(mode, backend);
        if packet.len + overhead > hop.mtu as usize {
            return Err(Refusal::drop(Reason::TooBig));
        }
        let sender = macs(&head.frame()).ok_or(Reason::Truncated)?.sender();
        if mode == mode::DSR && sender == hop.macs.receiver() {
            return Err(Refusal::drop(Reason::Loop));
        }
        let bytes = head.frame().len();
        let verdict = self.egress_verdict(hop.ifindex, hop.macs.vlan, packet)?;
        Self::untag(head)?;
        match mode {
            mode::NAT | mode::FULL_NAT => {
                let translation = Translation::to_server(backend.port_for(embedded.destination_port));
                let mut is_whole = head.translate_icmp(packet, embedded, &backend.address, translation);
                if is_whole && source.is_allocated() {
                    let local = &self.index.locals.slots[usize::from(source.local())].address;
                    let translation = Translation::to_client(source.port()).second();
                    is_whole = head.translate_icmp(packet, embedded, local, translation);
                }
                if is_whole && source.is_of_cookie() {
                    is_whole = self.translate_sequence(head, packet, embedded, service);
                }
                if !is_whole {
                    return Err(Refusal::drop(Reason::Truncated));
                }
                readdress(&mut head.frame(), &hop.macs).ok_or(Reason::Truncated)?;
            }
            mode::DSR => readdress(&mut head.frame(), &hop.macs).ok_or(Reason::Truncated)?,
            mode::IPIP => {
                let salt = service.label_salt(embedded.destination_port);
                let flow = || flow_label(salt, &embedded.source, embedded.source_port);
                ipip::encapsulate(head, packet, backend, hop, &self.index.tunnel, flow)?;
            }
            mode::GUE => {
                let salt = service.label_salt(embedded.destination_port);
                let flow = flow_label(salt, &embedded.source, embedded.source_port);
                gue::encapsulate(head, packet, backend, hop, self.index, flow)?;
            }
            _ => return Err(Refusal::drop(Reason::NotReady)),
        }
        Self::set_vlan(head, hop.macs.vlan, packet)?;
        self.count(service, backend.handle.id(), bytes, false);
        Ok(Egress::forward(verdict, Reason::ToServer))
    }

    /// Translates the embedded sequence number of a flow that began with a SYN cookie. Without its offset the server does
    /// not believe the error.
    #[inline(always)]
    fn translate_sequence<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        embedded: &Packet,
        service: &IndexEntry,
    ) -> bool {
        let client = Client::new(&embedded.source, embedded.source_port, embedded.protocol);
        let known =
            self.maps.sequence_offset(&OffsetKey::new(&client, service.flow_tag(embedded.destination_port)));
        known.is_none_or(|known| head.translate_embedded_sequence(packet, embedded, known.offset))
    }

    #[inline(always)]
    fn error_to_client<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        embedded: &Packet,
        reply: &Reply<'_>,
    ) -> Result<Egress, Refusal> {
        let Reply { service, backend, client, out, end, source, .. } = reply;
        if packet.hop_limit <= 1 {
            return Err(Refusal::drop(Reason::HopLimit));
        }
        let out = out.ok_or(Reason::NoInterface)?;
        if client.mac() == 0 {
            return Err(Refusal::drop(Reason::NoClientHop));
        }
        if !out.takes(packet.len) {
            return Err(Refusal::drop(Reason::TooBig));
        }
        let macs = MacPair::of(client.mac(), out.mac());
        let (exit, vlan) = out.exit();
        let verdict: Verdict = self.egress_verdict(exit, vlan, packet)?;
        Self::untag(head)?;
        let translation = Translation::to_client(service.port_for(embedded.source_port));
        let mut is_whole = head.translate_icmp(packet, embedded, &service.address, translation);
        if is_whole && source.is_allocated() {
            let (address, port) = end.endpoint();
            let translation = Translation::to_server(port).second();
            is_whole = head.translate_icmp(packet, embedded, &address, translation);
        }
        if !is_whole {
            return Err(Refusal::drop(Reason::Truncated));
        }
        let mut frame = head.frame();
        readdress(&mut frame, &macs).ok_or(Reason::Truncated)?;
        let bytes = frame.len();
        Self::set_vlan(head, vlan, packet)?;
        self.maps.count_service(service.handle.id(), Direction::Out, bytes, false);
        self.maps.count_backend(*backend, Direction::Out, bytes, false);
        Ok(Egress::forward(verdict, Reason::ToClient))
    }
}
