//! The paths to clients of mode `nat`, followed while the daemon runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::Result;
use tokio::{sync::watch, time::Instant};

use super::Daemon;
use crate::{
    control::client_paths::{Paths, Prefix, Rehomed},
    neigh::{Resolution, Resolutions, Resolver},
};

/// Time between two flow-table passes, at most, while answers wait for a client's neighbour: its SYN comes again after a second.
const UNRESOLVED: Duration = Duration::from_secs(1);

/// Follows them until it is dropped.
pub(super) struct Clients {
    resolver: Resolver,
    hops: watch::Receiver<Resolutions>,
    paths: Paths,
    /// Answers that have been dropped because the neighbour of their client was not resolved.
    unresolved: u64,
}

impl Clients {
    pub(super) fn spawn() -> Result<Self> {
        let (resolver, hops) = Resolver::spawn()?;
        Ok(Self { resolver, hops, paths: Paths::default(), unresolved: 0 })
    }

    /// Prefixes of which clients are on the link.
    pub(super) fn on_link(&self) -> BTreeSet<Prefix> {
        self.paths.on_link().clone()
    }

    /// Makes these the clients whose paths are followed.
    pub(super) fn watch(&self, samples: BTreeSet<IpAddr>) {
        tracing::debug!(?samples, "paths to clients are followed");
        self.resolver.watch(samples);
    }

    /// Waits until the kernel says something else of the paths.
    pub(super) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.hops.changed().await
    }

    /// What follows from what the kernel says. Packets leave through these interfaces.
    fn moves(&mut self, attached: &BTreeMap<u32, String>) -> Rehomed {
        let resolutions = self.hops.borrow_and_update().clone();
        let hops = resolutions.iter().map(|(sample, resolution)| match resolution {
            Resolution::Resolved(hop) => (*sample, Some(hop)),
            Resolution::Unresolved(_) => (*sample, None),
        });
        self.paths.update(hops, |index| attached.contains_key(&index))
    }
}

impl Daemon {
    /// Looks for clients whose neighbour is not resolved, where answers have been dropped for that: nothing but the daemon asks for it.
    pub(super) fn find_unresolved_clients(&mut self) {
        let unresolved = self.reconciler.unresolved();
        if std::mem::replace(&mut self.clients.unresolved, unresolved) != unresolved {
            self.looks.by(Instant::now(), Some(UNRESOLVED));
        }
    }

    /// Has flows follow the kernel's paths to their clients.
    pub(super) fn follow_clients(&mut self) {
        let before = self.clients.on_link();
        let moves = self.clients.moves(&self.ports.attached());
        if self.clients.on_link() != before {
            // There each client stands for itself.
            self.looks.by(Instant::now(), None);
        }
        if moves.is_empty() {
            return;
        }
        match self.reconciler.move_clients(&moves) {
            Ok(flows) => tracing::info!(flows, "paths to clients changed: answers take the new ones"),
            Err(error) => tracing::error!(error = format!("{error:#}"), "answers take old paths to clients"),
        }
    }
}
