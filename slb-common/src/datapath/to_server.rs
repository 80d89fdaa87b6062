//! Packets of clients: selects the server of untracked flows and of known ones.

use core::borrow::Borrow as _;

use super::{
    access,
    frame_calls::FrameCalls,
    icmp_error::{IcmpError, IcmpMessage},
    macs::macs,
    metadata::PackedSelection,
    parse::Packet,
    path::{Egress, PacketPath, Verdict, conclude},
    path_calls::PathCalls,
    quic::{self, NamedServer},
    refusal::Refusal,
    select::{self, Tracked},
    tracked::Request,
};
use crate::{
    abi::{
        flow::ClientPath,
        interface::CLIENT,
        programs::TailCalled,
        service::{IndexEntry, mode, policy},
        stats::Reason,
    },
    net::frame::Frame,
};

/// Decides on a packet that the slow path has parsed.
#[inline(always)]
pub fn to_server<G: FrameCalls, T: PathCalls>(
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
    // The fast path checks the access list of each packet, and the source of an untracked flow. The source of a tracked
    // flow is checked here, when the flow begins.
    match maps.source_refusal(packet, service) {
        access::ADMITTED => {}
        reason => return Err(Refusal::Drop(reason)),
    }
    path.to_server::<true, G>(head, packet, service)
}

impl<T: PathCalls, const FAST: bool> PacketPath<'_, T, FAST> {
    /// Decides on a packet to a listener. Without `SOURCE` it leaves source-translated flows, those of mode `gue` and
    /// those with QUIC to another program.
    #[inline(always)]
    pub(super) fn to_server<const SOURCE: bool, G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        service: &IndexEntry,
    ) -> Result<Egress, Refusal> {
        let Self { index, maps, .. } = *self;
        let mode = service.mode;
        if FAST && !SOURCE && mode::has_own_fast_path(mode) {
            return Err(Refusal::Next(TailCalled::FullNat));
        }
        // Before the hop limit: a denied client receives no answer.
        if FAST {
            access::check_fast::<SOURCE, T>(packet, service, index, maps)?;
        }
        // In mode `dsr` SLB does not act as a router.
        if packet.hop_limit <= 1 && mode != mode::DSR {
            return Err(Refusal::IcmpError(IcmpError {
                reason: Reason::HopLimit,
                message: IcmpMessage::hop_limit(packet.destination.is_v4()),
            }));
        }
        // No other program than those with `SOURCE` has such services.
        let named = if SOURCE { named_server(head, packet, service) } else { NamedServer::NONE };
        let named_backend = quic::backend(named, service, maps);
        let frame = head.frame();
        let (sender, arrival) = self.origin(&frame, packet)?;
        let request = Request { packet, arrival, service, index, maps };
        let selection = match select::select_untracked::<FAST, T>(&request, mode, named_backend)? {
            // The fast path has separate code for untracked flows, which is shorter.
            Some(selection) if FAST => {
                return self.forward::<SOURCE, G>(head, packet, sender, service, mode, &selection);
            }
            Some(selection) => selection,
            None if FAST => select::select_tracked_fast::<SOURCE, T>(&request, &frame, named_backend)?,
            None => match select::select_tracked(&request, named_backend)? {
                Tracked::Selected(selection) => selection,
                Tracked::Begins(replaced) => {
                    head.begin_flow(replaced, named);
                    return Err(Refusal::Next(TailCalled::NewFlow));
                }
            },
        };
        if FAST {
            return self.forward::<SOURCE, G>(head, packet, sender, service, mode, &selection);
        }
        head.select(PackedSelection::of(&selection));
        Err(Refusal::Next(TailCalled::Forward))
    }

    /// Source hardware address of a client's frame, and the client path that it makes with its interface.
    #[inline(always)]
    pub(super) fn origin(&self, frame: &Frame<'_>, packet: &Packet) -> Result<(u64, ClientPath), Refusal> {
        let sender = macs(frame).ok_or(Reason::Truncated)?.sender();
        Ok((sender, ClientPath::new(self.arrival(packet), sender)))
    }
}

/// What the connection ID of a packet names; no server without [`policy::QUIC`].
#[inline(always)]
fn named_server<G: FrameCalls>(head: &mut G, packet: &Packet, service: &IndexEntry) -> NamedServer {
    if service.policy & policy::QUIC == 0 {
        return NamedServer::NONE;
    }
    let len = packet.network + packet.len - packet.transport;
    head.named_server(packet.transport, len, service.cid_format())
}
