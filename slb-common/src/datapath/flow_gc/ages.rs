//! Ages of flows, as GC passes have seen them. An entry holds when its flow was last seen, not when it began.

use super::{Clock, FlowTable};
use crate::abi::flow::SequenceWord;

/// Greatest age that is reported, in seconds.
const LONGEST: u32 = 600;
/// Mark of a flow that is older, or was there before the first pass.
const OLD: u16 = 0;
/// Seconds count modulo this number, which leaves one value for [`OLD`].
const ROUND: u16 = u16::MAX;

/// Ages of all slots.
#[derive(Debug, Default)]
pub(super) struct Ages {
    births: Vec<Birth>,
    /// Second of the last pass, modulo [`ROUND`]; `at` is the jiffies at which that second began.
    second: u16,
    at: u32,
}

/// Version of the entry in a slot, and the second in which a pass first saw it, plus one; or [`OLD`].
#[derive(Debug, Clone, Copy)]
struct Birth {
    version: u16,
    second: u16,
}

impl Ages {
    /// Begins a pass: entries that were inserted since the last one are new.
    pub(super) fn begin(&mut self, table: &FlowTable<'_>, Clock { now, hz }: Clock) {
        if self.births.len() != table.len() as usize {
            let birth = |slot| Birth { version: table.at(slot).sequence_word().version(), second: OLD };
            self.births = (0..table.len()).map(birth).collect();
            self.at = now;
            return;
        }
        let passed = now.wrapping_sub(self.at);
        // A pass may be given an earlier time than the one before. It counts to the same second.
        if passed.cast_signed() > 0 {
            let seconds = passed / hz.max(1);
            self.at = self.at.wrapping_add(seconds * hz.max(1));
            self.second = ((u32::from(self.second) + seconds) % u32::from(ROUND)) as u16;
        }
    }

    /// Seconds since a pass first saw the flow in a slot; `None` if that is longer ago than [`LONGEST`], or unknown.
    pub(super) fn age(&mut self, slot: u32, sequence_word: SequenceWord) -> Option<u32> {
        let now = self.second;
        let birth = self.births.get_mut(slot as usize)?;
        if birth.version != sequence_word.version() {
            *birth = Birth { version: sequence_word.version(), second: now + 1 };
        }
        if birth.second == OLD {
            return None;
        }
        let age = (u32::from(now) + u32::from(ROUND) - u32::from(birth.second - 1)) % u32::from(ROUND);
        if age > LONGEST {
            birth.second = OLD;
            return None;
        }
        Some(age)
    }
}
