//! Rate limits of generated packets: a thousand of each kind in a second.

use std::collections::HashMap;

/// Kinds of generated packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Generated {
    HopLimit,
    TooBig,
    Echo,
    Resets,
    Unmatched,
    ErrorsToServers,
}

/// When the second of a kind began, and how many have been sent in it.
#[derive(Debug, Default)]
pub(super) struct Limits(HashMap<Generated, (u32, u32)>);

impl Limits {
    pub(super) fn may_send(&mut self, kind: Generated, now: u32, hz: u32) -> bool {
        let (since, sent) = self.0.entry(kind).or_insert((0, 0));
        if now - *since >= hz {
            (*since, *sent) = (now, 0);
        }
        *sent += 1;
        *sent <= 1000
    }
}
