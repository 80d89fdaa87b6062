//! Which side must have the traffic, where that is certain.

use std::time::Duration;

use super::Model;
use crate::client::{Door, During};

/// How long what is known of servers may take to be in force: changes wait for one another for a second, and tables are built.
const IN_FORCE: Duration = Duration::from_secs(2);

/// A pool of two sides, on each of which somebody is always able to serve.
#[derive(Debug)]
pub struct Sides {
    /// The pool.
    pub pool: &'static str,
    /// The servers of its first side.
    pub primaries: Vec<String>,
    /// How many of these must be unhealthy until the second side has the traffic.
    pub threshold: usize,
}

impl Model {
    /// Whether new flows were certainly not to go to the side of a server.
    pub(super) fn is_other_side(&self, server: &str, door: Door, during: During) -> bool {
        let Some(sides) = self.sides.as_ref().filter(|sides| sides.pool == door.terms.pool) else {
            return false;
        };
        let during = During { from: during.from - IN_FORCE, ..during };
        let primaries = &sides.primaries;
        if primaries.iter().any(|primary| primary == server) {
            let down = primaries.iter().filter(|primary| self.is_down(primary, door, during));
            return down.count() >= sides.threshold;
        }
        // Those that are removed, or configured with weight 0, are not counted: the threshold may be more than are left.
        let doubtful = primaries.iter().filter(|primary| self.is_leaving(primary, door, during)).count();
        doubtful < sides.threshold.min(primaries.len() - doubtful)
    }

    /// Whether a server is known to have failed all the time, and was to serve.
    fn is_down(&self, server: &str, door: Door, during: During) -> bool {
        let Some(record) = self.servers.get(server) else { return false };
        let mut aside = record.aside.get(door.terms.pool).into_iter().flatten();
        let mut failures = record.failures.iter().filter_map(|failure| failure.found_out());
        failures.any(|span| span.covers(during)) && !aside.any(|span| span.meets(during))
    }
}
