//! Selects the entry that a new flow evicts.

use super::{Flows, NOT_FOUND};
use crate::{
    abi::flow::{FlowEntry, NEIGHBOURHOOD, SequenceWord, state},
    datapath::maps::Maps,
    hash::mix,
    opaque::{forget, forget_long},
};

/// Seconds of silence after which a flow that its client has closed is evictable. Until then the server may still send.
const HALF_CLOSED: u32 = 60;
/// Assured flows of one client in a neighbourhood from which it has more than its share: a quarter of the slots. A NAT
/// gateway with thousands of users has a hundredth of the default table.
const FAIR_SHARE: u32 = NEIGHBOURHOOD / 4;
/// Entries of a full neighbourhood whose clients are counted.
const SAMPLES: u32 = 4;

impl<T: Maps> Flows<'_, T> {
    /// Selects a free slot, else a finished or expired flow, else one that is not assured, else an assured one that may
    /// have ended. Of several it takes the one with the longest silence.
    #[inline(always)]
    pub(super) fn find_slot(&self, home: u32) -> u32 {
        const ENDED: u32 = 1 << 31;
        const UNASSURED: u32 = 1 << 30;
        let (mut best, mut best_worth) = (forget(NOT_FOUND, self.unknown), forget(0, self.unknown));
        for distance in 0..NEIGHBOURHOOD {
            let Some(entry) = self.at(home, distance) else { break };
            let sequence_word = entry.sequence_word();
            if sequence_word.is_free() {
                return distance;
            }
            // At least 1, and below the bits above.
            let silence = 1 + (sequence_word.silence(self.now) >> 3);
            let worth = if sequence_word.is_locked() || !self.is_evictable(sequence_word) {
                0
            } else if self.is_ended(sequence_word) {
                ENDED + silence
            } else if sequence_word.state() & state::ASSURED == 0 {
                UNASSURED + silence
            } else {
                silence
            };
            let worth = forget(worth, self.unknown);
            if worth > best_worth {
                best_worth = worth;
                best = distance;
            }
            // The verifier joins the rounds of the loop if it knows nothing of these values.
            best_worth = forget(best_worth, self.unknown);
            best = forget(best, self.unknown);
        }
        best
    }

    /// Selects an assured flow to evict in mode `nat`, where all slots of the neighbourhood hold assured flows.
    ///
    /// It samples four entries and takes the client address (IPv6: the /64) with the most assured flows. That client
    /// loses its longest-silent flow if it has a quarter of the neighbourhood, and more than the new flow's client.
    /// Otherwise the longest-silent UDP flow is evicted. Other modes are left out: a forged source can have assured
    /// flows there.
    #[inline(always)]
    pub(super) fn find_unfair_slot(&self, home: u32, prefix: u64) -> u32 {
        let own = forget(self.assured_flows_of(home, prefix), self.unknown);
        let start = forget(mix(u64::from(home) ^ u64::from(self.now)) as u32, self.unknown);
        let (mut most, mut whose) = (forget(FAIR_SHARE - 1, self.unknown), forget_long(0, self.unknown));
        for sample in 0..SAMPLES {
            let distance = start.wrapping_add(sample * (NEIGHBOURHOOD / SAMPLES)) & (NEIGHBOURHOOD - 1);
            let Some(entry) = self.at(home, distance) else { break };
            let other = entry.client().prefix();
            let held = self.assured_flows_of(home, other);
            if held > most {
                (most, whose) = (held, other);
            }
            // The verifier joins the rounds of the loop if it knows nothing of these values.
            (most, whose) = (forget(most, self.unknown), forget_long(whose, self.unknown));
        }
        if most < FAIR_SHARE || most <= own + 1 {
            return self.longest_silent(home, |entry| self.is_udp_flow(entry));
        }
        self.longest_silent(home, |entry| self.is_assured_flow_of(entry, whose))
    }

    /// Whether an entry holds a UDP flow of mode `nat`. Forged sources can make any number of them. An evicted one
    /// continues with the server of its hash.
    #[inline(always)]
    fn is_udp_flow(&self, entry: FlowEntry<'_>) -> bool {
        let sequence_word = entry.sequence_word();
        sequence_word.is_used()
            && !sequence_word.is_affinity()
            && !entry.client().is_tcp()
            && self.sees_replies(entry.service())
    }

    /// Assured flows of mode `nat` of one client in a neighbourhood.
    #[inline(always)]
    fn assured_flows_of(&self, home: u32, prefix: u64) -> u32 {
        let mut held = forget(0, self.unknown);
        for distance in 0..NEIGHBOURHOOD {
            let Some(entry) = self.at(home, distance) else { break };
            held = forget(held + u32::from(self.is_assured_flow_of(entry, prefix)), self.unknown);
        }
        held
    }

    #[inline(always)]
    fn is_assured_flow_of(&self, entry: FlowEntry<'_>, prefix: u64) -> bool {
        let sequence_word = entry.sequence_word();
        sequence_word.is_used()
            && sequence_word.state() & state::ASSURED != 0
            && !sequence_word.is_affinity()
            && entry.client().prefix() == prefix
            && self.sees_replies(entry.service())
    }

    #[inline(always)]
    fn longest_silent(&self, home: u32, is_one: impl Fn(FlowEntry<'_>) -> bool) -> u32 {
        let (mut best, mut longest) = (forget(NOT_FOUND, self.unknown), forget(0, self.unknown));
        for distance in 0..NEIGHBOURHOOD {
            let Some(entry) = self.at(home, distance) else { break };
            let silence = 1 + (entry.sequence_word().silence(self.now) >> 1);
            if is_one(entry) && silence > longest {
                (best, longest) = (distance, silence);
            }
            (best, longest) = (forget(best, self.unknown), forget(longest, self.unknown));
        }
        best
    }

    /// Whether a flow has been silent for [`HALF_CLOSED`] seconds.
    #[inline(always)]
    pub(in crate::datapath) const fn is_half_closed_for_long(&self, sequence_word: SequenceWord) -> bool {
        self.silence(sequence_word) >= HALF_CLOSED * self.hz
    }

    /// Whether an entry is free or evictable.
    #[inline(always)]
    pub(super) fn is_evictable(&self, sequence_word: SequenceWord) -> bool {
        // The client has closed its side and replies are not seen. The flow has ended, unless the client still receives
        // data.
        let closed = sequence_word.state() & (state::CLIENT_FIN | state::ANSWERED) == state::CLIENT_FIN
            && self.is_half_closed_for_long(sequence_word);
        !sequence_word.is_used()
            || self.is_finished(sequence_word)
            || closed
            || sequence_word.state() & state::ASSURED == 0
    }
}
