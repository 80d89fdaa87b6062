//! Sends a client's packet to its server.

use core::borrow::Borrow as _;

use super::{
    frame_calls::FrameCalls,
    gue,
    icmp_error::{IcmpError, IcmpMessage},
    ipip,
    macs::{macs, readdress},
    nat,
    parse::Packet,
    path::{Egress, PacketPath, Verdict, conclude_to_server},
    path_calls::PathCalls,
    refusal::Refusal,
    tracked::Selection,
};
use crate::{
    abi::{
        programs::TailCalled,
        service::{IndexEntry, mode, policy},
        source::Source,
        stats::{GeneratedPacket, Reason},
        token_bucket::Limit,
    },
    hash::flow_label,
    net::headers::protocol,
};

/// Sends a packet to the server that another program has selected.
#[inline(always)]
pub fn forward<G: FrameCalls, T: PathCalls>(
    head: &mut G,
    ifindex: u32,
    maps: &T,
) -> Result<Verdict, TailCalled> {
    let decided = decide(head, ifindex, maps);
    conclude_to_server(decided, head, maps)
}

#[inline(always)]
fn decide<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Result<Egress, Refusal> {
    let path = PacketPath::open(ifindex, maps)?;
    let metadata = head.metadata().ok_or(Refusal::pass(Reason::NotReady))?;
    let (packet, selected) = (&metadata.borrow().packet, metadata.borrow().selection);
    let service = path.listener(packet, packet.destination_port).ok_or(Refusal::UNMATCHED)?;
    if packet.flags.marks_flow() {
        maps.mark_cookie_flow(packet, service);
    }
    let (source, locals) = (metadata.borrow().source, &path.index.locals);
    let may_have_source = service.mode == mode::FULL_NAT || (service.mode == mode::NAT && locals.used != 0);
    if may_have_source && source == Source::NONE {
        return Err(Refusal::Next(TailCalled::Source));
    }
    let server = selected.server();
    let backend =
        maps.backend(server.id()).filter(|backend| backend.handle == server).ok_or(Reason::NoServer)?;
    let selection = Selection {
        is_finished: selected.is_finished(),
        is_opening: selected.is_opening(),
        source,
        ..Selection::new(backend, selected.is_new(), maps)?
    };
    let sender = macs(&head.frame()).ok_or(Reason::Truncated)?.sender();
    path.forward::<true, G>(head, packet, sender, service, service.mode, &selection)
}

impl<T: PathCalls, const FAST: bool> PacketPath<'_, T, FAST> {
    /// Rewrites a packet and sends it to its server. With `SOURCE` the selection may have a source, and the mode may be
    /// `gue`. `sender` is the source hardware address of the frame.
    #[inline(always)]
    pub(super) fn forward<const SOURCE: bool, G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        sender: u64,
        service: &IndexEntry,
        mode: u8,
        selection: &Selection<'_>,
    ) -> Result<Egress, Refusal> {
        let Selection { backend, hop, is_new, is_finished, is_opening, source, offset } = *selection;
        let vlan = hop.macs.vlan;
        // Only the slow path changes tags.
        if FAST && !vlan.is_none() {
            return Err(Refusal::DECLINE);
        }
        let mut frame = head.frame();
        let bytes = frame.len();
        let overhead = ipip::overhead(mode, backend);
        // The RST that a segment of a finished connection becomes is small.
        if packet.len + overhead > hop.mtu as usize && !is_finished {
            let mtu = hop.mtu.saturating_sub(overhead as u32);
            return Err(Refusal::IcmpError(IcmpError {
                reason: Reason::TooBig,
                message: IcmpMessage::too_big(packet.destination.is_v4(), mtu),
            }));
        }
        // A server that does not hold the VIP would route the packet back to SLB, in an endless loop.
        if mode == mode::DSR && sender == hop.macs.receiver() {
            return Err(Refusal::drop(Reason::Loop));
        }
        let verdict = self.egress_verdict(hop.ifindex, vlan, packet)?;
        self.charge_bandwidth(service.id(), service.policy, Limit::BandwidthIn, bytes)?;
        let mut reason = Reason::ToServer;
        if !FAST {
            if is_finished {
                self.rewrite_to_rst(head, packet, false, GeneratedPacket::Resets)?;
                reason = Reason::Reset;
            } else {
                Self::untag(head)?;
            }
            frame = head.frame();
        }
        match mode {
            mode::NAT | mode::FULL_NAT => {
                let address = &backend.address;
                let port = if SOURCE { backend.port_for(packet.destination_port) } else { backend.port };
                if SOURCE && source.is_allocated() {
                    let local = &self.index.locals.slots[usize::from(source.local())].address;
                    nat::both_ends(&mut frame, packet, (local, source.port()), (address, port))
                } else {
                    nat::to_server(&mut frame, packet, address, port)
                }
                .ok_or(Reason::Truncated)?;
                let is_translated =
                    if FAST { SOURCE && source.is_of_cookie() } else { packet.flags.is_translated() };
                if is_translated {
                    let offset = if FAST { offset } else { head.offset() };
                    if !head.translate_number(packet.transport, offset, true) {
                        return Err(Refusal::drop(Reason::Truncated));
                    }
                    frame = head.frame();
                }
                if SOURCE && !FAST && is_opening && source.is_allocated() {
                    Self::set_client_option(head, packet, service, hop.mtu)?;
                    frame = head.frame();
                }
                readdress(&mut frame, &hop.macs).ok_or(Reason::Truncated)?;
            }
            mode::DSR => readdress(&mut frame, &hop.macs).ok_or(Reason::Truncated)?,
            mode::IPIP => {
                let salt = || if SOURCE { service.label_salt(packet.destination_port) } else { service.salt };
                let flow = || flow_label(salt(), &packet.source, packet.source_port);
                ipip::encapsulate(head, packet, backend, hop, &self.index.tunnel, flow)?;
            }
            // The program without `SOURCE` has left it to another one.
            mode::GUE if SOURCE => {
                let salt = service.label_salt(packet.destination_port);
                let flow = flow_label(salt, &packet.source, packet.source_port);
                gue::encapsulate(head, packet, backend, hop, self.index, flow)?;
            }
            _ => return Err(Refusal::drop(Reason::NotReady)),
        }
        Self::set_vlan(head, vlan, packet)?;
        self.record_to_server(packet, backend.handle, service.service, source);
        self.count(service, backend.handle.id(), bytes, is_new);
        Ok(Egress::forward(verdict, reason))
    }

    /// Inserts the client endpoint into a source-translated segment that opens a connection, if its listener asks for it.
    /// Without `toa` a SYN loses such an option of its client: servers trust SLB's local addresses.
    #[inline(always)]
    fn set_client_option<G: FrameCalls>(
        head: &mut G,
        packet: &Packet,
        service: &IndexEntry,
        mtu: u32,
    ) -> Result<(), Refusal> {
        let has_toa = service.policy & policy::TOA != 0;
        if packet.protocol != protocol::TCP || !(has_toa || packet.flags.is_syn()) {
            return Ok(());
        }
        let room = if has_toa { (mtu as usize).saturating_sub(packet.len) } else { 0 };
        if head.insert_client_option(packet, room) { Ok(()) } else { Err(Refusal::drop(Reason::Truncated)) }
    }
}
