//! Selects the entry that a new flow evicts.

use super::{Flows, NOWHERE};
use crate::{
    abi::flow::{FlowEntry, Meta, WINDOW, state},
    datapath::tables::Tables,
    hash::mix,
    opaque::{hide, hide_long},
};

/// Seconds of silence after which a flow that its client has closed is evictable. Until then the server may still send.
const HALF_CLOSED: u32 = 60;
/// Assured flows of one client in a neighbourhood from which it has more than its share: a quarter of the slots. A NAT
/// gateway with thousands of users has a hundredth of the default table.
const SHARE: u32 = WINDOW / 4;
/// Entries of a full neighbourhood whose clients are counted.
const SAMPLES: u32 = 4;

impl<T: Tables> Flows<'_, T> {
    /// Selects a free slot, else a finished or expired flow, else one that is not assured, else an assured one that may
    /// have ended. Of several it takes the one with the longest silence.
    #[inline(always)]
    pub(super) fn place(&self, home: u32) -> u32 {
        const OVER: u32 = 1 << 31;
        const UNASSURED: u32 = 1 << 30;
        let (mut best, mut best_worth) = (hide(NOWHERE, self.unknown), hide(0, self.unknown));
        for distance in 0..WINDOW {
            let Some(entry) = self.at(home, distance) else { break };
            let meta = entry.meta();
            if meta.is_free() {
                return distance;
            }
            // At least 1, and below the bits above.
            let silence = 1 + (meta.silence(self.now) >> 3);
            let worth = if meta.is_being_written() || !self.is_evictable(meta) {
                0
            } else if self.is_ended(meta) {
                OVER + silence
            } else if meta.state() & state::ASSURED == 0 {
                UNASSURED + silence
            } else {
                silence
            };
            let worth = hide(worth, self.unknown);
            if worth > best_worth {
                best_worth = worth;
                best = distance;
            }
            // The verifier joins the rounds of the loop if it knows nothing of these values.
            best_worth = hide(best_worth, self.unknown);
            best = hide(best, self.unknown);
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
    pub(super) fn unfair(&self, home: u32, prefix: u64) -> u32 {
        let own = hide(self.held_by(home, prefix), self.unknown);
        let start = hide(mix(u64::from(home) ^ u64::from(self.now)) as u32, self.unknown);
        let (mut most, mut whose) = (hide(SHARE - 1, self.unknown), hide_long(0, self.unknown));
        for sample in 0..SAMPLES {
            let distance = start.wrapping_add(sample * (WINDOW / SAMPLES)) & (WINDOW - 1);
            let Some(entry) = self.at(home, distance) else { break };
            let other = entry.client().prefix();
            let held = self.held_by(home, other);
            if held > most {
                (most, whose) = (held, other);
            }
            // The verifier joins the rounds of the loop if it knows nothing of these values.
            (most, whose) = (hide(most, self.unknown), hide_long(whose, self.unknown));
        }
        if most < SHARE || most <= own + 1 {
            return self.longest_silent(home, |entry| self.is_datagrams(entry));
        }
        self.longest_silent(home, |entry| self.is_held_by(entry, whose))
    }

    /// Whether an entry holds a UDP flow of mode `nat`. Forged sources can make any number of them. An evicted one
    /// continues with the server of its hash.
    #[inline(always)]
    fn is_datagrams(&self, entry: FlowEntry<'_>) -> bool {
        let meta = entry.meta();
        meta.is_used()
            && !meta.is_client()
            && !entry.client().is_tcp()
            && self.answers_return(entry.service())
    }

    /// Assured flows of mode `nat` of one client in a neighbourhood.
    #[inline(always)]
    fn held_by(&self, home: u32, prefix: u64) -> u32 {
        let mut held = hide(0, self.unknown);
        for distance in 0..WINDOW {
            let Some(entry) = self.at(home, distance) else { break };
            held = hide(held + u32::from(self.is_held_by(entry, prefix)), self.unknown);
        }
        held
    }

    #[inline(always)]
    fn is_held_by(&self, entry: FlowEntry<'_>, prefix: u64) -> bool {
        let meta = entry.meta();
        meta.is_used()
            && meta.state() & state::ASSURED != 0
            && !meta.is_client()
            && entry.client().prefix() == prefix
            && self.answers_return(entry.service())
    }

    #[inline(always)]
    fn longest_silent(&self, home: u32, is_one: impl Fn(FlowEntry<'_>) -> bool) -> u32 {
        let (mut best, mut longest) = (hide(NOWHERE, self.unknown), hide(0, self.unknown));
        for distance in 0..WINDOW {
            let Some(entry) = self.at(home, distance) else { break };
            let silence = 1 + (entry.meta().silence(self.now) >> 1);
            if is_one(entry) && silence > longest {
                (best, longest) = (distance, silence);
            }
            (best, longest) = (hide(best, self.unknown), hide(longest, self.unknown));
        }
        best
    }

    /// Whether a flow has been silent for [`HALF_CLOSED`] seconds.
    #[inline(always)]
    pub(in crate::datapath) const fn is_half_closed_for_long(&self, meta: Meta) -> bool {
        self.silence(meta) >= HALF_CLOSED * self.hz
    }

    /// Whether an entry is free or evictable.
    #[inline(always)]
    pub(super) fn is_evictable(&self, meta: Meta) -> bool {
        // The client has closed its side and replies are not seen. The flow has ended, unless the client still receives
        // data.
        let closed = meta.state() & (state::CLIENT_FIN | state::ANSWERED) == state::CLIENT_FIN
            && self.is_half_closed_for_long(meta);
        !meta.is_used() || self.is_finished(meta) || closed || meta.state() & state::ASSURED == 0
    }
}
