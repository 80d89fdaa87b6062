//! Which side must have the traffic, when that is certain.

use std::time::Duration;

use super::Model;
use crate::{
    client::{Interval, ListenerView},
    eligible_servers::must_be_eligible,
};

/// Delay from a check result to its effect: the update rate limiter waits up to a second, and tables must be built.
const APPLY_DELAY: Duration = Duration::from_secs(2);

/// A pool with two sides; each always has a server that can serve.
#[derive(Debug)]
pub struct Sides {
    /// The pool.
    pub pool: &'static str,
    /// Servers of the primary side.
    pub primaries: Vec<String>,
    /// Number of unhealthy primaries at which the secondary side gets the traffic.
    pub threshold: usize,
}

impl Model {
    /// Whether new flows certainly had to go to the other side than this server's.
    pub(super) fn is_other_side(&self, server: &str, view: ListenerView, during: Interval) -> bool {
        let Some(sides) = self.sides.as_ref().filter(|sides| sides.pool == view.terms.pool) else {
            return false;
        };
        let during = Interval { from: during.from - APPLY_DELAY, ..during };
        let primaries = &sides.primaries;
        if primaries.iter().any(|primary| primary == server) {
            let down = primaries.iter().filter(|primary| self.is_down(primary, view, during));
            return down.count() >= sides.threshold;
        }
        // Primaries that are removed or have weight 0 do not count. The threshold may exceed the number that is left.
        let is_doubtful =
            |primary: &&String| !must_be_eligible(&self.states_without_side(primary, view, during));
        let doubtful = primaries.iter().filter(is_doubtful).count();
        doubtful < sides.threshold.min(primaries.len() - doubtful)
    }

    /// Whether a server was known to have failed the whole time, without an override that excludes it.
    fn is_down(&self, server: &str, view: ListenerView, during: Interval) -> bool {
        let Some(record) = self.servers.get(server) else { return false };
        let mut maybe_barred = record.maybe_barred.get(view.terms.pool).into_iter().flatten();
        let mut failures = record.failures.iter().filter_map(|failure| failure.detected());
        failures.any(|span| span.covers(during)) && !maybe_barred.any(|span| span.meets(during))
    }
}
