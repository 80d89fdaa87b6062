//! Client paths of mode `nat`, kept up to date while the daemon runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::Result;
use tokio::{sync::watch, time::Instant};

use super::{Daemon, gc_thread::Job};
use crate::neigh::{Resolution, Resolutions, Resolver};
use slb_control::client_paths::{PathChanges, Paths, Prefix};

/// Longest time between two GC passes while answers are dropped for an unresolved client neighbour. The client repeats
/// its SYN after 1 s.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Client paths. Dropping it stops the neighbour subscription.
pub(super) struct ClientResolver {
    resolver: Resolver,
    hops: watch::Receiver<Resolutions>,
    paths: Paths,
    /// Answers dropped so far because the neighbour of their client was unresolved.
    unresolved: u64,
}

impl ClientResolver {
    pub(super) fn spawn() -> Result<Self> {
        let (resolver, hops) = Resolver::spawn()?;
        Ok(Self { resolver, hops, paths: Paths::default(), unresolved: 0 })
    }

    /// On-link prefixes: each client there is its own next hop.
    pub(super) fn on_link(&self) -> BTreeSet<Prefix> {
        self.paths.on_link().clone()
    }

    /// Sets the clients whose paths are resolved, one sample for each path.
    pub(super) fn watch(&self, samples: BTreeSet<IpAddr>) {
        tracing::debug!(?samples, "client paths are monitored");
        self.resolver.watch(samples);
    }

    /// Waits until the kernel's paths change.
    pub(super) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.hops.changed().await
    }

    /// Compares the kernel's paths with the current ones. `attached` are the interfaces that packets may leave by.
    fn changed_paths(&mut self, attached: &BTreeMap<u32, String>) -> PathChanges {
        let resolutions = self.hops.borrow_and_update().clone();
        let hops = resolutions.iter().map(|(sample, resolution)| match resolution {
            Resolution::Resolved(hop) => (*sample, Some(hop)),
            Resolution::Unresolved(_) => (*sample, None),
        });
        self.paths.update(hops, |index| attached.contains_key(&index))
    }
}

impl Daemon {
    /// Schedules a GC pass that finds clients with an unresolved neighbour, if answers were dropped for one. Only the
    /// daemon resolves it.
    pub(super) fn find_unresolved_clients(&mut self) {
        let unresolved = self.reconciler.unresolved();
        if std::mem::replace(&mut self.clients.unresolved, unresolved) != unresolved {
            self.gc_schedule.schedule_by(Instant::now(), Some(RETRY_DELAY));
        }
    }

    /// Rewrites the client paths of flows to the kernel's current ones.
    pub(super) fn follow_clients(&mut self) {
        let before = self.clients.on_link();
        let changed_paths = self.clients.changed_paths(&self.ports.attached());
        if self.clients.on_link() != before {
            // On an on-link prefix each client has its own path.
            self.gc_schedule.schedule_by(Instant::now(), None);
        }
        if changed_paths.is_empty() {
            return;
        }
        self.gc_thread.start(Job::UpdateClientPaths(changed_paths));
    }
}
