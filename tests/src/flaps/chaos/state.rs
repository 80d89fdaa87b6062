//! State of a server as the driver has set it.

use std::{collections::BTreeMap, time::Instant};

use super::{BOUNDS, POOLS};
use crate::config::PlannedServer;

/// Why a server does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its processes were killed.
    Killed,
    /// It drops every frame.
    Hangs,
}

/// Overrides of a server in one pool.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServerOverrides {
    pub(super) weight: Option<u8>,
    pub(super) out_of_service: bool,
}

/// State of a server.
#[derive(Debug)]
pub(super) struct ServerState {
    pub(super) planned: PlannedServer,
    pub(super) configured: bool,
    pub(super) fault: Option<Fault>,
    /// Since when nothing has happened that health checks must detect.
    pub(super) healthy_since: Instant,
    pub(super) set: BTreeMap<&'static str, ServerOverrides>,
}

impl ServerState {
    /// Whether it takes no new flows in a pool.
    pub(super) fn is_barred(&self, pool: &'static str) -> bool {
        let set = self.set.get(pool).copied().unwrap_or_default();
        !self.configured || set.out_of_service || set.weight.unwrap_or(self.planned.weight) == 0
    }

    /// Whether it takes new flows in all pools, and the daemon must know that it is healthy.
    pub(super) fn serves(&self, now: Instant) -> bool {
        let known = self.fault.is_none() && self.healthy_since + BOUNDS.recovery < now;
        known && POOLS.iter().all(|pool| !self.is_barred(pool))
    }
}
