//! How long flows have been in the table, as far as looks at it have seen: entries tell when a flow was last seen, not when
//! it began.

use super::{Clock, FlowTable};
use crate::abi::flow::Meta;

/// Seconds up to which ages are told apart.
const LONGEST: u32 = 600;
/// The second of a flow that is older than that, or that was there before the first look.
const OLD: u16 = 0;
/// Seconds go round; one value stands for none.
const ROUND: u16 = u16::MAX;

/// What is remembered of every slot.
#[derive(Debug, Default)]
pub(super) struct Ages {
    births: Vec<Birth>,
    /// Seconds of the looks, and jiffies when the last of them was over.
    second: u16,
    at: u32,
}

/// Which entry was in a slot, and since when.
#[derive(Debug, Clone, Copy)]
struct Birth {
    version: u16,
    second: u16,
}

impl Ages {
    /// Begins a look: what has come since the last one is new now.
    pub(super) fn begin(&mut self, table: &FlowTable<'_>, Clock { now, hz }: Clock) {
        if self.births.len() != table.len() as usize {
            let birth = |slot| Birth { version: table.at(slot).meta().version(), second: OLD };
            self.births = (0..table.len()).map(birth).collect();
            self.at = now;
            return;
        }
        let passed = now.wrapping_sub(self.at);
        // A look that was said to be earlier is of this second, too.
        if passed.cast_signed() > 0 {
            let seconds = passed / hz.max(1);
            self.at = self.at.wrapping_add(seconds * hz.max(1));
            self.second = ((u32::from(self.second) + seconds) % u32::from(ROUND)) as u16;
        }
    }

    /// Seconds since the flow in a slot was seen for the first time; `None` if that is long ago, or nobody knows.
    pub(super) fn age(&mut self, slot: u32, meta: Meta) -> Option<u32> {
        let now = self.second;
        let birth = self.births.get_mut(slot as usize)?;
        if birth.version != meta.version() {
            *birth = Birth { version: meta.version(), second: now + 1 };
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
