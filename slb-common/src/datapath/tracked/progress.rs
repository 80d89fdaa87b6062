//! What a client's packet changes in its flow's entry: the state and the sequence numbers.

use super::Request;
use crate::{
    abi::flow::{SequenceNumbers, state},
    datapath::{
        flows::{EntrySnapshot, Flows},
        maps::Maps,
        sequence_numbers::{Segment, after_client},
    },
};

/// Age in seconds from which an answered UDP flow is a stream and no single request (`nf_conntrack_udp`: 2).
const STREAM: u32 = 2;

impl<'t, T: Maps> Request<'t, '_, T> {
    /// The state of a flow after this packet, as bits of [`state`].
    #[inline(always)]
    pub(super) fn state_after(
        &self,
        was: u32,
        segment: &Segment,
        found: &EntrySnapshot<'_>,
        flows: &Flows<'t, T>,
    ) -> u32 {
        let flags = self.packet.flags;
        if !self.is_tcp() {
            return was | if self.assures_datagrams(found, flows) { state::ASSURED } else { 0 };
        }
        let next = found.flow.numbers.client;
        if flags.is_syn() {
            let is_assured = was & state::ASSURED != 0;
            // Where replies are not seen, the next segment can belong to another connection only if this one seems
            // finished.
            let reopens = if self.sees_replies() {
                is_assured || segment.end != next
            } else {
                is_assured && was & (state::RESET | state::CLIENT_FIN) != 0
            };
            return was | if reopens { state::REOPENED } else { 0 };
        }
        if flags.rst() {
            // A client that resets what its server has accepted ends its half as well. Its RST does not show the
            // server's number, so it does not make the flow assured.
            let accepted = was & (state::ANSWERED | state::ASSURED) == state::ANSWERED;
            let half = if accepted { state::CLIENT_FIN } else { 0 };
            return was | if segment.ends(next) { state::RESET | half } else { 0 };
        }
        let fin = if flags.fin() && segment.finishes(next) { state::CLIENT_FIN } else { 0 };
        let is_assured = was & state::ASSURED != 0 || self.assures(segment, found, flows);
        was | fin | if is_assured { state::ASSURED } else { 0 }
    }

    /// The state of an assured flow without the doubt that a RST or a SYN has left. A plausible segment shows that the
    /// connection continues. Where replies are not seen, the SYN may have begun another connection. Then the next
    /// segment continues one of the two, and decides.
    #[inline(always)]
    pub(super) fn resolve_doubt(
        &self,
        was: u32,
        segment: &Segment,
        found: &EntrySnapshot<'_>,
        flows: &Flows<'t, T>,
    ) -> u32 {
        if !self.is_mid_stream() || self.packet.flags.rst() || was & state::ASSURED == 0 {
            return was;
        }
        if !self.sees_replies() && was & state::REOPENED != 0 {
            return was & !(state::REOPENED | state::ENDS);
        }
        let SequenceNumbers { client, server } = found.flow.numbers;
        if !segment.is_plausible(client, server) {
            return was;
        }
        was & !(state::REOPENED | if flows.survives_reset(found) { state::RESET } else { 0 })
    }

    /// Whether a segment makes the flow assured.
    ///
    /// In mode `nat` it must acknowledge the server's number, which a blind sender does not know. In the other modes a
    /// flow that began with a SYN is assured by its next segment. One picked up mid-stream must continue a second or
    /// more later: if it is evicted before that, it is picked up again.
    #[inline(always)]
    fn assures(&self, segment: &Segment, found: &EntrySnapshot<'_>, flows: &Flows<'t, T>) -> bool {
        let was = found.sequence_word.state();
        let numbers = found.flow.numbers;
        let comes_next = segment.finishes(numbers.client);
        if self.sees_replies() {
            return comes_next & (was & state::ANSWERED != 0) & segment.acknowledges(numbers.server);
        }
        comes_next & ((was & state::PICKED_UP == 0) | (flows.silence(found.sequence_word) >= self.index.hz))
    }

    /// Whether a datagram makes the flow assured. In mode `nat` the server has answered and the flow is 2 s old, as in
    /// nf_conntrack.
    #[inline(always)]
    fn assures_datagrams(&self, found: &EntrySnapshot<'_>, flows: &Flows<'t, T>) -> bool {
        let was = found.sequence_word.state();
        if self.sees_replies() {
            let age = flows.now().wrapping_sub(found.flow.numbers.client);
            return (was & state::ANSWERED != 0) & (age >= STREAM * self.index.hz);
        }
        (was & state::PICKED_UP == 0) | (flows.silence(found.sequence_word) >= self.index.hz)
    }

    /// Updates the flow's sequence numbers from a segment. In mode `nat` the server's number stays until the client has
    /// acknowledged it. In the other modes a flow picked up mid-stream may have advanced far before it is assured.
    #[inline(always)]
    pub(super) fn advance(
        &self,
        segment: &Segment,
        found: &EntrySnapshot<'_>,
        is_assured_now: bool,
        is_another: bool,
    ) {
        let numbers = found.flow.numbers;
        let is_assured = found.sequence_word.state() & state::ASSURED != 0;
        if self.packet.flags.is_syn() {
            // Where replies are seen, the server's SYN-ACK shows which SYN it has accepted.
            if !is_assured && !self.sees_replies() {
                found.advance(SequenceNumbers { client: segment.end, server: 0 });
            }
        } else if is_another && !segment.is_plausible(numbers.client, numbers.server) {
            found.advance(SequenceNumbers { client: segment.end, server: segment.acknowledges });
        } else if is_assured_now && !self.sees_replies() {
            // Nothing else shows the server's number.
            found.advance(SequenceNumbers { server: segment.acknowledges, ..numbers });
        } else if (is_assured || !self.sees_replies())
            && let Some(next) = after_client(numbers, segment)
        {
            found.advance(next);
        }
    }
}
