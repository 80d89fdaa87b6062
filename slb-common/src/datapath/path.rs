//! What the programs of the packet path share: inputs, outcome, and the last steps of a frame.

use super::{
    frame_calls::FrameCalls,
    listener,
    maps::{Direction, Maps},
    parse::{Fragmentation, Packet},
    path_calls::PathCalls,
    refusal::{PackedRefusal, Refusal},
};
use crate::abi::{
    interface::Interface,
    programs::TailCalled,
    service::{IndexEntry, ServiceIndex},
    stats::{Action, GeneratedPacket, Reason},
};

/// What the program does with the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Sends it back out of the interface that it arrived on.
    Transmit,
    /// Sends it out of the interface with this index, which [`Maps::redirect`] has prepared.
    Redirect(u32),
    /// Passes it to the kernel, unchanged.
    Pass,
    /// Drops it.
    Drop,
}

/// A frame that is sent on.
pub(super) struct Egress {
    pub(super) verdict: Verdict,
    pub(super) action: Action,
    /// Number of the reason.
    pub(super) reason: u32,
}

impl Egress {
    /// A packet of a flow.
    #[inline(always)]
    pub(super) const fn forward(verdict: Verdict, reason: Reason) -> Self {
        Self { verdict, action: Action::Forward, reason: reason as u32 }
    }

    /// An answer to the frame's sender.
    #[inline(always)]
    pub(super) const fn answer(reason: u32) -> Self {
        Self { verdict: Verdict::Transmit, action: Action::Answer, reason }
    }
}

/// Counts a frame, and turns what has been decided into a verdict. A refused packet whose sender may receive an answer
/// goes to [`TailCalled::Refused`].
#[inline(always)]
pub(super) fn conclude<G: FrameCalls, T: Maps>(
    decided: Result<Egress, Refusal>,
    head: &mut G,
    maps: &T,
) -> Result<Verdict, TailCalled> {
    match decided {
        Err(Refusal::Next(program)) => Err(program),
        Err(refusal) if let Some(packed) = PackedRefusal::of(&refusal) => {
            head.refuse(packed);
            Err(TailCalled::Refused)
        }
        decided => Ok(count(decided, maps)),
    }
}

/// As [`conclude`], for packets to servers. [`TailCalled::Refused`] decides on dropped ones, too: a client that has
/// acknowledged a SYN cookie is established.
#[inline(always)]
pub(super) fn conclude_to_server<G: FrameCalls, T: Maps>(
    decided: Result<Egress, Refusal>,
    head: &mut G,
    maps: &T,
) -> Result<Verdict, TailCalled> {
    match decided {
        Err(Refusal::Drop(reason)) => {
            head.refuse(PackedRefusal::dropped(reason));
            Err(TailCalled::Refused)
        }
        decided => conclude(decided, head, maps),
    }
}

/// Counts a frame, and turns what has been decided into a verdict.
#[inline(always)]
pub(super) fn count<T: Maps>(decided: Result<Egress, Refusal>, maps: &T) -> Verdict {
    let (verdict, action, reason) = match decided {
        Ok(Egress { verdict, action, reason }) => (verdict, action, reason),
        Err(Refusal::Pass(reason)) => (Verdict::Pass, Action::Pass, reason),
        Err(refusal) => (Verdict::Drop, Action::Drop, refusal.reason()),
    };
    maps.count(action, reason);
    verdict
}

/// Inputs that all steps of the packet path share.
pub(super) struct PacketPath<'t, T, const FAST: bool> {
    /// Index of the interface that the frame arrived on.
    pub(super) ifindex: u32,
    /// Roles of that interface: [`CLIENT`](crate::abi::interface::CLIENT) and
    /// [`SERVER`](crate::abi::interface::SERVER).
    pub(super) roles: u16,
    pub(super) index: &'t ServiceIndex,
    pub(super) maps: &'t T,
}

impl<'t, T: Maps> PacketPath<'t, T, false> {
    /// The inputs of a program behind a tail call.
    #[inline(always)]
    pub(super) fn open(ifindex: u32, maps: &'t T) -> Result<Self, Refusal> {
        let index = maps.index().ok_or(Refusal::pass(Reason::NotOurs))?;
        let roles = maps.interface(ifindex).map_or(0, Interface::flags);
        Ok(Self { ifindex, roles, index, maps })
    }
}

impl<'t, T: PathCalls, const FAST: bool> PacketPath<'t, T, FAST> {
    /// The listener of a packet to this port, in network byte order: that of a later fragment is not in the packet.
    #[inline(always)]
    pub(super) fn listener(&self, packet: &Packet, port: u16) -> Option<&'t IndexEntry> {
        listener::find::<FAST, T>(self.index, &packet.destination, port, packet.protocol, self.maps)
    }
}

impl<T: Maps, const FAST: bool> PacketPath<'_, T, FAST> {
    /// Refuses a packet that no listener takes and that answers no flow.
    #[inline(always)]
    pub(super) fn no_flow(&self, packet: &Packet) -> Result<Egress, Refusal> {
        let is_not_ours = FAST && !self.index.may_be_vip(&packet.destination);
        Err(if is_not_ours { Refusal::pass(Reason::NotOurs) } else { Refusal::UNMATCHED })
    }

    /// Removes priority tags from a frame that is rewritten and sent. From then on the packet's offsets are those of
    /// the frame.
    #[inline(always)]
    pub(super) fn untag<G: FrameCalls>(head: &mut G) -> Result<(), Refusal> {
        if FAST || head.remove_priority_tags() { Ok(()) } else { Err(Refusal::drop(Reason::NoHeadroom)) }
    }

    /// Rewrites a segment to a RST without priority tags, if the rate limit allows one more.
    #[inline(always)]
    pub(super) fn rewrite_to_rst<G: FrameCalls>(
        &self,
        head: &mut G,
        packet: &Packet,
        back: bool,
        limited: GeneratedPacket,
    ) -> Result<(), Refusal> {
        // A RST is no fragment.
        if packet.fragmentation == Fragmentation::WHOLE
            && self.maps.may_send(limited, self.index.hz)
            && head.rewrite_to_rst(packet.network, back)
        {
            Ok(())
        } else {
            Err(Refusal::drop(Reason::Reset))
        }
    }

    #[inline(always)]
    pub(super) fn count(&self, service: &IndexEntry, backend: u32, bytes: usize, is_new: bool) {
        self.maps.count_service(service.id(), Direction::In, bytes, is_new);
        self.maps.count_backend(backend, Direction::In, bytes, is_new);
    }
}
