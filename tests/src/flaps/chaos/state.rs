//! State of a server as the driver has set it.

use std::{collections::BTreeMap, time::Instant};

use super::{BOUNDS, POOLS};
use crate::config::PlannedServer;

/// Why a server does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ill {
    /// Its processes were killed.
    Killed,
    /// It drops every frame.
    Hangs,
}

/// Overrides of a server in one pool.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Set {
    pub(super) weight: Option<u8>,
    pub(super) aside: bool,
}

/// State of a server.
#[derive(Debug)]
pub(super) struct State {
    pub(super) planned: PlannedServer,
    pub(super) configured: bool,
    pub(super) ill: Option<Ill>,
    /// Since when nothing has happened that health checks must detect.
    pub(super) well: Instant,
    pub(super) set: BTreeMap<&'static str, Set>,
}

impl State {
    /// Whether it takes no new flows in a pool.
    pub(super) fn is_barred(&self, pool: &'static str) -> bool {
        let set = self.set.get(pool).copied().unwrap_or_default();
        !self.configured || set.aside || set.weight.unwrap_or(self.planned.weight) == 0
    }

    /// Whether it takes new flows in all pools, and the daemon must know that it is healthy.
    pub(super) fn serves(&self, now: Instant) -> bool {
        let known = self.ill.is_none() && self.well + BOUNDS.recovery < now;
        known && POOLS.iter().all(|pool| !self.is_barred(pool))
    }
}
