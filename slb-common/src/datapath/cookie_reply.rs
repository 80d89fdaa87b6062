//! Answers of servers to flows that began with a SYN cookie ([`super::syn_cookie`]). A program of its own: afterwards the
//! usual one goes on.
//!
//! The server's SYN-ACK shows by how much its numbers differ from those that the client knows. The client is established
//! already, with a window of 0. So it gets a keep-alive in place of the SYN-ACK, with the server's window: that opens the
//! window, and is answered at once, which completes the handshake at the server. Both ends may speak first.

use core::borrow::Borrow as _;

use super::{
    cookie_segments::{HeaderNumbers, SegmentShape},
    flows::Flows,
    frame_calls::FrameCalls,
    parse::{Packet, TcpFlags},
    path::{Egress, PacketPath, Verdict, conclude},
    path_calls::PathCalls,
    refusal::Refusal,
    reply,
    syn_cookie::end_flow,
};
use crate::abi::{
    flow::state,
    programs::TailCalled,
    stats::Reason,
    syn_cookie::{OffsetKey, SequenceOffset},
};

/// Decides on a server's segment to a flow that began with a cookie, or leaves it to [`TailCalled::ToClient`].
#[inline(always)]
pub fn cookie_reply<G: FrameCalls, T: PathCalls>(
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
    let answered = reply::answered_flow(packet, ifindex, path.index, maps)?;
    let Some((found, end, service)) = answered.filter(|(found, ..)| found.flow.source.is_of_cookie()) else {
        // Another processor has replaced the flow meanwhile.
        return Err(Refusal::drop(Reason::NotReady));
    };
    let (flags, was) = (packet.flags, found.sequence_word.state());
    let key = OffsetKey::new(&end, found.flow.tag());
    let known = maps.sequence_offset(&key);
    if flags.syn() {
        return syn_ack(head, packet, was, &key, known, maps);
    }
    let Some(known) = known else {
        if flags.rst() {
            return Err(Refusal::drop(Reason::LostOffset));
        }
        end_flow(&Flows::open(path.index, maps), &found, service.policy, maps);
        return Err(Refusal::Rst(Reason::LostOffset));
    };
    if was & (state::ANSWERED | state::PICKED_UP) != 0 {
        return translate(head, known.offset);
    }
    if !flags.rst() {
        // The server knows another connection of the same tuple. A client that has sent a SYN would reset it (RFC 9293,
        // 3.10.7.3); its next segment opens the connection again.
        return Err(Refusal::RST_DUE);
    }
    if !flags.acknowledges() || !known.is_of(packet.acknowledges.wrapping_sub(1)) {
        return Err(Refusal::drop(Reason::Reset));
    }
    // The server refuses the connection. The client is established, and expects the number after the cookie.
    translate(head, known.cookie.wrapping_add(1).wrapping_sub(packet.sequence))
}

/// A SYN-ACK. The first one to the SYN of the cookie shows the offset; each one becomes a keep-alive. Any other accepts a
/// SYN that the client has sent itself.
#[inline(always)]
fn syn_ack<G: FrameCalls, T: PathCalls>(
    head: &mut G,
    packet: &Packet,
    was: u32,
    key: &OffsetKey,
    known: Option<SequenceOffset>,
    maps: &T,
) -> Result<Egress, Refusal> {
    let accepted = packet.acknowledges.wrapping_sub(1);
    let is_assured = was & state::ASSURED != 0;
    let of_cookie = known.filter(|known| known.is_of(accepted));
    let next = match of_cookie {
        // The server repeats its SYN-ACK until it has the client's ACK, which may be lost behind SLB.
        Some(known) if is_assured => known,
        Some(known) => known.answered(packet.sequence),
        // The client has sent no SYN.
        None if is_assured && was & state::REOPENED == 0 => return translate(head, 0),
        None => SequenceOffset::UNTRANSLATED,
    };
    if known != Some(next) && !maps.put_sequence_offset(key, &next) {
        return Err(Refusal::drop(Reason::FlowTableFull));
    }
    if of_cookie.is_none() {
        return translate(head, 0);
    }
    let numbers = HeaderNumbers::new(next.cookie, packet.acknowledges);
    if !head.rewrite_segment(packet.network, numbers, SegmentShape::keep_alive()) {
        return Err(Refusal::drop(Reason::NoHeadroom));
    }
    // The frame has the numbers of the client; the packet says what the server has sent.
    head.mark(TcpFlags::REWRITTEN, 0);
    Err(Refusal::Next(TailCalled::ToClient))
}

#[inline(always)]
fn translate<G: FrameCalls>(head: &mut G, offset: u32) -> Result<Egress, Refusal> {
    head.mark(TcpFlags::TRANSLATED, offset);
    Err(Refusal::Next(TailCalled::ToClient))
}
