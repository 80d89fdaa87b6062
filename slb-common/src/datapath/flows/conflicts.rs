//! Reverse-tuple conflicts: flows of one client endpoint whose replies could not be told apart.

use super::{Flows, Query};
#[cfg(doc)]
use crate::abi::backend::Backend;
use crate::{
    abi::{
        flow::{FlowTag, state},
        source::Source,
    },
    datapath::maps::Maps,
    opaque::forget_long,
};

/// Finds reverse-tuple conflicts: other live `nat` flows of the client endpoint. Returns the [`Backend::endpoint_for`] of
/// their servers, 16 bits each, for the last four found. Flows whose server has another port than a port range's flow
/// with this tag are left out.
#[inline(always)]
pub fn conflicts<T: Maps>(query: &Query, tag: FlowTag, maps: &T) -> u64 {
    maps.index().map_or(0, |index| Flows::open(index, maps).conflicts(query, tag))
}

/// Sets [`state::TUPLE_REUSED`] on other finished or expired flows of the client endpoint whose server has this
/// [`Backend::endpoint_and_port_for`] them.
#[inline(always)]
pub fn mark_tuple_reused<T: Maps>(query: &Query, tag: FlowTag, endpoint: u32, maps: &T) {
    if let Some(index) = maps.index() {
        Flows::open(index, maps).mark_tuple_reused(query, tag, endpoint);
    }
}

/// The result of [`conflicts`].
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::datapath) struct Conflicts(pub(in crate::datapath) u64);

impl Conflicts {
    /// Whether a flow leads to the server endpoint of this number. Two endpoints may have the same number.
    #[inline(always)]
    pub(in crate::datapath) const fn include(self, endpoint: u32) -> bool {
        const ONES: u64 = 0x1_0001_0001_0001;
        const SIGNS: u64 = ONES << 15;
        let same = self.0 ^ (endpoint as u64).wrapping_mul(ONES);
        // Whether one of the four numbers is zero, without a branch for each: the verifier would follow them all.
        same.wrapping_sub(ONES) & !same & SIGNS != 0
    }

    /// Whether four flows were found: a fifth could not be told from them.
    #[inline(always)]
    pub(in crate::datapath) const fn is_full(self) -> bool {
        self.0 >> 48 != 0
    }
}

impl<T: Maps> Flows<'_, T> {
    #[inline(always)]
    fn conflicts(&self, query: &Query, tag: FlowTag) -> u64 {
        let mut conflicts = forget_long(0, self.unknown);
        self.first(query, |distance| {
            if let Some((entry, sequence_word, other)) = self.peek(query, distance)
                && other != tag
                && !self.is_ended(sequence_word)
                && self.is_nat(entry)
                && let Some(backend) = self.live_backend(entry.backend())
                // One test for both: each one doubles the paths that the verifier follows.
                && u64::from(tag.port()) * u64::from(backend.port_for(other.port()) ^ tag.port()) == 0
            {
                let endpoint = backend.endpoint_for(other.port());
                conflicts = forget_long(conflicts << 16 | u64::from(endpoint), self.unknown);
            }
            false
        });
        conflicts
    }

    #[inline(always)]
    fn mark_tuple_reused(&self, query: &Query, tag: FlowTag, endpoint: u32) {
        self.first(query, |distance| {
            if let Some((entry, sequence_word, other)) = self.peek(query, distance)
                && other != tag
                && entry.source() == Source::NONE
                && self.is_ended(sequence_word)
                && let Some(there) = self.live_backend(entry.backend())
                && there.endpoint_and_port_for(other.port()) == endpoint
            {
                entry.touch(
                    sequence_word,
                    sequence_word.last_seen(),
                    sequence_word.state() | state::TUPLE_REUSED,
                );
            }
            false
        });
    }
}
