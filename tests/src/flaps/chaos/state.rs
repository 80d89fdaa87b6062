//! What is the matter with a server, as far as whoever does it to it knows.

use std::{collections::BTreeMap, time::Instant};

use super::{BOUNDS, POOLS};
use crate::config::PlannedServer;

/// Why a server does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ill {
    /// Its processes have died.
    Killed,
    /// It hangs.
    Hangs,
}

/// What is set for a server in one pool.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Set {
    pub(super) weight: Option<u8>,
    pub(super) aside: bool,
}

/// What is the matter with a server.
#[derive(Debug)]
pub(super) struct State {
    pub(super) planned: PlannedServer,
    pub(super) configured: bool,
    pub(super) ill: Option<Ill>,
    /// Since when nothing has been the matter that must be found out.
    pub(super) well: Instant,
    pub(super) set: BTreeMap<&'static str, Set>,
}

impl State {
    /// Whether it is to get no new flows in a pool.
    pub(super) fn is_barred(&self, pool: &'static str) -> bool {
        let set = self.set.get(pool).copied().unwrap_or_default();
        !self.configured || set.aside || set.weight.unwrap_or(self.planned.weight) == 0
    }

    /// Whether it can take what other servers cannot.
    pub(super) fn serves(&self, now: Instant) -> bool {
        let known = self.ill.is_none() && self.well + BOUNDS.recovery < now;
        known && POOLS.iter().all(|pool| !self.is_barred(pool))
    }
}
