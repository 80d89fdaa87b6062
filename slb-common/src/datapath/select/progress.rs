//! What a client's packet changes in its flow's entry: the state and the sequence numbers.

use super::Request;
use crate::{
    abi::flow::{Numbers, state},
    datapath::{
        flows::{Flows, Found},
        numbers::{Segment, after_client},
        tables::Tables,
    },
};

/// Age in seconds from which an answered UDP flow is a stream and no single request (`nf_conntrack_udp`: 2).
const STREAM: u32 = 2;

impl<'t, T: Tables> Request<'t, '_, T> {
    /// The state of a flow after this packet, as bits of [`state`].
    #[inline(always)]
    pub(super) fn bits_after(
        &self,
        was: u32,
        segment: &Segment,
        found: &Found<'_>,
        flows: &Flows<'t, T>,
    ) -> u32 {
        let flags = self.packet.flags;
        if !self.is_tcp() {
            return was | if self.assures_datagrams(found, flows) { state::ASSURED } else { 0 };
        }
        let next = found.flow.numbers.client;
        if flags.asks() {
            let is_assured = was & state::ASSURED != 0;
            // Where replies are not seen, the next segment can belong to another connection only if this one seems
            // finished.
            let reopens = if self.answers_return() {
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
    pub(super) fn without_doubt(
        &self,
        was: u32,
        segment: &Segment,
        found: &Found<'_>,
        flows: &Flows<'t, T>,
    ) -> u32 {
        if !self.goes_on() || self.packet.flags.rst() || was & state::ASSURED == 0 {
            return was;
        }
        if !self.answers_return() && was & state::REOPENED != 0 {
            return was & !(state::REOPENED | state::ENDS);
        }
        let Numbers { client, server } = found.flow.numbers;
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
    fn assures(&self, segment: &Segment, found: &Found<'_>, flows: &Flows<'t, T>) -> bool {
        let was = found.meta.state();
        let numbers = found.flow.numbers;
        let comes_next = segment.finishes(numbers.client);
        if self.answers_return() {
            return comes_next & (was & state::ANSWERED != 0) & segment.acknowledges(numbers.server);
        }
        comes_next & ((was & state::PICKED_UP == 0) | (flows.silence(found.meta) >= self.index.hz))
    }

    /// Whether a datagram makes the flow assured. In mode `nat` the server has answered and the flow is 2 s old, as in
    /// nf_conntrack.
    #[inline(always)]
    fn assures_datagrams(&self, found: &Found<'_>, flows: &Flows<'t, T>) -> bool {
        let was = found.meta.state();
        if self.answers_return() {
            let age = flows.now().wrapping_sub(found.flow.numbers.client);
            return (was & state::ANSWERED != 0) & (age >= STREAM * self.index.hz);
        }
        (was & state::PICKED_UP == 0) | (flows.silence(found.meta) >= self.index.hz)
    }

    /// Updates the flow's sequence numbers from a segment. In mode `nat` the server's number stays until the client has
    /// acknowledged it. In the other modes a flow picked up mid-stream may have advanced far before it is assured.
    #[inline(always)]
    pub(super) fn advance(
        &self,
        segment: &Segment,
        found: &Found<'_>,
        is_assured_now: bool,
        is_another: bool,
    ) {
        let numbers = found.flow.numbers;
        let is_assured = found.meta.state() & state::ASSURED != 0;
        if self.packet.flags.asks() {
            // Where replies are seen, the server's SYN-ACK shows which SYN it has accepted.
            if !is_assured && !self.answers_return() {
                found.advance(Numbers { client: segment.end, server: 0 });
            }
        } else if is_another && !segment.is_plausible(numbers.client, numbers.server) {
            found.advance(Numbers { client: segment.end, server: segment.acknowledges });
        } else if is_assured_now && !self.answers_return() {
            // Nothing else shows the server's number.
            found.advance(Numbers { server: segment.acknowledges, ..numbers });
        } else if (is_assured || !self.answers_return())
            && let Some(next) = after_client(numbers, segment)
        {
            found.advance(next);
        }
    }
}
