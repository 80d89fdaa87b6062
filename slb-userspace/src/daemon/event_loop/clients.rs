//! Client paths of mode `nat`, kept up to date while the daemon runs.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::EventLoop;
use crate::daemon::{
    environment::{Environment, Interfaces as _},
    gc_thread::Job,
};
use crate::neigh::{Resolution, Resolutions};
use slb_control::client_paths::{PathChanges, Paths, Prefix};

/// Longest time between two GC passes while answers are dropped for an unresolved client neighbour. The client repeats
/// its SYN after 1 s.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Client paths.
#[derive(Default)]
pub(super) struct ClientPaths {
    paths: Paths,
    /// Answers dropped so far because the neighbour of their client was unresolved.
    unresolved: u64,
}

impl ClientPaths {
    /// On-link prefixes: each client there is its own next hop.
    pub(super) fn on_link(&self) -> BTreeSet<Prefix> {
        self.paths.on_link().clone()
    }

    /// Compares the kernel's next hops with the current paths. `attached` are the interfaces that packets may leave by.
    fn changed_paths(&mut self, next_hops: &Resolutions, attached: &BTreeSet<u32>) -> PathChanges {
        let hops = next_hops.iter().map(|(sample, resolution)| match resolution {
            Resolution::Resolved(hop) => (*sample, Some(hop)),
            Resolution::Unresolved(_) => (*sample, None),
        });
        self.paths.update(hops, |index| attached.contains(&index))
    }
}

impl<E: Environment> EventLoop<E> {
    /// Schedules a GC pass that finds clients with an unresolved neighbour, if answers were dropped for one. Only the
    /// daemon resolves it.
    pub(super) fn find_unresolved_clients(&mut self) {
        let unresolved = self.reconciler.unresolved();
        if std::mem::replace(&mut self.clients.unresolved, unresolved) != unresolved {
            self.gc_schedule.schedule_by(Instant::now(), Some(RETRY_DELAY));
        }
    }

    /// Rewrites the client paths of flows to the kernel's current ones.
    pub(super) fn follow_clients(&mut self, next_hops: &Resolutions) {
        let before = self.clients.on_link();
        let interfaces = self.env.interfaces();
        let attached = interfaces.attached_without(&[]);
        let vlans = interfaces.vlans(&[]).into_iter().filter(|(_, exit)| attached.contains_key(&exit.below));
        let attached = vlans.map(|(index, _)| index).chain(attached.keys().copied()).collect();
        let changed_paths = self.clients.changed_paths(next_hops, &attached);
        if self.clients.on_link() != before {
            // On an on-link prefix each client has its own path.
            self.gc_schedule.schedule_by(Instant::now(), None);
        }
        if changed_paths.is_empty() {
            return;
        }
        self.env.start_gc(Job::UpdateClientPaths(changed_paths));
    }
}
